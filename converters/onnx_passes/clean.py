"""Make a graph that says nothing of the machine it was made on, and is the same every time.

1. Dead nodes, unused initializers, opsets and functions are removed.
2. Doc strings, metadata, producer and shapes of values in between are removed: the exporter
   writes stack traces and paths into them.
3. Inputs and outputs are named and shaped as their ports say; an output that is an input, or
   that is given twice, gets an Identity.
4. Values in between are numbered in the order of the graph; a node is named by its number and op.
5. Initializers keep the names of the module's parameters, unless a port has that name.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgeformer.runtime.manifest import Port

IR_VERSION = 9  # the IR of opset 20: ONNX Runtime 1.17 and later read both


def clean(model: ir.Model, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
    """Rewrite ``model`` in place; its inputs and outputs are in the order of the ports."""
    for step in (
        common.OutputFixPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        step(model)
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "edgeformer", None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.name = "main"
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
    _forget_shapes(model)
    _name(model, inputs, outputs)


def _forget_shapes(model: ir.Model) -> None:
    kept = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.metadata_props.clear()
            if id(value) not in kept:
                value.shape = None
                value.type = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        if value.const_value is not None:
            value.const_value.metadata_props.clear()
            value.const_value.doc_string = None


def _name(model: ir.Model, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
    graph = model.graph
    ports = {port.name for port in (*inputs, *outputs)}
    for name in [name for name in graph.initializers if name in ports]:
        graph.initializers[name].name = f"{name}.value"
    taken = ports | set(graph.initializers)
    number = 0
    for i, node in enumerate(graph.all_nodes()):
        node.name = f"{i}.{node.op_type}"
        for value in node.outputs:
            while f"v{number}" in taken:
                number += 1
            value.name = f"v{number}"
            number += 1
    for value, port in (
        *zip(graph.inputs, inputs, strict=True),
        *zip(graph.outputs, outputs, strict=True),
    ):
        value.name = port.name
        value.shape = ir.Shape(port.shape)
        value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(port.dtype)))
