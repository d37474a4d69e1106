"""LiteRT's own profiler, through the C interface of the library that ai-edge-litert brings.

Its Python Interpreter has no profiler. The C interface has one: the same file runs on the same
kernels, and every operation of the graph and of XNNPACK reports its time. A ProfiledSession stands
in for ``tflite_session.Session``; the caller compares its answers with the Interpreter's, because
nothing else proves that this interface is the one described here (version 2 of LiteRT).

Opening it looks for GPU libraries by their bare names, which the package's are not found under:
where one is found all the same and cannot run, this process dies, and is a row that says so.
"""

import contextlib
import ctypes
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import EngineError

_LIBRARY = "libLiteRt.so"
_CPU, _READ, _WRITE = 1, 0, 1
_ELEMENTS: dict[int, type[np.generic]] = {1: np.float32, 2: np.int32, 4: np.int64}
_MAX_RANK = 8
# type, start, first, average, two percentages, memory, calls, name
_ROW = re.compile(
    r"\s*(.+?)\s+[\d.]+\s+[\d.]+\s+([\d.]+)\s+[\d.]+%\s+[\d.]+%\s+[\d.]+\s+\d+\s+(\S+)"
)

Pointer = ctypes.c_void_p


@dataclass(frozen=True)
class Event:
    """One operation of one run.

    Attributes:
        name: of TFLite's operation, or ``Delegate/`` and XNNPACK's.
        time_ms: whole microseconds.
        place: ``[Builtin]:N``, node N of the graph, or ``[Delegate]:N``.
    """

    name: str
    time_ms: float
    place: str


class _Layout(ctypes.Structure):
    _fields_ = (
        ("rank", ctypes.c_uint32),  # 7 bits, and one that says whether strides follow
        ("dimensions", ctypes.c_int32 * _MAX_RANK),
        ("strides", ctypes.c_uint32 * _MAX_RANK),
    )


class _TensorType(ctypes.Structure):
    _fields_ = (("element", ctypes.c_int), ("layout", _Layout))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.layout.dimensions[: self.layout.rank & 127])


_KEEP = ctypes.CFUNCTYPE(None, Pointer)(lambda _: None)  # the session owns its strings


