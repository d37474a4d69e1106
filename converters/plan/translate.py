"""Pass 2: the exported graph in the plan's vocabulary.

1. Whatever depends on weights and numbers only is computed here, with torch.
2. Sizes are not computed by nodes: they are read from the shapes the exporter worked out.
3. Every other node has a rule in one of the ``rules_*`` modules; without one it is an error that
   names the operation.
"""

from typing import Any

import torch

from edgeformer.converters.plan.builder import LEAVE_OUT, Builder, location
from edgeformer.converters.plan.capture import Captured
from edgeformer.converters.plan.graph import Graph
from edgeformer.converters.plan.rules_layers import LAYER_RULES
from edgeformer.converters.plan.rules_math import MATH_RULES
from edgeformer.converters.plan.rules_shape import SHAPE_RULES
from edgeformer.errors import ModelError

RULES = {**SHAPE_RULES, **MATH_RULES, **LAYER_RULES}
_IGNORED = ("aten._assert", "aten.sym_constrain", "aten._check")


def translate(captured: Captured, input_names: tuple[str, ...]) -> Graph:
    """The program as a graph.

    Args:
        captured: from ``capture``.
        input_names: names of the program's inputs in its own order.

    Raises:
        ModelError: an operation without a rule, or used in a way the rule does not cover.
    """
    program, builder = captured.program, Builder(captured)
    names = dict(zip(program.graph_signature.user_inputs, input_names, strict=True))
    outputs: dict[str, str] = {}
    with torch.no_grad():
        for node in program.graph.nodes:
            builder.begin(node)
            if node.op == "placeholder":
                _placeholder(builder, node, program, names)
            elif node.op == "call_function":
                _call(builder, node)
            elif node.op == "output":
                results = [builder.operand(value) for value in node.args[0]]
                outputs = dict(zip(captured.outputs, results, strict=True))
    return builder.graph(input_names, outputs)


def supported_operations() -> tuple[str, ...]:
    """Names of the ATen operations that have a rule, sorted."""
    return tuple(sorted(RULES))


def _placeholder(
    builder: Builder,
    node: torch.fx.Node,
    program: torch.export.ExportedProgram,
    names: dict[Any, str],
) -> None:
    if node.name in names:
        builder.input(names[node.name], node)
        return
    signature = program.graph_signature
    parameter = signature.inputs_to_parameters.get(node.name)
    buffer = signature.inputs_to_buffers.get(node.name)
    if parameter is not None:
        builder.results[node] = program.state_dict[parameter]
    elif buffer is not None and buffer in program.state_dict:
        builder.results[node] = program.state_dict[buffer]
    else:
        key = buffer or signature.inputs_to_lifted_tensor_constants.get(node.name, "")
        constant = program.constants.get(key)
        if isinstance(constant, torch.Tensor):  # else a token that orders side effects
            builder.results[node] = constant


def _call(builder: Builder, node: torch.fx.Node) -> None:
    target = str(node.target)
    value = node.meta.get("val")
    if target.startswith(_IGNORED) or not isinstance(value, (torch.Tensor, tuple, list)):
        return
    if target == "<built-in function getitem>":
        source, index = node.args
        results = builder.results[source]  # type: ignore[index]
        builder.results[node] = results[index]  # type: ignore[index]
        return
    if _is_constant(builder, node):
        builder.results[node] = _fold(builder, node)
        return
    rule = RULES.get(target)
    if rule is None:
        raise ModelError(
            f"the NumPy engine has no operation for {target} ({location(node)})",
            hint=LEAVE_OUT,
        )
    builder.results[node] = rule(builder, node, _arguments(node))


def _is_constant(builder: Builder, node: torch.fx.Node) -> bool:
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return False
    return all(
        isinstance(builder.results.get(source), torch.Tensor) for source in node.all_input_nodes
    )


def _fold(builder: Builder, node: torch.fx.Node) -> Any:
    def value(source: torch.fx.Node) -> Any:
        return builder.results[source]

    arguments = torch.fx.node.map_arg(node.args, value)
    keywords = torch.fx.node.map_arg(node.kwargs, value)
    result: Any = node.target(*arguments, **keywords)  # type: ignore[operator]
    return tuple(result) if isinstance(result, list) else result


def _arguments(node: torch.fx.Node) -> dict[str, Any]:
    """All arguments of an operation by name, defaults included."""
    schema = node.target._schema  # type: ignore[union-attr]
    arguments = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    arguments |= {a.name: v for a, v in zip(schema.arguments, node.args, strict=False)}
    return arguments | dict(node.kwargs)
