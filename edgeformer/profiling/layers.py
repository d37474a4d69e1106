"""From an engine's steps to layers and operations: positions only, names are not needed.

Every engine runs a transformer as a list of steps, and every layer has one softmax or one fused
attention among them: its anchor. What comes before the anchors is compared: as far back as it is
the same everywhere, and no further than a normalization, it belongs to the layer. The last layer
ends where its likeness to the one before it ends.

A layer so ends with the last normalization before the next one's projections. In a model that
normalizes first (ViT) a layer's first normalization therefore counts to the layer before it.
"""

import itertools
from collections.abc import Sequence

from edgeformer.profiling.steps import AROUND, Step
from edgeformer.report.layer_times import OperationTime

# Steps of these operations are the skeleton of a layer; the rest lies between them.
_SKELETON = ("linear", "attention", "norm", "activation")


def roll_up(steps: Sequence[Step]) -> tuple[OperationTime, ...]:
    """Add up the steps of each operation in each layer, in the order in which they run."""
    rows: dict[tuple[str, str], list[Step]] = {}
    graph = [step for step in steps if step.operation != AROUND]
    names = layer_names(graph) + [AROUND] * (len(steps) - len(graph))
    for layer, step in zip(names, sorted(steps, key=lambda s: s.operation == AROUND), strict=True):
        rows.setdefault((layer, step.operation), []).append(step)
    layers = list(dict.fromkeys(layer for layer, _ in rows))
    ordered = sorted(rows.items(), key=lambda item: layers.index(item[0][0]))
    return tuple(
        OperationTime(
            layer=layer,
            operation=operation,
            time_ms=sum(step.time_ms for step in members),
            steps=len(members),
            flops=sum(step.flops for step in members),
            bytes_moved=sum(step.bytes_moved for step in members),
        )
        for (layer, operation), members in ordered
    )


def layer_names(steps: Sequence[Step]) -> list[str]:
    """``embeddings``, ``layer 1``, ... or ``head`` for each step; ``model`` without anchors."""
    anchors = [i for i, step in enumerate(steps) if step.anchor]
    if not anchors:
        return ["model"] * len(steps)
    starts = _starts(steps, anchors)
    bounds = [*starts, _end(steps, starts, anchors[-1])]
    names = ["embeddings"] * bounds[0]
    for number, (start, stop) in enumerate(itertools.pairwise(bounds), 1):
        names += [f"layer {number}"] * (stop - start)
    return names + ["head"] * (len(steps) - bounds[-1])


def _skeleton(steps: Sequence[Step], start: int, stop: int) -> list[int]:
    return [i for i in range(start, stop) if steps[i].operation in _SKELETON]


def _starts(steps: Sequence[Step], anchors: Sequence[int]) -> list[int]:
    """The first step of each layer."""
    before = [_skeleton(steps, a, b) for a, b in itertools.pairwise([0, *anchors])]
    # By operation and size, which tells a projection of the embeddings from a layer's; where the
    # layers themselves differ in size, by operation.
    reach = _reach(steps, before, sizes=True) or _reach(steps, before, sizes=False)
    starts = []
    for places, anchor in zip(before, anchors, strict=True):
        first = places[-reach] if reach else anchor
        earlier = [i for i in places if i < first]
        lookups = [i for i in range(first) if steps[i].operation == "embedding"]
        # What prepares the first step, such as quantizing its input, belongs to it.
        starts.append(max([*earlier, *lookups], default=first - 1) + 1)
    return starts


def _reach(steps: Sequence[Step], before: Sequence[Sequence[int]], sizes: bool) -> int:
    """How many of the last places agree in all lists, none of them a normalization."""
    shared = min(len(places) for places in before)
    for reach in range(shared):
        found = {
            (steps[i].operation, steps[i].flops if sizes else 0.0)
            for i in (places[-1 - reach] for places in before)
        }
        if len(found) > 1 or next(iter(found))[0] == "norm":
            return reach
    return shared


def _end(steps: Sequence[Step], starts: Sequence[int], last_anchor: int) -> int:
    """Behind the last step of the last layer."""
    rest = _skeleton(steps, starts[-1], len(steps))
    if len(starts) == 1:
        norms = [i for i in rest if i > last_anchor and steps[i].operation == "norm"]
        return (norms[-1] if norms else len(steps) - 1) + 1
    model = _skeleton(steps, starts[-2], starts[-1])
    alike = 0
    for here, there in zip(rest, model, strict=False):
        if steps[here].operation != steps[there].operation:
            break
        alike += 1
    return rest[alike - 1] + 1 if alike else len(steps)
