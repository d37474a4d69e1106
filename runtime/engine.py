"""What an engine is, and which module opens it. Engines are imported only when asked for."""

import importlib
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import EngineError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.bundle import Bundle
from edgeformer.runtime.manifest import Variant

if TYPE_CHECKING:
    from edgeformer.runtime.exiting import Leave


class Engine(Protocol):
    """Runs the programs of one variant. Thread-safe and deterministic."""

    threads: int

    def run(self, program: str, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Named arrays in, named arrays out; absent inputs take their port's default.

        Raises:
            InputError: inputs that do not fit the program's ports.
        """

    def encode(self, batch: RaggedBatch) -> dict[str, NDArray[Any]]:
        """Run ``main`` on tokenized texts; padding, bucketing and packing are done here.

        Returns:
            for each output one row per text, in the order of ``batch``; outputs with a
            ``sequence`` dimension give one row per token (num_tokens, ...) instead.
        """

    def encode_exits(
        self, batch: RaggedBatch, leave: "Leave"
    ) -> tuple[NDArray[Any], NDArray[np.intp]]:
        """Run the segments of an early-exit variant one after the other, each on those texts only
        that have not left before.

        Args:
            batch: tokenized texts.
            leave: asked after each segment but the last, which nobody passes.

        Returns:
            logits, float32 (texts, classes), of the segment at which each text left, and that
            segment, from 1, intp (texts,); both in the order of ``batch``.

        Raises:
            InputError: the variant has no segments.
        """

    def close(self) -> None:
        """Release the model; the engine cannot be used afterwards."""


# engine name -> (module with open_engine(bundle, variant, threads, shares_process=False), packages
# it needs, extra)
ENGINES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "onnx": ("edgeformer.runtime.engines.onnx_engine", ("onnxruntime",), "onnx"),
    "tflite": (
        "edgeformer.runtime.engines.tflite_engine",
        ("ai_edge_litert", "tflite_runtime"),
        "tflite",
    ),
    "numpy": ("edgeformer.runtime.engines.numpy_engine", ("numpy",), ""),
}
PACKAGES = (
    "edgeformer",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "ai-edge-litert",
    "tflite-runtime",
)


def missing_engine(name: str) -> EngineError | None:
    """The error to raise if ``name`` cannot be imported here, None if a package for it is found."""
    if name not in ENGINES:
        return EngineError(f"no engine {name!r}", hint=f"the engines are: {', '.join(ENGINES)}")
    _, packages, extra = ENGINES[name]
    if any(importlib.util.find_spec(package) for package in packages):
        return None
    return EngineError(
        f"engine {name!r} is not installed ({' or '.join(packages)})",
        hint=f'pip install "edgeformer[{extra}]"',
    )


def installed_versions() -> dict[str, str]:
    """Versions of EdgeFormer and of the packages behind the engines, those that are installed."""
    import importlib.metadata  # only here: importing it takes longer than reading a small model

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def open_engine(
    bundle: Bundle, variant: Variant, threads: int, shares_process: bool = False
) -> Engine:
    """Open ``variant`` with the engine it was made for, on at most ``threads`` threads.

    Args:
        bundle: its files were checked by the caller.
        variant: what to open.
        threads: most threads one call may use.
        shares_process: another engine runs in this process, so that no thread may go on spinning
            after a call if the engine can help it.

    Raises:
        EngineError: not installed, or the installed version is refused on this machine.
        BundleError: the file is not what the manifest says.
    """
    error = missing_engine(variant.engine)
    if error:
        raise error
    module = import_engine(variant.engine)
    engine: Engine = module.open_engine(bundle, variant, threads, shares_process)
    return engine


def import_engine(name: str) -> Any:
    """The module that opens engine ``name``."""
    return importlib.import_module(ENGINES[name][0])
