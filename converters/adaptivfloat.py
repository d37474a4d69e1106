"""Weights -> AdaptivFloat codes, by the rule of EdgeBERT's hardware (arXiv 2011.14203).

    kind = adaptivfloat("adaptivfloat8e3")
    codes, tops = encode(weight, kind, axis=1)          # a range for each column
    kind.values[codes] * 2.0**tops                      # the weight, within half a step

Every weight becomes the nearest value that its range has: zero below half of the smallest, the
largest above it. ``runtime/adaptivfloat.py`` says what codes mean.
"""

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import ModelError
from edgeformer.runtime.adaptivfloat import TOPS, AdaptivFloat


def adaptivfloat(name: str) -> AdaptivFloat:
    """The kind that profiles call ``adaptivfloatNeE``: N bits, E of them the exponent's."""
    bits, exponent_bits = name.removeprefix("adaptivfloat").split("e")
    return AdaptivFloat(int(bits), int(exponent_bits))


def encode(
    array: NDArray[np.float32], kind: AdaptivFloat, axis: int | None
) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """The codes of a matrix, and the exponents of its ranges.

    Args:
        array: float32 (rows, columns), finite.
        kind: of the codes.
        axis: 0 for a range for each row, 1 for each column, None for one range.

    Returns:
        uint8 of ``array``'s shape, and int8 (rows,), (columns,) or (1,): floor(log2 max|w|).

    Raises:
        ModelError: a weight that is not finite.
    """
    if not np.isfinite(array).all():
        raise ModelError("a weight is not finite", hint="check the weights of the checkpoint")
    magnitudes = np.abs(array)
    over = None if axis is None else 1 - axis
    peaks = magnitudes.max(axis=over, keepdims=True, initial=0)
    tops = np.clip(np.frexp(peaks)[1] - 1, *TOPS)  # frexp: 0.5 <= mantissa < 1
    magnitudes = np.ldexp(magnitudes, -tops)
    codes = _magnitude_codes(magnitudes, kind)
    codes[(array < 0) & (codes > 0)] |= 1 << (kind.bits - 1)
    return codes, tops.reshape(-1).astype(np.int8)


def _magnitude_codes(magnitudes: NDArray[np.float32], kind: AdaptivFloat) -> NDArray[np.uint8]:
    """Codes of what is not negative, where the largest exponent is 0."""
    steps = 1 << kind.mantissa_bits
    smallest = kind.smallest
    clipped = np.clip(magnitudes, smallest, kind.largest)
    fractions, exponents = np.frexp(clipped)
    mantissas = np.rint((2 * fractions - 1) * steps).astype(np.int32)
    # A mantissa that rounds up to a whole step carries into the exponent: the sum does that. At
    # the largest exponent there is nothing to carry into, since ``clipped`` stops before.
    codes = (exponents - 1 - kind.bias) * steps + mantissas
    codes[magnitudes < np.float32(smallest / 2)] = 0
    return np.asarray(codes, np.uint8)


def pack_codes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes one after the other, low bits first: uint8 (ceil(count * bits / 8),)."""
    if bits == 8:
        return codes.reshape(-1)
    each = np.unpackbits(codes.reshape(-1, 1), axis=1, count=bits, bitorder="little")
    return np.packbits(each.reshape(-1), bitorder="little")
