"""Programs cut out of one ONNX graph, and the weights that their files share.

    parts = [cut_graph(model, inputs, outputs, cut) for cut in cuts]
    share_weights(parts, folder / "weights.bin")

Each part is a model of its own, since a session runs a whole graph. What they compute with lies in
one file beside them (ONNX: "external data"), where equal weights are one.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir import convenience

from edgeformer.converters.exits import Cut
from edgeformer.errors import ModelError
from edgeformer.runtime.manifest import Port

_ALIGNMENT = 64
_SMALL_BYTES = 256  # constants of the graph rather than weights: they stay in it


def cut_graph(
    model: ir.Model, inputs: Sequence[Port], outputs: Sequence[Port], cut: Cut
) -> ir.Model:
    """A copy of the part of ``model`` that computes ``cut``.

    Args:
        model: the whole; it is left as it is.
        inputs: what its inputs are, in order.
        outputs: what its outputs are, in order.
        cut: its inputs that the model does not have are left out.

    Raises:
        ModelError: the part needs an input that is not its own.
    """
    part = model.clone()
    graph = part.graph
    made = dict(zip([port.name for port in outputs], graph.outputs, strict=True))
    given = dict(zip([port.name for port in inputs], graph.inputs, strict=True))
    graph.outputs[:] = [made[cut.gives[port.name]] for port in cut.outputs]
    for name, source in cut.reads.items():
        value = made[source]
        given[name] = ir.Value(name=f"{name}.input", shape=value.shape, type=value.type)
        convenience.replace_all_uses_with(value, given[name])
    common.RemoveUnusedNodesPass()(part)
    wanted = [port.name for port in cut.inputs if port.name in given]
    if "hidden" in cut.reads:
        for name in set(given) - set(wanted):
            _measure_hidden(given[name], given["hidden"])
    beyond = [name for name, value in given.items() if name not in wanted and value.uses()]
    if beyond:
        raise ModelError(
            f"{cut.name} needs {', '.join(beyond)}, which only the first segment reads",
            hint="convert the model without exits, or leave ONNX out with --engines",
        )
    graph.inputs[:] = [given[name] for name in wanted]
    return part


def _measure_hidden(tokens: ir.Value, hidden: ir.Value) -> None:
    """Let what asks for the shape of tokens (batch, sequence) ask hidden states (batch, sequence,
    size), whose first two sizes are the same."""
    for node in [use.node for use in tokens.uses() if use.node.op_type == "Shape"]:
        node.replace_input_with(0, hidden)
        if "end" not in node.attributes:
            node.attributes.add(ir.AttrInt64("end", 2))


def share_weights(models: Sequence[ir.Model], path: Path) -> None:
    """Write the weights of all ``models`` to ``path``, equal ones once, and let them point there.

    The file is as the order of the models and of their initializers says.
    """
    places: dict[tuple[str, str, bytes], int] = {}
    with path.open("wb") as file:
        for model in models:
            for name, value in model.graph.initializers.items():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < _SMALL_BYTES:
                    continue
                data = tensor.tobytes()
                key = (str(tensor.dtype), str(tensor.shape), hashlib.sha256(data).digest())
                if key not in places:
                    file.write(bytes(-file.tell() % _ALIGNMENT))
                    places[key] = file.tell()
                    file.write(data)
                value.const_value = ir.ExternalTensor(
                    path.name,
                    places[key],
                    len(data),
                    tensor.dtype,
                    shape=ir.Shape(tensor.numpy().shape),
                    name=name,
                    base_dir=path.parent,
                )
