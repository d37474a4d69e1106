"""The page of results: Markdown, every figure of which comes from the JSON files."""

import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.compress.catalogue import ORDER
from benchmarks.compress.comparing import Difference, against_control, against_teacher
from benchmarks.compress.controls import KINDS
from benchmarks.compress.data import CHOICES_SHARE
from benchmarks.compress.result import TEACHER, THROUGHPUT, TIMES, Result, flags, read_results
from benchmarks.compress.times import BASELINE
from benchmarks.race.statistics import Ratio, speedup
from edgeformer.uncertainty import wilson

_REMARKS = Path(__file__).parent / "remarks.toml"
_ENGINES = ("tflite-int8", "onnx-int8", "numpy-int8")


@dataclass(frozen=True)
class Table:
    """What there is of one data set.

    Attributes:
        name: of the set.
        runs: for each run its results, one a seed, in order of the seeds.
        times: as ``times.measure`` gives them; empty if nothing was timed.
    """

    name: str
    runs: dict[str, list[Result]]
    times: dict[str, Any]

    @property
    def teacher(self) -> Result:
        """The fine-tuned model that all learn from."""
        return self.runs[TEACHER][0]

    @property
    def recipes(self) -> list[str]:
        """Names of what is no control and no teacher, in the order of the benchmark."""
        names = [n for n, rs in self.runs.items() if n != TEACHER and not rs[0].is_control]
        place = {name: i for i, name in enumerate(ORDER)}
        return sorted(names, key=lambda name: (place.get(name, len(ORDER)), name))


def published(folder: Path) -> list[Path]:
    """The folders of data sets below ``folder``."""
    return sorted(path for path in folder.iterdir() if (path / f"{TEACHER}-0.json").exists())


def markdown(folders: Sequence[Path]) -> str:
    """The whole page."""
    parts = ["# Compression recipes, measured\n", _HOW]
    for folder in folders:
        parts += _of_set(read_table(folder))
    throughput = [folder / THROUGHPUT for folder in folders if (folder / THROUGHPUT).exists()]
    for path in throughput:
        parts += ["\n## Training throughput\n", *_throughput(json.loads(path.read_text()))]
    return "\n".join(parts) + "\n"


_HOW = f"""\
Made by `make bench-compress`; do not edit. [Recipes](../recipes.md) says what each does.

- **Teacher**: all-MiniLM-L6-v2, fine-tuned by the recipe `finetune` on the training texts that are
  not held out. {CHOICES_SHARE:.0%} of them are held out, by a seed, for choices; the test is
  read once for each finished model.
- **Student**: made by the recipe with its own settings, converted to int8 on three engines with the
  held-out texts as `--calibration`. Where an engine's file misses the proof, `edgeformer convert`
  writes no bundle; for this table it was forced, and the third table says **refused**.
- **Controls**, at equal size and steps.
  *random*: {KINDS["random"]}.
  *plain*: {KINDS["plain"]}.
- **Scale** is the share of the recipe's own steps that was trained: below 1 a recipe had less
  training than it asks for, and so had its control.
- Intervals hold 95 %: accuracies Wilson's, differences a paired bootstrap over the texts. `p` is
  McNemar's, mid-p.
"""


def read_table(folder: Path) -> Table:
    """The results of one data set."""
    runs: dict[str, list[Result]] = {}
    for result in read_results(folder):
        runs.setdefault(result.run, []).append(result)
    found = {name: sorted(rs, key=lambda r: r.seed) for name, rs in runs.items()}
    path = folder / TIMES
    times = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return Table(next(iter(found.values()))[0].data, found, times)


def _of_set(table: Table) -> Iterator[str]:
    texts = len(table.teacher.right)
    yield f"\n## {_TITLES.get(table.name, table.name)}: {texts} test texts\n"
    yield from _machine(table)
    yield "\n### Students\n"
    yield from _students(table)
    yield "\n### Against their controls\n"
    yield "Both in PyTorch, float32; *better* and *worse* where the interval does not hold 0.\n"
    yield from _controls(table)
    yield "\n### What int8 changes, on three engines\n"
    yield from _gates(table)
    missing = [name for name in ORDER if name not in table.runs]
    if missing:
        yield f"\nNot run: {', '.join(f'`{name}`' for name in missing)}."


