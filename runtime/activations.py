"""Activations: elementwise kernels ``(x, out, scratch)`` on float32 arrays of one shape.

``x`` and ``out`` may be the same array, so that a linear layer can apply one in place.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgeformer.runtime.scratch import BLOCK_VALUES, Scratch

Floats = NDArray[np.float32]

_SQRT_2_OVER_PI = 0.7978845608028654

# log(Phi(-u)) for u in [0, 10], Phi the normal distribution function: the polynomial of degree 5
# whose largest error of u * exp(P(u)) is least, 4.4e-7 (6.4e-7 in float32). Fitted by
# Gauss-Newton steps, each a linear programme for the minimax correction on 3001 points of [0, 6],
# where u * Phi(-u) exceeds 1e-8. Highest power first.
_LOG_PHI = tuple(
    np.float32(coefficient)
    for coefficient in (
        -3.28072958e-04,
        4.91064068e-03,
        -3.59240044e-02,
        -3.18842462e-01,
        -7.97665356e-01,
        -6.93173258e-01,
    )
)
_ZERO = np.float32(0)
# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26; highest power first.
_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592, 0.0)


def gelu(x: Floats, out: Floats, scratch: Scratch) -> None:
    """Exact GELU, x * Phi(x) (Hendrycks and Gimpel 2016), within 1e-6 and without erf.

    With u = |x|, x * Phi(x) = relu(x) - u * Phi(-u) on both sides of zero, and Phi(-u) is
    exp(P(u)). P falls for all u > 0, so that the second term vanishes as it should where the
    polynomial no longer is a fit.
    """
    u, p = scratch.floats("u", x.shape), scratch.floats("p", x.shape)
    np.abs(x, out=u)
    np.multiply(u, _LOG_PHI[0], out=p)
    for coefficient in _LOG_PHI[1:-1]:
        np.add(p, coefficient, out=p)
        np.multiply(p, u, out=p)
    np.add(p, _LOG_PHI[-1], out=p)
    np.exp(p, out=p)
    np.multiply(p, u, out=p)
    np.maximum(x, _ZERO, out=out)
    np.subtract(out, p, out=out)


def gelu_tanh(x: Floats, out: Floats, scratch: Scratch) -> None:
    """``0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``, the approximation of that paper."""
    t = scratch.floats("u", x.shape)
    np.multiply(x, x, out=t)
    np.multiply(t, np.float32(0.044715 * _SQRT_2_OVER_PI), out=t)
    np.add(t, np.float32(_SQRT_2_OVER_PI), out=t)
    np.multiply(t, x, out=t)
    np.tanh(t, out=t)
    np.add(t, np.float32(1), out=t)
    np.multiply(t, np.float32(0.5), out=t)
    np.multiply(x, t, out=out)


def erf(x: Floats, out: Floats, scratch: Scratch) -> None:
    """The error function within 1e-6: ``sign(x) (1 - Q(t) exp(-x^2))``, t = 1 / (1 + 0.327 |x|)."""
    t, q = scratch.floats("u", x.shape), scratch.floats("p", x.shape)
    np.abs(x, out=t)
    np.multiply(t, np.float32(0.3275911), out=t)
    np.add(t, np.float32(1), out=t)
    np.reciprocal(t, out=t)
    np.multiply(t, np.float32(_ERF[0]), out=q)
    for coefficient in _ERF[1:-1]:
        np.add(q, np.float32(coefficient), out=q)
        np.multiply(q, t, out=q)
    np.multiply(x, x, out=t)
    np.negative(t, out=t)
    np.exp(t, out=t)
    np.multiply(q, t, out=q)
    np.subtract(np.float32(1), q, out=q)
    np.copysign(q, x, out=out)


def sigmoid(x: Floats, out: Floats, scratch: Scratch) -> None:
    """``1 / (1 + exp(-x))`` as ``(1 + tanh(x / 2)) / 2``, which cannot overflow."""
    np.multiply(x, np.float32(0.5), out=out)
    np.tanh(out, out=out)
    np.multiply(out, np.float32(0.5), out=out)
    np.add(out, np.float32(0.5), out=out)


def silu(x: Floats, out: Floats, scratch: Scratch) -> None:
    """``x * sigmoid(x)``."""
    gate = scratch.floats("u", x.shape)
    sigmoid(x, gate, scratch)
    np.multiply(x, gate, out=out)


def relu(x: Floats, out: Floats, scratch: Scratch) -> None:
    """``max(x, 0)``."""
    np.maximum(x, np.float32(0), out=out)


def tanh(x: Floats, out: Floats, scratch: Scratch) -> None:
    """Hyperbolic tangent."""
    np.tanh(x, out=out)


ACTIVATIONS: dict[str, Callable[[Floats, Floats, Scratch], None]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "erf": erf,
    "sigmoid": sigmoid,
    "silu": silu,
    "relu": relu,
    "tanh": tanh,
}


def activate(x: Floats, out: Floats, scratch: Scratch, *, fn: str) -> None:
    """Apply an activation to a float32 array of any shape, block by block."""
    if not (x.flags.c_contiguous and out.flags.c_contiguous):
        ACTIVATIONS[fn](x, out, scratch)
        return
    x2, out2 = x.reshape(-1), out.reshape(-1)
    for start in range(0, x2.size, BLOCK_VALUES):
        block = slice(start, start + BLOCK_VALUES)
        ACTIVATIONS[fn](x2[block], out2[block], scratch)
