"""The README's Python runs as printed and prints what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
EXAMPLE = re.compile(r"```python\n(?P<code>.*?)```\n+```\n(?P<output>.*?)```", re.DOTALL)


def _examples() -> list[tuple[str, str]]:
    return [(m["code"], m["output"]) for m in EXAMPLE.finditer(README.read_text())]


def test_there_are_two_examples() -> None:
    assert len(_examples()) == 2


@pytest.mark.parametrize("index", [0, 1])
def test_example_prints_what_the_readme_says(
    index: int, minilm_bundle: Path, tmp_path: Path
) -> None:
    code, expected = _examples()[index]
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "all-MiniLM-L6-v2.edge").symlink_to(minilm_bundle)
    (tmp_path / "example.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": str(README.parent)}
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for line, wanted in zip(done.stdout.splitlines(), expected.splitlines(), strict=True):
        score, text = _split(line)
        wanted_score, wanted_text = _split(wanted)
        assert text == wanted_text
        assert score == pytest.approx(wanted_score, abs=0.03)  # int8 differs between CPUs


def _split(line: str) -> tuple[float, str]:
    found = re.fullmatch(r"(-?\d\.\d\d)  (.*)", line)
    return (float(found[1]), found[2]) if found else (0.0, line)
