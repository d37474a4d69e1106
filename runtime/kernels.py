"""The compute kernels of the NumPy engine: plain functions from arrays to an array ``out``.

    linear(x, weight, bias, out, scratch, scale=scale, activation="gelu")

Rules that hold for every kernel here:

1. ``out`` is written completely and is never allocated here; temporary floats come from a
   ``Scratch`` that lives as long as the engine.
2. Arithmetic is float32. float16 and integer matrix products are an order of magnitude slower in
   NumPy; int8 exists in storage only, and its scale is applied to what comes out.
3. Whatever is elementwise is done on blocks of rows that stay in the CPU's cache.
4. Nothing is read outside its array: indices are checked, offsets come from the engine. NumPy gets
   indices in its own index type (``as_index``): on 32-bit systems it refuses wider ones.

Overflow and NaN travel as in PyTorch: the engine runs kernels with floating point warnings off.
"""

import functools
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import InputError
from edgeformer.runtime.activations import ACTIVATIONS
from edgeformer.runtime.scratch import Scratch, row_blocks

Array = NDArray[Any]
Floats = NDArray[np.float32]

_STRIP_VALUES = 1 << 20  # int8 weights are widened at most 4 MiB at a time, never a whole model
_TILE_VALUES = 1 << 18  # tiles 1 MiB at a time: read again at once, from the cache
_FEW_ROWS = 40  # up to here OpenBLAS multiplies by tiles as they are, without packing them first
_SAFE_LOGIT = 60.0  # exp(+-60) is 1e+-26: sums and quotients of such values stay normal numbers
# Written out: where tflite-runtime was loaded, numpy.finfo warns that subnormals are off.
_LOWEST, _TINY = np.float32(-3.4028234663852886e38), np.float32(1.1754943508222875e-38)


def embedding(
    table: Array,
    ids: Array,
    out: Floats,
    *,
    scale: Floats | None = None,
    values: Floats | None = None,
) -> None:
    """Look up rows: ``out[...] = table[ids] * scale[ids]``, of codes ``values[table[ids]] * ...``.

    Args:
        table: float32; int8 with ``scale``; or uint8 codes with both, (rows, width).
        ids: integers (...,) in [0, rows).
        out: float32 (..., width).
        scale: float32 (rows,), what one unit of a row is worth.
        values: float32, what each code is worth.

    Raises:
        InputError: an id outside the table.
    """
    if ids.size and not (ids.min() >= 0 and ids.max() < len(table)):
        raise InputError(
            f"ids run from {ids.min()} to {ids.max()}, the model's table has {len(table)} rows",
            hint="use the model's own tokenizer, and texts no longer than its max length",
        )
    rows = as_index(ids)
    if scale is None:
        np.take(table, rows, axis=0, out=out, mode="clip")
        return
    found = np.take(table, rows, axis=0, mode="clip")
    if values is not None:
        found = np.take(values, found, out=out, mode="clip")
    np.multiply(found, np.take(scale, rows, mode="clip")[..., None], out=out)


def as_index(values: Array) -> NDArray[np.intp]:
    """Integers in the type that NumPy indexes with: 64 bits wide, 32 on a 32-bit system.

    There ``take`` and ``reduceat`` refuse int64, and ``x[...]`` cuts it off without a word.

    Raises:
        IndexError: a value that this type cannot hold.
    """
    index = values.astype(np.intp, casting="same_kind", copy=False)
    if index.itemsize < values.itemsize and not np.array_equal(index, values):
        raise IndexError("an index is larger than any array")
    return index


