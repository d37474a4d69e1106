"""Is what a manifest says of early exits possible? Part of reading manifest.json."""

import math
from collections.abc import Callable

from edgeformer.errors import InputError
from edgeformer.runtime.exiting import CRITERIA, ExitRule, check_rule
from edgeformer.runtime.manifest import ExitTable, Port, Program, Variant

Need = Callable[[bool, str], None]
MAX_SEGMENTS = 256


def check_exits(variant: Variant, problem_type: str, need: Need) -> None:
    """Call ``need(False, what)`` for what cannot be: segments that are missing, in another order or
    do not fit each other, and a table that no engine could follow.

    Args:
        variant: its program ``main`` was found already.
        problem_type: of the model card.
        need: raises if its first argument is False.
    """
    listed = {name for name in variant.programs if name.startswith("segment_")}
    table = variant.exits
    if table is None:
        need(not listed, f"variant {variant.id!r} has segments, and no table of exits")
        return
    count = len(table.layers)
    need(problem_type == "single_label", "exits need a classifier of one label for each text")
    need(2 <= count <= MAX_SEGMENTS, "exits need two segments at least")
    need(
        listed == {f"segment_{k}" for k in range(1, count + 1)},
        f"variant {variant.id!r} should have segment_1 to segment_{count}, and has"
        f" {', '.join(sorted(listed)) or 'none'}",
    )
    ascending = all(a < b for a, b in zip((0, *table.layers), table.layers, strict=False))
    need(ascending, "the layers of the exits are not in order")
    for k, segment in enumerate(variant.segments, 1):
        ending = f"segment_{k}"
        name = segment.entry.removesuffix("_{length}")
        need(name == ending, f"{ending} runs {segment.entry!r}: the segments are in another order")
        need(_fits(segment, k, count, variant), f"{ending} does not fit the segments around it")
    classes = variant.programs["main"].outputs[0].shape[-1]
    _check_table(table, int(classes), need)


def _fits(segment: Program, k: int, count: int, variant: Variant) -> bool:
    """Its ports are those of the k-th of ``count`` segments of ``variant``."""
    main = variant.programs["main"]
    inputs = [port.name for port in segment.inputs]
    reads = inputs == [p.name for p in main.inputs] if k == 1 else inputs[:1] == ["hidden"]
    reads = reads and set(inputs[1:]) <= {"attention_mask", *(p.name for p in main.inputs)}
    outputs = {port.name: port for port in segment.outputs}
    gives = set(outputs) == ({"logits"} if k == count else {"hidden", "logits"})
    if not reads or not gives or outputs["logits"].shape != main.outputs[0].shape:
        return False
    hidden = [p.shape for p in (*segment.inputs, *segment.outputs) if p.name == "hidden"]
    sizes = {_width(port) for s in variant.segments for port in s.outputs if port.name == "hidden"}
    return len(sizes) == 1 and all(shape == _hidden(*sizes) for shape in hidden)


def _width(port: Port) -> int:
    size = port.shape[-1] if len(port.shape) == 3 else 0
    return size if isinstance(size, int) else 0


def _hidden(width: int) -> tuple[int | str, ...]:
    return ("batch", "sequence", width) if width else ()


def _check_table(table: ExitTable, classes: int, need: Need) -> None:
    need(classes >= 2, "exits need two classes at least")
    need(table.criterion in CRITERIA, f"unknown exit criterion {table.criterion!r}")
    if table.threshold is not None:
        try:
            check_rule(ExitRule(table.criterion, table.threshold), len(table.layers), classes)
        except InputError as error:
            need(False, error.message)
    numbers = [n for p in table.curve for n in (p.threshold, p.mean_layers, p.drop, p.bound)]
    numbers += [table.max_drop, table.lookup_step, *(n for row in table.lookup for n in row)]
    need(all(math.isfinite(n) for n in numbers), "a number of the exits is infinite")
    width = len(table.layers) - 2
    whole = all(len(row) == width for row in table.lookup) and (width > 0 or not table.lookup)
    need(whole, "the exit predictor has not one column for each segment")
    need(not table.lookup or table.lookup_step > 0, "the exit predictor's steps have no size")
