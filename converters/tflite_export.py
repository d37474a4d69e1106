"""A prepared module -> model.tflite: one file, one signature per length, weights stored once.

Token models get a signature ``main_LENGTH`` for each length bucket of the profile, batch 1.
A module without an attention mask cannot be padded, so it gets one (``main_0``, ``main_1``, ...)
for each distinct set of shapes among its examples. int8 is made from the fp32 file: weights per
channel, activations quantized per row while running (ai-edge-quantizer's ``dynamic_wi8_afp32``).
Writes only under the folder it is given; the converter's own messages are shown if it fails.
"""

import contextlib
import importlib
import logging
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from edgeformer.converters.prepared import PreparedModel
from edgeformer.converters.tflite_sharing import share_scales
from edgeformer.converters.tflite_smoothing import smoothed
from edgeformer.device_profiles.profile import DeviceProfile
from edgeformer.errors import EngineError, ModelError
from edgeformer.runtime.engines.tflite_output import captured_output
from edgeformer.runtime.manifest import Port, Program, Variant

PRECISIONS = ("fp32", "int8")
_LEAVE_OUT = "leave TFLite out with --engines onnx,numpy"
# How the converter's layers (its own lowering, torch.fx, MLIR) name the operation they failed at.
_OPERATION = (
    re.compile(r"Lowering not found: ([\w.:]+)"),
    re.compile(r"call_function\[target=torch\.ops\.([\w.]+)\]"),
    re.compile(r"failed to legalize operation '([\w.]+)'"),
    re.compile(r"'((?:stablehlo|chlo|vhlo|tfl)\.[\w.]+)' op"),
)


@dataclass(frozen=True)
class _Signature:
    """An entry of the file and the tensors that it is traced with."""

    name: str
    inputs: dict[str, torch.Tensor]


def export_tflite(
    prepared: PreparedModel, precisions: Sequence[str], profile: DeviceProfile, root: Path
) -> tuple[Variant, ...]:
    """Write ``root/tflite-PRECISION/model.tflite`` for each precision.

    Args:
        prepared: the module with its ports and examples.
        precisions: of ``fp32`` and ``int8``.
        profile: its ``length.bucket_tokens`` become the lengths of the file.
        root: staging folder of the bundle.

    Returns:
        one variant per precision, ``parity`` None.

    Raises:
        EngineError: the converter is not installed, or this machine has none.
        ModelError: the module does not lower; names the operation.
    """
    for precision in precisions:
        if precision not in PRECISIONS:
            raise ModelError(f"TFLite files are fp32 or int8, not {precision}", hint=_LEAVE_OUT)
    _check_host()
    lengths = bucket_lengths(prepared, profile)
    variants = []
    with _process_restored():
        with smoothed(prepared.module, prepared.examples):
            content = _convert(prepared.module, _signatures(prepared, lengths))
        for precision in precisions:
            data = content if precision == "fp32" else _quantize(content)
            file = f"tflite-{precision}/model.tflite"
            (root / file).parent.mkdir(parents=True)
            (root / file).write_bytes(data)
            variants.append(_variant(prepared, precision, file, lengths))
    return tuple(variants)


def bucket_lengths(prepared: PreparedModel, profile: DeviceProfile) -> tuple[int, ...]:
    """Lengths in tokens of the file's signatures, ascending; empty if it cannot be padded.

    The profile's buckets below the model's longest input, and then that or the largest bucket,
    whichever is smaller. A module of the user's own says nothing of its longest input, so there
    the longest example counts.
    """
    ids = next((p for p in prepared.inputs if p.name == "input_ids"), None)
    if not prepared.paddable or ids is None or "sequence" not in ids.shape:
        return ()
    axis = ids.shape.index("sequence")
    longest = prepared.card.max_length or max(
        example["input_ids"].shape[axis] for example in prepared.examples
    )
    last = min(longest, max(profile.length.bucket_tokens))
    return (*(b for b in profile.length.bucket_tokens if b < last), last)


def _variant(
    prepared: PreparedModel, precision: str, file: str, lengths: tuple[int, ...]
) -> Variant:
    note = "" if lengths else "no attention mask to pad with: runs at its example shapes only"
    entry = "main_{length}" if lengths else "main_{example}"
    program = Program(file, entry, lengths, prepared.inputs, prepared.outputs)
    return Variant(
        f"tflite-{precision}", "tflite", precision, "buckets", note, "", {"main": program}
    )


