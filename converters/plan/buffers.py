"""Last pass: which value lives in which buffer.

1. A view has no buffer; it keeps the buffer of what it looks at alive.
2. A buffer is free again after the last step that reads it; inputs and outputs keep theirs.
3. A new value takes the free buffer that fits best, compared at nominal sizes (the real ones are
   known only when the plan runs); if none is large enough, the largest one, which then grows.
"""

import math
from collections.abc import Mapping

import numpy as np

from edgeformer.converters.plan.graph import Graph, ValueType, is_view
from edgeformer.runtime.plan import evaluate_size

_NOMINAL = {"batch": 8, "tokens": 256, "sequence": 32}
_NOMINAL_OTHER = 16


def assign_slots(graph: Graph) -> dict[str, int | None]:
    """Slot of every value, None for views."""
    roots = _roots(graph)
    last_use = _last_uses(graph, roots)
    sizes = {name: _nominal_bytes(graph, kind) for name, kind in graph.types.items()}
    slots: dict[str, int | None] = {name: k for k, name in enumerate(graph.inputs)}
    capacity = [sizes[name] for name in graph.inputs]
    free: list[int] = []
    for step, node in enumerate(graph.nodes):
        if is_view(node):
            slots[node.output] = None
        else:
            slots[node.output] = _take_slot(free, capacity, sizes[node.output])
        for name, end in last_use.items():
            slot = slots.get(name)
            if end == step and slot is not None:
                free.append(slot)
    return slots


def _roots(graph: Graph) -> dict[str, str]:
    """Value -> the value whose buffer it looks at (itself unless it is a view)."""
    roots: dict[str, str] = {}
    for node in graph.nodes:
        source = node.inputs[0] if is_view(node) else None
        roots[node.output] = roots.get(source, source) if source else node.output
    return roots


def _last_uses(graph: Graph, roots: Mapping[str, str]) -> dict[str, int]:
    """Root -> step after which its buffer is free; inputs and outputs are not in it."""
    last: dict[str, int] = {}
    for step, node in enumerate(graph.nodes):
        for name in (*node.inputs, node.output):
            if name is not None:
                last[roots.get(name, name)] = step
    kept = {*graph.inputs, *graph.constants}
    kept |= {roots.get(name, name) for name in graph.outputs.values()}
    return {name: step for name, step in last.items() if name not in kept}


def _take_slot(free: list[int], capacity: list[int], size: int) -> int:
    fitting = [slot for slot in free if capacity[slot] >= size]
    if fitting:
        slot = min(fitting, key=lambda s: capacity[s])
    elif free:
        slot = max(free, key=lambda s: capacity[s])
    else:
        capacity.append(size)
        return len(capacity) - 1
    free.remove(slot)
    capacity[slot] = max(capacity[slot], size)
    return slot


def _nominal_bytes(graph: Graph, kind: ValueType) -> int:
    names = {name: _NOMINAL.get(name, _NOMINAL_OTHER) for name in graph.limits}
    count = math.prod(evaluate_size(size, names) for size in kind.shape)
    return int(count) * np.dtype(kind.dtype).itemsize
