"""Resize an image as Pillow does, without Pillow: a convolution whose filter grows with the scale.

An output pixel is the weighted mean of the input pixels below its filter, which is ``scale`` times
wider where the image shrinks (antialiasing). For uint8 the weights are rounded to 22 bits and each
of the two passes to whole values, as in Pillow's libImaging/Resample.c: the result is Pillow 13's
to the bit.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_FRACTION_BITS = 22
_BLOCK = 32  # outputs computed together: few enough that their filters overlap


def bilinear(x: Floats) -> Floats:
    """The triangle ``1 - |x|``."""
    return np.maximum(1.0 - np.abs(x), 0.0)


def bicubic(x: Floats) -> Floats:
    """Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -0.5."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def lanczos(x: Floats) -> Floats:
    """``sinc(x) sinc(x / 3)``, up to 3."""
    return np.where((x >= -3.0) & (x < 3.0), np.sinc(x) * np.sinc(x / 3.0), 0.0)


# name -> (filter, how far it reaches)
FILTERS: dict[str, tuple[Callable[[Floats], Floats], float]] = {
    "bilinear": (bilinear, 1.0),
    "bicubic": (bicubic, 2.0),
    "lanczos": (lanczos, 3.0),
}


def resize(
    planes: NDArray[np.uint8] | Floats, height: int, width: int, resample: str
) -> NDArray[np.uint8] | Floats:
    """Resize each plane.

    Args:
        planes: uint8 or float64 (channels, rows, columns), none of them 0.
        height, width: of the result, at least 1.
        resample: a key of ``FILTERS``.

    Returns:
        the planes' dtype, (channels, height, width).
    """
    shorter, narrower = planes.shape[1] - height, planes.shape[2] - width
    # The order changes what is rounded when. Pillow before 13 always starts with the width.
    height_first = shorter > 0 and shorter > 2 * narrower
    if not height_first:
        planes = _resize_rows(planes, width, resample)
    planes = _resize_rows(planes.transpose(0, 2, 1), height, resample).transpose(0, 2, 1)
    return _resize_rows(planes, width, resample) if height_first else planes


def _resize_rows(
    planes: NDArray[np.uint8] | Floats, size: int, resample: str
) -> NDArray[np.uint8] | Floats:
    """(channels, rows, columns) to (channels, rows, size)."""
    if planes.shape[2] == size:
        return planes
    firsts, weights = filter_weights(planes.shape[2], size, resample)
    whole = planes.dtype == np.uint8
    if whole:
        weights = np.trunc(weights * (1 << _FRACTION_BITS) + np.copysign(0.5, weights))
    result = np.empty((*planes.shape[:2], size), planes.dtype)
    for start in range(0, size, _BLOCK):
        block = slice(start, min(start + _BLOCK, size))
        low = int(firsts[block][0])
        high = min(int(firsts[block][-1]) + weights.shape[1], planes.shape[2])
        matrix = _banded(firsts[block] - low, weights[block], high - low)
        sums = planes[:, :, low:high].astype(np.float64) @ matrix  # whole numbers below 2^53: exact
        if whole:
            sums = np.floor((sums + (1 << (_FRACTION_BITS - 1))) / (1 << _FRACTION_BITS))
            np.clip(sums, 0, 255, out=sums)
        result[:, :, block] = sums
    return result


def filter_weights(size: int, new_size: int, resample: str) -> tuple[NDArray[np.intp], Floats]:
    """Where the filter of each output begins, and its weights.

    Returns:
        intp (new_size,), ascending, and float64 (new_size, taps); each row sums to 1, and is 0
        beyond the last input pixel.
    """
    shape, reach = FILTERS[resample]
    scale = size / new_size
    stretch = max(scale, 1.0)
    support = reach * stretch
    centers = (np.arange(new_size) + 0.5) * scale
    firsts = np.maximum((centers - support + 0.5).astype(np.intp), 0)
    lasts = np.minimum((centers + support + 0.5).astype(np.intp), size)
    taps = np.arange(2 * math.ceil(support) + 1)
    places = firsts[:, None] + taps
    weights = shape((places - centers[:, None] + 0.5) * (1.0 / stretch))
    weights[places >= lasts[:, None]] = 0.0
    total = np.cumsum(weights, axis=1)[:, -1:]  # added one by one, as Pillow does
    return firsts, weights / total


def _banded(shifts: NDArray[np.intp], weights: Floats, size: int) -> Floats:
    """(size, outputs): each column holds an output's weights, ``shifts`` from the top."""
    outputs, taps = weights.shape
    matrix = np.zeros((size + taps, outputs))
    rows = shifts[:, None] + np.arange(taps)
    matrix[rows, np.arange(outputs)[:, None]] = weights
    return matrix[:size]
