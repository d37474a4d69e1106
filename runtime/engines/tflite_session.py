"""One open .tflite file: named signatures, each with fixed input shapes.

    session = open_session(Path("model.tflite"), threads=2)
    session.shapes["main_32"]["input_ids"]        # (1, 32)
    session.run("main_32", {"input_ids": ids, ...})

Two implementations, chosen by what is installed. LiteRT's CompiledModel packs the weights once
for all signatures, into memory without a file behind it: half to a third of the Interpreter's
memory on five length buckets, same answers, same speed. The Interpreter serves where
CompiledModel has no such option (ai-edge-litert before 2.1.6, tflite-runtime), and always opens
the file first, because it checks the file and CompiledModel does not: a damaged one crashes it.
"""

import importlib
import importlib.metadata
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import BundleError, EngineError
from edgeformer.runtime.engines.tflite_output import captured_output

Arrays = Mapping[str, NDArray[Any]]
Shapes = dict[str, dict[str, tuple[int, ...]]]

_PACKAGES = ("ai_edge_litert", "tflite_runtime")  # in the order in which they are tried
_IN_MEMORY = ":memory"  # XNNPACK's name for a weight cache without a file


@dataclass(frozen=True)
class KnownBad:
    """A package version that must not be used, and what it does.

    Attributes:
        package: name on the package index.
        version: refused where the installed version starts with this.
        reason: what happens, as it was measured.
        precision: refused for variants of this precision only; empty for all.
        numpy_major: refused from this major version of NumPy on; 0 for all.
    """

    package: str
    version: str
    reason: str
    precision: str = ""
    numpy_major: int = 0


KNOWN_BAD = (
    KnownBad(
        "tflite-runtime",
        "2.14.",
        "it was built for numpy 1 and dies when a model is opened under numpy 2",
        numpy_major=2,
    ),
    KnownBad(
        "tflite-runtime",
        "2.14.",
        "it gives wrong answers (cosine 0.1 to 0.4) for weights quantized per channel",
        precision="int8",
    ),
)


