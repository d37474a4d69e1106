"""Tiny token models and a stand-in for a bundle, for the tests of plans and the NumPy engine."""

import functools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from edgeformer.converters.plan.graph import Graph
from edgeformer.converters.plan.lower import AFTER_PACKING, Lowered, Pass, arrange, trace
from edgeformer.converters.plan.write import write_plan
from edgeformer.converters.prepared import PreparedModel
from edgeformer.runtime.engines.numpy_engine import NumpyEngine, open_engine
from edgeformer.runtime.manifest import ModelCard, Port, Program, Variant

DEFAULTS = {"attention_mask": "ones", "token_type_ids": "zeros", "position_ids": "positions+0"}
VOCABULARY, HIDDEN, LONGEST = 60, 32, 24


class BertLayer(nn.Module):
    """One encoder layer as converters see it: sdpa with an additive mask."""

    def __init__(self, hidden: int = HIDDEN, heads: int = 4, activation: str = "gelu") -> None:
        super().__init__()
        self.heads, self.activation = heads, activation
        self.q, self.k, self.v, self.o = (nn.Linear(hidden, hidden) for _ in range(4))
        self.up, self.down = nn.Linear(hidden, 2 * hidden), nn.Linear(2 * hidden, hidden)
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)

    def attend(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, sequence, hidden = x.shape
        q, k, v = (
            layer(x).view(batch, sequence, self.heads, -1).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o(y.transpose(1, 2).reshape(batch, sequence, hidden))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.norm1(x + self.attend(x, mask))
        return self.norm2(x + self.down(self.activate(self.up(x))))

    def activate(self, x: torch.Tensor) -> torch.Tensor:
        if self.activation == "gelu_new":
            return 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3))))
        if self.activation == "erf":
            return x * 0.5 * (1 + torch.erf(x / 1.41421356))
        return F.gelu(x) if self.activation == "gelu" else F.silu(x)


