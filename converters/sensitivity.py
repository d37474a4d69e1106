"""Which sites of an int8 file stay in float32, where all of them in int8 miss the tolerance.

A site is a linear layer's weight or a table, named as the module's parameter. The scan

1. rounds one site at a time in PyTorch and measures how far the answers move;
2. keeps the most sensitive ones in float32, as few as reach the tolerance, found by halving,
   each try converted and measured with the device's own engine;
3. stops where the float32 ones would be more of the weights than the profile allows.

It sees calibration texts only: the verification's texts stay unseen. The same inputs give the
same choice. Reads and writes nothing itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from edgeformer.converters.fake_int8 import FakeInt8
from edgeformer.converters.tflite_smoothing import smoothed
from edgeformer.converters.verification import Reference, judge
from edgeformer.device_profiles.profile import Tolerance
from edgeformer.runtime.manifest import Parity, Variant

_NAMED = 3  # sites in a sentence; all are in the table
MAX_TEXTS = 16  # those that int8 moves most; the ranking runs each of them once for every site


@dataclass(frozen=True)
class Draft:
    """An int8 file that can be written again with other sites in float32.

    Attributes:
        sites: what the file quantizes: name of the parameter -> number of its values.
        write: names of the sites that stay in float32 -> the variant, its file written.
    """

    sites: Mapping[str, int]
    write: Callable[[frozenset[str]], Variant]


Refine = Callable[[Draft], Variant]


def nothing_kept(draft: Draft) -> Variant:
    """Every site in int8."""
    return draft.write(frozenset())


@dataclass(frozen=True)
class Site:
    """One row of the scan's table.

    Attributes:
        name: of the parameter.
        values: number of its weights.
        error: sum of squared differences over sum of squared answers, with this site alone in
            int8, over the texts that int8 moves most.
        kept: True if it stays in float32.
    """

    name: str
    values: int
    error: float
    kept: bool = False


@dataclass(frozen=True)
class Trial:
    """How a file with its ``kept`` most sensitive sites in float32 did on the calibration texts."""

    kept: int
    min_cosine: float
    mean_cosine: float
    top1: float | None
    passed: bool


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        sites: the most sensitive first.
        trials: in the order in which they were made; the first is the file with all in int8.
        texts: number of calibration texts behind the trials.
        max_share: largest share of the weights that might have stayed in float32.
        passed: False if even that share missed the tolerance; then none was kept.
    """

    sites: tuple[Site, ...]
    trials: tuple[Trial, ...]
    texts: int
    max_share: float
    passed: bool

    @property
    def kept(self) -> tuple[Site, ...]:
        """The sites in float32."""
        return tuple(site for site in self.sites if site.kept)

    @property
    def kept_share(self) -> float:
        """Share of the weights in float32, 0 to 1."""
        return sum(s.values for s in self.kept) / max(1, sum(s.values for s in self.sites))

    def sentence(self) -> str:
        """One line for the manifest."""
        tried = f"(sensitivity scan of {len(self.sites)} sites, {self.texts} texts)"
        if not self.passed:
            best = self.trials[1] if len(self.trials) > 1 else self.trials[0]
            return (
                f"the {best.kept} most sensitive sites in float32, the most that the profile"
                f" allows, would give min cosine {best.min_cosine:.4f} {tried}"
            )
        if not self.kept:
            return f"no site is as small as {self.max_share:.3g} of the weights {tried}"
        names = ", ".join(site.name for site in self.kept[:_NAMED])
        if len(self.kept) > _NAMED:
            names += f" and {len(self.kept) - _NAMED} more"
        return f"{self.kept_share:.0%} of the weights stay in float32: {names} {tried}"


