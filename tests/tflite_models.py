"""Small seeded PyTorch modules and their .tflite files, converted once for the whole test run."""

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from edgeformer.converters.prepared import PreparedModel
from edgeformer.converters.tflite_export import export_tflite
from edgeformer.device_profiles.profile import DeviceProfile, load_profile
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.manifest import ModelCard, Port, Variant

VOCABULARY, HIDDEN, CLASSES, MAX_LENGTH = 5000, 64, 5, 64
TOKEN_INPUTS = {
    # not the order of forward's arguments: names must find their tensors, not places
    "attention_mask": "ones",
    "position_ids": "positions+0",
    "input_ids": None,
    "token_type_ids": "zeros",
}


class Layer(nn.Module):
    """One post-norm encoder layer with 4 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(HIDDEN, 3 * HIDDEN)
        self.out = nn.Linear(HIDDEN, HIDDEN)
        self.up, self.down = nn.Linear(HIDDEN, 128), nn.Linear(128, HIDDEN)
        self.norm1, self.norm2 = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            t.view(batch, length, 4, HIDDEN // 4).transpose(1, 2)
            for t in self.query_key_value(x).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norm1(x + self.out(attended.transpose(1, 2).reshape(batch, length, HIDDEN)))
        answer: torch.Tensor = self.norm2(x + self.down(F.gelu(self.up(x))))
        return answer


class TinyBert(nn.Module):
    """A BERT with mean pooling and a token classifier: one pooled and one per-token output.

    Places are a constant of the length besides, so that its files keep fixed lengths.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, HIDDEN)
        self.positions = nn.Embedding(MAX_LENGTH, HIDDEN)
        self.types = nn.Embedding(2, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.classifier = nn.Linear(HIDDEN, CLASSES)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
        position_ids: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        x = self.words(input_ids) + self.positions(position_ids) + self.types(token_type_ids)
        places = torch.arange(x.shape[1], dtype=x.dtype) / MAX_LENGTH
        x = self.norm(x + places[None, :, None])
        kept = attention_mask.to(x.dtype)
        mask = ((1.0 - kept) * -10000.0)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        pooled = (x * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)
        return {"logits": self.classifier(x), "embedding": F.normalize(pooled, dim=-1)}


class Mixer(nn.Module):
    """No tokens and no mask: a plain module with two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mixed": torch.tanh(self.linear(left)) - 2.0 * right}


class Bessel(nn.Module):
    """Calls an operation that TFLite does not have."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": torch.special.bessel_j0(x)}


class Branch(nn.Module):
    """Branches on its data."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x if x.sum() > 0 else -x}


def seeded(module: nn.Module) -> nn.Module:
    """Every parameter random, norms and biases too."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            norm = "norm" in name and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if norm else 0.3 * noise)
    return module.eval()


def profile(*buckets: int) -> DeviceProfile:
    base = load_profile("rpi4")
    return replace(base, length=replace(base.length, bucket_tokens=buckets))


def token_model(max_length: int = MAX_LENGTH) -> PreparedModel:
    ports = tuple(Port(n, "int64", ("batch", "sequence"), d) for n, d in TOKEN_INPUTS.items())
    one = torch.ones(1, 8, dtype=torch.int64)  # the same object for every input, on purpose
    return PreparedModel(
        module=seeded(TinyBert()),
        inputs=ports,
        outputs=(
            Port("logits", "float32", ("batch", "sequence", CLASSES)),
            Port("embedding", "float32", ("batch", HIDDEN)),
        ),
        examples=({port.name: one for port in ports},),
        card=ModelCard("tiny", "bert", "token-classification", max_length=max_length),
    )


def plain_model(module: nn.Module, *examples: Mapping[str, torch.Tensor]) -> PreparedModel:
    """A module without a mask: ports have the first example's shapes, the first axis is batch."""
    with torch.inference_mode():
        answer = module(**examples[0])
    return PreparedModel(
        module=module,
        inputs=tuple(Port(n, "float32", ("batch", *t.shape[1:])) for n, t in examples[0].items()),
        outputs=tuple(Port(n, "float32", ("batch", *t.shape[1:])) for n, t in answer.items()),
        examples=tuple(dict(example) for example in examples),
        card=ModelCard("plain", "module", "module"),
    )


def mixer_model() -> PreparedModel:
    def example(rows: int) -> dict[str, torch.Tensor]:
        x = torch.ones(rows, 8)
        return {"left": x, "right": x}

    return plain_model(seeded(Mixer()), example(1), example(3), example(1))


@dataclass(frozen=True)
class Converted:
    """A prepared model, its variants by precision, and the bytes of its files by path."""

    prepared: PreparedModel
    variants: dict[str, Variant]
    files: dict[str, bytes]


def convert(prepared: PreparedModel, *buckets: int) -> Converted:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        variants = export_tflite(prepared, ("fp32", "int8"), profile(*buckets), root)
        files = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.tflite")}
    return Converted(prepared, {v.precision: v for v in variants}, files)


@functools.cache
def tokens_two_buckets() -> Converted:
    return convert(token_model(), 8, 32)


@functools.cache
def tokens_one_bucket() -> Converted:
    return convert(token_model(), 8)


@functools.cache
def mixer() -> Converted:
    return convert(mixer_model(), 8)


class FakeBundle:
    """``read`` and ``file_path`` of a bundle; without a folder it is like a zip."""

    def __init__(self, files: Mapping[str, bytes], folder: Path | None = None) -> None:
        self._files = files
        self._folder = folder
        for name, data in files.items() if folder else ():
            path = Path(str(folder)) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def read(self, name: str) -> bytes:
        return self._files[name]

    def file_path(self, name: str) -> Path | None:
        return self._folder / name if self._folder else None


def random_texts(*lengths: int) -> RaggedBatch:
    random = np.random.default_rng(3)
    ids = [random.integers(1, VOCABULARY, n).tolist() for n in lengths]
    types = [[int(i > n // 2) for i in range(n)] for n in lengths]
    return RaggedBatch.from_lists(ids, types)


def torch_answers(prepared: PreparedModel, batch: RaggedBatch) -> dict[str, NDArray[np.float32]]:
    """The oracle: each text alone and unpadded through PyTorch, as ``encode`` returns it."""
    rows: dict[str, list[NDArray[np.float32]]] = {port.name: [] for port in prepared.outputs}
    for i in range(len(batch)):
        part = batch.select([i])
        length = len(part.ids)
        with torch.inference_mode():
            answer = prepared.module(
                input_ids=torch.from_numpy(part.ids.astype(np.int64))[None],
                attention_mask=torch.ones(1, length, dtype=torch.int64),
                token_type_ids=torch.from_numpy(part.type_ids.astype(np.int64))[None],
                position_ids=torch.arange(length)[None],
            )
        for port in prepared.outputs:
            value = answer[port.name].numpy()
            rows[port.name].append(value[0] if "sequence" in port.shape else value)
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """One cosine for each row."""
    dots: NDArray[np.float32] = (a * b).sum(-1)
    lengths: NDArray[np.float32] = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return dots / lengths
