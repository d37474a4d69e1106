"""The LSTM kernels of the NumPy engine, under the rules of runtime/kernels.py.

Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000, as torch.nn.LSTM has it:

    c = f * c + i * g        i, f, o: sigmoid, g: tanh, each of gates[token] + h @ weight
    h = o * tanh(c)

What a token adds to its gates is one product for all tokens at once (``linear``), so it is given.
What is left goes step by step, all texts that still have a token together.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.runtime.activations import sigmoid
from edgeformer.runtime.kernels import as_index
from edgeformer.runtime.scratch import Scratch

Array = NDArray[Any]
Floats = NDArray[np.float32]

DIRECTIONS = ("forward", "reverse")
STATES = ("every", "last")


def lstm_packed(
    gates: Floats,
    weight: Array,
    offsets: Array,
    out: Floats,
    scratch: Scratch,
    *,
    scale: Floats | None = None,
    direction: str,
    states: str,
) -> None:
    """Each text of a packed batch from its first token to its last, or ``reverse``.

    Args:
        gates: float32 (tokens, 4 * hidden): input, forget and output gate, then the candidate.
        weight: float32, or int8 with ``scale``, (hidden, 4 * hidden), columns in that order.
        offsets: integers (texts + 1,); text i is rows ``offsets[i]:offsets[i + 1]``.
        out: float32 (tokens, hidden), the state after ``every`` token, or (texts, hidden), that
            after the ``last``.
        scratch: room for the states and for widened weights.
        scale: float32 (4 * hidden,), what one unit of an int8 column is worth.
        direction: one of ``DIRECTIONS``.
        states: one of ``STATES``.
    """
    starts = as_index(offsets)
    recurrent = _widened(weight, scale, scratch)
    _run(gates, recurrent, starts[:-1], np.diff(starts), out, scratch, direction, states)


def lstm_dense(
    gates: Floats,
    weight: Array,
    mask: Array,
    out: Floats,
    scratch: Scratch,
    *,
    scale: Floats | None = None,
    direction: str,
    states: str,
) -> None:
    """The same for a rectangular batch that is padded on the right.

    Args:
        gates: float32 (batch, sequence, 4 * hidden).
        mask: integers (batch, sequence), 1 for a token and 0 for padding.
        out: float32 (batch, sequence, hidden), zeros at padding, or (batch, hidden).
        weight, scratch, scale, direction, states: as of ``lstm_packed``.
    """
    batch, sequence, width = gates.shape
    starts = np.arange(batch, dtype=np.intp) * sequence
    lengths = np.count_nonzero(mask, axis=1)
    out2 = out.reshape(-1, out.shape[-1])
    out2[...] = 0
    recurrent = _widened(weight, scale, scratch)
    rows = gates.reshape(-1, width)
    _run(rows, recurrent, starts, lengths, out2, scratch, direction, states)


def _widened(weight: Array, scale: Floats | None, scratch: Scratch) -> Floats:
    """The weight as float32: every step multiplies by all of it, so it is widened once."""
    if scale is None:
        return weight
    wide = scratch.floats("weight", weight.shape)
    np.multiply(weight, scale, out=wide)
    return wide


def _run(
    gates: Floats,
    weight: Floats,
    starts: NDArray[np.intp],
    lengths: NDArray[np.intp],
    out: Floats,
    scratch: Scratch,
    direction: str,
    states: str,
) -> None:
    """Texts whose rows begin at ``starts``, the longest first, so that those which have ended are
    always the last ones, and keep their state."""
    order = np.argsort(-lengths, kind="stable")
    lengths = lengths[order]
    steps, texts, size = int(lengths.max(initial=0)), len(lengths), len(weight)
    first, ahead = (
        (starts[order], 1) if direction == "forward" else (starts[order] + lengths - 1, -1)
    )
    running = texts - np.searchsorted(lengths[::-1], np.arange(steps), side="right")
    hidden, cell = scratch.floats("hidden", (texts, size)), scratch.floats("cell", (texts, size))
    hidden[...], cell[...] = 0, 0
    sums = scratch.floats("sums", (texts, 4 * size))
    for step, count in enumerate(running.tolist()):
        rows = first[:count] + step * ahead
        h, c, total = hidden[:count], cell[:count], sums[:count]
        np.matmul(h, weight, out=total)
        np.add(total, gates[rows], out=total)
        sigmoid(total[:, : 3 * size], total[:, : 3 * size], scratch)
        i, f, o, g = (total[:, k * size : (k + 1) * size] for k in range(4))
        np.tanh(g, out=g)
        np.multiply(f, c, out=c)
        np.multiply(i, g, out=g)
        np.add(c, g, out=c)
        np.tanh(c, out=h)
        np.multiply(o, h, out=h)
        if states == "every":
            out[rows] = h
    if states == "last":
        out[order] = hidden
