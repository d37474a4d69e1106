"""The vocabulary of a plan: which operations exist, and what a step of each must look like.

Shared by the reader (runtime/plan.py), which refuses anything else, by the code that binds steps
to arrays (runtime/execution.py), and by the converter, which writes nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeformer.runtime.activations import ACTIVATIONS
from edgeformer.runtime.recurrent import DIRECTIONS, STATES

UNARY: dict[str, np.ufunc] = {
    "abs": np.abs, "ceil": np.ceil, "cos": np.cos, "exp": np.exp, "floor": np.floor,
    "log": np.log, "logical_not": np.logical_not, "negative": np.negative,
    "reciprocal": np.reciprocal, "sign": np.sign, "sin": np.sin, "sqrt": np.sqrt,
}  # fmt: skip
BINARY: dict[str, np.ufunc] = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide,
    "maximum": np.maximum, "minimum": np.minimum, "power": np.power,
    "remainder": np.remainder, "floor_divide": np.floor_divide,
    "equal": np.equal, "not_equal": np.not_equal, "less": np.less,
    "less_equal": np.less_equal, "greater": np.greater, "greater_equal": np.greater_equal,
    "logical_and": np.logical_and, "logical_or": np.logical_or,
}  # fmt: skip
REDUCE: dict[str, Callable[..., Any]] = {
    "sum": np.sum, "mean": np.mean, "maximum": np.max, "minimum": np.min,
    "any": np.any, "all": np.all,
}  # fmt: skip


@dataclass(frozen=True)
class OpSpec:
    """What a step of one operation must look like.

    Attributes:
        inputs: fewest and most operands.
        attributes: name -> ``int``, ``float``, ``size`` (may name a dimension), ``axes`` (list of
            int) or a tuple of allowed words.
        optional: operand positions that may be absent.
        view: True if the result is another look at operand 0, without a buffer of its own.
        quantized: position of the operand that may be an int8 tensor with a scale, -1 if none.
        scale_axis: axis of that tensor along which its scale runs.
        scratch: True if the kernel needs room for temporaries.
    """

    inputs: tuple[int, int]
    attributes: Mapping[str, str | tuple[str, ...]]
    optional: tuple[int, ...] = ()
    view: bool = False
    quantized: int = -1
    scale_axis: int = 0
    scratch: bool = False


_LSTM = OpSpec(
    (3, 3),
    {"direction": DIRECTIONS, "states": STATES},
    quantized=1,
    scale_axis=1,
    scratch=True,
)

OPS: dict[str, OpSpec] = {
    # Views: arranged once, when a program is bound to its buffers.
    "reshape": OpSpec((1, 1), {}, view=True),
    "expand": OpSpec((1, 1), {}, view=True),
    "transpose": OpSpec((1, 1), {"axes": "axes"}, view=True),
    "slice": OpSpec(
        (1, 1), {"axis": "int", "start": "size", "stop": "size", "step": "int"}, view=True
    ),
    "select": OpSpec((1, 1), {"axis": "int", "index": "size"}, view=True),
    # Compute: runtime/kernels.py, runtime/recurrent.py.
    "embedding": OpSpec((2, 2), {}, quantized=0),
    "linear": OpSpec(
        (3, 3),
        {"activation": ("", *ACTIVATIONS)},
        optional=(2,),
        quantized=1,
        scale_axis=1,
        scratch=True,
    ),
    "layer_norm": OpSpec((4, 4), {"eps": "float"}, optional=(1, 2, 3), scratch=True),
    "attention_packed": OpSpec(
        (5, 5), {"heads": "int", "scale": "float"}, optional=(4,), scratch=True
    ),
    "attention_dense": OpSpec(
        (4, 4), {"heads": "int", "scale": "float"}, optional=(3,), scratch=True
    ),
    "attention_heads": OpSpec((4, 4), {"scale": "float"}, optional=(3,), scratch=True),
    "lstm_packed": _LSTM,
    "lstm_dense": _LSTM,
    "softmax": OpSpec((1, 1), {"axis": "int"}),
    "segment_sum": OpSpec((2, 2), {}),
    "activate": OpSpec((1, 1), {"fn": tuple(ACTIVATIONS)}, scratch=True),
    # One numpy call each: runtime/execution.py.
    "matmul": OpSpec((2, 2), {}),
    "reduce": OpSpec((1, 1), {"fn": tuple(REDUCE), "axes": "axes"}),
    "unary": OpSpec((1, 1), {"fn": tuple(UNARY)}),
    "binary": OpSpec((2, 2), {"fn": tuple(BINARY)}),
    "where": OpSpec((3, 3), {}),
    "copy": OpSpec((1, 1), {}),
    "take": OpSpec((2, 2), {"axis": "int"}),
    "gather": OpSpec((2, 2), {"axis": "int"}),
    "index": OpSpec((2, 5), {}),
    "concatenate": OpSpec((1, 64), {"axis": "int"}),
    "range": OpSpec((0, 0), {"start": "int", "step": "int"}),
    "cumsum": OpSpec((1, 1), {"axis": "int"}),
}
