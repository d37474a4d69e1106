"""Pass 1: torch.export, with every composite operation kept whole.

1. What is traced is the first example at sizes that say nothing of the model
   (``tracing.trace_inputs``).
2. The dimensions that the ports name are exported as dynamic. A model that fixes one is an error.
3. The program is made functional (no in-place writes) without decomposing linear, embedding,
   layer_norm, gelu or scaled_dot_product_attention.
4. Operations that have no rule are decomposed by torch, in the same pass: einsum
   becomes products, a batch norm arithmetic.
"""

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from edgeformer.converters.prepared import PreparedModel
from edgeformer.converters.tracing import trace_inputs
from edgeformer.errors import ModelError


@dataclass(frozen=True)
class Captured:
    """An exported program.

    Attributes:
        program: functional, parameters as inputs.
        names: symbol of the program -> dimension of a port.
        limits: dimension -> largest size, 0 where any size runs.
        outputs: names of the outputs in their order.
    """

    program: torch.export.ExportedProgram
    names: dict[str, str]
    limits: dict[str, int]
    outputs: tuple[str, ...]


def capture(prepared: PreparedModel, supported: Collection[str]) -> Captured:
    """Export ``prepared.module`` at the dynamic shapes of its ports.

    Args:
        prepared: what to export.
        supported: names of operations that stay as they are (rule 4).

    Raises:
        ModelError: the module cannot be exported, or fixes a dimension that its ports call free.
    """
    inputs = trace_inputs(prepared)
    dynamic = {
        port.name: {
            axis: torch.export.Dim.AUTO for axis, n in enumerate(port.shape) if isinstance(n, str)
        }
        for port in prepared.inputs
    }
    try:
        with _quiet():
            program = torch.export.export(
                prepared.module, args=(), kwargs=inputs, dynamic_shapes=dynamic, strict=False
            )
            program = _decomposed(program, supported)
    except Exception as error:  # torch.export documents no exception classes
        raise ModelError(
            f"torch.export cannot trace the model: {_first_lines(error)}",
            hint="Python control flow must not depend on the values of tensors",
        ) from error
    names = _dimension_names(prepared, program)
    outputs = tuple(port.name for port in prepared.outputs)
    with torch.no_grad():
        answer = prepared.module(**inputs)
    if set(answer) != set(outputs):
        raise ModelError(f"the model returns {sorted(answer)}, its ports are {sorted(outputs)}")
    return Captured(program, names, _limits(program, names), tuple(answer))


def _decomposed(
    program: torch.export.ExportedProgram, supported: Collection[str]
) -> torch.export.ExportedProgram:
    """Rule 4, in one pass: each costs seconds."""
    known = torch.export.default_decompositions()
    table = {target: known[target] for target in known if str(target) not in supported}
    decomposed: torch.export.ExportedProgram = program.run_decompositions(table)
    return decomposed


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No deprecation notes of torch's own code, and no fused TransformerEncoder kernel."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _dimension_names(
    prepared: PreparedModel, program: torch.export.ExportedProgram
) -> dict[str, str]:
    """Which symbol stands for which dimension (rule 2)."""
    shapes = {
        node.name: node.meta["val"].shape
        for node in program.graph.nodes
        if node.op == "placeholder" and "val" in node.meta
    }
    wanted = dict(zip(program.graph_signature.user_inputs, _leaf_names(program), strict=True))
    names: dict[str, str] = {}
    ports = {port.name: port for port in prepared.inputs}
    for placeholder, port_name in wanted.items():
        port = ports[port_name]
        for size, name in zip(shapes[str(placeholder)], port.shape, strict=True):
            if not isinstance(name, str):
                continue
            if not isinstance(size, torch.SymInt) or not size.node.expr.is_Symbol:
                raise ModelError(
                    f"the model only works where {name} of {port.name} is {size}",
                    hint="write the model without fixed sizes, or give that port a fixed shape",
                )
            names[size.node.expr.name] = name
    return names


def _leaf_names(program: torch.export.ExportedProgram) -> list[str]:
    """Names of the module's keyword arguments, in the order of the program's inputs."""
    _, kwargs = program.example_inputs
    return list(kwargs)


def _limits(program: torch.export.ExportedProgram, names: Mapping[str, str]) -> dict[str, int]:
    limits = dict.fromkeys(names.values(), 0)
    for symbol, bounds in program.range_constraints.items():
        name = names.get(str(symbol))
        if name is not None and bounds.upper.is_Integer and int(bounds.upper) < 2**31:
            upper = int(bounds.upper)
            limits[name] = min(upper, limits[name] or upper)
    return limits


def _first_lines(error: Any) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300]