_TITLES = {"sst2": "SST-2", "trec": "TREC questions", "injection": "Prompt injection"}


def _machine(table: Table) -> Iterator[str]:
    about = table.teacher.machine
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    seeds = sorted({r.seed for rs in table.runs.values() for r in rs})
    yield (
        f"{about['cpu']} ({', '.join(about['isa'])}), {about['cpus']} CPUs, {about['system']},"
        f" Python {about['python']}; {versions}; NumPy's BLAS {about['blas']}."
        f" Trained on {about['threads']} thread, {about['torch_products']}."
        f" Seeds: {', '.join(map(str, seeds))}; the teacher's is 0."
    )
    if table.times:
        rows = table.times["rows"]
        share = fmean(rows[BASELINE]["cpu_ms"]) / fmean(rows[BASELINE]["wall_ms"])
        yield (
            f"\nSpeed: {len(rows[BASELINE]['cpu_ms'])} rounds of {table.times['texts']} held-out"
            " texts of natural length, one a call, text in to label out, one thread, all models in"
            " turns; the processor time of stock ONNX Runtime fp32 with the teacher over that of"
            " the bundle"
            f" ({fmean(rows[BASELINE]['cpu_ms']):.2f} ms a text; it had the processor"
            f" {share:.0%} of the time)."
        )


def _students(table: Table) -> Iterator[str]:
    yield _row(
        "recipe", "student", "M values", "int8 MB", "FLOPs", "int8 test %", "against the teacher",
        "p", "speed", "CPU min", "scale",
    )  # fmt: skip
    yield "|---|---|---:|---:|---:|---|---|---:|---|---:|---:|"
    for name in (TEACHER, *table.recipes):
        runs = table.runs[name]
        first = runs[0]
        against = against_teacher(runs, table.teacher)
        yield _row(
            f"`{name}`" if name != TEACHER else "the teacher",
            _shape(first),
            f"{first.parameters / 1e6:.1f}" + _zeros(first),
            next((_megabytes(r) for r in runs if r.gates), ""),
            f"{first.mflops / table.teacher.mflops:.2f}",
            _accuracy(runs),
            _points(against),
            f"{against.p_mid:.2g}",
            _speed(table, first),
            f"{fmean(r.cpu_minutes for r in runs):.1f}" if first.cpu_minutes else "",
            f"{first.scale:g}",
        )


def _controls(table: Table) -> Iterator[str]:
    yield _row("recipe", "control", "recipe %", "control %", "difference", "p", "verdict")
    yield "|---|---|---:|---:|---|---:|---|"
    remarks = tomllib.loads(_REMARKS.read_text(encoding="utf-8")).get(table.name, {})
    said: list[str] = []
    for name in table.recipes:
        runs = table.runs[name]
        for kind, run in runs[0].controls.items():
            others = table.runs.get(run, [])
            found = against_control(runs, others)
            if found is None:
                continue
            yield _row(
                f"`{name}`",
                kind,
                _share(runs),
                _share(others),
                _points(found),
                f"{found.p_mid:.2g}",
                f"**{found.verdict}**" if found.verdict != "better" else found.verdict,
            )
        if name in remarks:
            said.append(f"- `{name}`: {remarks[name]}")
    if said:
        yield "\nWhy, as far as known:\n"
        yield from said


def _gates(table: Table) -> Iterator[str]:
    yield (
        "The conversion's proof on held-out texts: share of PyTorch's answers kept, and the lowest"
        " cosine of a class's logits. Then the share of the test texts on which the chosen engine"
        " answers as PyTorch does.\n"
    )
    yield _row("recipe", *_ENGINES, "chosen", "same answers on the test", "")
    yield "|---|---|---|---|---|---:|---|"
    for name in (TEACHER, *table.recipes):
        for result in table.runs[name]:
            title = f"`{name}`" + (f", seed {result.seed}" if result.seed else "")
            yield _row(title, *_gate_cells(result))


