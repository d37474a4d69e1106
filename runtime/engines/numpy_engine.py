"""The engine that needs nothing but NumPy: it runs the steps of ``model.plan``.

    engine = open_engine(bundle, bundle.manifest.variant("numpy-int8"), threads=2)
    engine.encode(batch)["embedding"]          # float32 (texts, 384)

Packed plans see the tokens of all texts one after the other, without padding, and four arrays that
say where texts begin (packed_rows.py). Dense plans see rectangles: texts of one length at a time,
so that no answer can depend on padding.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import BundleError, EngineError, InputError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.blas import blas_threads
from edgeformer.runtime.bundle import Bundle
from edgeformer.runtime.engines.packed_rows import (
    GEOMETRY,
    geometry,
    packed_sizes,
    packed_tokens,
    token_columns,
)
from edgeformer.runtime.execution import BoundProgram, Buffers, bind
from edgeformer.runtime.grouping import length_groups
from edgeformer.runtime.inputs import complete_inputs, real_tokens
from edgeformer.runtime.manifest import Port, Program, Variant
from edgeformer.runtime.plan import Plan, PlanProgram, parse_plan
from edgeformer.runtime.turns import Turns

if TYPE_CHECKING:
    from edgeformer.runtime.exit_chain import Chain
    from edgeformer.runtime.exiting import Leave

Array = NDArray[Any]

CHUNK_TOKENS = 1024  # packed texts run about this many tokens at a time: buffers stay small
_BOUND_PROGRAMS = 64  # lengths; what one keeps is some 100 KB of views
_TOKEN_PORTS = ("input_ids", "token_type_ids", "attention_mask", "position_ids")


def open_engine(
    bundle: Bundle, variant: Variant, threads: int, shares_process: bool = False
) -> "NumpyEngine":
    """Map and check the plan of ``variant``.

    Args:
        bundle: open, its files already compared with their hashes.
        variant: one whose engine is ``numpy``.
        threads: set on the BLAS of this process until the engine is closed.
        shares_process: makes no difference: how long OpenBLAS spins after a call (some 100 ms, on
            more than one thread) is settled when NumPy is imported.

    Raises:
        BundleError: a plan that is not valid, or not the one the manifest describes.
    """
    plans: dict[str, Plan] = {}
    for program in variant.programs.values():
        if program.file not in plans:
            plans[program.file] = parse_plan(bundle.map(program.file))
        _check_program(program, plans[program.file])
    return NumpyEngine(variant, plans, threads)


class NumpyEngine:
    """See ``edgeformer.runtime.engine.Engine``. One run at a time; others wait.

    ``run_program`` runs a bound program; a profiler puts its own in.
    """

    def __init__(self, variant: Variant, plans: Mapping[str, Plan], threads: int) -> None:
        self.threads = threads
        self.run_program: Callable[[BoundProgram], None] = BoundProgram.run
        self._variant = variant
        self._plans: dict[str, Plan] = dict(plans)
        self._buffers = Buffers()
        self._bound: dict[tuple[Any, ...], BoundProgram] = {}
        self._generation = 0
        self._lock = Turns()
        self._restore = contextlib.ExitStack()
        self._restore.enter_context(blas_threads(threads))

    def run(self, program: str, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """See ``Engine.run``. A packed plan computes only where ``attention_mask`` is 1, and
        gives zeros for the padding of outputs with one row per token."""
        entry = self._program(program)
        arrays = complete_inputs(entry.inputs, inputs)
        if self._plan(entry).layout == "packed":
            return self._run_masked(entry, arrays)
        with self._lock:
            return self._run_dense(entry, arrays)

    def encode(self, batch: RaggedBatch) -> dict[str, Array]:
        """See ``Engine.encode``."""
        entry = self._program("main")
        for port in entry.inputs:
            if port.name not in _TOKEN_PORTS:
                raise InputError(
                    f"the model takes {port.name!r}, which is not made from text",
                    hint="call run() with its inputs by name",
                )
        if self._plan(entry).layout == "packed":
            columns = token_columns(batch)
            arrays = packed_tokens(entry, batch, columns)
            return self._run_packed(entry, arrays, columns, batch.offsets)
        return self._encode_dense(entry, batch)

    def encode_exits(self, batch: RaggedBatch, leave: "Leave") -> tuple[Array, NDArray[np.intp]]:
        """See ``Engine.encode_exits``; packed texts run some ``CHUNK_TOKENS`` at a time."""
        from edgeformer.runtime.engines.numpy_segments import NumpySegments
        from edgeformer.runtime.exit_chain import exit_answers, run_chain

        answers = exit_answers(self._variant, batch)
        packed = self._plan(self._variant.segments[0]).layout == "packed"
        groups = (
            [range(s.start, s.stop) for s in _chunks(batch.offsets)]
            if packed
            else length_groups(batch.lengths.tolist(), max_waste=0.0)
        )
        segments = NumpySegments(self._variant, self._run_segment)
        for rows in groups:
            texts = np.array(rows, np.intp)
            some = batch.select(texts.tolist())
            chain: Chain[Any] = segments.packed(some) if packed else segments.dense(some)
            run_chain(chain, len(self._variant.segments), texts, leave, answers)
        return answers

    def _run_segment(
        self, entry: Program, sizes: Mapping[str, int], inputs: Mapping[str, Array]
    ) -> dict[str, Array]:
        with self._lock:
            needed = {name: inputs[name] for name in self._plan(entry).inputs}
            outputs = self._execute(entry, sizes, needed)
            return {name: array.copy() for name, array in outputs.items()}

    def close(self) -> None:
        """See ``Engine.close``; the BLAS gets its former number of threads back."""
        with self._lock:
            self._plans.clear()
            self._bound.clear()
            self._buffers = Buffers()
            self._restore.close()

    def _program(self, name: str) -> Program:
        if name not in self._variant.programs:
            known = ", ".join(self._variant.programs)
            raise InputError(f"the model has no program {name!r}", hint=f"it has: {known}")
        return self._variant.programs[name]

    def _plan(self, entry: Program) -> PlanProgram:
        plan = self._plans.get(entry.file)
        if plan is None:
            raise EngineError("the engine is closed", hint="load the bundle again")
        return plan.programs[entry.entry]

    def _execute(
        self, entry: Program, sizes: Mapping[str, int], inputs: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Run once. The result's arrays are buffers: copy them before the next run."""
        program = self._plan(entry)
        for name, limit in program.dimensions.items():
            if limit and sizes[name] > limit:
                raise InputError(f"{name} is {sizes[name]}, the model takes at most {limit}")
        key = (entry.file, entry.entry, *sorted(sizes.items()))
        bound = self._bound.pop(key, None)
        if bound is None:
            bound = bind(program, self._plans[entry.file].tensors, sizes, self._buffers)
            if self._buffers.generation != self._generation:
                self._bound.clear()
                self._generation = self._buffers.generation
            elif len(self._bound) >= _BOUND_PROGRAMS * len(self._variant.programs):
                self._bound.pop(next(iter(self._bound)))
        self._bound[key] = bound
        for name, array in bound.inputs.items():
            if array.shape != inputs[name].shape:
                raise BundleError(f"model.plan gives its input {name} another shape than its port")
            np.copyto(array, inputs[name], casting="unsafe")
        self.run_program(bound)
        return bound.outputs

    def _run_packed(
        self, entry: Program, arrays: Mapping[str, Array], columns: Array, offsets: Array
    ) -> dict[str, Array]:
        """Run texts that lie one after the other, in chunks.

        Args:
            entry: the program.
            arrays: token inputs by name, (tokens,).
            columns: integers (tokens,), place of each token in its text.
            offsets: intp (texts + 1,).

        Returns:
            each output with one row per text, or per token where its port has a sequence.
        """
        parts: dict[str, list[Array]] = {port.name: [_empty(port)] for port in entry.outputs}
        for texts in _chunks(offsets):
            tokens = slice(int(offsets[texts.start]), int(offsets[texts.stop]))
            local = offsets[texts.start : texts.stop + 1] - tokens.start
            inputs = {name: array[tokens] for name, array in arrays.items()}
            inputs |= geometry(local, columns[tokens])
            sizes = packed_sizes(local, columns[tokens])
            with self._lock:
                outputs = self._execute(entry, sizes, inputs)
                for name, rows in parts.items():
                    rows.append(outputs[name].copy())
        return {name: np.concatenate(rows) for name, rows in parts.items()}

    def _run_masked(self, entry: Program, arrays: dict[str, Array]) -> dict[str, Array]:
        """Take the padding away, run packed, and put rows of zeros where padding was."""
        kept = real_tokens(arrays.pop("attention_mask"))
        if "first_rows" in self._plan(entry).inputs and not kept[:, 0].all():
            raise InputError(
                "the model reads the first column, where attention_mask is 0",
                hint="pad on the right",
            )
        offsets = np.zeros(len(kept) + 1, np.intp)
        np.cumsum(kept.sum(axis=1), out=offsets[1:])
        packed = {name: array[kept] for name, array in arrays.items()}
        outputs = self._run_packed(entry, packed, np.nonzero(kept)[1], offsets)
        for port in entry.outputs:
            if "sequence" in port.shape:
                rows = outputs[port.name]
                padded = np.zeros((*kept.shape, *rows.shape[1:]), rows.dtype)
                padded[kept] = rows
                outputs[port.name] = padded
        return outputs

    def _encode_dense(self, entry: Program, batch: RaggedBatch) -> dict[str, Array]:
        """Texts of one length at a time, the results put back in order."""
        names = [port.name for port in entry.inputs if port.name != "position_ids"]
        per_text: dict[str, list[Array]] = {
            port.name: [_empty(port)] * len(batch) for port in entry.outputs
        }
        lengths = batch.lengths.tolist()
        for group in length_groups(lengths, max_waste=0.0):
            arrays = batch.select(group).padded(lengths[group[0]])
            inputs = complete_inputs(entry.inputs, {name: arrays[name] for name in names})
            with self._lock:
                outputs = self._run_dense(entry, inputs)
            for name, rows in outputs.items():
                for i, row in zip(group, rows, strict=True):
                    per_text[name][i] = row
        return {port.name: _joined(per_text[port.name], port) for port in entry.outputs}

    def _run_dense(self, entry: Program, arrays: Mapping[str, Array]) -> dict[str, Array]:
        sizes: dict[str, int] = {}
        for port in entry.inputs:
            for size, name in zip(arrays[port.name].shape, port.shape, strict=True):
                if isinstance(name, str):
                    sizes[name] = size
        if not all(sizes.values()):
            return {port.name: _empty(port, sizes) for port in entry.outputs}
        outputs = self._execute(entry, sizes, arrays)
        return {name: array.copy() for name, array in outputs.items()}


