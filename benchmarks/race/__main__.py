"""Run the race.

    python -m benchmarks.race [--quick] [--only NAME ...] [--threads N ...] [-o FOLDER]
    python -m benchmarks.race --show FOLDER/race.json

Installs each contender's environment and makes its files first (minutes, a few GB; both are kept in
the user's cache folder), then races. Markdown on stdout, race.json and race.md in FOLDER, progress
on stderr. docs/race.md says what is measured and how to read it.
"""

import argparse
import shlex
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.peers import CONTENDERS
from benchmarks.peers.bundle import BUNDLE
from benchmarks.race.environments import ContenderError
from benchmarks.race.inside import inside
from benchmarks.race.report import markdown
from benchmarks.race.result import RaceResult, from_json, to_json
from benchmarks.race.rounds import Entrant, Settings, empty_process, enter, run_field
from benchmarks.race.workloads import Workload, accuracy_texts, workloads
from edgeformer.machine import describe_machine, read_state
from edgeformer.pipeline import default_model

_QUICK = Settings(rounds=2, warm=1, cold_runs=1)
_INSIDE = {"short": "12", "medium": "40", "long": "128"}  # tokens, about


def main() -> None:
    """Measure, or show what was measured."""
    args = _arguments()
    if args.show:
        print(markdown(from_json(args.show)), end="")
        return
    names = args.only or [c.name for c in CONTENDERS]
    result = race(args, names)
    _write(args.output / "race.json", to_json(result))
    text = markdown(result)
    _write(args.output / "race.md", text)
    print(text, end="")


def race(args: argparse.Namespace, names: list[str]) -> RaceResult:
    """Set up, and measure at each thread count."""
    checkpoint = args.model or default_model()
    settings = _QUICK if args.quick else Settings()
    if args.rounds:
        settings = replace(settings, rounds=args.rounds)
    loads = workloads(checkpoint, args.texts, args.quick)
    texts = accuracy_texts(args.texts)
    entrants, missing = enter(names, checkpoint, tuple(shlex.split(args.pip_options)), _progress)
    machine, before = asdict(describe_machine()), asdict(read_state())
    counts = args.threads or [1, 2]
    fields = {n: run_field(entrants, n, loads, texts, settings, _progress) for n in counts}
    return RaceResult(
        machine=machine,
        before=before,
        after=asdict(read_state()),
        settings=asdict(settings) | {"started": before["time"]},
        workloads={w.name: _about(w) for w in loads},
        texts=len(texts),
        empty_process=empty_process(entrants[-1], settings.cold_runs) if entrants else {},
        missing=missing,
        fields=fields,
        inside=_inside(entrants, counts, loads),
    )


def _about(workload: Workload) -> dict[str, object]:
    return {
        "title": workload.title,
        "inputs": len(workload.inputs),
        "texts": len(workload.inputs[0]),
        "calls": workload.calls,
        "tokens": workload.tokens,
        "padding": workload.padding,
    }


def _inside(
    entrants: list[Entrant], counts: list[int], loads: list[Workload]
) -> dict[int, dict[str, object]]:
    bundles = [e.folder / BUNDLE for e in entrants if (e.folder / BUNDLE).exists()]
    if not bundles:
        return {}
    bundle = bundles[0]
    texts = {_INSIDE[w.name]: [text for (text, *_) in w.inputs] for w in loads if w.name in _INSIDE}
    found = {}
    for threads in counts:
        _progress(f"{threads} threads: inside our engines")
        try:
            found[threads] = inside(bundle, threads, texts)
        except ContenderError as error:
            print(f"inside: {error}", file=sys.stderr)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [c.name for c in CONTENDERS]
    parser.add_argument("--quick", action="store_true", help="2 rounds: does everything run?")
    parser.add_argument("--only", nargs="+", choices=known, metavar="NAME", help=", ".join(known))
    parser.add_argument("--threads", nargs="+", type=int, help="thread counts; 1 and 2")
    parser.add_argument("--rounds", type=int, help="interleaved rounds; 15")
    parser.add_argument("--model", type=Path, help="Hugging Face folder; the embedded default")
    parser.add_argument("--texts", type=Path, help="held-out texts instead of docstrings")
    parser.add_argument("--pip-options", default="", help="for torch, as in docs/install.md")
    parser.add_argument("--show", type=Path, metavar="JSON", help="print the report of a past race")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/race"))
    return parser.parse_args()


def _progress(message: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {message}", file=sys.stderr, flush=True)


def _write(path: Path, text: str) -> None:
    """Never a half-written file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


if __name__ == "__main__":
    main()
