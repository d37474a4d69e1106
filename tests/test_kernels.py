"""Every kernel against torch or SciPy, on shapes and values that a model may bring."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from torch.nn import functional as F

from edgeformer.errors import InputError
from edgeformer.runtime import kernels
from edgeformer.runtime.activations import ACTIVATIONS, activate
from edgeformer.runtime.scratch import Scratch, row_blocks

MAGNITUDES = st.sampled_from([1e-30, 1e-4, 1.0, 30.0, 1e4])
SEEDS = st.integers(0, 2**32 - 1)


def normal(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def close(got: np.ndarray, expected: object, tolerance: float = 1e-5) -> None:
    want = np.asarray(expected, np.float64)
    assert got.shape == want.shape
    assert np.isfinite(got).all()
    bound = tolerance * max(1.0, float(np.abs(want).max(initial=0)))
    assert float(np.abs(got - want).max(initial=0)) <= bound


def test_row_blocks_cover_every_row_once() -> None:
    for rows, width in ((0, 5), (1, 1_000_000), (100, 7), (33, 4096)):
        covered = [i for block in row_blocks(rows, width) for i in range(rows)[block]]
        assert covered == list(range(rows))


def test_scratch_grows_and_keeps_names_apart() -> None:
    scratch = Scratch()
    a, b = scratch.floats("a", (2, 3)), scratch.floats("b", (2, 3))
    a[:], b[:] = 1, 2
    assert (a == 1).all()
    assert scratch.floats("a", (50, 50)).shape == (50, 50)
    assert np.shares_memory(scratch.floats("b", (6,)), b)


@given(SEEDS, st.integers(1, 40), st.integers(1, 9), st.booleans())
def test_embedding(seed: int, rows: int, width: int, quantized: bool) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, rows, (2, 5))
    out = np.empty((2, 5, width), np.float32)
    if quantized:
        table, scale = rng.integers(-127, 128, (rows, width)).astype(np.int8), rng.random(rows)
        kernels.embedding(table, ids, out, scale=scale.astype(np.float32))
        close(out, table[ids] * scale[ids][..., None], 1e-6)
    else:
        table = normal(seed, rows, width)
        kernels.embedding(table, ids, out)
        close(out, F.embedding(torch.from_numpy(ids), torch.from_numpy(table)), 0)


@pytest.mark.parametrize("bad", [-1, 4, 2**40])
def test_embedding_refuses_ids_outside_the_table(bad: int) -> None:
    with pytest.raises(InputError, match="4 rows"):
        kernels.embedding(np.zeros((4, 2), np.float32), np.array([0, bad]), np.empty((2, 2), "f"))


@settings(max_examples=60)
@given(
    SEEDS,
    st.integers(1, 40),
    st.integers(1, 50),
    st.integers(1, 70),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "gelu", "relu", "tanh", "silu"]),
)
def test_linear(
    seed: int, rows: int, inputs: int, outputs: int, quantized: bool, bias: bool, activation: str
) -> None:
    x, b = normal(seed, rows, inputs), normal(seed + 1, outputs) if bias else None
    out = np.empty((rows, outputs), np.float32)
    scale = None
    weight = normal(seed + 2, inputs, outputs)
    real = weight
    if quantized:
        weight = np.clip(np.rint(weight * 40), -127, 127).astype(np.int8)
        scale = np.abs(normal(seed + 3, outputs)) * 0.01
        real = weight * scale
    kernels.linear(x, weight, b, out, Scratch(), scale=scale, activation=activation)
    y = F.linear(torch.from_numpy(x), torch.from_numpy(real.T.copy()))
    y = y if b is None else y + torch.from_numpy(b)
    functions = {
        "": lambda t: t,
        "gelu": F.gelu,
        "relu": F.relu,
        "tanh": torch.tanh,
        "silu": F.silu,
    }
    close(out, functions[activation](y))


def test_linear_widens_a_large_int8_weight_strip_by_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_STRIP_VALUES", 64)
    x, weight = normal(1, 3, 20), np.arange(-70, 70).reshape(20, 7).astype(np.int8)
    out, scratch, scale = np.empty((3, 7), np.float32), Scratch(), np.full(7, 0.5, np.float32)
    kernels.linear(x, weight, None, out, scratch, scale=scale)
    close(out, x @ (weight * 0.5))
    assert scratch.floats("weight", (1,)).base.size <= 64


@pytest.mark.parametrize("rows", [1, 3, kernels._FEW_ROWS, kernels._FEW_ROWS + 1])
@pytest.mark.parametrize("room", [1 << 18, 200])  # values widened at a time: all, or two tiles
def test_linear_with_tiles_is_linear_with_their_columns_side_by_side(
    rows: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_TILE_VALUES", room)
    x, bias, scale = normal(1, rows, 20), normal(2, 15), normal(3, 15)
    weight = np.random.default_rng(0).integers(-127, 128, (20, 15), np.int8)
    tiles = np.ascontiguousarray(weight.reshape(20, 3, 5).transpose(1, 0, 2))
    out = np.empty((rows, 15), np.float32)
    kernels.linear(x, tiles, bias, out, Scratch(), scale=scale, activation="relu")
    close(out, np.maximum((x @ weight.astype(np.float32)) * scale + bias, 0))


def test_linear_takes_leading_axes_as_rows() -> None:
    x, weight = normal(1, 2, 3, 8), normal(2, 8, 5)
    out = np.empty((2, 3, 5), np.float32)
    kernels.linear(x, weight, None, out, Scratch())
    close(out, x @ weight)


@settings(max_examples=60)
@given(SEEDS, st.integers(1, 20), st.integers(2, 90), MAGNITUDES, st.booleans(), st.booleans())
def test_layer_norm(
    seed: int, rows: int, width: int, scale: float, residual: bool, affine: bool
) -> None:
    x = normal(seed, rows, width, scale=scale)
    r = normal(seed + 1, rows, width, scale=scale) if residual else None
    w, b = (normal(seed + 2, width), normal(seed + 3, width)) if affine else (None, None)
    out = np.empty_like(x)
    kernels.layer_norm(x, r, w, b, out, Scratch(), eps=1e-12 if scale >= 1e-4 else 1e-5)
    total = torch.from_numpy((x if r is None else x + r).astype(np.float64))
    weights = [None if a is None else torch.from_numpy(a.astype(np.float64)) for a in (w, b)]
    expected = F.layer_norm(total, (width,), *weights, eps=1e-12 if scale >= 1e-4 else 1e-5)
    close(out, expected, 1e-4)


def test_layer_norm_of_more_rows_than_a_block() -> None:
    x = normal(3, 700, 130)
    out = np.empty_like(x)
    kernels.layer_norm(x, None, None, None, out, Scratch(), eps=1e-5)
    close(out, F.layer_norm(torch.from_numpy(x), (130,)))


@given(SEEDS, st.sampled_from([(5,), (1, 7), (3, 4, 6)]), MAGNITUDES)
def test_softmax(seed: int, shape: tuple[int, ...], scale: float) -> None:
    x = normal(seed, *shape, scale=scale)
    for axis in range(-1, len(shape)):
        out = np.empty_like(x)
        kernels.softmax(x, out, axis=axis)
        close(out, special.softmax(x.astype(np.float64), axis=axis), 1e-5)


def sdpa(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: object = None, **more: float) -> object:
    tensors = [torch.from_numpy(a.astype(np.float64)) for a in (q, k, v)]
    return F.scaled_dot_product_attention(*tensors, attn_mask=mask, **more)  # type: ignore[arg-type]


@settings(max_examples=60)
@given(
    SEEDS, st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 8), MAGNITUDES
)
def test_attend_is_stable_for_any_logits(
    seed: int, heads: int, queries: int, keys: int, dim: int, scale: float
) -> None:
    """Logits of +-1e4 must neither overflow nor vanish: rows are normalised all the same."""
    q = normal(seed, heads, queries, dim, scale=scale)
    k, v = normal(seed + 1, heads, keys, dim), normal(seed + 2, heads, keys, dim)
    out = np.empty((heads, queries, dim), np.float32)
    with np.errstate(all="raise", under="ignore"):
        kernels.attend(q, k, v, None, out, Scratch(), 0.5)
    # Rounding of a logit is multiplied by its size, in torch's float32 as well.
    close(out, sdpa(q, k, v, scale=0.5), 1e-5 * max(1.0, scale))


@pytest.mark.parametrize("offset", [-1e4, -80.0, 80.0, 1e4])
def test_attend_where_all_logits_are_far_from_zero(offset: float) -> None:
    q, k, v = normal(1, 2, 4, 8), normal(2, 2, 6, 8), normal(3, 2, 6, 8)
    out = np.empty((2, 4, 8), np.float32)
    mask = np.full((1, 1, 6), offset, np.float32)
    kernels.attend(q, k, v, mask, out, Scratch(), 1.0)
    close(out, sdpa(q, k, v, scale=1.0), 2e-3 if abs(offset) > 100 else 1e-5)


def test_attend_masks_by_condition_and_gives_zeros_where_all_is_hidden() -> None:
    q, k, v = normal(1, 2, 3, 4), normal(2, 2, 5, 4), normal(3, 2, 5, 4)
    mask = np.ones((1, 3, 5), bool)
    mask[0, 0, 2:], mask[0, 2] = False, False
    out = np.empty((2, 3, 4), np.float32)
    with np.errstate(all="ignore"):
        kernels.attend(q, k, v, mask, out, Scratch(), 0.5)
    close(out, sdpa(q, k, v, torch.from_numpy(mask), scale=0.5))
    assert (out[:, 2] == 0).all()


@given(SEEDS, st.lists(st.integers(1, 7), min_size=1, max_size=4), st.booleans())
def test_packed_attention_is_attention_text_by_text(
    seed: int, lengths: list[int], biased: bool
) -> None:
    offsets = np.cumsum([0, *lengths])
    qkv = normal(seed, int(offsets[-1]), 3 * 8)
    q, k, v = (qkv[:, i * 8 : i * 8 + 8] for i in range(3))  # strided, as after one merged linear
    bias = normal(seed + 1, 1, 2, max(lengths), max(lengths)) if biased else None
    out = np.empty((int(offsets[-1]), 8), np.float32)
    kernels.attention_packed(q, k, v, offsets, bias, out, Scratch(), heads=2, scale=0.5)
    for start, n in zip(offsets, lengths, strict=False):
        part = [a[start : start + n].reshape(n, 2, 4).transpose(1, 0, 2) for a in (q, k, v)]
        mask = None if bias is None else torch.from_numpy(bias[0, :, :n, :n].astype(np.float64))
        expected = sdpa(*part, mask, scale=0.5).transpose(0, 1).reshape(n, 8)  # type: ignore
        close(out[start : start + n], expected)


@pytest.mark.parametrize("rows", [1, 3])
def test_dense_attention_with_one_mask_or_one_for_each_text(rows: int) -> None:
    q, k, v = (normal(i, 3, 5, 8) for i in range(3))
    mask = np.where(np.arange(15).reshape(3, 1, 1, 5)[:rows] % 4 == 3, np.float32(-1e4), 0)
    mask = mask.astype(np.float32)
    heads = [a.reshape(3, 5, 2, 4).transpose(0, 2, 1, 3) for a in (q, k, v)]
    expected = sdpa(*heads, torch.from_numpy(mask.astype(np.float64)))
    out = np.empty((3, 5, 8), np.float32)
    kernels.attention_dense(q, k, v, mask, out, Scratch(), heads=2, scale=0.5)
    close(out, expected.transpose(1, 2).reshape(3, 5, 8))  # type: ignore[attr-defined]
    split = np.empty((3, 2, 5, 4), np.float32)
    kernels.attention_heads(*heads, mask, split, Scratch(), scale=0.5)
    close(split, expected)


@given(SEEDS, st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_segment_sum(seed: int, lengths: list[int]) -> None:
    offsets = np.cumsum([0, *lengths])
    x = normal(seed, int(offsets[-1]), 3)
    out = np.empty((len(lengths), 3), np.float32)
    kernels.segment_sum(x, offsets, out)
    close(out, [x[a:b].sum(0) for a, b in pairwise(offsets)])


ORACLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": lambda x: x * special.ndtr(x),
    "gelu_tanh": lambda x: F.gelu(torch.from_numpy(x), approximate="tanh").numpy(),
    "erf": special.erf,
    "sigmoid": special.expit,
    "silu": lambda x: x * special.expit(x),
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
}


def test_every_activation_has_an_oracle() -> None:
    assert set(ORACLES) == set(ACTIVATIONS)


@pytest.mark.parametrize("fn", ORACLES)
def test_activation_everywhere(fn: str) -> None:
    """Within 1e-6 near zero, relative 1e-6 far out, in place or not, and quiet at extremes."""
    far = np.array([-3e38, -1e20, -1e4, 0.0, 1e4, 1e20, 3e38])
    x = np.concatenate([np.linspace(-30, 30, 120_001), far]).astype(np.float32)
    expected = ORACLES[fn](x.astype(np.float64))
    out = np.empty_like(x)
    with np.errstate(over="ignore", under="ignore", invalid="raise"):
        activate(x, out, Scratch(), fn=fn)
        ACTIVATIONS[fn](x, x, Scratch())
    assert (np.abs(out - expected) <= 1e-6 * np.maximum(1, np.abs(expected))).all()
    np.testing.assert_array_equal(x, out)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_gelu_never_leaves_its_bounds(value: float) -> None:
    x = np.array([value], np.float32)
    out = np.empty_like(x)
    with np.errstate(all="ignore"):  # as the engine runs it
        ACTIVATIONS["gelu"](x, out, Scratch())
    assert min(0.0, value) - 1e-6 <= float(out[0]) <= max(0.0, value) * (1 + 1e-6)
    assert math.isfinite(out[0])


def test_activation_of_a_scattered_array() -> None:
    x = normal(1, 6, 8).T
    out = np.empty((8, 6), np.float32)
    activate(x, out, Scratch(), fn="relu")
    np.testing.assert_array_equal(out, np.maximum(x, 0))