def _check_program(program: Program, plan: Plan) -> None:
    """The manifest's ports must be those of the plan, in a form that this engine can feed."""
    entry = plan.programs.get(program.entry)
    ports = {port.name for port in program.inputs}
    fits = entry is not None and set(entry.outputs) == {port.name for port in program.outputs}
    if fits and entry is not None and entry.layout == "packed":
        fits = set(entry.inputs) - set(GEOMETRY) <= ports - {"attention_mask"}
        fits = fits and "attention_mask" in ports
        fits = fits and all(port.shape[:2] == ("batch", "sequence") for port in program.inputs)
    elif fits and entry is not None:
        dimensions = {n for port in program.inputs for n in port.shape if isinstance(n, str)}
        fits = set(entry.inputs) <= ports and set(entry.dimensions) <= dimensions
    if not fits:
        raise BundleError(
            f"{program.file} is not the plan that the manifest describes", hint="convert again"
        )


def _chunks(offsets: Array) -> Iterator[slice]:
    """Runs of texts of about ``CHUNK_TOKENS`` tokens; a longer text is a run of its own."""
    start, texts = 0, len(offsets) - 1
    while start < texts:
        limit = offsets[start] + CHUNK_TOKENS
        stop = max(start + 1, int(np.searchsorted(offsets, limit, side="right")) - 1)
        yield slice(start, stop)
        start = stop


def _empty(port: Port, sizes: Mapping[str, int] | None = None) -> Array:
    """The output for no text at all."""
    shape = [(sizes or {}).get(n, 0) if isinstance(n, str) else n for n in port.shape]
    if "sequence" in port.shape and sizes is None:
        shape = [0, *shape[port.shape.index("sequence") + 1 :]]
    return np.zeros(shape, port.dtype)


def _joined(rows: list[Array], port: Port) -> Array:
    """One row per text, or the token rows of all texts one after the other."""
    if not rows:
        return _empty(port)
    return np.concatenate(rows) if "sequence" in port.shape else np.stack(rows)
