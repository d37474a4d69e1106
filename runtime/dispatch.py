"""Several engines behind one: each call goes where the table says, and one failure is survived.

    dispatcher = Dispatcher(main, engine, others, table, open_engine)
    encoded = dispatcher.encode(batch)      # encoded.outputs, encoded.variants

Engines other than the main one are opened, and self-tested, when a call first needs them. One that
cannot be opened is refused by name; one that fails in the middle of a call is replaced, once, by
the next. ``notices`` says what happened. Nothing here knows what an engine is made of.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import EdgeFormerError, EngineError, InputError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.engine import Engine
from edgeformer.runtime.manifest import Variant
from edgeformer.runtime.tuned import Choice, Table

if TYPE_CHECKING:
    from edgeformer.runtime.exit_times import SegmentTimes
    from edgeformer.runtime.exiting import Leave

Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Encoded:
    """Answers to a RaggedBatch.

    Attributes:
        outputs: as ``Engine.encode`` gives them.
        variants: ids of the variants that answered.
    """

    outputs: Outputs
    variants: tuple[str, ...]


@dataclass(frozen=True)
class Exited:
    """Answers to a RaggedBatch whose texts may leave early.

    Attributes:
        logits: float32 (texts, classes).
        layers: intp (texts,), layers that each text went through.
        variant: id of the variant that answered.
        stayed: True if a text went through all layers.
    """

    logits: NDArray[Any]
    layers: NDArray[np.intp]
    variant: str
    stayed: bool


class Dispatcher:
    """Runs calls on the engines of one bundle. Thread-safe; it owns the engines."""

    def __init__(
        self,
        variants: Sequence[Variant],
        main: Choice,
        engine: Engine,
        others: Sequence[Choice] = (),
        table: Table | None = None,
        open_engine: Callable[[Choice], Engine] | None = None,
        check_exits: Callable[[Engine, Variant], None] | None = None,
    ) -> None:
        """Take over ``engine``.

        Args:
            variants: of the bundle.
            main: the variant that ``engine`` runs.
            engine: open and self-tested.
            others: what may replace an engine that fails, in order.
            table: where calls go; None for all to ``main``.
            open_engine: opens and self-tests a choice; needed for ``others`` and ``table``.
            check_exits: self-tests an engine's segments before they are first used.
        """
        self._variants = {variant.id: variant for variant in variants}
        self._main = main
        self._engines: dict[Choice, Engine] = {main: engine}
        self._others = tuple(others)
        self._table = table
        self._open_engine = open_engine
        self._check_exits = check_exits
        # of engines whose segments were tested
        self._segment_times: dict[Choice, SegmentTimes] = {}
        self._instead: dict[Choice, Choice] = {}  # what failed or was refused -> who answers
        self._notices: list[str] = []
        self._replaced = False
        self._closed = False
        self._lock = threading.RLock()

    @property
    def variant(self) -> Variant:
        """The main variant, or what replaced it."""
        return self._variants[self._current(self._main).variant]

    @property
    def threads(self) -> int:
        """Threads that the main variant runs on."""
        return self._current(self._main).threads

    @property
    def notices(self) -> tuple[str, ...]:
        """What was refused or failed since loading, one sentence each."""
        with self._lock:
            return tuple(self._notices)

    def run(self, program: str, inputs: Mapping[str, Any]) -> Outputs:
        """See ``Engine.run``: always on the main variant."""
        return self._attempt(self._main, lambda engine: engine.run(program, inputs))[0]

    def encode(self, batch: RaggedBatch) -> Encoded:
        """Run ``main`` on tokenized texts, each where the table sends it.

        Raises:
            InputError: see ``Engine.encode``.
            EngineError: an engine failed, and so did what replaced it; or nothing is left.
        """
        parts = self._table.parts(batch.lengths) if self._table else [(self._main, None)]
        if parts[0][1] is None:
            outputs, variant = self._attempt(parts[0][0], lambda engine: engine.encode(batch))
            return Encoded(outputs, (variant,))
        places, answers, used = [], [], []
        for choice, rows in parts:
            assert rows is not None
            part = batch.select(rows.tolist())
            outputs, variant = self._attempt(choice, _encode(part))
            places.append(rows)
            answers.append(outputs)
            used.append(variant)
        joined = {
            port.name: _joined(batch, places, [a[port.name] for a in answers], port.shape)
            for port in self.variant.programs["main"].outputs
        }
        return Encoded(joined, tuple(dict.fromkeys(used)))

    def encode_exits(
        self, batch: RaggedBatch, make_leave: "Callable[[Variant, SegmentTimes], Leave]"
    ) -> Exited:
        """Run the segments of the main variant, whatever the table says of whole texts.

        Args:
            batch: tokenized texts.
            make_leave: who leaves, for the variant that answers and how long its segments take.

        Raises:
            InputError: see ``Engine.encode_exits``.
            EngineError: the segments are not those of the model; or as of ``encode``.
        """
        layers: list[NDArray[np.intp]] = []
        stayed: list[bool] = []

        def call(engine: Engine) -> Outputs:
            choice = self._current(self._main)
            variant = self._variants[choice.variant]
            times = self._segment_times.get(choice)
            if times is None:
                if self._check_exits is not None and variant.exits is not None:
                    self._check_exits(engine, variant)
                from edgeformer.runtime.exit_times import SegmentTimes

                tuned = self._table is not None and self._table.main == choice
                known = dict(self._table.exit_times) if tuned and self._table else {}
                times = self._segment_times[choice] = SegmentTimes(engine.encode_exits, known)
            leave = make_leave(variant, times)
            logits, segments = engine.encode_exits(batch, leave)
            assert variant.exits is not None  # else the engine refused
            stayed.append(len(variant.exits.layers) in segments)
            layers.append(np.array(variant.exits.layers, np.intp)[segments - 1])
            return {"logits": logits}

        outputs, variant = self._attempt(self._main, call)
        return Exited(outputs["logits"], layers[-1], variant, stayed[-1])

    def close(self) -> None:
        """Release every engine."""
        with self._lock:
            self._closed = True
            engines = list(self._engines.values())
        for engine in engines:
            engine.close()

    def _attempt(self, choice: Choice, call: Callable[[Engine], Outputs]) -> tuple[Outputs, str]:
        """Run ``call`` on the engine of ``choice``, or on what replaces it; who answered."""
        choice, engine = self._ready(choice)
        try:
            return call(engine), choice.variant
        except InputError:
            raise  # the caller's fault: no other engine could do better
        except Exception as error:  # whatever native code raises: another engine may still answer
            choice, engine = self._replacement(choice, error)
            return call(engine), choice.variant

    def _ready(self, choice: Choice) -> tuple[Choice, Engine]:
        """Who answers for ``choice`` now, opened if it was not."""
        choice = self._current(choice)
        engine = self._engines.get(choice)
        if engine is None:
            with self._lock:
                choice = self._current(choice)
                if not self._opened(choice):
                    main = self._current(self._main)
                    self._instead[choice] = main
                    choice = main
                engine = self._engines[choice]
        return choice, engine

    def _current(self, choice: Choice) -> Choice:
        while choice in self._instead:
            choice = self._instead[choice]
        return choice

    def _opened(self, choice: Choice) -> bool:
        """Open ``choice`` unless it is open; False, with a notice, if it cannot be used."""
        if self._closed:
            raise EngineError("the model is closed", hint="load the bundle again")
        if choice in self._engines:
            return True
        if self._open_engine is None:
            return False
        try:
            self._engines[choice] = self._open_engine(choice)
        except Exception as error:  # a refused file, a failed self-test, no memory left
            self._notices.append(f"{choice.variant} was refused: {_reason(error)}")
            return False
        return True

    def _replacement(self, failed: Choice, error: Exception) -> tuple[Choice, Engine]:
        """What answers after ``failed`` raised ``error``, which is raised again if nothing does."""
        with self._lock:
            if failed not in self._instead:
                self._replace(failed, error)
            choice = self._current(failed)
            return choice, self._engines[choice]

    def _replace(self, failed: Choice, error: Exception) -> None:
        if self._replaced:
            raise error
        for choice in (self._current(self._main), *self._others):
            refused = choice.variant == failed.variant or choice in self._instead
            if not refused and self._opened(choice):
                break
        else:
            raise error
        self._replaced = True
        self._instead[failed] = choice
        self._notices.append(
            f"{failed.variant} failed ({_reason(error)}): {choice.variant} answers instead"
        )
        broken = self._engines.pop(failed)
        with contextlib.suppress(Exception):  # it is broken: closing it may fail too
            broken.close()


def _encode(part: RaggedBatch) -> Callable[[Engine], Outputs]:
    return lambda engine: engine.encode(part)


def _joined(
    batch: RaggedBatch,
    places: Sequence[NDArray[np.intp]],
    answers: Sequence[NDArray[Any]],
    shape: tuple[int | str, ...],
) -> NDArray[Any]:
    """The parts' rows in the order of ``batch``: a row per text, or per token (``sequence``)."""
    order = np.concatenate(list(places))
    rows = np.concatenate(list(answers))
    if "sequence" in shape:
        bounds = batch.offsets
        order = np.concatenate([np.arange(bounds[i], bounds[i + 1]) for i in order])
    joined = np.empty_like(rows)
    joined[order] = rows
    return joined


def _reason(error: Exception) -> str:
    if isinstance(error, EdgeFormerError):
        return error.message
    return f"{type(error).__name__}: {error}"
