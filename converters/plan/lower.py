"""All passes in their order: from a prepared module to a graph that can be written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeformer.converters.plan import activations, attention, norms, projections
from edgeformer.converters.plan.capture import capture
from edgeformer.converters.plan.graph import Graph
from edgeformer.converters.plan.kinds import NotPackable
from edgeformer.converters.plan.pack import pack
from edgeformer.converters.plan.translate import supported_operations, translate
from edgeformer.converters.prepared import PreparedModel

Pass = Callable[[Graph], Graph]

BEFORE_PACKING: tuple[Pass, ...] = (
    attention.spelled_out,
    attention.rows,
)
AFTER_PACKING: tuple[Pass, ...] = (
    projections.scale,
    projections.key_bias,
    projections.value_bias,
    projections.merge,
    activations.recognise,
    activations.fuse,
    norms.residuals,
)


@dataclass(frozen=True)
class Lowered:
    """A graph in its final layout.

    Attributes:
        graph: ready for ``write_plan``.
        layout: ``packed`` or ``dense``.
        note: why it is dense, empty if packed.
    """

    graph: Graph
    layout: str
    note: str


def lower(prepared: PreparedModel) -> Lowered:
    """Lower a module.

    Raises:
        ModelError: the module cannot be exported, or uses an operation that plans do not have.
    """
    return arrange(trace(prepared), prepared)


def trace(prepared: PreparedModel) -> Graph:
    """Export and translate; attention is found, nothing is folded yet."""
    graph = translate(
        capture(prepared, supported_operations()), tuple(port.name for port in prepared.inputs)
    )
    for early in BEFORE_PACKING:
        graph = early(graph)
    return graph


def arrange(
    graph: Graph,
    prepared: PreparedModel,
    folds: Sequence[Pass] = AFTER_PACKING,
    packing: bool = True,
) -> Lowered:
    """Pack if that is proven, then fold; tests leave out ``folds`` or ``packing``."""
    layout, note = "packed", ""
    try:
        if not packing:
            raise NotPackable("packing was not asked for")
        graph = pack(graph, prepared.inputs)
    except NotPackable as reason:
        layout, note = "dense", f"dense: {reason.message}"
    for fold in folds:
        graph = fold(graph)
    return Lowered(graph, layout, note)
