"""Measuring on another machine: the verbs of this one, with a board behind them.

    with connect("pi@raspberrypi.local") as board:
        report = board.benchmark("model.edge", tokens=(16, 128))
        tuning = board.tune("model.edge")
        judged = board.evaluate("model.edge", "test.tsv")

Each verb takes the arguments and gives the result of the function of that name here, so that code
that measures can take either. The board needs python3 (3.11 or later), numpy and a place for the
files; nothing is installed there, and its temporary folder goes with the connection, however that
ends. docs/ssh.md says what is sent and when what is removed.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeformer.remote import answers
from edgeformer.remote.connection import Connection, Facts, Tell, call, names_of_here
from edgeformer.remote.package import check_bundle, check_file

if TYPE_CHECKING:
    from edgeformer.benchmarking.matrix import Counts
    from edgeformer.compression.examples import Columns
    from edgeformer.doctor import Diagnosis
    from edgeformer.evaluation.evaluate import EvaluationReport
    from edgeformer.report.schema import Report
    from edgeformer.tuning.tune import Tuning

SILENCE_SECONDS = 30.0
StrPath = str | os.PathLike[str]


def connect(
    target: str,
    *,
    python: str = "python3",
    config: StrPath | None = None,
    folder: str | None = None,
    silence_seconds: float = SILENCE_SECONDS,
    progress: Tell | None = None,
) -> "Board":
    """Call a board, see whether it will do, and send it what runs there.

    Args:
        target: ``[user@]host[:port]``, or an alias of ssh's configuration.
        python: of the board, with numpy; a path with ``~`` too.
        config: file for ssh instead of ~/.ssh/config.
        folder: of the board, where its temporary folder is made; None for $TMPDIR or /tmp there.
        silence_seconds: a link that is silent for so long is dead (the board waits twice as long).
        progress: called with what is being done.

    Raises:
        UsageError: a target or name that is none, or no ssh here.
        RemoteError: the board cannot be reached, or lacks what it needs.
    """
    tell = progress or (lambda what: None)
    return Board(call(target, python, config, folder, silence_seconds, tell))


class Board:
    """A board that has been called. A context manager; leaving it removes everything there."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; what runs on the board is killed, and its folder removed."""
        self._connection.close()

    @property
    def facts(self) -> Facts:
        """What the board says of itself."""
        return self._connection.facts

    @property
    def name(self) -> str:
        """Whose figures these are: the host's own name, and how it was called."""
        return f"{self.facts.host} ({self._connection.target})"

    def benchmark(
        self,
        path: StrPath,
        *,
        engines: Sequence[str] = (),
        text: str | None = None,
        tokens: "Counts" = None,
        batch: "Counts" = None,
        iterations: int | None = None,
        rounds: int | None = None,
        threads: "Counts" = None,
        per_layer: bool = False,
        exit: str | None = None,
        texts: StrPath | None = None,
        progress: Tell | None = None,
    ) -> "Report":
        """``edgeformer.benchmark`` on the board; the report's ``host`` says whose figures it has.

        Raises:
            RemoteError: the link dropped, or the board is full; and what ``benchmark`` raises.
        """
        check_bundle(Path(path))
        names = {"path": Path(path)}
        if texts is not None:
            check_file(Path(texts))
            names["texts"] = Path(texts)
        settings = {
            **{"engines": list(engines), "text": text, "tokens": tokens, "batch": batch},
            **{"iterations": iterations, "rounds": rounds, "threads": threads},
            **{"per_layer": per_layer, "exit": exit},
        }
        report = answers.read_report(self._ask("benchmark", names, settings, progress))
        facts = replace(report.bundle, path=os.fspath(path))
        return replace(report, bundle=facts, host=self.name)

    def evaluate(
        self,
        model: StrPath,
        data: StrPath,
        *,
        engine: str = "auto",
        threads: int | None = None,
        against: StrPath | None = None,
        columns: "Columns | None" = None,
        labels_map: Mapping[str, str] | None = None,
        minimums: Mapping[str, float] | None = None,
        on_long: str = "",
        exit: str | None = None,
        save_predictions: StrPath | None = None,
        force: bool = False,
        progress: Tell | None = None,
    ) -> "EvaluationReport":
        """``edgeformer.evaluate`` on the board, of a bundle; a note says whose answers these are.

        Raises:
            UsageError: a checkpoint, which needs PyTorch; and what ``evaluate`` raises.
            RemoteError: the link dropped, or the board is full.
        """
        from edgeformer.evaluation.answers import check_writable

        if save_predictions is not None:
            check_writable(Path(save_predictions), force)
        check_bundle(Path(model))
        check_file(Path(data))
        names = {"model": Path(model), "data": Path(data)}
        if against is not None and Path(against).exists():
            names["against"] = Path(against)
            if Path(against).suffix.lower() != ".jsonl":  # else predictions
                check_bundle(Path(against))
        settings = {
            **{"engine": engine, "threads": threads, "on_long": on_long, "exit": exit},
            **({} if "against" in names else {"against": against}),
            "columns": _column_names(columns),
            **{"labels_map": dict(labels_map or {}), "minimums": dict(minimums or {})},
            "save_predictions": None if save_predictions is None else "predictions.jsonl",
        }
        answer = self._ask("evaluate", names, settings, progress)
        report = answers.read_evaluation(answer["report"])
        if save_predictions is not None:
            _write(Path(save_predictions), answer["predictions"])
        notes = (*report.notes, f"answered on {self.name}")
        report = replace(report, model=os.fspath(model), data=os.fspath(data), notes=notes)
        if report.against:
            told = names_of_here(report.against.against, names)
            report = replace(report, against=replace(report.against, against=told))
        return report

    def tune(
        self,
        path: StrPath,
        *,
        output: StrPath | None = None,
        seconds: float | None = None,
        threads: int | None = None,
        force: bool = False,
        progress: Tell | None = None,
    ) -> "Tuning":
        """``edgeformer.tune`` on the board; its table is written here, and holds there.

        Raises:
            UsageError: a file that cannot be written here.
            RemoteError: the link dropped, or the board is full; and what ``tune`` raises.
        """
        from edgeformer.runtime.tuned import table_path
        from edgeformer.tuning.tune import DEFAULT_SECONDS, check_target

        target = table_path(path) if output is None else Path(output)
        check_target(target, output is not None)
        check_bundle(Path(path))
        settings = {"threads": threads, "force": force, "seconds": seconds or DEFAULT_SECONDS}
        answer = self._ask("tune", {"path": Path(path)}, settings, progress)
        tuning = answers.read_tuning(answer["tuning"], target)
        _write(target, answer["file"])
        note = f"measured on {self.name}: the table holds there, and is ignored elsewhere"
        return replace(tuning, notes=(*tuning.notes, note))

    def diagnose(self, progress: Tell | None = None) -> "Diagnosis":
        """``edgeformer.doctor.diagnose`` of the board."""
        return answers.read_diagnosis(self._ask("diagnose", {}, {}, progress))

    def _ask(
        self, verb: str, names: Mapping[str, Path], settings: Mapping[str, Any], tell: Tell | None
    ) -> Any:
        return self._connection.ask(verb, names, settings, tell or (lambda what: None))


def _column_names(columns: "Columns | None") -> dict[str, str]:
    """Columns as ``make_columns`` takes them."""
    if columns is None:
        return {}
    named = {"text": columns.text, "pair": columns.pair, "label": columns.label}
    return {key: name for key, name in named.items() if name is not None}


def _write(target: Path, text: str) -> None:
    """The whole file, or nothing."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
