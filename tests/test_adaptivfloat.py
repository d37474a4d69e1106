"""AdaptivFloat by the rule of EdgeBERT's hardware: which values there are, and which a weight gets.

A weight that got another value than the nearest would cost accuracy that no test of a model shows.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeformer.converters.adaptivfloat import adaptivfloat, encode, pack_codes
from edgeformer.device_profiles.profile import STORED
from edgeformer.errors import ModelError
from edgeformer.runtime.adaptivfloat import TOPS, AdaptivFloat, unpack_codes

KINDS = [adaptivfloat(name) for name in STORED if name != "int8"]
EDGEBERT = AdaptivFloat(8, 3)


def by_the_paper(kind: AdaptivFloat, top: int) -> set[Fraction]:
    """All values (-1)^s 2^(code + b) (1 + man / 2^m) but +-2^b, and zero, in exact arithmetic."""
    mantissas, bias = 1 << kind.mantissa_bits, top - ((1 << kind.exponent_bits) - 1)
    positive = {
        Fraction(2) ** (code + bias) * (1 + Fraction(mantissa, mantissas))
        for code in range(1 << kind.exponent_bits)
        for mantissa in range(mantissas)
        if (code, mantissa) != (0, 0)
    }
    return positive | {-value for value in positive} | {Fraction(0)}


def decoded(codes: np.ndarray, tops: np.ndarray, kind: AdaptivFloat) -> np.ndarray:
    return np.ldexp(kind.values[codes], tops.astype(np.int32))


def test_profiles_name_every_kind_with_at_least_a_sign_and_an_exponent() -> None:
    assert EDGEBERT in KINDS and AdaptivFloat(4, 3) in KINDS and AdaptivFloat(4, 4) not in KINDS
    assert {kind.bits for kind in KINDS} == {4, 5, 6, 7, 8}
    assert all(1 <= k.exponent_bits <= 5 and k.mantissa_bits >= 0 for k in KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_values_are_those_of_the_paper(kind: AdaptivFloat) -> None:
    values = {Fraction(float(value)) for value in kind.values}
    assert values == by_the_paper(kind, 0)
    assert len(values) == (1 << kind.bits) - 1  # 255 of eight bits
    assert not np.signbit(kind.values[1 << (kind.bits - 1)])  # minus zero is zero


def test_both_ends_of_edgeberts_range() -> None:
    """E_max = 0: the largest is 2 - 2^-4, the smallest 2^-7 (1 + 2^-4); half of it is the edge."""
    smallest, largest = 2.0**-7 * (1 + 2.0**-4), 2 - 2.0**-4
    half = np.float32(smallest / 2)
    below, above = np.nextafter(half, np.float32(0)), np.nextafter(half, np.float32(1))
    weights = np.array([[1, 1.99999, -1.99999, largest, smallest, half, above, below, 0]])
    codes, tops = encode(weights.astype(np.float32), EDGEBERT, None)
    expected = [1, largest, -largest, largest, smallest, smallest, smallest, 0, 0]
    assert tops.tolist() == [0]
    assert decoded(codes, tops, EDGEBERT).tolist() == [expected]
    assert (EDGEBERT.smallest, EDGEBERT.largest) == (smallest, largest)


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    weights=arrays.arrays(
        np.float32,
        (3, 7),
        elements=st.floats(-1000, 1000, width=32) | st.floats(-0.0078125, 0.0078125, width=32),
    ),
)
def test_every_weight_gets_the_nearest_value(kind: AdaptivFloat, weights: np.ndarray) -> None:
    codes, tops = encode(weights, kind, None)
    peak = float(np.abs(weights).max())
    top = max(math.floor(math.log2(peak)), TOPS[0]) if peak else TOPS[0]
    if peak:
        assert tops.tolist() == [top]
    values = sorted(float(v) for v in by_the_paper(kind, int(tops[0])))
    got = decoded(codes, tops, kind)
    nearest = np.abs(weights[..., None].astype(np.float64) - values).min(-1)
    assert (np.abs(weights.astype(np.float64) - got) <= nearest).all()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_encoding_twice_changes_nothing(kind: AdaptivFloat, axis: int | None) -> None:
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((40, 30)) * generator.lognormal(0, 2, (40, 30))
    codes, tops = encode(weights.astype(np.float32), kind, axis)
    shape = {None: (1, 1), 0: (40, 1), 1: (1, 30)}[axis]
    once = decoded(codes, tops.reshape(shape), kind)
    again, same = encode(once, kind, axis)
    assert (again == codes).all() and (same == tops).all()


def test_a_range_for_each_channel_follows_it() -> None:
    weights = np.ones((3, 4), np.float32) * np.array([[1], [2.0**-40], [0]], np.float32)
    codes, tops = encode(weights, EDGEBERT, 0)
    assert tops.tolist()[:2] == [0, -40]
    assert (decoded(codes, tops[:, None], EDGEBERT) == weights).all()
    tops = encode(weights, EDGEBERT, None)[1]
    assert tops.tolist() == [0]


@pytest.mark.parametrize("peak", [3.0e38, 1e-38, 1e-45])
def test_extreme_weights_stay_finite(peak: float) -> None:
    weights = np.array([[peak, -peak / 3]], np.float32)
    codes, tops = encode(weights, AdaptivFloat(8, 5), None)
    got = decoded(codes, tops, AdaptivFloat(8, 5))
    assert np.isfinite(got).all()
    assert np.abs(got - weights).max() <= np.abs(weights).max()


def test_weights_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ModelError, match="not finite"):
        encode(np.array([[1, np.inf]], np.float32), EDGEBERT, None)


def rmse(weights: np.ndarray, rounded: np.ndarray) -> float:
    return float(np.sqrt(np.mean((weights - rounded) ** 2)))


def int8(weights: np.ndarray) -> np.ndarray:
    step = np.abs(weights).max() / 127
    return np.rint(weights / step) * step


@pytest.mark.parametrize("seed", range(3))
def test_errors_against_int8_are_those_that_were_published(seed: int) -> None:
    """A million normal weights: 0.0134, of int8 up to the largest 0.0108. With outliers (Student's
    t, 2.5 degrees of freedom) it is the other way round, 0.25 against 0.43.

    What int8 costs is the largest of the million, which is chance: 0.0108 and 0.43 tell the
    published draws' largest, and it is put in the place of ours.
    """
    generator = np.random.default_rng(seed)
    for draws, adaptive, uniform in (
        (generator.standard_normal((1000, 1000)), 0.0134, 0.0108),
        (generator.standard_t(2.5, (1000, 1000)), 0.25, 0.43),
    ):
        largest = uniform * 127 * math.sqrt(12)
        weights = np.clip(draws, -largest, largest).astype(np.float32)
        weights[0, 0] = largest
        codes, tops = encode(weights, EDGEBERT, None)
        assert rmse(weights, decoded(codes, tops, EDGEBERT)) == pytest.approx(adaptive, rel=0.02)
        assert rmse(weights, int8(weights)) == pytest.approx(uniform, rel=0.02)


@pytest.mark.parametrize("bits", [4, 5, 6, 7, 8])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000, 8 * (1 << 13) + 3])
def test_codes_are_packed_without_a_gap(bits: int, count: int) -> None:
    codes = np.random.default_rng(count).integers(0, 1 << bits, count).astype(np.uint8)
    packed = pack_codes(codes, bits)
    assert len(packed) == -(-count * bits // 8)
    number = int.from_bytes(packed.tobytes(), "little")  # code k is the bits from k * bits on
    if count <= 1000:
        assert [number >> (bits * k) & ((1 << bits) - 1) for k in range(count)] == codes.tolist()
    assert (unpack_codes(packed, count, bits) == codes).all()
