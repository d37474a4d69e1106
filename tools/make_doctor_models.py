"""Make edgeformer/doctor_models/tiny.zip: what `edgeformer doctor` tries each engine on.

    python -m tools.make_doctor_models

One attention-free slice of a transformer layer, a few hundred weights wide enough for the
vectorised fp32 and int8 kernels, converted like any model: for every engine, in fp32 and int8.
Seeded, so that two runs give the same answers.
"""

from pathlib import Path

import torch
from torch import nn

from edgeformer.doctor import TINY_BUNDLE
from edgeformer.pipeline import convert

HIDDEN, INNER, ROWS = 32, 48, 4


class FeedForward(nn.Module):
    """LayerNorm(x + W2 gelu(W1 x)): the operations that a transformer spends its time in."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(HIDDEN, INNER)
        self.outer = nn.Linear(INNER, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, rows, 32) in and out."""
        rows: torch.Tensor = self.norm(x + self.outer(nn.functional.gelu(self.inner(x))))
        return rows


def make(target: Path = TINY_BUNDLE) -> None:
    """Convert the module and write the bundle to ``target``."""
    torch.manual_seed(0)
    module = FeedForward().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    example = {"x": torch.randn(1, ROWS, HIDDEN)}
    target.parent.mkdir(exist_ok=True)
    convert(
        module,
        example_inputs=example,
        profile="x86",  # reduced range: right on CPUs whose int8 instructions saturate
        engines=("onnx", "tflite", "numpy"),
        precisions=("fp32", "int8"),
        output=target,
        zip_file=True,
        force=True,
    )


if __name__ == "__main__":
    make()
