"""What the packing proof knows of a value: a small lattice of kinds.

``Tokens``     one row per token: packed, these rows lie one after the other without padding
``Texts``      one row per text
``Mask``       made from ``attention_mask`` alone: one number for tokens, another for padding
``Positions``  depends on places in the text only, such as a table cut to the sequence
``Biased``     a Mask combined with Positions: what attention with relative positions adds
``Fixed``      the same for every text and token: a weight or a number

Anything else is not provable; the proof stops there.
"""

from dataclasses import dataclass

from edgeformer.converters.plan.graph import Shape
from edgeformer.errors import ModelError
from edgeformer.runtime.plan import Size

ROWS: tuple[Size, ...] = ("sequence", ("*", "batch", "sequence"))


class NotPackable(ModelError):
    """Why a graph keeps its padding; the message becomes the variant's note."""


@dataclass(frozen=True)
class Tokens:
    """One row per token.

    Attributes:
        name: the packed value, (tokens, ...).
        axis: where the sequence is in the original shape; the axes after it are a row.
        batched: False if all texts have the same rows.
        padding: what every element of a padding row would be, None if not known.
    """

    name: str
    axis: int
    batched: bool = True
    padding: float | None = None


@dataclass(frozen=True)
class Texts:
    """One row per text: the batch is the first axis."""

    name: str


@dataclass(frozen=True)
class Mask:
    """A function of the attention mask that varies along ``axis`` (and the batch) only.

    ``token`` and ``padding`` are its values where the mask is 1 and 0, computed, not guessed.
    """

    axis: int
    token: float
    padding: float


@dataclass(frozen=True)
class Positions:
    """Each element depends on its own places along the sequence axes, not on their length.

    So for a shorter text it is the upper left part of what it is for a longer one. It is kept in
    its original shape, at the length of the longest text.
    """

    name: str


@dataclass(frozen=True)
class Biased:
    """``bias`` + ``mask``, or both at once where they are conditions; ``bias`` is a Positions."""

    bias: str
    mask: Mask


@dataclass(frozen=True)
class Fixed:
    """A constant, perhaps broadcast."""

    name: str


Kind = Tokens | Texts | Mask | Positions | Biased | Fixed


def is_static(shape: Shape) -> bool:
    """True if no size depends on the inputs."""
    return all(isinstance(size, int) for size in shape)


def row_axis(shape: Shape) -> int | None:
    """Axis of the rows in a shape of tokens: batch and 1 before it, plain numbers after it."""
    for axis, size in enumerate(shape):
        if size in ROWS:
            return axis if is_static(shape[axis + 1 :]) else None
        if size not in ("batch", 1):
            return None
    return None
