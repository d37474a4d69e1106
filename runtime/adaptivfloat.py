"""AdaptivFloat<n,e>: n-bit codes of floats whose exponents follow the weights they store.

    kind = AdaptivFloat(8, 3)
    kind.values[codes] * 2.0**top          # what codes mean where the largest exponent is ``top``

Tambe et al. 2020, arXiv 1909.13271, in the form of EdgeBERT's hardware (arXiv 2011.14203): one
sign bit, e exponent bits, n - e - 1 mantissa bits, no denormals, and zero in place of the smallest
power of two. Eight bits thus have 255 values. ``top`` is floor(log2 max|w|) of what shares a range:
the whole tensor, or one of its channels. ``converters/adaptivfloat.py`` encodes.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BITS = (4, 8)  # fewest and most of a code
MAX_EXPONENT_BITS = 5
TOPS = (-90, 127)  # with five exponent bits below, everything is a normal float32
_GROUPS = 1 << 13  # groups of eight codes unpacked at a time: the words stay in the cache


@dataclass(frozen=True)
class AdaptivFloat:
    """A kind of code: its bits, and how many of them are the exponent's."""

    bits: int
    exponent_bits: int

    @property
    def mantissa_bits(self) -> int:
        """What the sign and the exponent leave."""
        return self.bits - self.exponent_bits - 1

    @property
    def bias(self) -> int:
        """The smallest exponent where the largest is 0."""
        return 1 - (1 << self.exponent_bits)

    @property
    def values(self) -> NDArray[np.float32]:
        """Float32 (2**bits,): what each code means where the largest exponent is 0."""
        return _values(self)

    @property
    def smallest(self) -> float:
        """The least positive value where the largest exponent is 0."""
        return float(self.values[1])

    @property
    def largest(self) -> float:
        """The greatest value where the largest exponent is 0."""
        return float(self.values[(1 << (self.bits - 1)) - 1])


@functools.cache
def _values(kind: AdaptivFloat) -> NDArray[np.float32]:
    magnitudes = np.arange(1 << (kind.bits - 1))
    exponents, mantissas = np.divmod(magnitudes, 1 << kind.mantissa_bits)
    positive = np.ldexp(1 + mantissas / (1 << kind.mantissa_bits), exponents + kind.bias)
    positive[0] = 0
    values = np.concatenate((positive, -positive)).astype(np.float32)
    values[len(positive)] = 0  # the code of minus zero
    values.flags.writeable = False
    return values


def unpack_codes(data: NDArray[np.uint8], count: int, bits: int) -> NDArray[np.uint8]:
    """The ``count`` codes that lie one after the other, low bits first.

    Args:
        data: uint8 (ceil(count * bits / 8),).
        count: number of codes.
        bits: of a code, at most 8.

    Returns:
        uint8 (count,): new, except of eight bits, which are ``data`` itself.
    """
    if bits == 8:
        return data
    groups = -(-count // 8)
    codes = np.empty((groups, 8), np.uint8)
    for start in range(0, groups, _GROUPS):
        stop = min(start + _GROUPS, groups)
        raw = np.zeros((stop - start) * bits, np.uint8)
        some = data[start * bits : stop * bits]
        raw[: len(some)] = some
        words = np.zeros(stop - start, np.uint64)
        for k in range(bits):  # eight codes are ``bits`` bytes: one word
            words |= raw[k::bits].astype(np.uint64) << np.uint64(8 * k)
        for k in range(8):
            codes[start:stop, k] = (words >> np.uint64(bits * k)) & np.uint64((1 << bits) - 1)
    return codes.reshape(-1)[:count]
