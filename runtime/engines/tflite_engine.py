"""The ``tflite`` engine: LiteRT or tflite-runtime, one text per call.

A .tflite file of layout ``dense`` has one signature (``main``), batch 1, whose inputs are resized
to each text: no padding, and the weights are packed once. One of layout ``buckets`` has a signature
per length (``main_32``, ``main_64``, ...): a text runs in the smallest that holds it, padded with
mask 0. Either way an answer cannot depend on other texts. A module without an attention mask
cannot be padded: it runs at its example shapes only.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import BundleError, EngineError, InputError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.bundle import Bundle
from edgeformer.runtime.engines.tflite_session import Session, open_session
from edgeformer.runtime.inputs import complete_inputs, default_input
from edgeformer.runtime.manifest import Port, Program, Variant

if TYPE_CHECKING:
    from edgeformer.runtime.exiting import Leave

Arrays = dict[str, NDArray[Any]]
_OUTSIDE = re.compile(r"Got (-?\d+), and bounds are \[(\d+), (\d+)\]")


def open_engine(
    bundle: Bundle, variant: Variant, threads: int, shares_process: bool = False
) -> "TfliteEngine":
    """Open every file of ``variant``.

    Args:
        bundle: its files were checked by the caller.
        variant: of engine ``tflite``.
        threads: most threads one call may use.
        shares_process: makes no difference: its threads do not spin after a call.

    Raises:
        EngineError: no runtime installed, or one that is known to give wrong answers.
        BundleError: a file is not a valid model, or lacks a program of the manifest.
    """
    sessions: dict[str, Session] = {}
    for name in sorted({program.file for program in variant.programs.values()}):
        model = bundle.file_path(name) or bundle.read(name)
        sessions[name] = open_session(model, threads, variant.precision, name)
    engine = TfliteEngine(variant, threads, sessions)
    engine.check()
    return engine


class TfliteEngine:
    """Runs the programs of one variant. See ``edgeformer.runtime.engine.Engine``."""

    def __init__(self, variant: Variant, threads: int, sessions: dict[str, Session]) -> None:
        self.threads = threads
        self._variant = variant
        self._programs = variant.programs
        self._any_length = variant.layout == "dense"
        self._sessions = sessions

    def check(self) -> None:
        """Compare the programs' entries and inputs with what the files have.

        Raises:
            BundleError: an entry is missing, or has other inputs than the manifest says.
        """
        for program in self._programs.values():
            shapes = self._sessions[program.file].shapes
            entries = self._entries(program)
            names = {port.name for port in program.inputs}
            if not entries or any(names != set(shapes.get(entry, ())) for entry in entries):
                raise BundleError(
                    f"{program.file} does not have the entries and inputs that the manifest lists",
                    hint="copy the bundle again, or convert again",
                )

    def _entries(self, program: Program) -> list[str]:
        if self._any_length:
            return [program.entry]
        listed = [_entry(program, bucket) for bucket in program.buckets]
        return listed or _example_entries(program, self._sessions[program.file].shapes)

    def run(self, program: str, inputs: Mapping[str, Any]) -> Arrays:
        """Named arrays in, named arrays out.

        Token models take any batch and any length, up to the largest bucket where there are
        buckets; others exactly the shapes of their examples.

        Raises:
            InputError: inputs that do not fit the program's ports, or are too long.
            EngineError: the engine was closed.
        """
        if program not in self._programs:
            known = ", ".join(self._programs)
            raise InputError(f"no program {program!r}", hint=f"this model has: {known}")
        chosen = self._programs[program]
        arrays = complete_inputs(chosen.inputs, inputs)
        if not (chosen.buckets or self._any_length):
            return self._run_example_shape(chosen, arrays)
        rows = _size(chosen.inputs, arrays, "batch")
        length = _size(chosen.inputs, arrays, "sequence")
        answers = [
            self._run_row(chosen, _row(chosen.inputs, arrays, i), length) for i in range(rows)
        ]
        empty = {port.name: _no_rows(port, length) for port in chosen.outputs}
        return {name: np.concatenate([empty[name], *(a[name] for a in answers)]) for name in empty}

    def encode(self, batch: RaggedBatch) -> Arrays:
        """Run ``main`` on each text, at its own length or in the smallest bucket that holds it.

        Raises:
            InputError: a text is longer than the largest bucket, or ``main`` takes no texts.
            EngineError: the engine was closed.
        """
        program = self._programs["main"]
        names = {port.name for port in program.inputs}
        if not (program.buckets or self._any_length) or "input_ids" not in names:
            raise InputError("this model takes no texts", hint="call run() with its named inputs")
        parts = {port.name: [_nothing(port)] for port in program.outputs}
        for i in range(len(batch)):
            row, length = _text(program, batch, i)
            answer = self._run_row(program, row, length)
            for port in program.outputs:
                part = answer[port.name]
                parts[port.name].append(part[0] if "sequence" in port.shape else part)
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def encode_exits(
        self, batch: RaggedBatch, leave: "Leave"
    ) -> tuple[NDArray[Any], NDArray[np.intp]]:
        """See ``Engine.encode_exits``: one text at a time."""
        from edgeformer.runtime.engines.tflite_segments import text_chain
        from edgeformer.runtime.exit_chain import exit_answers, run_chain

        answers = exit_answers(self._variant, batch)
        segments = self._variant.segments
        for i in range(len(batch)):
            row, length = _text(segments[0], batch, i)
            bucket = self._bucket(segments[0], length)
            padded = {p.name: _padded(p, row[p.name], bucket) for p in segments[0].inputs}

            def run(program: Program, arrays: Arrays, bucket: int = bucket) -> Arrays:
                return _call(self._sessions[program.file], _entry(program, bucket), arrays)

            chain = text_chain(segments, padded, run)
            run_chain(chain, len(segments), np.array([i], np.intp), leave, answers)
        return answers

    def close(self) -> None:
        """Release the files; the engine cannot be used afterwards."""
        for session in self._sessions.values():
            session.close()

    def _run_row(self, program: Program, arrays: Arrays, length: int) -> Arrays:
        """One text of ``length`` tokens, padded to its bucket, its answer cut back."""
        bucket = self._bucket(program, length)
        padded = {p.name: _padded(p, arrays[p.name], bucket) for p in program.inputs}
        answer = _call(self._sessions[program.file], _entry(program, bucket), padded)
        return {p.name: _cut(p, answer[p.name], length) for p in program.outputs}

    def _bucket(self, program: Program, length: int) -> int:
        """The length at which a text of ``length`` tokens runs."""
        lengths = (max(length, 1),) if self._any_length else program.buckets
        bucket = next((b for b in lengths if b >= length), None)
        if bucket is None:
            raise InputError(
                f"an input of {length} tokens is longer than this file's largest length,"
                f" {program.buckets[-1]}",
                hint="shorten or split the text, or convert with larger length.bucket_tokens",
            )
        return bucket

    def _run_example_shape(self, program: Program, arrays: Arrays) -> Arrays:
        session = self._sessions[program.file]
        shapes = {name: array.shape for name, array in arrays.items()}
        entries = _example_entries(program, session.shapes)
        for entry in entries:
            if session.shapes[entry] == shapes:
                answer = _call(session, entry, arrays)
                return {p.name: answer[p.name].astype(p.dtype) for p in program.outputs}
        known = "; ".join(_shapes_text(session.shapes[entry]) for entry in entries)
        raise InputError(
            f"this file has no entry for {_shapes_text(shapes)}; it runs at: {known}",
            hint="convert with an example of this shape, or use another engine: --engine onnx",
        )


def _call(session: Session, entry: str, arrays: Arrays) -> Arrays:
    try:
        return session.run(entry, arrays)
    except (RuntimeError, ValueError) as error:
        outside = _OUTSIDE.findall(str(error))  # the message also repeats those of earlier calls
        if not outside:
            raise EngineError(
                f"TFLite failed: {str(error)[-200:]}",
                hint="use another engine, for example --engine numpy; `edgeformer doctor` tests"
                " them",
            ) from None
        found, first, last = outside[-1]
        raise InputError(
            f"an id is {found}, outside the model's table of {first} to {last}",
            hint="use ids of the model's own tokenizer",
        ) from None


def _entry(program: Program, bucket: int) -> str:
    return program.entry.replace("{length}", str(bucket))


def _example_entries(program: Program, shapes: Mapping[str, Any]) -> list[str]:
    prefix = program.entry.split("{")[0]
    return [key for key in shapes if key.startswith(prefix)]


def _text(program: Program, batch: RaggedBatch, i: int) -> tuple[Arrays, int]:
    """Text ``i`` as inputs of a program that reads tokens, and its length."""
    tokens = slice(batch.offsets[i], batch.offsets[i + 1])
    given = {"input_ids": batch.ids[None, tokens], "token_type_ids": batch.type_ids[None, tokens]}
    length = given["input_ids"].shape[1]
    sizes = {"batch": 1, "sequence": length}
    inputs = {
        port.name: given[port.name] if port.name in given else default_input(port, sizes)
        for port in program.inputs
    }
    return inputs, length


def _size(ports: tuple[Port, ...], arrays: Arrays, symbol: str) -> int:
    """Size of the dimension ``symbol`` in these arrays; complete_inputs made them agree."""
    for port in ports:
        if symbol in port.shape:
            return int(arrays[port.name].shape[port.shape.index(symbol)])
    return 1


def _row(ports: tuple[Port, ...], arrays: Arrays, i: int) -> Arrays:
    """Row ``i`` of every input that has a batch dimension (always its first), as a batch of 1."""
    return {
        port.name: arrays[port.name][i : i + 1] if "batch" in port.shape else arrays[port.name]
        for port in ports
    }


def _padded(port: Port, array: NDArray[Any], bucket: int) -> NDArray[Any]:
    """Zeros after the last token: the mask's zeros keep them out of every answer."""
    if "sequence" not in port.shape:
        return array
    axis = port.shape.index("sequence")
    if array.shape[axis] == bucket:
        return array
    shape = list(array.shape)
    shape[axis] = bucket
    padded = np.zeros(shape, array.dtype)
    padded[(slice(None),) * axis + (slice(array.shape[axis]),)] = array
    return padded


def _cut(port: Port, array: NDArray[Any], length: int) -> NDArray[Any]:
    kept = tuple(slice(length) if size == "sequence" else slice(None) for size in port.shape)
    return array[kept].astype(port.dtype, copy=False)


def _no_rows(port: Port, length: int) -> NDArray[Any]:
    sizes = {"batch": 0, "sequence": length}
    return np.zeros([sizes.get(s, 0) if isinstance(s, str) else s for s in port.shape], port.dtype)


def _nothing(port: Port) -> NDArray[Any]:
    """What ``encode`` answers to no texts: 0 rows, or 0 tokens."""
    rest = port.shape[2:] if "sequence" in port.shape else port.shape[1:]
    return np.zeros([s if isinstance(s, int) else 0 for s in (0, *rest)], port.dtype)


def _shapes_text(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())
