"""Name the weights of a converted file by the parameters of the module they were.

Converters rename, merge and transpose, and TFLite's moves the attention's scale into the query's
and key's weights. What stays is a weight's values up to one common factor, rows being output
channels (or a table's rows): by them it is known.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Sites = Mapping[str, NDArray[np.float32]]  # name of a parameter -> its values
_SAMPLE = 64  # values that are compared before all are
_CLOSE = 1e-5  # of the largest value


def weight_sites(module: torch.nn.Module) -> Sites:
    """The float32 matrices among ``module``'s parameters as they are now, (out, in) features."""
    return {
        name: parameter.detach().numpy()
        for name, parameter in module.named_parameters()
        if parameter.ndim == 2 and parameter.dtype == torch.float32
    }


def site_of(weight: NDArray[np.float32], sites: Sites) -> str | None:
    """Name of the first parameter that ``weight`` is a multiple of, None if there is none.

    Equal parameters are one site: whatever is decided holds for all of them.
    """
    for name, values in sites.items():
        if values.shape == weight.shape:
            step = max(1, weight.size // _SAMPLE)
            if _is_multiple(weight.reshape(-1)[::step], values.reshape(-1)[::step]) and (
                _is_multiple(weight, values)
            ):
                return name
    return None


def _is_multiple(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """True if a = factor * b up to rounding, by the least-squares factor."""
    square = np.vdot(b, b)
    factor = np.vdot(b, a) / square if square else 0.0
    largest = np.abs(a).max(initial=0.0)
    return bool(np.abs(a - factor * b).max(initial=0.0) <= _CLOSE * largest)
