"""How fast the students answer, text in to label out, beside the teacher in stock ONNX Runtime.

All live at once, each in a process of its own that is stopped but in its turn; a round asks every
one the same texts, one a call, in an order drawn anew. The ratio of a round is that of its means:
texts of natural lengths weigh as they do in use.
"""

import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.compress import timed_bundle, timed_teacher
from benchmarks.compress.data import texts_of
from benchmarks.compress.result import TEACHER, Result
from benchmarks.compress.run import machine
from benchmarks.race.process import Worker
from edgeformer.machine import read_state

ROUNDS = 9
TEXTS = 40
WARM = 4
THREADS = 1
BASELINE = "stock"
_OPEN_SECONDS = 120


def measure(folder: Path, results: Sequence[Result]) -> dict[str, Any]:
    """Time the teacher and every result that has a bundle.

    Args:
        folder: of the data set, with ``runs`` and ``data``.
        results: of its ``results``.

    Returns:
        For each by its name, and for the teacher by ``BASELINE``: ``wall_ms`` and ``cpu_ms`` of
        each round, the mean of its calls; the bundle's digest; the variant.
    """
    there = [r for r in results if r.bundle and (folder / "runs" / r.name / "bundle.edge").exists()]
    before = read_state()
    contenders = {r.name: (timed_bundle.__name__, folder / "runs" / r.name) for r in there}
    rows = side_by_side(folder, contenders)
    for result in there:
        rows[result.name]["bundle"] = result.bundle
    return {
        "machine": machine(bf16=False),
        "load_before": before.load_1min,
        "load_after": read_state().load_1min,
        "started": before.time,
        "texts": len(_texts(folder)),
        "threads": THREADS,
        "rows": rows,
    }


def side_by_side(
    folder: Path, contenders: Mapping[str, tuple[str, Path]]
) -> dict[str, dict[str, Any]]:
    """Rounds of contenders and of the teacher, all in turns.

    Args:
        folder: of the data set.
        contenders: by name, the module that opens it and the folder that the module is given.

    Returns:
        For each by its name, and for the teacher by ``BASELINE``: ``wall_ms`` and ``cpu_ms`` of
        each round, the mean of its calls; and what it chose, as ``variant``.
    """
    teacher = folder / "runs" / f"{TEACHER}-0"
    if not (teacher / timed_teacher.FILE).exists():
        timed_teacher.prepare(teacher)
    texts = _texts(folder)
    inputs = [[text] for text in (*texts[:WARM], *texts)]
    with ExitStack() as stack:
        workers = {BASELINE: _worker(timed_teacher.__name__, teacher, stack)}
        for name, (module, given) in contenders.items():
            workers[name] = _worker(module, given, stack)
        rows = _rounds(workers, inputs)
        for name, worker in workers.items():
            worker.resume()
            rows[name]["variant"] = worker.ask({"command": "describe"})["chosen"]
            worker.suspend()
    return rows


def _worker(module: str, folder: Path, stack: ExitStack) -> Worker:
    """A process that has answered once, stopped until its turn."""
    print(f"opening {folder.name}", file=sys.stderr)
    worker = stack.enter_context(Worker(Path(sys.executable), module, folder, THREADS))
    worker.ask(
        {"command": "time", "inputs": [["A text."], ["Another one."]], "warm": 1}, _OPEN_SECONDS
    )
    worker.suspend()
    return worker


def _rounds(workers: dict[str, Worker], inputs: list[list[str]]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {n: {"wall_ms": [], "cpu_ms": []} for n in workers}
    order = random.Random(0)
    for _ in range(ROUNDS):
        for name in order.sample(list(workers), len(workers)):
            workers[name].resume()
            answer = workers[name].ask({"command": "time", "inputs": inputs, "warm": WARM})
            workers[name].suspend()
            for kind, samples in (("wall_ms", answer["ms"]), ("cpu_ms", answer["cpu_ms"])):
                rows[name][kind].append(sum(samples) / len(samples))
    return rows


def _texts(folder: Path) -> list[str]:
    """``TEXTS`` of the held-out ones, evenly spaced."""
    texts = texts_of(folder / "data" / "choices.tsv")
    step = max(1, len(texts) // TEXTS)
    return texts[::step][:TEXTS]