def _gate_cells(result: Result) -> list[str]:
    cells = []
    for engine in _ENGINES:
        gate = result.gates.get(engine)
        cells.append(f"{gate.top1:.1%}, {gate.min_cosine:.4f}" if gate else "")
    refused = f"**refused**: {result.failure}" if result.failure else ""
    same = f"{result.agreement:.2%}" if result.gates else ""
    return [*cells, result.chosen, same, refused]


def _throughput(found: dict[str, Any]) -> Iterator[str]:
    yield (
        f"`python -m benchmarks.training_throughput`: {found['batch']} texts of"
        f" {found['tokens'] // 2} to {found['tokens']} tokens a step, all-MiniLM-L6-v2 cut to half"
        " of its layers, float32, one thread; both take turns in one process. Above 1 the trainer"
        " is faster than the same steps written by hand.\n"
    )
    yield _row("what", "ratio", "over the turns", "ms a step")
    yield "|---|---:|---|---:|"
    for row in found["rows"]:
        spread = f"{row['low']:.3f} to {row['high']:.3f} ({row['turns']})"
        yield _row(row["name"], f"{row['ratio']:.3f}", spread, f"{row['ms']:.0f}")
    ours, by_hand = found["peak_mb"]
    yield f"\nPeak memory with a teacher: {ours:.0f} MB, by hand {by_hand:.0f} MB."


def _shape(r: Result) -> str:
    parts = [f"{r.layers} layer{'s' * (r.layers != 1)}"]
    if r.heads:
        parts.append(f"{_mean(r.heads)} heads")
    if r.neurons:
        blocks = len(r.neurons) // r.layers
        parts.append((f"{blocks} x " if blocks > 1 else "") + f"{_mean(r.neurons)} neurons")
    return ", ".join([*parts, f"{r.hidden} wide"])


def _mean(counts: Sequence[int]) -> str:
    return f"{counts[0]}" if len(set(counts)) == 1 else f"about {fmean(counts):.0f}"


def _zeros(r: Result) -> str:
    share = 1 - r.nonzero / r.parameters
    return f" ({share:.0%} zeros)" if share >= 0.05 else ""


def _megabytes(r: Result) -> str:
    return f"{r.gates[r.chosen].bytes / 1e6:.1f}" if r.chosen in r.gates else ""


def _accuracy(runs: Sequence[Result]) -> str:
    answered = [r.int8_right for r in runs if r.int8_right]
    if not answered:
        return ""
    shares = [100 * flags(right).mean() for right in answered]
    if len(runs) > 1:
        spread = f" ± {stdev(shares):.1f}" if len(shares) > 1 else ""
        return f"{fmean(shares):.1f}{spread} ({len(shares)} of {len(runs)} seeds)"
    interval = wilson(answered[0].count("1"), len(answered[0]))
    return f"{shares[0]:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def _share(runs: Sequence[Result]) -> str:
    return f"{fmean(100 * flags(r.right).mean() for r in runs):.1f}"


def _points(found: Difference) -> str:
    low, high = found.interval.low, found.interval.high
    return f"{found.points:+.1f} ({low:+.1f} to {high:+.1f})"


def _speed(table: Table, result: Result) -> str:
    rows = table.times.get("rows", {})
    row = rows.get(result.name, {})
    if not row or row.get("bundle") != result.bundle:
        return ""
    ratio = _ratio(row["cpu_ms"], rows[BASELINE]["cpu_ms"])
    return f"{ratio.median:.1f}x ({ratio.low:.1f} to {ratio.high:.1f})"


def _ratio(rounds: Sequence[float], baseline: Sequence[float]) -> Ratio:
    return speedup([[ms] for ms in rounds], [[ms] for ms in baseline])


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in cells) + " |"
