"""What a search to a budget can try, as data, from the least change of the model to the most.

1. ``precisions``: the model as it is, for each engine in fp32, then in int8 (fp16 where the profile
   says so).
2. ``mixtures``: int8 with the most sensitive weights left in float32, where int8 alone drops too
   far.
3. ``exits``: the fastest of each engine that keeps the answers, its texts leaving early.
4. ``cuts``: a smaller model (fewer layers, neurons, heads) for the engine and precision that was
   fastest among what keeps the answers.

All but the first depend on what was found before: each is a generator that looks at the trials
made so far whenever it is asked for the next candidate.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeformer.device_profiles.profile import DeviceProfile

if TYPE_CHECKING:
    from edgeformer.searching.trials import Budget, Trial

MIXING_ENGINES = ("onnx", "tflite")  # whose files can hold both
MIXED_PARTS = (0.25, 0.5, 1.0)  # of the profile's largest share of float32


@dataclass(frozen=True)
class Cut:
    """Shares of a model that stay.

    Attributes:
        layers: of the layers; the lowest stay.
        neurons: inside each feed-forward block.
        heads: of each layer's attention heads.
    """

    layers: float = 1.0
    neurons: float = 1.0
    heads: float = 1.0

    @property
    def name(self) -> str:
        """What stays, as ``2/3 of layers``."""
        parts = (("layers", self.layers), ("neurons", self.neurons), ("heads", self.heads))
        return ", ".join(f"{share:.0%} of {what}" for what, share in parts if share < 1)


@dataclass(frozen=True)
class Candidate:
    """One way to make a bundle.

    Attributes:
        engine: of the one variant.
        precision: of that variant.
        fp32_share: share of an int8 file's weights that stays in float32, the most sensitive ones.
        cut: what stays of the model; None for all of it.
        exits: they are calibrated, and texts leave by ``exit="auto"``.
    """

    engine: str
    precision: str
    fp32_share: float = 0.0
    cut: Cut | None = None
    exits: bool = False

    @property
    def name(self) -> str:
        """The variant, and what is special about it."""
        return f"{self.engine}-{self.what}"

    @property
    def what(self) -> str:
        """The same without the engine."""
        parts = [self.precision]
        if self.fp32_share:
            parts.append(f"{100 * self.fp32_share:.3g}% fp32")
        if self.cut:
            parts.append(self.cut.name)
        if self.exits:
            parts.append("exits")
        return ", ".join(parts)

    @property
    def exact(self) -> bool:
        """True if it answers as the original does, but for rounding."""
        return self.precision == "fp32" and self.cut is None and not self.exits


LADDERS = (
    (Cut(layers=5 / 6), Cut(layers=2 / 3), Cut(layers=1 / 2), Cut(layers=1 / 3)),
    (Cut(neurons=3 / 4), Cut(neurons=1 / 2), Cut(neurons=1 / 4)),
    (Cut(heads=3 / 4), Cut(heads=1 / 2)),
    (Cut(5 / 6, 3 / 4, 3 / 4), Cut(2 / 3, 1 / 2, 3 / 4), Cut(1 / 2, 1 / 3, 1 / 2)),
)
"""Each from the smallest cut to the largest: where one drops too far, the next ones would too."""


def precisions(
    profile: DeviceProfile, engines: Sequence[str], wanted: Sequence[str]
) -> tuple[Candidate, ...]:
    """The whole model in each precision, for each engine in its order.

    Args:
        profile: names a precision of each engine.
        engines: in order of preference.
        wanted: precisions to try; empty for fp32 and the profile's.
    """
    found = []
    for precision in ("fp32", "fp16", "int8"):
        for engine in engines:
            allowed = wanted or ("fp32", getattr(profile.quantization, engine))
            fits = precision != "fp16" or engine == "onnx"
            if precision in allowed and fits:
                found.append(Candidate(engine, precision))
    return tuple(found)


def mixtures(
    trials: "Sequence[Trial]", budget: "Budget", profile: DeviceProfile
) -> "Iterator[Candidate]":
    """For each int8 file that is fast enough and drops too far: more and more of it in float32.

    With a limit of time alone, any drop is too far. A share that holds the drop, or takes too long,
    ends the engine's turn: a larger one would only be slower.
    """
    most = profile.quantization.max_fp32_share
    for trial in list(trials):
        whole = trial.candidate
        if whole.precision != "int8" or whole.engine not in MIXING_ENGINES or not most:
            continue
        if trial.drop is None or not budget.holds_latency(trial) or _kept_well(trial, budget):
            continue
        for part in MIXED_PARTS:
            yield Candidate(whole.engine, "int8", fp32_share=most * part)
            last = trials[-1]
            if _kept_well(last, budget) or (last.works and not budget.holds_latency(last)):
                break


def _kept_well(trial: "Trial", budget: "Budget") -> bool:
    limit = 0.0 if budget.max_drop is None else budget.max_drop
    return trial.drop is not None and trial.drop <= limit


def exits(trials: "Sequence[Trial]", budget: "Budget") -> "Iterator[Candidate]":
    """For each engine: exits in the precision that was fastest among what holds the drop.

    Files in float16 have none.
    """
    kept = [t for t in trials if budget.holds_drop(t) and t.candidate.precision != "fp16"]
    for engine in dict.fromkeys(t.candidate.engine for t in kept):
        of_engine = [t for t in kept if t.candidate.engine == engine]
        yield replace(min(of_engine, key=lambda t: t.p50_ms or 0.0).candidate, exits=True)


def cuts(trials: "Sequence[Trial]", budget: "Budget", sizes: "Sizes") -> "Iterator[Candidate]":
    """Smaller and smaller models, one ladder after the other.

    They take the engine and precision that was fastest among what holds the drop; without such
    there are none. Where one drops too far, or (with a limit of time alone) is fast enough, its
    ladder ends.
    """
    kept = [t for t in trials if budget.holds_drop(t) and t.candidate.cut is None]
    fits = [t for t in kept if budget.holds_latency(t)]
    if not kept or (fits and budget.max_latency_ms is not None):
        return
    whole = [t for t in kept if not t.candidate.exits]  # its time is of all layers, as a cut's
    if not whole:
        return
    base = min(whole, key=lambda t: t.p50_ms or 0.0).candidate
    seen = {sizes}
    for ladder in LADDERS:
        for cut in ladder:
            left = sizes.after(cut)
            if left in seen:
                continue
            seen.add(left)
            yield Candidate(base.engine, base.precision, base.fp32_share, cut)
            last = trials[-1]
            if not budget.holds_drop(last) or (budget.max_drop is None and budget.holds(last)):
                break


@dataclass(frozen=True)
class Sizes:
    """How many layers, neurons of each block, and heads of each layer a model has."""

    layers: int
    neurons: tuple[int, ...]
    heads: tuple[int, ...]

    def after(self, cut: Cut) -> "Sizes":
        """What stays of them."""
        return Sizes(
            stays(self.layers, cut.layers),
            tuple(stays(number, cut.neurons) for number in self.neurons),
            tuple(stays(number, cut.heads) for number in self.heads),
        )


def stays(number: int, share: float) -> int:
    """``share`` of a number, rounded to whole units, at least one."""
    return max(1, math.floor(number * share + 0.5))
