"""One open .tflite file: named signatures, each with fixed input shapes.

    session = open_session(Path("model.tflite"), threads=2, precision="int8", name="model.tflite")
    session.shapes["main_32"]["input_ids"]        # (1, 32)
    session.run("main_32", {"input_ids": ids, ...})

It runs on the Interpreter of ai-edge-litert, else on that of tflite-runtime. LiteRT's newer
CompiledModel needs less memory, but version 2.3.0 must not be used here: it loads its GPU library
even where only the CPU is asked for, and that library dies with an illegal instruction on a
Raspberry Pi 4 and older; and it does not check a file before reading it: a damaged one crashes it.
"""

import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import BundleError, EngineError
from edgeformer.runtime.engines.tflite_output import captured_output
from edgeformer.runtime.turns import Turns

_PACKAGES = ("ai_edge_litert", "tflite_runtime")  # in the order in which they are tried


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
        "it was built for numpy 1 and cannot open a model under numpy 2",
        numpy_major=2,
    ),
    KnownBad(
        "tflite-runtime",
        "2.14.",
        "it gives wrong answers, often the same for every input, to files of int8 weights",
        precision="int8",
    ),
)


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


def usable_package(precision: str) -> str:
    """Import name of the first installed runtime that may run variants of ``precision``.

    Raises:
        EngineError: none is installed, or only versions known to be bad.
    """
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


def open_session(model: Path | bytes, threads: int, precision: str, name: str) -> "Session":
    """Open a model on the CPU.

    Args:
        model: a path, or the bytes where there is no file of its own (a zipped bundle).
        threads: most threads one call may use.
        precision: of the weights; some versions are refused for ``int8``.
        name: of the file, for messages.

    Raises:
        EngineError: nothing installed that may be used, or it does not import here.
        BundleError: the bytes are not a model that it can read.
    """
    package = usable_package(precision)
    source = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
    with captured_output():
        try:
            library = importlib.import_module(f"{package}.interpreter")
        except ImportError as error:
            raise EngineError(
                f"{package} is installed but cannot be imported: {error}",
                hint=f"pip install --force-reinstall {package.replace('_', '-')}",
            ) from None
        try:
            return Session(library.Interpreter(**source, num_threads=threads))
        except (ValueError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or ["unknown"])[0]
            raise BundleError(
                f"{name} is not a TFLite model that {package} can read: {reason}",
                hint="convert again, or upgrade with `pip install -U ai-edge-litert`",
            ) from None


class Session:
    """An open file. Thread-safe: one call runs at a time.

    Attributes:
        shapes: input shapes of each signature, by signature and input name.
    """

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._runners: dict[str, Any] = {}
        self._lock = Turns()
        self.shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        self._dtypes: dict[str, dict[str, Any]] = {}
        for key in interpreter.get_signature_list():
            details = interpreter.get_signature_runner(key).get_input_details()
            self.shapes[key] = {n: tuple(d["shape"].tolist()) for n, d in details.items()}
            self._dtypes[key] = {n: d["dtype"] for n, d in details.items()}

    def run(self, signature: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one signature.

        Args:
            signature: a key of ``shapes``.
            arrays: of exactly the shapes there; cast to the file's dtypes (int64 to int32).

        Returns:
            new arrays by output name.

        Raises:
            EngineError: the session was closed.
            ValueError, RuntimeError: TFLite refused the inputs or could not run them.
        """
        dtypes = self._dtypes[signature]
        cast = {n: np.ascontiguousarray(a, dtype=dtypes[n]) for n, a in arrays.items()}
        with self._lock:
            if self._interpreter is None:
                raise EngineError("the engine is closed", hint="load the bundle again")
            if signature in self._runners:
                return dict(self._runners[signature](**cast))
            with captured_output():  # the first call of a signature prepares it, and logs that
                runner = self._interpreter.get_signature_runner(signature)
                answer = dict(runner(**cast))
            self._runners[signature] = runner
            return answer

    def close(self) -> None:
        """Release the file and its memory."""
        with self._lock:
            self._runners.clear()
            self._interpreter = None
