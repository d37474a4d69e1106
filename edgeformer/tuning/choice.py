"""From times to a table: which variant, on how many threads, answers which call.

The rule, in one sentence: the profile's order holds unless something is clearly faster, and
"clearly" means at least 3 % in the median of the rounds, and in so many of them that chance alone
would do it in at most one case of twenty (a one-sided sign test). Several engines in one process
must be 10 % faster than the best alone, all calls together, and fit the profile's memory. Pure
functions over times.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeformer.runtime.tuned import Choice, Table

MARGIN, MAX_CHANCE = 0.03, 0.05
SEVERAL_MARGIN = 0.10  # what several engines must gain: each further one costs its memory
MIN_ROUNDS = 5  # with fewer, not even all of them would be clear

# times_ms[choice][round][work]
Times = Mapping[Choice, Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Work:
    """One call that is timed.

    Attributes:
        texts: how many.
        tokens: of the longest, special tokens included.
        ids: token ids of each; None for the bundle's first golden input.
    """

    texts: int
    tokens: int
    ids: tuple[tuple[int, ...], ...] | None


@dataclass(frozen=True)
class Candidate:
    """A choice, and what decides where it may be used.

    Attributes:
        choice: variant and threads.
        engine: its engine.
        exact: its answers are those of every other exact variant (fp32), so that the two may
            share the texts of one length.
    """

    choice: Choice
    engine: str
    exact: bool

    @property
    def shares_process(self) -> bool:
        """False if its threads go on spinning after a call: they would slow another engine."""
        return self.engine != "numpy" or self.choice.threads == 1


def make_table(
    limit: int, candidates: Sequence[Candidate], works: Sequence[Work], times_ms: Times
) -> Table:
    """The table for at most ``limit`` threads.

    Args:
        limit: most threads.
        candidates: in the profile's order, of one variant most threads first.
        works: what was timed.
        times_ms: of every candidate, the same rounds and works.
    """
    usable = [c for c in candidates if c.choice.threads <= limit]
    every = range(len(works))
    main = usable[_pick([c.choice for c in usable], times_ms, every)]
    others = _one_for_each_variant(main, usable, times_ms, every)
    choices = [main.choice, *(c.choice for c in others)]
    lengths = [
        (works[w].tokens, choices[_pick(choices, times_ms, [w])])
        for w in every
        if works[w].texts == 1
    ]
    batches = []
    if {choice for _, choice in lengths} <= {main.choice}:
        # Only variants with the same answers: what a text is answered must not depend on the call.
        choices = [main.choice, *(c.choice for c in others if c.exact and main.exact)]
        batches = [
            (works[w].texts, choices[_pick(choices, times_ms, [w])])
            for w in every
            if works[w].texts > 1
        ]
    if {choice for _, choice in batches} <= {main.choice}:
        batches = []
    return Table(limit, tuple(lengths or [(1, main.choice)]), tuple(batches))


def _one_for_each_variant(
    main: Candidate, usable: Sequence[Candidate], times_ms: Times, works: Sequence[int]
) -> list[Candidate]:
    """What may share a process with ``main``: each other variant on its best number of threads.

    A variant is opened once: on two numbers of threads it would take twice the memory.
    """
    if not main.shares_process:
        return []
    found = []
    for variant in dict.fromkeys(c.choice.variant for c in usable):
        same = [c for c in usable if c.choice.variant == variant and c.shares_process]
        if same and variant != main.choice.variant:
            found.append(same[_pick([c.choice for c in same], times_ms, works)])
    return found


def _pick(choices: Sequence[Choice], times_ms: Times, works: Sequence[int]) -> int:
    """Place of the first that is not clearly slower than the fastest."""
    scores = [round_scores(times_ms[choice], works) for choice in choices]
    fastest = min(scores, key=statistics.median)
    return next(i for i, score in enumerate(scores) if not clearly_faster(fastest, score))


def round_scores(rounds: Sequence[Sequence[float]], works: Sequence[int]) -> list[float]:
    """For each round the mean logarithm of the times of ``works``: each work counts the same."""
    return [statistics.fmean(math.log(times[w]) for w in works) for times in rounds]


def clearly_faster(a: Sequence[float], b: Sequence[float], margin: float = MARGIN) -> bool:
    """Whether scores ``a`` are below ``b``, round by round, by the rule above."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    if statistics.median(differences) > math.log(1 - margin):
        return False
    wins = sum(1 for difference in differences if difference < 0)
    return chance(wins, len(differences)) <= MAX_CHANCE


def chance(wins: int, rounds: int) -> float:
    """Probability of at least ``wins`` heads in ``rounds`` throws of a fair coin."""
    return sum(math.comb(rounds, k) for k in range(wins, rounds + 1)) / float(2**rounds)


def speedup(a: Sequence[float], b: Sequence[float]) -> float:
    """How many times as fast scores ``a`` are as ``b``: median over rounds of their ratio."""
    return math.exp(statistics.median(y - x for x, y in zip(a, b, strict=True)))
