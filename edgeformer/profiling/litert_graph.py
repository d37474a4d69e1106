"""The operations of a .tflite file: what each multiplies and moves, as far as TFLite tells."""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_OPERATIONS = {
    "linear": ("FULLY_CONNECTED", "CONV_2D"),
    "attention": ("BATCH_MATMUL", "SOFTMAX"),
    "recurrent": ("UNIDIRECTIONAL_SEQUENCE_LSTM",),
    "norm": ("SQUARED_DIFFERENCE", "RSQRT", "MEAN"),
    "activation": ("GELU", "TANH", "RELU", "LOGISTIC", "SIGMOID", "ERF"),
    "embedding": ("EMBEDDING_LOOKUP", "GATHER"),
    "layout": ("RESHAPE", "TRANSPOSE", "CAST", "SLICE", "CONCATENATION", "COPY", "EXPAND_DIMS"),
    "quantize": ("QUANTIZE", "DEQUANTIZE", "CONVERT"),
}
_BY_OP = {op: operation for operation, ops in _OPERATIONS.items() for op in ops}


@dataclass(frozen=True)
class GraphOp:
    """One operation of the .tflite file.

    Attributes:
        name: TFLite's, such as ``FULLY_CONNECTED``.
        in_norm: True if its result is named as part of a normalization.
        flops, bytes_moved: see ``OperationTime``; 0 where the shapes are not known.
    """

    name: str
    in_norm: bool = False
    flops: float = 0.0
    bytes_moved: float = 0.0


def operation_of(op: GraphOp) -> str:
    """See ``report.layer_times.OperationTime``."""
    operation = _BY_OP.get(op.name, "elementwise")
    return "norm" if op.in_norm and operation == "elementwise" else operation


def read_graph(
    package: str, model: bytes, arrays: Mapping[str, Any], signature: str
) -> list[GraphOp]:
    """The operations of a file, with what they cost at these inputs.

    Args:
        package: ``ai_edge_litert`` or ``tflite_runtime``.
        model: the file.
        arrays: inputs by name.
        signature: the entry that takes them.

    Returns:
        empty where this package does not tell; without costs for any but the first entry.
    """
    library = importlib.import_module(f"{package}.interpreter")
    try:
        interpreter = library.Interpreter(
            model_content=model,
            num_threads=1,
            experimental_op_resolver_type=library.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        first = next(iter(interpreter.get_signature_list())) == signature
        if first:
            runner = interpreter.get_signature_runner(signature)
            kinds = {name: item["dtype"] for name, item in runner.get_input_details().items()}
            runner(**{n: np.ascontiguousarray(a, kinds[n]) for n, a in arrays.items()})
        tensors = {item["index"]: item for item in interpreter.get_tensor_details()}
        return [_graph_op(item, tensors, first) for item in interpreter._get_ops_details()]
    except (AttributeError, KeyError, RuntimeError, ValueError):  # an interface that has changed
        return []


def _graph_op(item: Mapping[str, Any], tensors: Mapping[int, Any], costs: bool) -> GraphOp:
    name = str(item["op_name"])
    inputs = [tensors[k] for k in item["inputs"] if k in tensors]
    outputs = [tensors[k] for k in item["outputs"] if k in tensors]
    in_norm = any("Norm" in str(out["name"]).rpartition("/")[2] for out in outputs)
    if not (costs and inputs and outputs):
        return GraphOp(name, in_norm)
    return GraphOp(name, in_norm, flops_of(name, inputs, outputs), _moved(name, inputs, outputs))


def flops_of(name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> float:
    """Operations of products, two per multiply-add; inputs and outputs are details of tensors."""
    made = math.prod(int(n) for n in outputs[0]["shape"])
    if name in ("FULLY_CONNECTED", "CONV_2D") and len(inputs) > 1:
        return 2.0 * made * math.prod(int(n) for n in inputs[1]["shape"][1:])
    if name == "UNIDIRECTIONAL_SEQUENCE_LSTM":
        width, hidden = int(inputs[0]["shape"][-1]), int(outputs[0]["shape"][-1])
        return 2.0 * made * 4 * (width + hidden)
    if name == "BATCH_MATMUL":
        return 2.0 * made * int(inputs[0]["shape"][-1])
    return 0.0


def _moved(name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> float:
    sizes = [float(np.prod(t["shape"]) * np.dtype(t["dtype"]).itemsize) for t in inputs]
    made = sum(float(np.prod(t["shape"]) * np.dtype(t["dtype"]).itemsize) for t in outputs)
    if _BY_OP.get(name) == "embedding" and len(inputs) > 1:  # only the rows that are looked up
        return min(sizes) + 2 * made
    return sum(sizes) + made
