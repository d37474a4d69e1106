"""How compressions and recipes look on a terminal: pure functions from results to text."""

import shlex
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeformer.cli.text import table, toml_value

if TYPE_CHECKING:
    from edgeformer.compressing.compress import CompressionReport
    from edgeformer.compression.measuring import Quality, Size
    from edgeformer.compression.plan import Plan
    from edgeformer.compression.recipe import Recipe
    from edgeformer.compression.trainer import Step


def step_text(step: "Step", seconds_left: float | None) -> str:
    """One line about a step."""
    parts = " + ".join(f"{name} {value:.4f}" for name, value in step.parts.items())
    several = f" ({parts})" if len(step.parts) > 1 else ""
    left = "" if seconds_left is None else f", {duration(seconds_left)} left"
    return f"{step.stage}: step {step.step} of {step.steps}, loss {step.loss:.4f}{several}{left}"


def duration(seconds: float) -> str:
    """``8 s``, ``4 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def quoted(path: Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))


def compression_text(report: "CompressionReport") -> str:
    """What ``compress`` made."""
    lines = [f"{report.path}  ({report.recipe}: {report.paper})", "", _sizes(report)]
    if report.student is not None:
        teacher = "" if report.teacher is None else f", before {_quality(report.teacher)}"
        lines += ["", f"on {report.student.examples} texts: {_quality(report.student)}{teacher}"]
    if report.exits:
        each = ", ".join(f"{layer}: {value:.2%}" for layer, value in enumerate(report.exits, 1))
        lines += ["", f"after layer {each}"]
    seconds = sum(stage.seconds for stage in report.stages)
    stages = ", ".join(f"{stage.name} {duration(stage.seconds)}" for stage in report.stages)
    memory = f"peak memory {report.peak_memory_mb:.0f} MB"
    return "\n".join([*lines, "", f"{duration(seconds)} ({stages}), {memory}"])


def plan_text(plan: "Plan") -> str:
    """What a dry run found."""
    rows = [
        (
            stage.name,
            str(stage.steps),
            f"{stage.epochs:.1f}",
            f"{stage.trained:,}",
            duration(stage.seconds),
        )
        for stage in plan.stages
    ]
    headers = ("stage", "steps", "epochs", "trained values", "time")
    return "\n".join(
        (
            f"{plan.recipe}: {plan.paper}",
            "",
            _sizes(plan),
            "",
            table(headers, rows),
            f"about {duration(plan.seconds)} on this machine; nothing was trained or written",
        )
    )


def _sizes(result: "CompressionReport | Plan") -> str:
    headers = ("", "parameters", "nonzero", "fp32 MB", "int8 MB", "MFLOPs", "layers", "heads")
    rows = [_size_row("before", result.before), _size_row("after", result.after)]
    return table((*headers, "neurons", "pieces"), rows)


def _size_row(name: str, size: "Size") -> tuple[str, ...]:
    return (
        name,
        f"{size.parameters:,}",
        f"{size.nonzero / size.parameters:.0%}",
        f"{size.fp32_mb:.1f}",
        f"{size.int8_mb:.1f}",
        f"{size.mflops:.0f}",
        str(size.layers),
        _numbers(size.heads),
        _numbers(size.neurons),
        f"{size.vocabulary:,}",
    )


def _numbers(numbers: Sequence[int]) -> str:
    if not numbers:
        return "-"
    if len(set(numbers)) == 1:
        return f"{numbers[0]} each"
    return f"{min(numbers)} to {max(numbers)}"


def _quality(quality: "Quality") -> str:
    if quality.metric == "accuracy":
        return f"accuracy {quality.value:.2%}"
    return f"{quality.metric} {quality.value:.4f}"


def recipes_table(recipes: "Sequence[Recipe]") -> str:
    """One line for each recipe."""
    width = max(len(recipe.title) for recipe in recipes)
    return table(
        ("name", "what it does".ljust(width)),
        [(recipe.name, recipe.title.ljust(width)) for recipe in recipes],
    )


def recipe_text(recipe: "Recipe") -> str:
    """A recipe as the TOML that would give it, without what is at its default."""
    lines = _plain(recipe, ("name",))
    if entries := _plain(recipe.student):
        lines += ["", "[student]", *entries]
    if recipe.vocabulary is not None:
        lines += ["", "[vocabulary]", *_plain(recipe.vocabulary)]
    for stage in recipe.stages:
        lines += ["", "[[stages]]", *_plain(stage)]
        for name in ("augmentation", "span"):
            if getattr(stage, name) is not None:
                lines += ["", f"[stages.{name}]", *_plain(getattr(stage, name))]
        for name in ("train", "prune", "sparsity", "losses"):
            for entry in getattr(stage, name):
                lines += ["", f"[[stages.{name}]]", *_plain(entry)]
    return "\n".join(lines)


def _plain(part: Any, leave_out: tuple[str, ...] = ()) -> list[str]:
    """``key = value`` of the entries that are no tables and not at their default."""
    return [
        f"{entry.name} = {toml_value(value)}"
        for entry in fields(part)
        if entry.repr and entry.name not in leave_out
        for value in (getattr(part, entry.name),)
        if not _is_table(value) and value != _default(entry)
    ]


def _is_table(value: Any) -> bool:
    several = isinstance(value, tuple) and value and is_dataclass(value[0])
    return value is None or is_dataclass(value) or bool(several)


def _default(entry: "Field[Any]") -> Any:
    return None if entry.default is MISSING else entry.default
