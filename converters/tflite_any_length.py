"""Turn a .tflite file of two fixed lengths into one whose single signature takes any length.

    content = any_length(content)       # signatures main_16 and main_24 -> signature main

The TFLite converter takes fixed shapes only, and yet its runtime resizes inputs between calls
(XNNPACK reshapes what it has compiled, weights stay packed once). What stands in the way are
lengths written into the graph. Two conversions that differ in nothing but the length show every
one of them. The rules:

1. Both graphs must have the same operations, in the same order, on the same tensors, with the same
   options and constants. What differs depends on the length.
2. RESHAPE to a constant shape: if one entry differs it becomes -1, which the runtime works out.
3. BATCH_MATMUL of two tensors that a RESHAPE just freed of leading ones reads the tensors before
   it: the RESHAPE after the scores would have two entries that differ. So does one whose other
   operand never had those ones (a layer with a single head): the product broadcasts. The ones
   travel on through elementwise operations up to the next RESHAPE, left out if it changes nothing
   then, or to a FULLY_CONNECTED whose result is a matrix, which makes rows of whatever it reads.
4. SLICE whose start or stop differs, but is as far from the end in both, becomes STRIDED_SLICE,
   which counts from the end. (A SLICE also keeps the shape that it once had.)
5. Anything else that differs: the length cannot be freed, and the file keeps fixed lengths.
"""

import importlib
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.converters.tflite_file import Constants, repacked

ENTRY = "main"
# Of one shape in and out, or broadcast: leading ones change nothing.
_ELEMENTWISE = frozenset(
    ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SOFTMAX", "SELECT_V2", "CAST", "TANH")
)
# What may differ in the options of an operation, or in its operands after the first.
_FREED = frozenset(("RESHAPE", "SLICE"))


class FixedLengthError(Exception):
    """A length is written into the graph where it cannot be freed; the message says where."""


def any_length(content: bytes) -> bytes:
    """The same model with one signature, ``main``, whose inputs may be resized.

    Args:
        content: a fp32 file with two signatures of the same module at different lengths.

    Raises:
        FixedLengthError: the length cannot be freed.
    """
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    first, second = (model.subgraphs[s.subgraphIndex] for s in model.signatureDefs)
    constants = Constants(model, content)
    graph = _Graph(schema, model, second, constants)
    other = _Graph(schema, model, first, constants)
    graph.match(other)
    graph.free_products()
    graph.free_reshapes(other)
    graph.free_slices(other)
    signature = model.signatureDefs[1]
    signature.signatureKey, signature.subgraphIndex = ENTRY.encode(), 0
    model.signatureDefs, model.subgraphs = [signature], [second]
    return repacked(model, constants.content)


