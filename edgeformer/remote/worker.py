"""What runs on the board for one request: the same functions as here, their results as JSON.

The agent starts it (``python3 -m edgeformer.remote.worker``) in the folder where the files of the
request lie, writes the request on stdin, and forwards each line of stdout: ``progress`` while it
works, and at the end ``answer`` or ``failure``. NumPy and the standard library only.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeformer.errors import EdgeFormerError
from edgeformer.isolation import private_stdout

Tell = Callable[[str], None]


def benchmark(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """A Report as data."""
    from edgeformer.benchmarking.benchmark import benchmark as measure

    return measure(**arguments, progress=tell).as_dict()


def evaluate(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """An EvaluationReport as data, with the text of the predictions if they were asked for."""
    from edgeformer.evaluation.evaluate import evaluate as judge
    from edgeformer.evaluation.evaluate import make_columns

    columns = make_columns(arguments.pop("columns"))
    report = judge(**arguments, columns=columns, progress=tell).as_dict()
    file = arguments["save_predictions"]
    text = Path(file).read_text(encoding="utf-8") if file else ""
    return {"report": report, "predictions": text}


def tune(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """A Tuning as data, with the text of the file that ``load`` reads."""
    from edgeformer.tuning.tune import tune as race

    tuning = race(**arguments, progress=tell)
    return {"tuning": tuning.as_dict(), "file": tuning.path.read_text(encoding="ascii")}


def diagnose(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """A Diagnosis as data."""
    from edgeformer.doctor import diagnose as examine

    return examine(**arguments, progress=tell).as_dict()


VERBS = {"benchmark": benchmark, "evaluate": evaluate, "tune": tune, "diagnose": diagnose}


def main() -> None:
    """Answer the request on stdin."""
    out = private_stdout()

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message, default=str) + "\n")
        out.flush()

    request = json.load(sys.stdin)
    try:
        verb = VERBS[request["verb"]]
        answer = verb(request["arguments"], lambda name: say({"progress": name}))
    except EdgeFormerError as error:
        kind = type(error).__name__
        say({"failure": error.message, "hint": error.hint, "kind": kind})
    except OSError as error:  # above all, a disk that is full
        say({"failure": str(error), "hint": "", "kind": "RemoteError", "errno": error.errno})
    else:
        say({"answer": answer})


if __name__ == "__main__":
    main()
