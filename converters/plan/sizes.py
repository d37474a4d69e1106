"""Symbolic sizes: from PyTorch's expressions to the three-part lists a plan stores."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch

from edgeformer.errors import ModelError
from edgeformer.runtime.plan import Size


def to_size(value: Any, names: Mapping[str, str]) -> Size:
    """A size as plain data.

    Args:
        value: an int or a torch.SymInt.
        names: symbol of the exported graph (``s43``) -> dimension of a port (``batch``).

    Raises:
        ModelError: arithmetic on sizes that plans do not have.
    """
    if isinstance(value, int):
        return value
    if not isinstance(value, torch.SymInt):
        raise ModelError(f"a size of the model is {value!r}, which is not known before it runs")
    return _convert(sympy.sympify(value.node.expr), names)


def _convert(expression: Any, names: Mapping[str, str]) -> Size:
    if expression.is_Integer:
        return int(expression)
    if expression.is_Symbol:
        if expression.name not in names:
            raise ModelError(
                f"the model makes a size ({expression}) that depends on the values of its inputs",
                hint="make sizes depend on the shapes of the inputs only",
            )
        return names[expression.name]
    name = type(expression).__name__
    operator = _OPERATORS.get(name)
    if operator is None or len(expression.args) < 2:
        raise ModelError(
            f"the model computes a size as {expression}",
            hint="sizes may use +, -, *, //, %, min and max",
        )
    parts = [_convert(part, names) for part in expression.args]
    return reduce(lambda left, right: (operator, left, right), parts)


_OPERATORS = {
    "Add": "+",
    "Mul": "*",
    "FloorDiv": "//",
    "CleanDiv": "//",
    "Mod": "%",
    "PythonMod": "%",
    "Max": "max",
    "Min": "min",
}
