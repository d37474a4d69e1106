"""One model, called from eight threads at once: are answers the same, and is it slower?

    python -m benchmarks.eight_threads [BUNDLE] [--engine NAME ...] [--seconds 60] [--threads N]

For each engine one thread calls ``embed`` for a while, then eight threads do, on the same texts in
other orders, in turns. Every answer must equal, bit by bit, the one that a single thread got for
that text; anything else exits with 1. The ratio is the median over the turns of the texts per
second of eight by those of one: above 1 the threads get more done together than one alone.
"""

import argparse
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.held_out import held_out_texts
from edgeformer.machine import describe_machine
from edgeformer.pipeline import convert
from edgeformer.runtime import load
from edgeformer.runtime.engine import ENGINES

CALLERS = 8
TURNS = 6


def call_for(
    model: Any, texts: list[str], expected: list[Any], seconds: float, first: int
) -> tuple[int, int]:
    """Embed the texts in turn, from the ``first`` on; (calls, answers that differ)."""
    calls = wrong = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        k = (first + calls) % len(texts)
        wrong += not np.array_equal(model.embed(texts[k]), expected[k])
        calls += 1
    return calls, wrong


def measure(
    bundle: Path, engine: str, threads: int, seconds: float
) -> tuple[str, list[float], list[float], int]:
    """Variant, texts/s of one caller and of eight in each turn, answers that differ."""
    texts = held_out_texts(count=64)
    with load(bundle, engine=engine, threads=threads) as model:
        expected = [model.embed(text) for text in texts]
        wrong, alone, together = 0, [], []
        for _ in range(TURNS):
            calls, differ = call_for(model, texts, expected, seconds / TURNS / 2, 0)
            alone.append(calls / (seconds / TURNS / 2))
            rate, differing = eight_callers(model, texts, expected, seconds / TURNS)
            together.append(rate)
            wrong += differ + differing
        return model.variant.id, alone, together, wrong


def eight_callers(
    model: Any, texts: list[str], expected: list[Any], seconds: float
) -> tuple[float, int]:
    """Texts/s of all callers together, and answers that differ."""
    start = threading.Barrier(CALLERS)

    def work(number: int) -> tuple[int, int]:
        start.wait()
        return call_for(model, texts, expected, seconds, 7 * number)

    with ThreadPoolExecutor(CALLERS) as pool:
        done = list(pool.map(work, range(CALLERS)))
    return sum(calls for calls, _ in done) / seconds, sum(differ for _, differ in done)


def main() -> None:
    """Measure each engine and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--engine", action="append", choices=ENGINES)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1, help="threads of the engine itself")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bundle = args.bundle or default_bundle(Path(scratch))
        sys.exit(1 if compare(bundle, args) else 0)


def default_bundle(folder: Path) -> Path:
    """The embedded default model, converted for this CPU."""
    profile = "x86-vnni" if "avx512_vnni" in describe_machine().isa else "x86"
    return convert(profile=profile, output=folder / "model.edge").path


def compare(bundle: Path, args: argparse.Namespace) -> int:
    """Print a row for each engine; answers that differ."""
    print("| variant | texts/s, 1 caller | 8 callers | ratio | answers that differ |")
    print("|---|---|---|---|---|")
    differ = 0
    for engine in args.engine or ENGINES:
        variant, alone, together, wrong = measure(bundle, engine, args.threads, args.seconds)
        ratio = median(b / a for a, b in zip(alone, together, strict=True))
        rates = f"{median(alone):.0f} | {median(together):.0f} | {ratio:.2f}"
        print(f"| {variant} | {rates} | {wrong} |", flush=True)
        differ += wrong
    return differ


if __name__ == "__main__":
    main()