@contextlib.contextmanager
def _process_restored() -> Iterator[None]:
    """Undo what the converter's libraries do to the whole process and to the temporary folder.

    JAX and torch set environment variables, the first log message adds a handler to the root
    logger, and torch makes a cache folder that it leaves behind.
    """
    variables, handlers = set(os.environ), logging.root.handlers[:]
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", cache)
        try:
            yield
        finally:
            for name in set(os.environ) - variables:
                del os.environ[name]
            logging.root.handlers[:] = handlers


def _check_host() -> None:
    if not (sys.platform.startswith("linux") and platform.machine() == "x86_64"):
        raise EngineError(
            "TFLite files can be made on Linux x86-64 only: the converter is not published for"
            f" {platform.system()} {platform.machine()}",
            hint=f"convert there (the file runs everywhere), or {_LEAVE_OUT}",
        )


def _import(name: str) -> ModuleType:
    try:
        with captured_output():
            return importlib.import_module(name)
    except ImportError as error:
        raise EngineError(
            f"the TFLite converter cannot be loaded: {error}",
            hint=f'pip install "edgeformer[convert-tflite]", or {_LEAVE_OUT}',
        ) from None


def _signatures(prepared: PreparedModel, lengths: tuple[int, ...]) -> list[_Signature]:
    """Every tensor is a new object: one object in two places makes one input of the two."""
    if lengths:
        return [
            _Signature(f"main_{n}", {p.name: _sample(p, n, prepared) for p in prepared.inputs})
            for n in lengths
        ]
    distinct: dict[tuple[torch.Size, ...], dict[str, torch.Tensor]] = {}
    for example in prepared.examples:
        tensors = {p.name: example[p.name].detach().clone() for p in prepared.inputs}
        distinct.setdefault(tuple(t.shape for t in tensors.values()), tensors)
    return [_Signature(f"main_{i}", tensors) for i, tensors in enumerate(distinct.values())]


def _sample(port: Port, length: int, prepared: PreparedModel) -> torch.Tensor:
    """A tensor of the port's shape; tracing looks at the shape and dtype only."""
    example = prepared.examples[0][port.name]
    sizes = {"batch": 1, "sequence": length}
    shape = [
        sizes.get(s, n) if isinstance(s, str) else s
        for s, n in zip(port.shape, example.shape, strict=True)
    ]
    return torch.zeros(shape, dtype=example.dtype)


def _convert(module: torch.nn.Module, signatures: Sequence[_Signature]) -> bytes:
    """All signatures in one conversion: that is what stores their common weights once."""
    litert_torch = _import("litert_torch")
    with captured_output() as log:
        converter: Any = litert_torch
        for signature in signatures:
            converter = converter.signature(signature.name, module, sample_kwargs=signature.inputs)
        try:
            content: bytes = converter.convert().model_content()
        except Exception as error:  # of torch.export, the lowering or MLIR: each raises its own
            failure = error
        else:
            return content
    operation = _failed_operation(f"{failure}\n{log.text}")
    first = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
    if operation:
        text = f"TFLite has no form of the operation {operation}: {first}"
    elif "data-dependent" in str(failure):
        text = f"the module's shapes or branches depend on its data, TFLite's cannot: {first}"
    else:
        sys.stderr.write(log.tail() + "\n")
        text = f"the module cannot be converted to TFLite: {first}"
    raise ModelError(text, hint=_LEAVE_OUT) from failure


def _failed_operation(text: str) -> str:
    for pattern in _OPERATION:
        found = pattern.search(text)
        if found:
            return found[1]
    return ""


def _quantize(content: bytes) -> bytes:
    quantizer_module, recipe = (
        _import("ai_edge_quantizer.quantizer"),
        _import("ai_edge_quantizer.recipe"),
    )
    with captured_output():
        quantizer = quantizer_module.Quantizer(bytearray(content))
        quantizer.load_quantization_recipe(recipe.dynamic_wi8_afp32())
        quantized = quantizer.quantize(enable_progress_report=False).quantized_model
        return share_scales(bytes(quantized))