def linear(
    x: Floats,
    weight: Array,
    bias: Floats | None,
    out: Floats,
    scratch: Scratch,
    *,
    scale: Floats | None = None,
    activation: str = "",
) -> None:
    """``out = activation((x @ weight) * scale + bias)``.

    Weights lie as (inputs, outputs): for few rows OpenBLAS is two to four times faster so than
    with torch's (outputs, inputs). With AVX512 it is faster still for few rows if narrow tiles lie
    one after the other, (outputs / width, inputs, width).

    Args:
        x: float32 (..., inputs).
        weight: float32, or int8 with ``scale``, (inputs, outputs); or int8 tiles.
        bias: float32 (outputs,) or None.
        out: float32 (..., outputs), contiguous.
        scratch: room for a strip of widened weights and for the activation.
        scale: float32 (outputs,), what one unit of an int8 column is worth.
        activation: a name of ``ACTIVATIONS``, or empty.
    """
    inputs, outputs = x.shape[-1], out.shape[-1]
    x2, out2 = x.reshape(-1, inputs), out.reshape(-1, outputs)
    if scale is None:
        np.matmul(x2, weight, out=out2)
    elif weight.ndim == 3:
        _multiply_tiles(x2, weight, out2, scratch)
    else:
        step = max(1, _STRIP_VALUES // inputs)
        for start in range(0, outputs, step):
            strip = weight[:, start : start + step]
            wide = scratch.floats("weight", strip.shape)
            np.copyto(wide, strip)
            np.matmul(x2, wide, out=out2[:, start : start + step])
    for rows in row_blocks(len(out2), outputs):
        block = out2[rows]
        if scale is not None:
            np.multiply(block, scale, out=block)
        if bias is not None:
            np.add(block, bias, out=block)
        if activation:
            ACTIVATIONS[activation](block, block, scratch)


def _multiply_tiles(x: Floats, tiles: Array, out: Floats, scratch: Scratch) -> None:
    """``out = x @ weight`` with an int8 weight in tiles: a few rows tile by tile, more of them with
    tiles put side by side again while they are widened."""
    count, inputs, width = tiles.shape
    by_tile = out.reshape(len(x), count, width).transpose(1, 0, 2)
    step = max(1, _TILE_VALUES // (inputs * width))
    for start in range(0, count, step):
        some = tiles[start : start + step]
        if len(x) <= _FEW_ROWS:
            wide = scratch.floats("weight", some.shape)
            np.copyto(wide, some)
            np.matmul(x, wide, out=by_tile[start : start + step])
        else:
            wide = scratch.floats("weight", (inputs, len(some), width))
            np.copyto(wide.transpose(1, 0, 2), some)
            columns = slice(start * width, (start + len(some)) * width)
            np.matmul(x, wide.reshape(inputs, -1), out=out[:, columns])


def layer_norm(
    x: Floats,
    residual: Floats | None,
    weight: Floats | None,
    bias: Floats | None,
    out: Floats,
    scratch: Scratch,
    *,
    eps: float,
) -> None:
    """Layer normalisation over the last axis (Ba et al. 2016, eq. 4) of ``x + residual``.

    Args:
        x, residual, out: float32 (..., width); residual may be None.
        weight, bias: float32 (width,) or None.
        scratch: room for the row statistics.
        eps: added to the variance.
    """
    width = x.shape[-1]
    x2, out2 = x.reshape(-1, width), out.reshape(-1, width)
    residual2 = None if residual is None else residual.reshape(-1, width)
    average = _average(width)
    for rows in row_blocks(len(x2), width):
        block, mean = out2[rows], scratch.floats("mean", (rows.stop - rows.start, 1))
        source = x2[rows]
        if residual2 is not None:
            source = np.add(source, residual2[rows], out=block)
        np.matmul(source, average, out=mean)
        np.subtract(source, mean, out=block)
        np.einsum("ij,ij->i", block, block, out=mean[:, 0])
        np.divide(mean, width, out=mean)
        np.add(mean, np.float32(eps), out=mean)
        np.sqrt(mean, out=mean)
        np.divide(block, mean, out=block)
        if weight is not None:
            np.multiply(block, weight, out=block)
        if bias is not None:
            np.add(block, bias, out=block)


@functools.cache
def _average(width: int) -> Floats:
    """The column that takes the mean of rows in a matrix product."""
    return np.full((width, 1), 1 / width, np.float32)


def softmax(x: Floats, out: Floats, *, axis: int) -> None:
    """Softmax along ``axis``, stable for any finite logits; x and out float32 of one shape."""
    np.subtract(x, np.max(x, axis=axis, keepdims=True), out=out)
    np.exp(out, out=out)
    np.divide(out, np.sum(out, axis=axis, keepdims=True), out=out)


def attend(
    q: Floats, k: Floats, v: Floats, mask: Array | None, out: Floats, scratch: Scratch, scale: float
) -> None:
    """``softmax(q k^T * scale + mask) v`` of one text (Vaswani et al. 2017, eq. 1).

    The row maximum is subtracted only where a logit leaves +-60: inside, exp() and its sums can
    neither overflow nor vanish, and the quotient is the same. Division comes after the product
    with v, on fewer values. A query whose keys are all masked with -inf gets zeros, as in PyTorch.

    Args:
        q: float32 (heads, queries, dim).
        k: float32 (heads, keys, dim).
        v, out: float32 (heads, keys, width) and (heads, queries, width).
        mask: broadcastable to (heads, queries, keys); floats are added, bools keep where True.
        scratch: room for the scores and a contiguous transposed k.
        scale: factor of the scores.
    """
    heads, queries, dim = q.shape
    keys = k.shape[1]
    columns = scratch.floats("keys", (heads, dim, keys))
    np.copyto(columns, k.transpose(0, 2, 1))
    scores = scratch.floats("scores", (heads, queries, keys))
    np.matmul(q, columns, out=scores)
    if scale != 1.0:
        np.multiply(scores, np.float32(scale), out=scores)
    if mask is not None and mask.dtype == np.bool_:
        np.copyto(scores, np.float32(-np.inf), where=~mask)
    elif mask is not None:
        np.add(scores, mask, out=scores)
    if not (scores.min() >= -_SAFE_LOGIT and scores.max() <= _SAFE_LOGIT):
        peak = np.maximum(scores.max(axis=-1, keepdims=True), _LOWEST)
        np.subtract(scores, peak, out=scores)
    np.exp(scores, out=scores)
    sums = scratch.floats("sums", (heads, queries, 1))
    np.matmul(scores, np.ones((keys, 1), np.float32), out=sums)
    np.maximum(sums, _TINY, out=sums)
    np.matmul(scores, v, out=out)
    np.divide(out, sums, out=out)


def attention_packed(
    q: Floats,
    k: Floats,
    v: Floats,
    offsets: Array,
    bias: Array | None,
    out: Floats,
    scratch: Scratch,
    *,
    heads: int,
    scale: float,
) -> None:
    """Attention within each text of a packed batch.

    Args:
        q, k, v, out: float32 (tokens, heads * dim); rows of all texts one after the other.
        offsets: integers (texts + 1,); text i is rows ``offsets[i]:offsets[i + 1]``.
        bias: (1, 1 or heads, longest, longest) or None, a mask by place in the text; a text of n
            tokens takes its first n rows and columns.
        scratch, scale: see ``attend``.
        heads: number of heads; head h has columns ``h * dim:(h + 1) * dim``.
    """
    spans = offsets.tolist()
    for start, stop in pairwise(spans):
        rows = (_by_head(a[start:stop], heads) for a in (q, k, v, out))
        text_q, text_k, text_v, text_out = rows
        n = stop - start
        mask = None if bias is None else bias[0, :, :n, :n]
        attend(text_q, text_k, text_v, mask, text_out, scratch, scale)


def attention_dense(
    q: Floats,
    k: Floats,
    v: Floats,
    mask: Array | None,
    out: Floats,
    scratch: Scratch,
    *,
    heads: int,
    scale: float,
) -> None:
    """Attention of a rectangular batch: q, k, v, out float32 (batch, sequence, heads * dim).

    ``mask`` is broadcastable to (batch, heads, queries, keys), see ``attend``.
    """
    for i in range(len(out)):
        rows = (_by_head(a[i], heads) for a in (q, k, v, out))
        text_q, text_k, text_v, text_out = rows
        text_mask = None if mask is None else mask[i if mask.shape[0] > 1 else 0]
        attend(text_q, text_k, text_v, text_mask, text_out, scratch, scale)


def attention_heads(
    q: Floats,
    k: Floats,
    v: Floats,
    mask: Array | None,
    out: Floats,
    scratch: Scratch,
    *,
    scale: float,
) -> None:
    """Attention where heads are an axis: q, k, v, out float32 (batch, heads, sequence, dim)."""
    for i in range(len(out)):
        text_mask = None if mask is None else mask[i if mask.shape[0] > 1 else 0]
        attend(q[i], k[i], v[i], text_mask, out[i], scratch, scale)


def _by_head(rows: Floats, heads: int) -> Floats:
    """(tokens, heads * dim) seen as (heads, tokens, dim)."""
    return rows.reshape(len(rows), heads, -1).transpose(1, 0, 2)


def segment_sum(x: Floats, offsets: Array, out: Floats) -> None:
    """Sum the rows of each text: x float32 (tokens, ...), out (texts, ...), no text empty."""
    np.add.reduceat(x, as_index(offsets[:-1]), axis=0, out=out)
