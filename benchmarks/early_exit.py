"""What early exit costs and saves on this machine, and whether a budget of time is kept.

    python -m benchmarks.early_exit BUNDLE TEXTS [--engine NAME ...] [--rounds N] [--budgets]

TEXTS has one text a line, or a column ``text``. Prints tables for docs/early_exit.md, engine by
engine, on one thread.

- ``nobody leaves``: time through all segments by that through ``main``. In each round all texts are
  answered one way, then all the other way, so that each finds its own weights in the caches, as in
  use. Of a text's times the least counts, which other work on the machine disturbs least; beside it
  stand the ratios of the rounds by themselves.
- ``leaving``: the same with exits taken, and the layers a text went through.
- ``--budgets``: each text once for each budget, a share of the median time of all layers; a call is
  late if it took longer than ``latency_ms`` as a caller measures it.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from edgeformer.data import read_texts
from edgeformer.errors import InputError
from edgeformer.runtime import load
from edgeformer.runtime.model import Model

ENTROPIES = (0.0208, 0.2)
BUDGETS = (0.5, 0.7, 1.0, 1.3)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--engine", action="append", choices=("numpy", "onnx", "tflite"))
    parser.add_argument("--most", type=int, default=200, help="texts, the first ones")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--budgets", action="store_true")
    given = parser.parse_args()
    texts = [text for text, _ in read_texts(given.texts)][: given.most]
    for engine in given.engine or ("numpy", "onnx", "tflite"):
        with load(given.bundle, engine=engine, threads=1) as model:
            if given.budgets:
                budgets(model, texts)
            else:
                costs(model, texts, given.rounds)


def costs(model: Model, texts: list[str], rounds: int) -> None:
    """Print what exits cost and save."""
    ways: dict[str, Callable[[str], object]] = {
        "main": model.classify,
        "nobody leaves": lambda text: model.classify(text, exit=0.0),
    }
    for entropy in ENTROPIES:
        ways[f"below {entropy:g}"] = lambda text, e=entropy: model.classify(text, exit=e)
    seconds: dict[str, list[list[float]]] = {way: [] for way in ways}
    for _ in range(rounds + 1):
        for way, call in random.sample(list(ways.items()), len(ways)):
            seconds[way].append([_seconds(call, text) for text in texts])
    base = _least(seconds["main"])
    print(f"{model.variant.id}, {len(texts)} texts, mean of main {1000 * base:.3f} ms")
    for way, table in seconds.items():
        ratios = sorted(
            sum(row) / sum(whole) for row, whole in zip(table[1:], seconds["main"][1:], strict=True)
        )
        print(
            f"  {way:14} {1000 * _least(table):7.3f} ms, {_least(table) / base:.3f} of main;"
            f" rounds {ratios[0]:.3f} to {ratios[-1]:.3f}, median {statistics.median(ratios):.3f}"
        )


def budgets(model: Model, texts: list[str]) -> None:
    """Print how often a call ends in time."""
    whole = sorted(_seconds(model.classify, text) for text in texts[:100])[50]
    for text in texts:  # what a length takes is measured when it is first met
        model.classify(text, latency_ms=1e6)
    print(f"{model.variant.id}, {len(texts)} texts, median of main {1000 * whole:.3f} ms")
    for share in BUDGETS:
        limit = 1000 * whole * share
        over, layers, refused = [], [], 0
        for text in texts:
            begun = time.perf_counter()
            try:
                (label,) = model.classify(text, latency_ms=limit)
            except InputError:
                refused += 1  # its first segment takes longer than that
                continue
            over.append(1000 * (time.perf_counter() - begun) - limit)
            layers.append(label.exit_layer or 0)
        late = sum(o > 0 for o in over)
        print(
            f"  {limit:7.3f} ms: {100 * (1 - late / max(len(over), 1)):6.2f} % in time, worst"
            f" {max(over, default=0):+.3f} ms, {statistics.mean(layers or [0]):.2f} layers,"
            f" {refused} refused"
        )


def _seconds(call: Callable[[str], object], text: str) -> float:
    begun = time.perf_counter()
    call(text)
    return time.perf_counter() - begun


def _least(table: list[list[float]]) -> float:
    """The mean over texts of each one's least time; the first round warms up."""
    return statistics.mean(min(column) for column in zip(*table[1:], strict=True))


if __name__ == "__main__":
    main()
