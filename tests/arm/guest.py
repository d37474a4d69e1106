"""A Python to ask: of an emulated board, or this host's own."""

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SCRIPTS = Path(__file__).parent / "scripts"
# Of the host, and not the board's business.
_HOST_VARIABLES = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "OPENBLAS_CORETYPE", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Guest:
    """One Python with EdgeFormer's wheel.

    Attributes:
        name: of the board, or ``host``.
        python: its interpreter.
        site: folder where the wheel is unpacked.
        engines: that are expected to work there.
        scratch: folder for its answers, kept for the test run: the same question is asked once.
    """

    name: str
    python: Path
    site: Path
    engines: tuple[str, ...]
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
        assert done.returncode == 0, f"{self.name}: status {done.returncode}\n{done.stderr[-3000:]}"
        return json.loads(done.stdout)

    def answers(self, bundle: Path, variant: str, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """What one variant answers: ``alone`` and ``batch``, or a plain module's outputs."""
        question = {"bundle": str(bundle), "variant": variant, "texts": list(texts)}
        digest = hashlib.sha256(json.dumps(question).encode()).hexdigest()[:16]
        path = self.scratch / f"{digest}.npz"
        if not path.exists():
            self.ask("answers", {**question, "output": str(path)})
        return dict(np.load(path))
