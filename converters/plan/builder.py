"""What the translation rules write with: nodes, types and constants of the graph to be."""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeformer.converters.plan.capture import Captured
from edgeformer.converters.plan.graph import Graph, Node, Shape, ValueType, prune
from edgeformer.converters.plan.sizes import to_size
from edgeformer.errors import ModelError
from edgeformer.runtime.operations import OPS
from edgeformer.runtime.plan import Size

_DTYPES = {
    torch.float32: "float32",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.bool: "bool",
}

LEAVE_OUT = "write it with other operations, or leave this engine out: --engines onnx,tflite"


class Builder:
    """A graph under construction.

    ``results`` maps each node of the exported graph to the name (or names) of what it became, or
    to a torch tensor while it is a constant that nothing but the host has needed.
    """

    def __init__(self, captured: Captured) -> None:
        self.results: dict[torch.fx.Node, str | tuple[str, ...] | torch.Tensor] = {}
        self.names = captured.names
        self.limits = captured.limits
        self._nodes: list[Node] = []
        self._types: dict[str, ValueType] = {}
        self._constants: dict[str, NDArray[Any]] = {}
        self._torch_names: dict[int, str] = {}
        self._scattered: set[str] = set()  # values that are not contiguous
        self._where = ""

    def begin(self, node: torch.fx.Node) -> None:
        """What follows is emitted for ``node``."""
        self._where = location(node)

    def graph(self, inputs: Sequence[str], outputs: dict[str, str]) -> Graph:
        """All that was emitted, without what is not needed."""
        return prune(
            Graph(
                tuple(inputs),
                outputs,
                tuple(self._nodes),
                self._types,
                self._constants,
                self.limits,
            )
        )

    def fail(self, what: str, hint: str = LEAVE_OUT) -> ModelError:
        """A ModelError about the node at hand, to be raised."""
        return ModelError(f"{what} ({self._where})" if self._where else what, hint=hint)

    def input(self, name: str, node: torch.fx.Node) -> None:
        """Declare an input of the program."""
        self._types[name] = self.type_of(node)
        self.results[node] = name

    def size(self, value: Any) -> Size:
        """An int, a SymInt or a node that stands for one, as a size."""
        if isinstance(value, torch.fx.Node):
            value = value.meta["val"]
        return to_size(value, self.names)

    def type_of(self, node: torch.fx.Node) -> ValueType:
        """Type of what an exported node computes."""
        value = node.meta["val"]
        return ValueType(tuple(self.size(n) for n in value.shape), self.dtype(value.dtype))

    def dtype(self, dtype: torch.dtype) -> str:
        """The plan's name of a torch dtype."""
        if dtype not in _DTYPES:
            raise self.fail(
                f"the model computes in {dtype}", "convert it to float32 first: module.float()"
            )
        return _DTYPES[dtype]

    def shape(self, name: str) -> Shape:
        """Shape of a value or constant."""
        if name in self._constants:
            return tuple(int(n) for n in self._constants[name].shape)
        return self._types[name].shape

    def dtype_of(self, name: str) -> str:
        """Dtype of a value or constant."""
        array = self._constants.get(name)
        return str(array.dtype) if array is not None else self._types[name].dtype

    def constant(self, array: NDArray[Any], name: str = "") -> str:
        """Add a constant."""
        name = name or f"constant_{len(self._constants)}"
        self._constants[name] = np.ascontiguousarray(array).reshape(array.shape)
        return name

    def array(self, name: str) -> NDArray[Any] | None:
        """The array of a constant, None if ``name`` is computed."""
        return self._constants.get(name)

    def transposed(self, name: str) -> str:
        """A constant matrix the other way round, once for each name; a value as it is."""
        array = self._constants.get(name)
        if array is None:
            return name
        turned = f"{name}_transposed"
        if turned not in self._constants:
            self.constant(array.T, turned)
        return turned

    def operand(self, value: Any, dtype: str = "") -> str:
        """A tensor argument or a Python number as an operand, cast to ``dtype`` if given."""
        if isinstance(value, torch.fx.Node):
            result = self.results.get(value)
            if result is None:
                raise self.fail("a size of an input is used as a value")
            if isinstance(result, tuple):
                raise self.fail(f"{value.name} is several tensors where one is needed")
            if isinstance(result, torch.Tensor):
                result = self._torch_constant(result)
            name = result
        elif isinstance(value, (int, float, bool)):
            dtype = dtype or self.dtype(torch.tensor(value).dtype)
            name = f"scalar_{dtype}_{value!r}"
            self._constants.setdefault(name, np.asarray(value, dtype))
        else:
            raise self.fail(f"an operand is {value!r}, not a tensor or a number")
        return self.cast(name, dtype) if dtype else name

    def cast(self, name: str, dtype: str) -> str:
        """``name`` in ``dtype``; constants are cast here, values by a copy."""
        if self.dtype_of(name) == dtype:
            return name
        array = self._constants.get(name)
        if array is not None:
            return self.constant(array.astype(dtype))
        return self.emit("copy", (name,), ValueType(self.shape(name), dtype))

    def emit(
        self, op: str, inputs: Sequence[str | None], result: ValueType, **attributes: Any
    ) -> str:
        """Add a node and return the name of its output."""
        output = f"v{len(self._nodes)}_{op}"
        self._nodes.append(Node(op, tuple(inputs), output, attributes, self._where))
        self._types[output] = result
        source = inputs[0] if inputs else None
        if OPS[op].view and (op != "reshape" or source in self._scattered):
            self._scattered.add(output)
        return output

    def reshape(self, name: str, shape: Shape) -> str:
        """``name`` in another shape; a scattered value is copied first unless only sizes of 1
        come or go."""
        before = self.shape(name)
        if before == shape:
            return name
        plain = [[n for n in s if n != 1] for s in (before, shape)]
        if name in self._scattered and plain[0] != plain[1]:
            name = self.emit("copy", (name,), ValueType(before, self.dtype_of(name)))
        return self.emit("reshape", (name,), ValueType(shape, self.dtype_of(name)))

    def expand(self, name: str, shape: Shape) -> str:
        """``name`` broadcast to ``shape``."""
        if self.shape(name) == shape:
            return name
        return self.emit("expand", (name,), ValueType(shape, self.dtype_of(name)))

    def _torch_constant(self, tensor: torch.Tensor) -> str:
        """A folded tensor as a constant; one tensor used twice is one constant."""
        if id(tensor) not in self._torch_names:
            value = tensor.detach()
            if value.is_floating_point():
                value = value.float()
            else:
                self.dtype(value.dtype)
            self._torch_names[id(tensor)] = self.constant(value.contiguous().cpu().numpy())
        return self._torch_names[id(tensor)]


def location(node: torch.fx.Node) -> str:
    """Where the model's code made this node: ``modeling.py:12, module encoder.layer.0``."""
    trace = str(node.meta.get("stack_trace") or "")
    lines = re.findall(r'File "([^"]*)", line (\d+)', trace)
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    parts = [f"{PurePath(lines[-1][0]).name}:{lines[-1][1]}"] if lines else []
    parts += [f"module {modules[-1][0]}"] if modules and modules[-1][0] else []
    return ", ".join(parts) or f"node {node.name}"


def add(left: Size, right: Size) -> Size:
    """The sum of two sizes."""
    if isinstance(left, int) and isinstance(right, int):
        return left + right
    return right if left == 0 else left if right == 0 else ("+", left, right)


def multiply(left: Size, right: Size) -> Size:
    """The product of two sizes."""
    if isinstance(left, int) and isinstance(right, int):
        return left * right
    return right if left == 1 else left if right == 1 else ("*", left, right)