def scan(
    ranked: Sequence[Site],
    first: Parity,
    measure: Callable[[frozenset[str]], Parity],
    tolerance: Tolerance,
    max_share: float,
) -> Scan:
    """Find the sites that stay in float32.

    Args:
        ranked: the most sensitive first, from ``rank_sites``.
        first: how the file with all in int8 does on the calibration texts; it misses.
        measure: how a file does whose named sites are in float32, judged by ``tolerance``.
        tolerance: the profile's.
        max_share: most of the weights that may stay in float32, 0 to 1.
    """
    order = _within(ranked, max_share * sum(site.values for site in ranked))
    parities = {0: first}

    def reaches(count: int, aim: Tolerance) -> bool:
        if count not in parities:
            parities[count] = measure(frozenset(order[:count]))
        return judge(parities[count], "int8", aim).passed

    # Halfway to exact if that can be had: the verification asks more texts than these.
    aim = next((a for a in (_halfway(tolerance), tolerance) if reaches(len(order), a)), None)
    fails, count = 0, len(order)
    while aim and count - fails > 1:
        middle = (fails + count) // 2
        fails, count = (fails, middle) if reaches(middle, aim) else (middle, count)
    kept = frozenset(order[:count]) if aim else frozenset[str]()
    trials = tuple(_trial(tried, parity) for tried, parity in parities.items())
    table = tuple(replace(site, kept=site.name in kept) for site in ranked)
    return Scan(table, trials, first.texts, max_share, aim is not None)


def keep_share(ranked: Sequence[Site], share: float, first: Parity) -> Scan:
    """A scan that tries nothing: the most sensitive sites stay, up to a share of the weights.

    Args:
        ranked: the most sensitive first, from ``rank_sites``.
        share: of all values, 0 to 1.
        first: how the file with all in int8 does on the calibration texts.
    """
    kept = frozenset(_within(ranked, share * sum(site.values for site in ranked)))
    table = tuple(replace(site, kept=site.name in kept) for site in ranked)
    return Scan(table, (_trial(0, first),), first.texts, share, passed=True)


def _within(ranked: Sequence[Site], most: float) -> list[str]:
    """Names of the most sensitive sites that together have at most ``most`` values."""
    chosen, total = [], 0
    for site in ranked:
        if total + site.values <= most:
            chosen.append(site.name)
            total += site.values
    return chosen


def _halfway(tolerance: Tolerance) -> Tolerance:
    return replace(
        tolerance,
        int8_min_cosine=(1 + tolerance.int8_min_cosine) / 2,
        int8_mean_cosine=(1 + tolerance.int8_mean_cosine) / 2,
        top1=(1 + tolerance.top1) / 2,
    )


def _trial(kept: int, parity: Parity) -> Trial:
    return Trial(kept, parity.min_cosine, parity.mean_cosine, parity.top1, parity.passed)


def rank_sites(
    module: torch.nn.Module,
    examples: Sequence[dict[str, torch.Tensor]],
    reference: Reference,
    sites: Mapping[str, int],
) -> list[Site]:
    """The sites by how far the answers move when only they are int8, the farthest first.

    A site that ``module`` does not read as a linear layer or a table cannot be ranked and is left
    out.
    """
    with smoothed(module, examples), torch.inference_mode():
        every = FakeInt8(module, frozenset(sites))
        moved = [_error(module, reference, [i], every) for i in range(len(reference.inputs))]
        worst = sorted(range(len(moved)), key=lambda i: (-moved[i], i))[:MAX_TEXTS]
        ranked = [
            Site(name, sites[name], _error(module, reference, worst, FakeInt8(module, {name})))
            for name in sorted(every.used & set(sites))
        ]
    return sorted(ranked, key=lambda site: (-site.error, site.name))


def _error(
    module: torch.nn.Module, reference: Reference, texts: Sequence[int], rounding: FakeInt8
) -> float:
    """Sum of squared differences over sum of squared answers."""
    wrong = whole = 0.0
    for i in texts:
        inputs = {name: torch.from_numpy(array) for name, array in reference.inputs[i].items()}
        with rounding:
            answer = module(**inputs)
        for name, expected in reference.outputs[i].items():
            exact = torch.from_numpy(expected).double()
            moved = reference.counted(i, answer[name]).double()
            wrong += float((moved - exact).square().sum())
            whole += float(exact.square().sum())
    return wrong / max(whole, 1e-30)
