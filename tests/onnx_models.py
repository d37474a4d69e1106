"""Small modules and bundles for the tests of the ONNX converter and engine."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from edgeformer.converters.onnx_export import export_onnx
from edgeformer.converters.prepared import PreparedModel
from edgeformer.device_profiles.profile import load_profile
from edgeformer.runtime.manifest import ModelCard, Port, Variant

WORDS, HIDDEN, POSITIONS = 120, 32, 64


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))
        self.up, self.down = nn.Linear(HIDDEN, 64), nn.Linear(64, HIDDEN)
        self.norm1, self.norm2 = (nn.LayerNorm(HIDDEN, eps=1e-12) for _ in range(2))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape

        def heads(y: torch.Tensor) -> torch.Tensor:
            return y.view(batch, length, 4, 8).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(
            heads(self.query(x)), heads(self.key(x)), heads(self.value(x)), attn_mask=mask
        )
        x = self.norm1(x + self.out(mixed.transpose(1, 2).reshape(batch, length, HIDDEN)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class TinyBert(nn.Module):
    """A BERT of 2 layers; ``head`` is ``embedding``, ``classes`` or ``tokens``."""

    def __init__(self, head: str = "embedding") -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(WORDS, HIDDEN), nn.Embedding(POSITIONS, HIDDEN)
        self.types, self.norm = nn.Embedding(2, HIDDEN), nn.LayerNorm(HIDDEN, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.classifier = nn.Linear(HIDDEN, 3)
        self.head = head

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
        position_ids: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        x = self.words(input_ids) + self.positions(position_ids) + self.types(token_type_ids)
        x = self.norm(x)
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -10000.0
        for layer in self.layers:
            x = layer(x, mask)
        if self.head == "tokens":
            return {"logits": self.classifier(x)}
        if self.head == "classes":
            return {"logits": self.classifier(x[:, 0])}
        weight = attention_mask[:, :, None].to(x.dtype)
        mean = (x * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        return {"embedding": F.normalize(mean, dim=-1)}


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter random, norms and biases too: a dropped bias must show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    return module.eval()


def token_ports(start: int = 0) -> tuple[Port, ...]:
    defaults = {
        "input_ids": None,
        "attention_mask": "ones",
        "token_type_ids": "zeros",
        "position_ids": f"positions+{start}",
    }
    return tuple(Port(n, "int64", ("batch", "sequence"), d) for n, d in defaults.items())


def token_inputs(batch: int, length: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(0, WORDS, (batch, length), generator=generator),
        "attention_mask": torch.ones(batch, length, dtype=torch.int64),
        "token_type_ids": torch.randint(0, 2, (batch, length), generator=generator),
        "position_ids": torch.arange(length).repeat(batch, 1),
    }


def tiny_bert(head: str = "embedding") -> PreparedModel:
    outputs = {
        "embedding": Port("embedding", "float32", ("batch", HIDDEN)),
        "classes": Port("logits", "float32", ("batch", 3)),
        "tokens": Port("logits", "float32", ("batch", "sequence", 3)),
    }
    return PreparedModel(
        seeded(TinyBert(head)),
        token_ports(),
        (outputs[head],),
        (token_inputs(1, 5),),
        ModelCard("tiny", "bert", "embedding", max_length=POSITIONS),
    )


class PlainModule(nn.Module):
    """A classifier of small grey pictures: convolution and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 64, 32)
        self.top = nn.Linear(32, 10)

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.conv(pixels)).flatten(1)
        hidden = torch.relu(self.hidden(x))
        return {"scores": self.top(hidden), "hidden": hidden}


def plain_module() -> PreparedModel:
    pixels = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return PreparedModel(
        seeded(PlainModule()),
        (Port("pixels", "float32", ("batch", 1, 8, 8)),),
        (Port("scores", "float32", ("batch", 10)), Port("hidden", "float32", ("batch", 32))),
        ({"pixels": pixels},),
        ModelCard("pictures", "module", "module"),
    )


def export(
    prepared: PreparedModel, folder: Path, precisions: Sequence[str], profile: str = "x86-vnni"
) -> dict[str, Variant]:
    folder.mkdir(parents=True, exist_ok=True)
    variants = export_onnx(prepared, tuple(precisions), load_profile(profile), folder)
    return {variant.precision: variant for variant in variants}


def folder_bundle(folder: Path, zipped: bool = False) -> Any:
    """What an engine needs of a Bundle, without a manifest."""
    return SimpleNamespace(
        read=lambda name: (folder / name).read_bytes(),
        file_path=lambda name: None if zipped else folder / name,
    )
