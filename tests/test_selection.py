"""What stays: by rank, by threshold, by list, by rule for layers.

What a user would lose: a target that is missed, a layer without heads, another set of layers than
the paper's.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeformer.compression.layer_choice import LAYER_STRATEGIES, keep_layers
from edgeformer.compression.selection import (
    keep_above,
    keep_best,
    keep_listed,
    normalized_by_place,
)
from edgeformer.compression.units import Values
from edgeformer.errors import UsageError

PLACES = st.lists(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=9), min_size=1, max_size=5
)


def values(places: list[list[float]]) -> Values:
    return tuple(torch.tensor(place) for place in places)


def listed(keep: Values) -> list[list[bool]]:
    assert all(mask.dtype == torch.bool for mask in keep)
    return [mask.tolist() for mask in keep]


@given(places=PLACES, data=st.data())
@settings(max_examples=150, deadline=None)
def test_the_best_of_all_stay_and_a_minimum_of_each(
    places: list[list[float]], data: st.DataObject
) -> None:
    """The oracle sorts in plain Python."""
    minimum = data.draw(st.integers(1, 3))
    floor = sum(min(minimum, len(place)) for place in places)
    count = data.draw(st.integers(floor, sum(map(len, places))))
    keep = listed(keep_best(values(places), count=count, minimum=minimum))
    order = [
        (-score, place, unit) for place, row in enumerate(places) for unit, score in enumerate(row)
    ]
    order.sort()
    staying = set()
    for place in range(len(places)):
        staying |= set([key[1:] for key in order if key[1] == place][:minimum])
    for key in order:
        if len(staying) < count:
            staying.add(key[1:])
    assert {(p, u) for p, row in enumerate(keep) for u, stays in enumerate(row) if stays} == staying


@given(places=PLACES, fraction=st.floats(0.5, 1))
@settings(max_examples=50, deadline=None)
def test_a_fraction_of_each_place(places: list[list[float]], fraction: float) -> None:
    keep = keep_best(values(places), fraction=fraction, per="place")
    for row, mask in zip(places, keep, strict=True):
        assert abs(int(mask.sum()) - fraction * len(row)) <= 0.5
        dropped = [score for score, stays in zip(row, mask.tolist(), strict=True) if not stays]
        kept = [score for score, stays in zip(row, mask.tolist(), strict=True) if stays]
        assert max(dropped, default=-torch.inf) <= min(kept)


def test_ranking_of_all_and_of_each() -> None:
    scores = values([[1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 0.4]])
    assert listed(keep_best(scores, fraction=0.5)) == [
        [False, True, True, True],
        [False, False, False, True],
    ]
    half = [False, False, True, True]
    assert listed(keep_best(scores, fraction=0.5, per="place")) == [half, half]
    assert listed(keep_best(scores, count=2, per="place")) == [half, half]
    # Layers of unequal scale are comparable once each is divided by its norm.
    assert listed(keep_best(normalized_by_place(scores), fraction=0.5)) == [half, half]
    first = normalized_by_place(scores)[0]
    assert torch.allclose(first, torch.tensor([1.0, 2, 3, 4]) / 30**0.5)
    assert torch.equal(normalized_by_place(values([[0.0, 0.0]]))[0], torch.zeros(2))


def test_of_equal_scores_the_first_stays() -> None:
    scores = values([[1.0] * 40, [1.0] * 40])
    assert listed(keep_best(scores, count=30))[0] == [True] * 29 + [False] * 11


def test_above_a_threshold() -> None:
    scores = values([[0.5, 0.1, 0.3], [0.1, 0.0, 0.2]])
    assert listed(keep_above(scores, 0.25)) == [[True, False, True], [False, False, True]]


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ({}, "either"),
        ({"fraction": 0.5, "count": 3}, "either"),
        ({"fraction": 0.0}, "remove all"),
        ({"count": 0}, "remove all"),
        ({"fraction": 0.05}, "remove all"),
        ({"fraction": -1.0}, "remove all"),
        ({"count": 2, "minimum": 0}, "remove all"),
        ({"count": 1}, "keep 1 of 8"),
        ({"fraction": 1.2}, "of 8"),
        ({"count": 5, "per": "place"}, "5 of 4"),
        ({"count": 3, "minimum": 2}, "at least 2"),
        ({"count": 3, "per": "layer"}, "layer"),
    ],
)
def test_targets_that_no_mask_meets(target: dict[str, float], word: str) -> None:
    scores = values([[1.0, 2.0, 3.0, 4.0]] * 2)
    with pytest.raises(UsageError, match=word):
        keep_best(scores, **target)  # type: ignore[arg-type]


def test_scores_that_are_not_numbers_have_no_rank() -> None:
    with pytest.raises(UsageError, match="NaN"):
        keep_best(values([[1.0, float("nan")]]), count=1)


def dropped(strategy: str, layers: int, drop: int) -> list[int]:
    """Counted from 1, as the paper counts."""
    (keep,) = keep_layers(strategy, layers, layers - drop)
    return [layer + 1 for layer, stays in enumerate(keep.tolist()) if not stays]


@pytest.mark.parametrize(
    ("strategy", "layers", "drop", "expected"),
    [
        ("top", 12, 4, [9, 10, 11, 12]),
        ("bottom", 12, 4, [1, 2, 3, 4]),
        ("odd", 12, 4, [5, 7, 9, 11]),
        ("even", 12, 4, [6, 8, 10, 12]),
        ("symmetric", 12, 4, [5, 6, 7, 8]),
        ("symmetric", 12, 3, [6, 7, 8]),
        ("spread", 12, 6, [2, 4, 6, 8, 10, 12]),
        ("spread", 12, 4, [3, 6, 9, 12]),
        ("spread", 12, 3, [4, 8, 12]),
        ("even", 5, 2, [2, 4]),
    ],
)
def test_layers_go_as_the_papers_say(
    strategy: str, layers: int, drop: int, expected: list[int]
) -> None:
    assert dropped(strategy, layers, drop) == expected


@given(st.sampled_from(sorted(LAYER_STRATEGIES)), st.integers(1, 24), st.data())
@settings(max_examples=100, deadline=None)
def test_as_many_layers_stay_as_asked(strategy: str, layers: int, data: st.DataObject) -> None:
    stay = data.draw(st.integers(1, layers))
    alternate = {"odd": (layers + 1) // 2, "even": layers // 2}.get(strategy, layers)
    if layers - stay > alternate:
        with pytest.raises(UsageError, match=f"only {alternate} {strategy}"):
            keep_layers(strategy, layers, stay)
    else:
        (keep,) = keep_layers(strategy, layers, stay)
        assert (len(keep), int(keep.sum())) == (layers, stay)


def test_layers_that_nobody_can_keep() -> None:
    for stay in (0, 13):
        with pytest.raises(UsageError, match=str(stay)):
            keep_layers("top", 12, stay)
    with pytest.raises(UsageError, match="symmetric"):
        keep_layers("middle", 12, 6)


def test_listed_layers() -> None:
    assert listed(keep_listed(12, [0, 2, 4, 7, 9, 11]))[0] == [
        i in (0, 2, 4, 7, 9, 11) for i in range(12)
    ]
    for wrong in ([], [12], [-1], [1, 1]):
        with pytest.raises(UsageError, match="0 to 11"):
            keep_listed(12, wrong)
