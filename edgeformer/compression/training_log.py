"""What each step did, one JSON object on a line."""

import json
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from edgeformer.compression import distributed
from edgeformer.compression.trainer import Step


class TrainingLog:
    """A JSONL file, written by process 0 alone.

    Args:
        path: of the file.
        after: stage and step after which the training goes on; lines beyond them, of steps that
            were done but not kept, go.
    """

    def __init__(self, path: Path, after: tuple[int, int]) -> None:
        self._path = path
        self._after = after

    def __enter__(self) -> "TrainingLog":
        self._writes = distributed.rank() == 0
        if self._writes:
            kept = self._kept_lines()
            self._file = self._path.open("w", encoding="utf-8", buffering=1)
            self._file.writelines(kept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None
    ) -> None:
        if self._writes:
            self._file.close()

    def write(self, number: int, step: Step) -> None:
        """Add a line: the number of the stage, and everything that ``trainer.Step`` has."""
        if self._writes:
            self._file.write(json.dumps({"stage_number": number, **asdict(step)}) + "\n")

    def _kept_lines(self) -> list[str]:
        if self._after == (0, 0) or not self._path.is_file():
            return []
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n"):  # cut off by a kill
                continue
            entry = json.loads(line)
            if (entry["stage_number"], entry["step"]) <= self._after:
                kept.append(line)
        return kept
