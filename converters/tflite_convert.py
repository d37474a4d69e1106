"""Call the TFLite converter: a module and its signatures -> the bytes of a fp32 .tflite file.

What it says is shown only if it fails, and what it does to the process is undone.
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
from types import ModuleType
from typing import Any

import torch

from edgeformer.errors import EngineError, ModelError
from edgeformer.runtime.engines.tflite_output import captured_output

LEAVE_OUT = "leave TFLite out with --engines onnx,numpy"
# How the converter's layers (its own lowering, torch.fx, MLIR) name the operation they failed at.
_OPERATION = (
    re.compile(r"Lowering not found: ([\w.:]+)"),
    re.compile(r"call_function\[target=torch\.ops\.([\w.]+)\]"),
    re.compile(r"failed to legalize operation '([\w.]+)'"),
    re.compile(r"'((?:stablehlo|chlo|vhlo|tfl)\.[\w.]+)' op"),
)


@dataclass(frozen=True)
class Signature:
    """An entry of the file and the tensors that it is traced with."""

    name: str
    inputs: dict[str, torch.Tensor]


@contextlib.contextmanager
def process_restored() -> Iterator[None]:
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


def check_host() -> None:
    """Raises EngineError where there is no TFLite converter for this system."""
    if not (sys.platform.startswith("linux") and platform.machine() == "x86_64"):
        raise EngineError(
            "TFLite files can be made on Linux x86-64 only: the converter is not published for"
            f" {platform.system()} {platform.machine()}",
            hint=f"convert there (the file runs everywhere), or {LEAVE_OUT}",
        )


def imported(name: str) -> ModuleType:
    """A module of the converter, imported silently. Raises EngineError naming the extra."""
    try:
        with captured_output():
            return importlib.import_module(name)
    except ImportError as error:
        raise EngineError(
            f"the TFLite converter cannot be loaded: {error}",
            hint=f'pip install "edgeformer[convert-tflite]", or {LEAVE_OUT}',
        ) from None


def convert(module: torch.nn.Module, signatures: Sequence[Signature]) -> bytes:
    """The fp32 file of ``module``.

    All signatures in one conversion: that is what stores their common weights once.

    Raises:
        EngineError: the converter is not installed.
        ModelError: the module does not lower; names the operation.
    """
    litert_torch = imported("litert_torch")
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
    raise ModelError(text, hint=LEAVE_OUT) from failure


def _failed_operation(text: str) -> str:
    for pattern in _OPERATION:
        found = pattern.search(text)
        if found:
            return found[1]
    return ""
