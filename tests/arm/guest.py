"""A Python to ask: of an emulated board, or this host's own."""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SCRIPTS = Path(__file__).parent / "scripts"
Answers = dict[str, np.ndarray]
# Of the host, and not the board's business.
_HOST_VARIABLES = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "OPENBLAS_CORETYPE", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Guest:
    """One Python with EdgeFormer's wheel.

    Attributes:
        name: of the board, or ``host``.
        python: its interpreter.
        site: folder where the wheel is unpacked.
        variants: that are expected to work there.
        scratch: folder for its answers, kept for the test run: the same question is asked once.
    """

    name: str
    python: Path
    site: Path
    variants: tuple[str, ...]
    scratch: Path = field(compare=False)

    def run(self, *arguments: object, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run ``python ARGUMENTS`` there."""
        environment = {k: v for k, v in os.environ.items() if k not in _HOST_VARIABLES}
        return subprocess.run(
            [str(self.python), *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            env={**environment, "PYTHONPATH": str(self.site), "OMP_NUM_THREADS": "1"},
            cwd=self.scratch,
        )

    def edgeformer(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """Run the command line there."""
        return self.run("-m", "edgeformer", *arguments)

    def ask(self, script: str, request: dict[str, Any]) -> Any:
        """Run scripts/SCRIPT.py on ``request``; JSON both ways."""
        done = self.run(SCRIPTS / f"{script}.py", stdin=json.dumps(request))
        assert done.returncode == 0, (
            f"{script}.py on {self.name}: status {done.returncode}\n{done.stderr[-3000:]}"
        )
        return json.loads(done.stdout)

    def answers(self, bundle: Path, variant: str, texts: Sequence[str] = ()) -> Answers:
        """What one variant answers: ``alone`` and ``batch``, or a plain module's outputs."""
        return self.all_answers(bundle, {variant: texts})[variant]

    def all_answers(self, bundle: Path, texts: Mapping[str, Sequence[str]]) -> dict[str, Answers]:
        """The same of several variants, asked in one process: starting one takes seconds.

        Args:
            bundle: of texts, or of a plain module.
            texts: by variant; none for a plain module.
        """
        files = {variant: self._file(bundle, variant, texts[variant]) for variant in texts}
        missing = [variant for variant, file in files.items() if not file.exists()]
        if missing:
            questions = [(v, list(texts[v]), str(files[v])) for v in missing]
            self.ask("answers", {"bundle": str(bundle), "questions": questions})
        return {variant: dict(np.load(file)) for variant, file in files.items()}

    def _file(self, bundle: Path, variant: str, texts: Sequence[str]) -> Path:
        question = json.dumps([str(bundle), variant, list(texts)])
        return self.scratch / f"{hashlib.sha256(question.encode()).hexdigest()[:16]}.npz"