class Session(Protocol):
    """An open file. ``shapes`` has the input shapes of each signature."""

    shapes: Shapes

    def run(self, signature: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays of exactly the signature's shapes in, a dict of new arrays out."""

    def close(self) -> None:
        """Release the file and its memory."""


def open_session(model: Path | bytes, threads: int, precision: str, name: str) -> Session:
    """Open a model on the CPU.

    Args:
        model: a path, or the bytes where there is no file of its own (a zipped bundle).
        threads: most threads one call may use.
        precision: of the weights; some versions are refused for ``int8``.
        name: of the file, for messages.

    Raises:
        EngineError: nothing installed, a version known to be bad, or it cannot run this model.
        BundleError: the bytes are not a valid model.
    """
    package = _installed(precision)
    with captured_output() as log:
        library = importlib.import_module(f"{package}.interpreter")
        try:
            interpreter = library.Interpreter(**_source(model), num_threads=threads)
            details = {key: _details(interpreter, key) for key in interpreter.get_signature_list()}
        except (ValueError, RuntimeError) as error:
            raise BundleError(
                f"{name} is not a TFLite model that {package} can read: {_first_line(error)}",
                hint="convert again, or upgrade with `pip install -U ai-edge-litert`",
            ) from None
        compiled = _compiled_library(package)
        if compiled is None:
            return InterpreterSession(interpreter, details)
        del interpreter
        try:
            return CompiledSession(_compile(compiled, model, threads), details, model)
        except RuntimeError as error:
            raise EngineError(
                f"LiteRT cannot prepare {name}: {_first_line(error)}\n{log.tail(5)}",
                hint="choose another engine with --engine",
            ) from None


def known_bad(package: str, version: str, numpy_version: str, precision: str) -> str:
    """Why this combination is refused; empty if nothing is known against it."""
    for entry in KNOWN_BAD:
        if (
            entry.package == package
            and version.startswith(entry.version)
            and entry.precision in ("", precision)
            and int(numpy_version.split(".")[0]) >= entry.numpy_major
        ):
            return entry.reason
    return ""


def _installed(precision: str) -> str:
    """The first installed package that may be used."""
    refused = []
    for package in _PACKAGES:
        distribution = package.replace("_", "-")
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        reason = known_bad(distribution, version, np.__version__, precision)
        if not reason:
            return package
        refused.append(f"{distribution} {version} is refused: {reason}")
    if refused:
        raise EngineError(
            "; ".join(refused),
            hint="on a 64-bit system `pip install ai-edge-litert`; on 32 bits use another engine,"
            " for example --engine numpy",
        )
    raise EngineError("no TFLite runtime is installed", hint='pip install "edgeformer[tflite]"')


def _source(model: Path | bytes) -> dict[str, Any]:
    return {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}


@dataclass(frozen=True)
class _Signature:
    """Shapes and dtypes of one signature, by tensor name."""

    inputs: dict[str, tuple[tuple[int, ...], Any]]
    outputs: dict[str, tuple[tuple[int, ...], Any]]


def _details(interpreter: Any, key: str) -> _Signature:
    runner = interpreter.get_signature_runner(key)
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    return _Signature(
        {n: (tuple(int(s) for s in d["shape"]), d["dtype"]) for n, d in inputs.items()},
        {n: (tuple(int(s) for s in d["shape"]), d["dtype"]) for n, d in outputs.items()},
    )


def _input_shapes(details: dict[str, _Signature]) -> Shapes:
    return {key: {n: shape for n, (shape, _) in d.inputs.items()} for key, d in details.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class InterpreterSession:
    """Runs on the TFLite Interpreter; every signature packs its own copy of the weights."""

    def __init__(self, interpreter: Any, details: dict[str, _Signature]) -> None:
        self.shapes = _input_shapes(details)
        self._details = details
        self._interpreter = interpreter
        self._runners: dict[str, Any] = {}
        self._lock = threading.Lock()

    def run(self, signature: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """See ``Session``."""
        inputs = self._details[signature].inputs
        cast = {n: np.ascontiguousarray(a, dtype=inputs[n][1]) for n, a in arrays.items()}
        with self._lock:
            if signature not in self._runners:
                with captured_output():  # the first call prepares the signature and logs it
                    self._runners[signature] = self._interpreter.get_signature_runner(signature)
                    answer = self._runners[signature](**cast)
            else:
                answer = self._runners[signature](**cast)
        return dict(answer)

    def close(self) -> None:
        """See ``Session``."""
        with self._lock:
            self._runners.clear()
            self._interpreter = None


def _compiled_library(package: str) -> Any:
    """Modules of CompiledModel if its options know a weight cache, else None."""
    if package != "ai_edge_litert":
        return None
    try:
        options = importlib.import_module("ai_edge_litert.options")
        importlib.import_module("ai_edge_litert.cpu_options")
        importlib.import_module("ai_edge_litert.compiled_model")
    except ImportError:
        return None
    return options if hasattr(options, "CpuOptions") else None


def _compile(options: Any, model: Path | bytes, threads: int) -> Any:
    compiled_model = importlib.import_module("ai_edge_litert.compiled_model").CompiledModel
    settings = options.Options(
        hardware_accelerators=options.HardwareAccelerator.CPU,
        cpu_options=options.CpuOptions(num_threads=threads, xnnpack_weight_cache_path=_IN_MEMORY),
    )
    if isinstance(model, bytes):
        return compiled_model.from_buffer(model, options=settings)
    return compiled_model.from_file(str(model), options=settings)


class CompiledSession:
    """Runs on LiteRT's CompiledModel; all signatures share one copy of the packed weights."""

    def __init__(self, model: Any, details: dict[str, _Signature], source: Path | bytes) -> None:
        self.shapes = _input_shapes(details)
        self._details = details
        self._source = source  # bytes must outlive the model that was made from them
        self._lock = threading.Lock()
        self._model = [model]
        self._buffers: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        # LiteRT logs when it lets go of its devices: also at exit, where nobody called close.
        self._release = weakref.finalize(self, _release, self._buffers, self._model)

    def run(self, signature: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """See ``Session``."""
        details = self._details[signature]
        with self._lock:
            inputs, outputs = self._buffers.get(signature) or self._make_buffers(signature)
            for name, array in arrays.items():
                inputs[name].write(np.ascontiguousarray(array, dtype=details.inputs[name][1]))
            self._model[0].run_by_name(signature, inputs, outputs)
            return {
                name: outputs[name].read(int(np.prod(shape)), dtype).reshape(shape)
                for name, (shape, dtype) in details.outputs.items()
            }

    def _make_buffers(self, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
        model, details = self._model[0], self._details[key]
        with captured_output():  # the first buffer opens a device environment and logs it
            self._buffers[key] = (
                {n: model.create_input_buffer_by_name(key, n) for n in details.inputs},
                {n: model.create_output_buffer_by_name(key, n) for n in details.outputs},
            )
        return self._buffers[key]

    def close(self) -> None:
        """See ``Session``."""
        with self._lock:
            self._release()


def _release(buffers: dict[str, Any], model: list[Any]) -> None:
    with captured_output():
        buffers.clear()
        model.clear()