class _Graph:
    """A subgraph with its operations by name. Changed in place."""

    def __init__(self, schema: Any, model: Any, graph: Any, constants: Constants) -> None:
        self._model, self._constants, self._schema = model, constants, schema
        self.tensors, self.graph = graph.tensors, graph
        names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
        self._codes: list[str] = [
            names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes
        ]
        self._twins: dict[int, Any] = {}  # id of an operation -> the same at the other length

    def name(self, operator: Any) -> str:
        """Its BuiltinOperator, as the schema spells it."""
        return str(self._codes[operator.opcodeIndex])

    def constant(self, tensor: int) -> bytes | None:
        """As of ``Constants.data``."""
        return self._constants.data(self.graph, tensor)

    def match(self, other: "_Graph") -> None:
        """Rule 1, and what it finds: inputs that change with the length may be resized."""
        if len(self.graph.operators) != len(other.graph.operators):
            raise FixedLengthError("the graph has other operations at other lengths")
        same_tensor = dict(zip(self.graph.inputs, other.graph.inputs, strict=True))
        for mine, theirs in zip(self.graph.operators, other.graph.operators, strict=True):
            name = self.name(mine)
            same = name == other.name(theirs) and len(mine.inputs) == len(theirs.inputs)
            same &= name in _FREED or _equal(mine.builtinOptions, theirs.builtinOptions)
            count = 1 if name in _FREED else len(mine.inputs)
            for a, b in zip(mine.inputs[:count], theirs.inputs[:count], strict=True):
                held = self.constant(a)
                same &= held == other.constant(b) and (held is not None or same_tensor[a] == b)
            if not same:
                raise FixedLengthError(f"the length is part of the operation {name}")
            same_tensor |= dict(zip(mine.outputs, theirs.outputs, strict=True))
        for tensor in self.graph.inputs:
            shape, theirs = self.tensors[tensor].shape, other.tensors[same_tensor[tensor]].shape
            free = np.where(np.asarray(shape) == theirs, shape, -1).astype(np.int32)
            self.tensors[tensor].shapeSignature = free
        self._twins = dict(zip(map(id, self.graph.operators), other.graph.operators, strict=True))

    def free_products(self) -> None:
        """Rule 3."""
        producers = {t: o for o in self.graph.operators for t in o.outputs}
        for operator in self.graph.operators:
            if self.name(operator) != "BATCH_MATMUL":
                continue
            before = [producers.get(tensor) for tensor in operator.inputs]
            ones = [self._dropped_ones(reshape) for reshape in before]
            ranks = {len(self.tensors[tensor].shape) for tensor in operator.inputs}
            if len(set(ones) - {0}) == 1 and len(ranks) == 1:
                operator.inputs = [
                    reshape.inputs[0] if reshape is not None and dropped else tensor
                    for tensor, reshape, dropped in zip(operator.inputs, before, ones, strict=True)
                ]
                self._add_ones(int(operator.outputs[0]), max(ones))
        self._drop_idle_reshapes()
        used = {int(t) for o in self.graph.operators for t in o.inputs} | set(self.graph.outputs)
        self.graph.operators = [
            o for o in self.graph.operators if used.intersection(int(t) for t in o.outputs)
        ]

    def _drop_idle_reshapes(self) -> None:
        """Let what reads a RESHAPE that changes nothing any more read what it reads."""
        source: dict[int, int] = {}
        for operator in self.graph.operators:
            operator.inputs = [source.get(int(t), int(t)) for t in operator.inputs]
            if self.name(operator) == "RESHAPE" and operator.outputs[0] not in self.graph.outputs:
                before, after = operator.inputs[0], int(operator.outputs[0])
                if np.array_equal(self.tensors[before].shape, self.tensors[after].shape):
                    source[after] = before

    def _dropped_ones(self, operator: Any) -> int:
        """How many leading ones a RESHAPE takes away, 0 if it does anything else."""
        if operator is None or self.name(operator) != "RESHAPE":
            return 0
        before = list(self.tensors[operator.inputs[0]].shape)
        after = list(self.tensors[operator.outputs[0]].shape)
        count = len(before) - len(after)
        return count if count > 0 and before == [1] * count + after else 0

    def _add_ones(self, tensor: int, count: int) -> None:
        """Let ``tensor`` and what is computed from it have ``count`` more leading ones."""
        waiting = deque([tensor])
        while waiting:
            changed = waiting.popleft()
            if changed in self.graph.outputs:
                raise FixedLengthError("a product of two activations is an output")
            self.tensors[changed].shape = [*[1] * count, *self.tensors[changed].shape]
            rank = len(self.tensors[changed].shape)
            for reader in self.graph.operators:
                if changed not in reader.inputs or self.name(reader) == "RESHAPE":
                    continue
                if self._makes_rows(reader, changed):
                    continue
                if self.name(reader) not in _ELEMENTWISE:
                    raise FixedLengthError(f"{self.name(reader)} reads a product of activations")
                if len(self.tensors[reader.outputs[0]].shape) < rank:
                    waiting.append(int(reader.outputs[0]))

    def _makes_rows(self, operator: Any, tensor: int) -> bool:
        """Let a FULLY_CONNECTED give the matrix it gave, though ``tensor`` has more leading ones;
        False for anything else."""
        matrix = len(self.tensors[operator.outputs[0]].shape) == 2
        if self.name(operator) != "FULLY_CONNECTED" or operator.inputs[0] != tensor or not matrix:
            return False
        operator.builtinOptions.keepNumDims = False
        return True

    def free_reshapes(self, other: "_Graph") -> None:
        """Rule 2."""
        for operator in self.graph.operators:
            if self.name(operator) != "RESHAPE":
                continue
            mine, theirs = self._shape(operator), other._shape(self._twins[id(operator)])
            if len(mine) != len(theirs):
                raise FixedLengthError("a RESHAPE has another rank at another length")
            depends = mine != theirs
            if depends.sum() > 1 or (depends.any() and -1 in mine):
                raise FixedLengthError("a RESHAPE has the length in two places")
            free = np.where(depends, -1, mine).astype(np.int32)
            operator.inputs = [operator.inputs[0], self._constants.add(self.graph, free)]
            operator.builtinOptions, operator.builtinOptionsType = None, 0  # the shape again

    def _shape(self, operator: Any) -> NDArray[np.int32]:
        data = self.constant(operator.inputs[1]) if len(operator.inputs) > 1 else None
        if data is None:
            raise FixedLengthError("a RESHAPE computes its shape")
        return np.frombuffer(data, np.int32)

    def free_slices(self, other: "_Graph") -> None:
        """Rule 4."""
        for operator in self.graph.operators:
            if self.name(operator) != "SLICE":
                continue
            mine, theirs = self._window(operator), other._window(self._twins[id(operator)])
            if (mine == theirs)[:2].all():
                continue
            places = np.where(mine == theirs, mine, mine - mine[2])  # those from the end: 0 or less
            from_end = mine != theirs
            if (from_end & (mine - mine[2] != theirs - theirs[2]))[:2].any():
                raise FixedLengthError("a SLICE has neither end where it stays")
            self._slice(operator, places, from_end)

    def _window(self, operator: Any) -> NDArray[np.int32]:
        """Start and stop of a SLICE, and the size of what it reads: int32 (3, axes)."""
        data = [self.constant(tensor) for tensor in operator.inputs[1:]]
        if None in data:
            raise FixedLengthError("a SLICE computes its place")
        start, size = (np.frombuffer(d or b"", np.int32) for d in data)
        shape = np.asarray(self.tensors[operator.inputs[0]].shape, np.int32)
        return np.stack([start, start + size, shape])

    def _slice(self, operator: Any, places: NDArray[np.int32], from_end: NDArray[np.bool_]) -> None:
        """Write starts and stops, of which some count from the end (0 is the end itself)."""
        start, stop, _ = places
        to_end = from_end[1] & (stop == 0)
        options = self._schema.StridedSliceOptionsT()
        options.endMask = int((to_end << np.arange(len(stop))).sum())
        operator.builtinOptions = options
        operator.builtinOptionsType = self._schema.BuiltinOptions.StridedSliceOptions
        operator.opcodeIndex = self._code("STRIDED_SLICE")
        constants = (start, stop, np.ones_like(start))
        operator.inputs = [
            operator.inputs[0],
            *(self._constants.add(self.graph, values.astype(np.int32)) for values in constants),
        ]

    def _code(self, name: str) -> int:
        """Place of an operation in the file's list, which it joins if it is not there."""
        if name not in self._codes:
            code = self._schema.OperatorCodeT()
            code.builtinCode = code.deprecatedBuiltinCode = vars(self._schema.BuiltinOperator)[name]
            code.version = 1
            self._model.operatorCodes.append(code)
            self._codes.append(name)
        return self._codes.index(name)


def _equal(a: Any, b: Any) -> bool:
    """Two tables of the schema, field by field."""
    if hasattr(a, "__dict__") and hasattr(b, "__dict__"):
        return vars(a).keys() == vars(b).keys() and all(
            _equal(value, vars(b)[key]) for key, value in vars(a).items()
        )
    return bool(np.array_equal(a, b))
