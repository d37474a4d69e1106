"""What a user would lose: time, to padding that other lengths would not need."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeformer.converters.buckets import (
    OwnBuckets,
    choose_buckets,
    least_padding,
    padding_share,
)
from edgeformer.device_profiles.profile import load_profile
from edgeformer.runtime.manifest import Program, Variant

PROFILE = (16, 32, 64, 128, 256)


def padding(sizes: list[int], texts: list[float], buckets: tuple[int, ...]) -> float:
    """Tokens computed for nothing: each text goes to the smallest bucket that holds it."""
    return sum(
        n * (min(b for b in buckets if b >= size) - size)
        for size, n in zip(sizes, texts, strict=True)
    )


@given(
    st.dictionaries(st.integers(1, 60), st.integers(0, 9), min_size=1, max_size=9),
    st.integers(1, 5),
)
def test_no_choice_of_buckets_pads_less(histogram: dict[int, int], most: int) -> None:
    sizes, texts = zip(*sorted(histogram.items()), strict=True)
    chosen = least_padding(np.array(sizes), np.array(texts, np.float64), most)
    assert chosen[-1] == sizes[-1]
    assert len(chosen) <= most
    assert list(chosen) == sorted(set(chosen))
    every = (
        (*some, sizes[-1])
        for count in range(most)
        for some in itertools.combinations(sizes[:-1], count)
    )
    least = min(padding(sizes, texts, buckets) for buckets in every)
    assert padding(sizes, texts, chosen) == pytest.approx(least)


@given(st.lists(st.integers(1, 700), min_size=1, max_size=60), st.sampled_from([20, 256]))
def test_every_text_fits_and_no_more_lengths_than_the_profile_has(
    lengths: list[int], last: int
) -> None:
    chosen = choose_buckets(lengths, PROFILE, last)
    assert chosen[-1] == last
    assert len(chosen) <= len(PROFILE)
    assert list(chosen) == sorted(set(chosen))
    assert 0 <= padding_share(lengths, chosen) <= 1


def test_lengths_of_many_texts_beat_the_profiles() -> None:
    random = np.random.default_rng(0)
    lengths = np.concatenate([random.integers(4, 12, 500), random.integers(36, 44, 500)])
    chosen = choose_buckets(lengths, PROFILE, 256)
    assert padding_share(lengths, chosen) < padding_share(lengths, PROFILE) / 2


def test_few_texts_do_not_leave_a_cliff_above_them() -> None:
    """One text of 9 tokens: one of 10 must not run at 256."""
    assert choose_buckets([9], PROFILE, 256) == (9, 16, 32, 64, 256)
    assert choose_buckets([9] * 50, PROFILE, 256) == (9, 16, 32, 64, 256)
    assert choose_buckets([9], (256,), 256) == (256,)


def test_a_long_tail_is_cut_to_the_last() -> None:
    lengths = [10] * 900 + list(range(300, 5000, 100))
    chosen = choose_buckets(lengths, PROFILE, 256)
    assert (chosen[0], chosen[-1]) == (10, 256)
    assert padding_share(lengths, chosen) == 0


def test_padding_share_counts_what_is_computed() -> None:
    assert padding_share([8, 8], (8, 32)) == 0
    assert padding_share([4, 30], (8, 32)) == pytest.approx(1 - 34 / 40)


def test_only_fixed_lengths_are_noted() -> None:
    profile = load_profile("rpi4")
    buckets = OwnBuckets(np.array([5, 5, 30]), (16, 32))
    assert buckets.in_profile(profile).length.bucket_tokens == (5, 32)

    def noted(engine: str, lengths: tuple[int, ...]) -> str:
        program = Program("f", "main", lengths, (), ())
        return buckets.noted(Variant("v", engine, "int8", "", "why", "", {"main": program})).note

    assert noted("tflite", ()) == "why"
    assert noted("onnx", ()) == "why"
    assert noted("tflite", (5, 32)) == (
        "why; lengths 5, 32 chosen from 3 texts: 5% of the computed tokens are padding,"
        " 38% with the profile's"
    )