class ProfiledSession:
    """One open file under LiteRT's profiler. Not thread-safe.

    Attributes:
        shapes: input shapes of each signature, as in ``tflite_session.Session``.
        runs: what every run since ``reset`` reported; ``run_ms``: how long each took.
        last_call: (arrays, signature) of the last run.
    """

    def __init__(self, model: bytes, threads: int) -> None:
        """Open ``model`` on ``threads`` threads.

        Raises:
            EngineError: no such library here, or it refuses the file.
        """
        self._library = _open_library()
        self._kept: list[Any] = [ctypes.create_string_buffer(model, len(model))]
        environment, loaded, options = Pointer(), Pointer(), Pointer()
        self._call("LiteRtCreateEnvironment", 0, None, ctypes.byref(environment))
        size = ctypes.c_size_t(len(model))
        self._call(
            "LiteRtCreateModelFromBuffer", environment, self._kept[0], size, ctypes.byref(loaded)
        )
        self._call("LiteRtCreateOptions", ctypes.byref(options))
        self._call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
        self._add_options(options, "xnnpack", f"num_threads = {threads}\n")
        self._add_options(options, "runtime_options_string", "enable_profiling = true\n")
        self._environment, self._model, self._compiled = environment, loaded, Pointer()
        self._call(
            "LiteRtCreateCompiledModel", environment, loaded, options, ctypes.byref(self._compiled)
        )
        self._profiler = Pointer()
        self._call("LiteRtCompiledModelGetProfiler", self._compiled, ctypes.byref(self._profiler))
        self._signatures = self._read_signatures()
        self.shapes = {
            key: {name: kind.shape for name, kind in inputs}
            for key, (_, inputs, _) in self._signatures.items()
        }
        self.runs: list[list[Event]] = []
        self.run_ms: list[float] = []
        self.last_call: tuple[dict[str, NDArray[Any]], str] = ({}, "")

    def run(self, signature: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one signature under the profiler; see ``tflite_session.Session.run``."""
        self.last_call = (dict(arrays), signature)
        index, inputs, outputs = self._signatures[signature]
        place = ctypes.c_size_t(index)
        given = []
        for position, (name, kind) in enumerate(inputs):
            array = np.ascontiguousarray(arrays[name], _ELEMENTS[kind.element])
            self._resize(place, position, kind, array.shape)
            given.append((kind, array))
        self._place_outputs(place, outputs)
        sources = [
            self._buffer("Input", place, k, kind, array.shape)
            for k, (kind, array) in enumerate(given)
        ]
        targets = [
            self._buffer("Output", place, k, kind, kind.shape)
            for k, (_, kind) in enumerate(outputs)
        ]
        try:
            for buffer, (_, array) in zip(sources, given, strict=True):
                with self._locked(buffer, _WRITE) as address:
                    ctypes.memmove(address, array.ctypes.data, array.nbytes)
            self._run(place, sources, targets)
            return {
                name: self._read(buffer, kind)
                for buffer, (name, kind) in zip(targets, outputs, strict=True)
            }
        finally:
            for buffer in (*sources, *targets):
                self._library.LiteRtDestroyTensorBuffer(buffer)

    def reset(self) -> None:
        """Forget the runs so far."""
        self.runs.clear()
        self.run_ms.clear()

    def close(self) -> None:
        """The process ends soon: LiteRT's objects end with it."""

    def _run(self, place: Any, sources: Sequence[Pointer], targets: Sequence[Pointer]) -> None:
        self._call("LiteRtResetProfiler", self._profiler)
        self._call("LiteRtStartProfiler", self._profiler)
        start = time.perf_counter()
        self._call(
            "LiteRtRunCompiledModel",
            self._compiled,
            place,
            ctypes.c_size_t(len(sources)),
            (Pointer * len(sources))(*sources),
            ctypes.c_size_t(len(targets)),
            (Pointer * len(targets))(*targets),
        )
        self.run_ms.append((time.perf_counter() - start) * 1000)
        self._call("LiteRtStopProfiler", self._profiler)
        text = ctypes.c_char_p()
        self._call("LiteRtGetProfileSummary", self._profiler, self._compiled, ctypes.byref(text))
        self.runs.append(parse_summary((text.value or b"").decode("utf-8", "replace")))

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise EngineError(
                f"LiteRT's {name} gave status {status}",
                hint="per-layer times of TFLite are to be had with ai-edge-litert 2",
            )

    def _add_options(self, options: Pointer, name: str, text: str) -> None:
        payload, opaque = ctypes.create_string_buffer(text.encode()), Pointer()
        self._kept.append(payload)
        self._call(
            "LiteRtCreateOpaqueOptions",
            name.encode(),
            ctypes.cast(payload, Pointer),
            _KEEP,
            ctypes.byref(opaque),
        )
        self._call("LiteRtAddOpaqueOptions", options, opaque)

    def _read_signatures(self) -> dict[str, Any]:
        """key -> (index, [(input name, type)], [(output name, type)])."""
        count = ctypes.c_size_t()
        self._call("LiteRtGetNumModelSignatures", self._model, ctypes.byref(count))
        found = {}
        for index in range(count.value):
            signature, key = Pointer(), ctypes.c_char_p()
            self._call(
                "LiteRtGetModelSignature",
                self._model,
                ctypes.c_size_t(index),
                ctypes.byref(signature),
            )
            self._call("LiteRtGetSignatureKey", signature, ctypes.byref(key))
            ports = [self._ports(signature, side) for side in ("Input", "Output")]
            found[(key.value or b"").decode()] = (index, *ports)
        return found

    def _ports(self, signature: Pointer, side: str) -> list[tuple[str, _TensorType]]:
        count = ctypes.c_size_t()
        self._call(f"LiteRtGetNumSignature{side}s", signature, ctypes.byref(count))
        ports = []
        for k in map(ctypes.c_size_t, range(count.value)):
            name, tensor, kind = ctypes.c_char_p(), Pointer(), _TensorType()
            self._call(f"LiteRtGetSignature{side}Name", signature, k, ctypes.byref(name))
            self._call(f"LiteRtGetSignature{side}TensorByIndex", signature, k, ctypes.byref(tensor))
            self._call("LiteRtGetRankedTensorType", tensor, ctypes.byref(kind))
            ports.append(((name.value or b"").decode(), kind))
        return ports

    def _resize(self, place: Any, position: int, kind: _TensorType, shape: tuple[int, ...]) -> None:
        if kind.shape == shape:
            return
        sizes = (ctypes.c_int * len(shape))(*shape)
        self._call(
            "LiteRtCompiledModelResizeInputTensorNonStrict",
            self._compiled,
            place,
            ctypes.c_size_t(position),
            sizes,
            ctypes.c_size_t(len(shape)),
        )
        kind.layout.dimensions[: len(shape)] = shape

    def _place_outputs(self, place: Any, outputs: Sequence[tuple[str, _TensorType]]) -> None:
        """Ask for the outputs' shapes at the inputs' present ones."""
        layouts = (_Layout * len(outputs))()
        self._call(
            "LiteRtGetCompiledModelOutputTensorLayouts",
            self._compiled,
            place,
            ctypes.c_size_t(len(outputs)),
            layouts,
            ctypes.c_bool(True),
        )
        for layout, (_, kind) in zip(layouts, outputs, strict=True):
            kind.layout.dimensions[:] = layout.dimensions[:]

    def _buffer(
        self, side: str, place: Any, k: int, kind: _TensorType, shape: tuple[int, ...]
    ) -> Pointer:
        kind.layout.dimensions[: len(shape)] = shape
        wanted, buffer = Pointer(), Pointer()
        self._call(
            f"LiteRtGetCompiledModel{side}BufferRequirements",
            self._compiled,
            place,
            ctypes.c_size_t(k),
            ctypes.byref(wanted),
        )
        self._call(
            "LiteRtCreateManagedTensorBufferFromRequirements",
            self._environment,
            ctypes.byref(kind),
            wanted,
            ctypes.byref(buffer),
        )
        return buffer

    @contextlib.contextmanager
    def _locked(self, buffer: Pointer, mode: int) -> Iterator[Pointer]:
        address = Pointer()
        self._call("LiteRtLockTensorBuffer", buffer, ctypes.byref(address), mode)
        try:
            yield address
        finally:
            self._call("LiteRtUnlockTensorBuffer", buffer)

    def _read(self, buffer: Pointer, kind: _TensorType) -> NDArray[Any]:
        array: NDArray[Any] = np.empty(kind.shape, _ELEMENTS[kind.element])
        with self._locked(buffer, _READ) as address:
            ctypes.memmove(array.ctypes.data, address, array.nbytes)
        return array


def _open_library() -> ctypes.CDLL:
    import importlib.util

    found = importlib.util.find_spec("ai_edge_litert")
    folders = list(found.submodule_search_locations or ()) if found else []
    for folder in folders:
        path = Path(folder) / _LIBRARY
        if path.is_file():
            library = ctypes.CDLL(str(path))
            if hasattr(library, "LiteRtGetProfileSummary"):
                return library
    raise EngineError(
        "this TFLite runtime has no profiler",
        hint='pip install "ai-edge-litert>=2.1" on a 64-bit system',
    )


def parse_summary(text: str) -> list[Event]:
    """The rows of the section ``Run Order``."""
    events: list[Event] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("="):
            inside = "Run Order" in line
        elif inside and (found := _ROW.fullmatch(line)):
            events.append(Event(found[1], float(found[2]), found[3]))
    return events
