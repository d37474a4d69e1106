"""The ``onnx`` engine: onnxruntime, padded batches of texts of similar length, or single texts.

A text's answer does not depend on its batch. Files of layout ``dense`` mask padding, and quantized
ones take the range of each row by itself; what is padded together is chosen to waste at most
``max_waste``. Those of layout ``single`` run one text per call, without padding.
"""

import platform
import threading
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import BundleError, EngineError, InputError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.bundle import Bundle
from edgeformer.runtime.engines.onnx_session import ARM_MACHINES, open_session, output_name
from edgeformer.runtime.grouping import MAX_TEXTS, length_groups
from edgeformer.runtime.inputs import complete_inputs, real_tokens
from edgeformer.runtime.manifest import Port, Program, Variant

if TYPE_CHECKING:
    from edgeformer.runtime.exiting import Leave

Arrays = dict[str, NDArray[Any]]

_MAX_WASTE = 0.1
_MASK = "attention_mask"


def open_engine(
    bundle: Bundle, variant: Variant, threads: int, shares_process: bool = False
) -> "OnnxEngine":
    """Open every file of ``variant`` on its execution provider.

    Args:
        bundle: its files were checked by the caller.
        variant: of engine ``onnx``; an empty provider means the CPU's.
        threads: most threads one call may use.
        shares_process: let idle threads sleep at once: they would otherwise spin for some 30 ms
            after each call, on the CPUs that another engine of this process needs.

    Raises:
        EngineError: onnxruntime is missing, refused, or lacks the variant's provider.
        BundleError: a file is not a model, or has other inputs than the manifest says.
    """
    weights = _weights(bundle, variant)

    def open_file(name: str) -> Any:
        model = bundle.file_path(name) or bundle.read(name)
        spinning = not shares_process
        session = open_session(
            model,
            threads,
            variant.provider,
            name,
            spinning,
            weights=weights,
            shared_memory=name in later and not variant.provider,
        )
        for program in variant.programs.values():
            if program.file == name:
                _check_ports(session, program, variant.layout)
        return session

    # Segments have a session each, and a session its own memory: they wait until one is needed.
    later = {segment.file for segment in variant.segments}
    names = sorted({program.file for program in variant.programs.values()} - later)
    return OnnxEngine(variant, threads, {name: open_file(name) for name in names}, open_file)


def _weights(bundle: Bundle, variant: Variant) -> dict[str, bytes]:
    """What the files call the one with their weights -> its content, in a zipped bundle, where they
    cannot find it themselves."""
    name = variant.weights
    return (
        {PurePosixPath(name).name: bundle.read(name)} if name and not bundle.file_path(name) else {}
    )


def _check_ports(session: Any, program: Program, layout: str) -> None:
    inputs = {item.name for item in session.get_inputs()}
    inputs |= {_MASK} if layout == "single" else set()
    outputs = {item.name for item in session.get_outputs()}
    listed = ({p.name for p in program.inputs}, {*_output_names(program)})
    if inputs != listed[0] or not listed[1] <= outputs:
        raise BundleError(
            f"{program.file} does not have the inputs and outputs that the manifest lists",
            hint="copy the bundle again, or convert again",
        )


def _output_names(program: Program) -> list[str]:
    return [output_name(port, program.inputs) for port in program.outputs]


