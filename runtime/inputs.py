"""From what a caller passes to what a program takes: defaults, dtypes and shapes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import InputError
from edgeformer.runtime.manifest import Port


def complete_inputs(ports: tuple[Port, ...], given: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Check ``given`` against ``ports``, cast it, and make what is absent.

    Any integer dtype is accepted for an integer input and any float dtype for a float one.

    Returns:
        one array for each port, in the order of ``ports``.

    Raises:
        InputError: a missing, unknown, wrongly shaped or wrongly typed input.
    """
    names = [port.name for port in ports]
    for name in given:
        if name not in names:
            raise InputError(f"unknown input {name!r}", hint=f"the inputs are: {', '.join(names)}")
    sizes: dict[str, int] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for port in ports:
        if given.get(port.name) is not None:
            arrays[port.name] = _checked(port, np.asarray(given[port.name]), sizes)
    for port in ports:
        if port.name not in arrays:
            arrays[port.name] = default_input(port, sizes)
    return {name: arrays[name] for name in names}


def _checked(port: Port, array: NDArray[Any], sizes: dict[str, int]) -> NDArray[Any]:
    if array.ndim != len(port.shape):
        raise InputError(
            f"{port.name} has shape {array.shape}, the model takes {_shape_text(port)}",
            hint="add or remove the batch dimension" if port.shape else "",
        )
    for size, expected in zip(array.shape, port.shape, strict=True):
        want = sizes.setdefault(expected, size) if isinstance(expected, str) else expected
        if size != want:
            raise InputError(
                f"{port.name} has shape {array.shape}, the model takes {_shape_text(port)}"
                + (f" with {expected}={want}" if isinstance(expected, str) else "")
            )
    target = np.dtype(port.dtype)
    if array.dtype.kind not in "iub" and not np.can_cast(array.dtype, target, "same_kind"):
        raise InputError(f"{port.name} has dtype {array.dtype}, the model takes {port.dtype}")
    return np.ascontiguousarray(array, dtype=target)


def default_input(port: Port, sizes: Mapping[str, int]) -> NDArray[Any]:
    """What an input is where the caller gives none: ones, zeros or positions.

    Args:
        port: of the program.
        sizes: of its symbolic dimensions.

    Raises:
        InputError: it has no default, or a dimension is not known.
    """
    if port.default is None or any(isinstance(s, str) and s not in sizes for s in port.shape):
        raise InputError(
            f"input {port.name!r} is missing", hint=f"pass {port.name}={_shape_text(port)}"
        )
    shape = tuple(sizes[s] if isinstance(s, str) else s for s in port.shape)
    if port.default == "ones":
        return np.ones(shape, port.dtype)
    if port.default == "zeros":
        return np.zeros(shape, port.dtype)
    start = int(port.default.removeprefix("positions+"))
    positions = np.arange(start, start + shape[-1], dtype=port.dtype)
    one = positions.reshape((1,) * (len(shape) - 1) + shape[-1:])
    return one if shape == one.shape else np.broadcast_to(one, shape).copy()


def real_tokens(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Where an attention mask is 1, for engines that leave padding out: bool (batch, sequence).

    Raises:
        InputError: values other than 0 and 1, or a row without a token.
    """
    kept: NDArray[np.bool_] = mask != 0
    if mask.size and (mask.min() < 0 or mask.max() > 1):
        raise InputError("attention_mask must be 1 for tokens and 0 for padding")
    lengths = kept.sum(axis=1)
    if not lengths.all():
        raise InputError(
            f"row {int(lengths.argmin())} of attention_mask has no token",
            hint="an empty text still has its special tokens: mask those with 1",
        )
    return kept


def _shape_text(port: Port) -> str:
    return "(" + ", ".join(str(s) for s in port.shape) + ")"
