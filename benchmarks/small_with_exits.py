"""A small model with exits beside its teacher in stock ONNX Runtime fp32: how fast, and how good.

    python -m benchmarks.small_with_exits WORK BUNDLE --rule 0.2 [--rule auto]

WORK is a data set's folder of ``benchmarks.compress`` (build/compress/sst2), with its teacher.
The rule is to be chosen on WORK/data/choices.tsv. Speed: all live at once, one thread each, one
text a call, text in to label out, in rounds as `benchmarks.compress --times` has them. Accuracy:
the test, each text by itself, against what the teacher in PyTorch has right.
"""

import argparse
import json
import statistics
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.compress import timed_exits, times
from benchmarks.compress.comparing import difference
from benchmarks.compress.result import TEACHER, flags, read_result
from edgeformer.data import read_rows, row_texts
from edgeformer.runtime import load


def main() -> None:
    """Print a line for each rule; None is the bundle without exits."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rule", action="append", default=[])
    given = parser.parse_args()
    rules: list[str | None] = [None, *given.rule]
    speeds = _speeds(given.work, given.bundle, rules)
    teacher = flags(read_result(given.work / "results" / f"{TEACHER}-0.json").right)
    print(f"teacher, PyTorch fp32: {100 * teacher.mean():.2f} % of {len(teacher)} texts")
    with closing(load(given.bundle, threads=1)) as model:
        print(f"{model.variant.id} of {given.bundle.name}; speed by stock ONNX Runtime fp32")
        for rule, ratios in zip(rules, speeds, strict=True):
            right, layers = _right(model, given.work / "data" / "test.tsv", rule)
            points = difference([flags(right)], [teacher])
            low, high = points.interval.low, points.interval.high
            lost = f"{points.points:+.2f} points ({low:+.2f} to {high:+.2f})"
            speed = f"{statistics.median(ratios):.1f}x ({min(ratios):.1f} to {max(ratios):.1f})"
            accuracy = f"{100 * flags(right).mean():.2f} %"
            print(f"  exit {rule}: {speed}; {accuracy}, {lost}; {layers:.2f} layers")


def _speeds(work: Path, bundle: Path, rules: list[str | None]) -> list[list[float]]:
    """For each rule the ratio of each round's processor time, the teacher's by its."""
    with tempfile.TemporaryDirectory() as name:
        folders = {}
        for rule in rules:
            folder = folders[str(rule)] = Path(name) / str(rule)
            folder.mkdir()
            request = json.dumps({"bundle": str(bundle.absolute()), "rule": rule})
            (folder / timed_exits.REQUEST).write_text(request, encoding="utf-8")
        rows = times.side_by_side(work, {n: (timed_exits.__name__, f) for n, f in folders.items()})
    stock = rows[times.BASELINE]["cpu_ms"]
    return [[a / b for a, b in zip(stock, rows[str(r)]["cpu_ms"], strict=True)] for r in rules]


def _right(model: Any, test: Path, rule: str | None) -> tuple[str, float]:
    """A 1 or 0 for each text, and the mean of the layers."""
    right, layers = "", []
    for row in read_rows(test):
        label = model.classify(row_texts(row)[0], exit=rule)[0]
        right += "1" if label.name == str(row.values["label"]) else "0"
        layers.append(label.exit_layer or model.variant.exits.layers[-1])
    return right, statistics.mean(layers)


if __name__ == "__main__":
    main()