class OnnxEngine:
    """Runs the programs of one variant. See ``edgeformer.runtime.engine.Engine``."""

    def __init__(
        self,
        variant: Variant,
        threads: int,
        sessions: dict[str, Any],
        open_file: Callable[[str], Any] | None = None,
    ) -> None:
        """Takes over the ``sessions`` of files; ``open_file`` makes those that are missing."""
        self.threads = threads
        self._open_file = open_file
        self._lock = threading.Lock()
        self._variant = variant
        self._programs = variant.programs
        self._sessions = sessions
        self._single = variant.layout == "single"
        self._max_waste = max_waste(variant, platform.machine())

    def run(self, program: str, inputs: Mapping[str, Any]) -> Arrays:
        """Named arrays in, named arrays out; absent inputs take their port's default.

        Raises:
            InputError: inputs that do not fit, for example an id outside the vocabulary.
            EngineError: the engine was closed.
        """
        if program not in self._programs:
            known = ", ".join(self._programs)
            raise InputError(f"no program {program!r}", hint=f"this model has: {known}")
        chosen = self._programs[program]
        arrays = complete_inputs(chosen.inputs, inputs)
        return (self._call_each if self._single else self._call)(chosen, arrays)

    def encode(self, batch: RaggedBatch) -> Arrays:
        """Run ``main`` on tokenized texts, those of similar length padded together.

        Returns:
            for each output (num_texts, ...), or (num_tokens, ...) where its port has a
            ``sequence`` dimension.

        Raises:
            InputError: ``main`` takes no texts, or an id is outside the vocabulary.
        """
        program = self._programs["main"]
        names = {port.name for port in program.inputs}
        if "input_ids" not in names:
            raise InputError("this model takes no texts", hint="call run() with its named inputs")
        if self._single:
            return self._encode_each(program, batch)
        answers = {port.name: _room(port, batch) for port in program.outputs}
        for rows in length_groups(batch.lengths.tolist(), self._max_waste):
            group = batch.select(rows)
            padded = group.padded(int(group.lengths.max()))
            result = self.run("main", {k: v for k, v in padded.items() if k in names})
            for port in program.outputs:
                _put(answers[port.name], port, batch, rows, result[port.name])
        return answers

    def encode_exits(
        self, batch: RaggedBatch, leave: "Leave"
    ) -> tuple[NDArray[Any], NDArray[np.intp]]:
        """See ``Engine.encode_exits``: groups of texts of similar length, which shrink as texts
        leave; or one text at a time."""
        from edgeformer.runtime.engines.padded_segments import padded_chain
        from edgeformer.runtime.exiting import exit_answers, run_chain

        answers = exit_answers(self._variant, batch)
        most = 1 if self._single else MAX_TEXTS
        for rows in length_groups(batch.lengths.tolist(), self._max_waste, most):
            chain = padded_chain(self._variant, batch.select(rows), self._run_segment)
            texts = np.array(rows, np.intp)
            run_chain(chain, len(self._variant.segments), texts, leave, answers)
        return answers

    def _run_segment(self, program: Program, arrays: Arrays) -> Arrays:
        if self._single:
            arrays.pop(_MASK)
        return self._call(program, arrays)

    def _call(self, program: Program, arrays: Arrays) -> Arrays:
        session = self._sessions.get(program.file) or self._opened(program.file)
        names = _output_names(program)
        try:
            values = session.run(names, arrays)
        except Exception as error:  # onnxruntime's own classes have no public name
            raise _failed(error) from None
        return {
            port.name: np.asarray(value, dtype=port.dtype)
            for port, value in zip(program.outputs, values, strict=True)
        }

    def _opened(self, file: str) -> Any:
        with self._lock:
            if file not in self._sessions:
                if self._open_file is None:
                    raise EngineError("this engine was closed", hint="load the bundle again")
                self._sessions[file] = self._open_file(file)
            return self._sessions[file]

    def _call_each(self, program: Program, arrays: Arrays) -> Arrays:
        """Row by row, padding left out; outputs with one row per token have zeros there."""
        kept = real_tokens(arrays.pop(_MASK))
        if not kept[:, :1].all():
            raise InputError("the first column of attention_mask is 0", hint="pad on the right")
        answers = {port.name: _room_for_rows(port, kept.shape) for port in program.outputs}
        for i, tokens in enumerate(kept):
            row = {name: array[i : i + 1, tokens] for name, array in arrays.items()}
            result = self._call(program, row)
            for port in program.outputs:
                place = (i, tokens) if "sequence" in port.shape else i
                answers[port.name][place] = result[port.name][0]
        return answers

    def _encode_each(self, program: Program, batch: RaggedBatch) -> Arrays:
        answers = {port.name: _room(port, batch) for port in program.outputs}
        given = {"input_ids": batch.ids.astype(np.int64)}
        given["token_type_ids"] = batch.type_ids.astype(np.int64)
        longest = int(batch.lengths.max(initial=0))
        positions = {
            port.name: np.arange(longest)[None] + int(port.default.removeprefix("positions+"))
            for port in program.inputs
            if port.default is not None and port.default.startswith("positions+")
        }
        by_token = [port.name for port in program.inputs if port.name in given]
        bounds = batch.offsets.tolist()
        for i, (start, stop) in enumerate(pairwise(bounds)):
            row = {name: given[name][None, start:stop] for name in by_token}
            row |= {name: values[:, : stop - start] for name, values in positions.items()}
            result = self._call(program, row)
            for port in program.outputs:
                place = slice(start, stop) if "sequence" in port.shape else i
                answers[port.name][place] = result[port.name][0]
        return answers

    def close(self) -> None:
        """Release the models; the engine cannot be used afterwards."""
        with self._lock:
            self._open_file = None
            self._sessions.clear()


def max_waste(variant: Variant, machine: str) -> float:
    """Largest share of padding in what runs together, 0 where padding could change an answer.

    Where a product has more terms, zeros too, onnxruntime's Arm kernels add them up in another
    order; rounding to int8 can make cosine 0.9998 of such a last digit (an emulated Cortex-A72,
    tests/arm/test_answers.py). Its x86 kernels keep the order.

    Args:
        variant: what runs.
        machine: ``platform.machine()``.
    """
    paddable = any(port.name == "attention_mask" for port in variant.programs["main"].inputs)
    order_matters = variant.precision == "int8" and machine in ARM_MACHINES
    return _MAX_WASTE if paddable and not order_matters else 0.0


def _room(port: Port, batch: RaggedBatch) -> NDArray[Any]:
    """Zeros for the answers of all texts, or of all their tokens."""
    per_token = "sequence" in port.shape
    first = len(batch.ids) if per_token else len(batch)
    rest = port.shape[2:] if per_token else port.shape[1:]
    return np.zeros((first, *(s if isinstance(s, int) else 0 for s in rest)), port.dtype)


def _room_for_rows(port: Port, sizes: tuple[int, ...]) -> NDArray[Any]:
    """Zeros for the answers to (batch, sequence) rows."""
    named = dict(zip(("batch", "sequence"), sizes, strict=True))
    shape = [named.get(s, 0) if isinstance(s, str) else s for s in port.shape]
    return np.zeros(shape, port.dtype)


def _put(
    room: NDArray[Any], port: Port, batch: RaggedBatch, rows: list[int], result: NDArray[Any]
) -> None:
    if "sequence" not in port.shape:
        room[rows] = result
        return
    for i, row in enumerate(rows):
        start, stop = int(batch.offsets[row]), int(batch.offsets[row + 1])
        room[start:stop] = result[i, : stop - start]


def _failed(error: Exception) -> InputError | EngineError:
    """InvalidArgument and Fail are about the inputs; anything else is a failure of the engine."""
    if type(error).__name__ in ("InvalidArgument", "Fail"):
        return InputError(
            f"onnxruntime cannot run these inputs: {_last_sentence(error)}",
            hint="use ids of the model's own tokenizer, and no more tokens than it takes",
        )
    return EngineError(
        f"onnxruntime failed: {_last_sentence(error)}",
        hint="use another engine, for example --engine numpy; `edgeformer doctor` tests them",
    )


def _last_sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text.rsplit("Status Message: ", 1)[-1][:300]