class SpelledOutLayer(BertLayer):
    """The same, with attention written out."""

    def attend(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, sequence, hidden = x.shape
        q, k, v = (
            layer(x).view(batch, sequence, self.heads, -1).permute(0, 2, 1, 3)
            for layer in (self.q, self.k, self.v)
        )
        scores = torch.matmul(q, k.transpose(-1, -2)) / (q.shape[-1] ** 0.5) + mask
        y = torch.matmul(torch.softmax(scores, dim=-1), v)
        return self.o(y.permute(0, 2, 1, 3).contiguous().view(batch, sequence, hidden))


class TinyBert(nn.Module):
    """A BERT-like model. ``head``: mean, cls, tokens, or one of the ways to mix rows."""

    def __init__(self, head: str = "mean", layers: Sequence[nn.Module] | None = None) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.head = head
        self.words, self.places = nn.Embedding(VOCABULARY, HIDDEN), nn.Embedding(LONGEST, HIDDEN)
        self.types, self.norm = nn.Embedding(2, HIDDEN), nn.LayerNorm(HIDDEN)
        self.layers = nn.ModuleList(layers if layers is not None else [BertLayer(), BertLayer()])
        self.pooler, self.classifier = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 3)
        self.scan = nn.Conv1d(HIDDEN, HIDDEN, 3, padding=1)
        for name, parameter in self.named_parameters():
            spread = 0.3 if "norm" in name or "bias" in name else 0.2
            nn.init.normal_(parameter, 1.0 if name.endswith("norm.weight") else 0.0, spread)
        self.eval()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
        position_ids: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        x = self.words(input_ids) + self.places(position_ids) + self.types(token_type_ids)
        x = self.norm(x)
        additive = (1 - attention_mask.float())[:, None, None, :] * -10000
        if self.head == "roll":
            x = x + torch.roll(x, 1, 1)
        for layer in self.layers:
            x = layer(x, additive)
        return {"answer": self.pool(x, attention_mask)}

    def pool(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mask = attention_mask.unsqueeze(-1).float()
        if self.head == "mean":
            x = (x * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return F.normalize(x, dim=1)
        if self.head == "cls":
            return self.classifier(torch.tanh(self.pooler(x[:, 0])))
        if self.head == "tokens":
            return self.classifier(x)
        if self.head == "last":
            return x[:, -1]
        if self.head == "filled":
            return x.masked_fill(mask == 0, 0.0).sum(1)
        if self.head == "scaled sum":
            return (x * 2).sum(1)
        if self.head == "filled with ones":
            return x.masked_fill(mask == 0, 1.0).sum(1)
        return x.sum(1) if self.head == "plain sum" else x.mean(1)


def token_prepared(
    module: nn.Module, names: Sequence[str] = ("token_type_ids", "position_ids")
) -> PreparedModel:
    """A token model with two texts of 6 and 4 tokens as its example."""
    ids = torch.arange(12).reshape(2, 6) % 50 + 3
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    everything = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": ids % 2,
        "position_ids": torch.arange(6).repeat(2, 1),
    }
    chosen = ["input_ids", "attention_mask", *names]
    example = {name: everything[name] for name in chosen}
    inputs = tuple(Port(n, "int64", ("batch", "sequence"), DEFAULTS.get(n)) for n in chosen)
    return _prepared(module, inputs, example, ("batch", "sequence"))


def plain_prepared(module: nn.Module, **example: torch.Tensor) -> PreparedModel:
    """Any module whose inputs share a first dimension, the batch."""
    inputs = tuple(
        Port(n, str(t.dtype).removeprefix("torch."), ("batch", *t.shape[1:]))
        for n, t in example.items()
    )
    return _prepared(module, inputs, example, ("batch",))


def _prepared(
    module: nn.Module,
    inputs: tuple[Port, ...],
    example: dict[str, torch.Tensor],
    symbols: tuple[str, ...],
) -> PreparedModel:
    with torch.no_grad():
        answer = module.eval()(**example)
    outputs = []
    for name, value in answer.items():
        shape: tuple[int | str, ...] = ("batch", *value.shape[1:])
        if len(symbols) == 2 and value.ndim == 3:
            shape = ("batch", "sequence", *value.shape[2:])
        outputs.append(Port(name, "float32", shape))
    card = ModelCard("tiny", "module", "module")
    return PreparedModel(module, inputs, tuple(outputs), (example,), card)


def save(
    prepared: PreparedModel, folder: Path, precision: str = "fp32", lowered: Lowered | None = None
) -> Variant:
    """Write model.plan into ``folder`` and return the variant that describes it."""
    result = lowered or arrange(traced(prepared), prepared)
    write_plan(folder / "model.plan", {"main": (result.layout, result.graph)}, precision)
    program = Program("model.plan", "main", (), prepared.inputs, prepared.outputs)
    name = f"numpy-{precision}"
    return Variant(name, "numpy", precision, result.layout, result.note, "", {"main": program})


def bundle_of(folder: Path) -> Any:
    """What the engine needs of a Bundle."""
    return SimpleNamespace(map=lambda name: memoryview((folder / name).read_bytes()))


_TRACED: dict[int, tuple[PreparedModel, Graph]] = {}


def traced(prepared: PreparedModel) -> Graph:
    """The traced graph, made once for each prepared model: exporting is what takes time."""
    if id(prepared) not in _TRACED:
        _TRACED[id(prepared)] = (prepared, trace(prepared))
    return _TRACED[id(prepared)][1]


@functools.cache
def tiny(head: str) -> PreparedModel:
    """TinyBert with that head, prepared once."""
    return token_prepared(TinyBert(head))


def lowered(prepared: PreparedModel, folds: Sequence[Pass] = AFTER_PACKING) -> Lowered:
    """``lower`` with the trace kept."""
    return arrange(traced(prepared), prepared, folds)


def engine_for(
    prepared: PreparedModel,
    folder: Path,
    precision: str = "fp32",
    folds: Sequence[Pass] = AFTER_PACKING,
    packing: bool = True,
) -> NumpyEngine:
    """Lower, write and open."""
    result = arrange(traced(prepared), prepared, folds, packing)
    return open_engine(bundle_of(folder), save(prepared, folder, precision, result), 1)


def reference(prepared: PreparedModel, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """PyTorch's answer."""
    with torch.no_grad():
        answer = prepared.module(**{k: torch.from_numpy(v) for k, v in inputs.items()})
    return {name: value.numpy() for name, value in answer.items()}


def example_arrays(prepared: PreparedModel) -> dict[str, np.ndarray]:
    """The first example as arrays."""
    return {name: value.numpy() for name, value in prepared.examples[0].items()}


def assert_close(got: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """The fp32 rule of verification: |a - b| <= tolerance * max(1, max|b|)."""
    assert got.shape == expected.shape
    bound = tolerance * max(1.0, float(np.abs(expected).max(initial=0)))
    assert float(np.abs(got - expected).max(initial=0)) <= bound
