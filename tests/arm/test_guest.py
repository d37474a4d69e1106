"""What a board says of itself, its tokenizer, and its errors."""

import json
import re
from pathlib import Path

import pytest

from tests.arm.conftest import ALL_ENGINES
from tests.arm.guest import Guest
from tools.emulator.boards import BOARDS, CPUS, HOST, REFERENCE_BLAS, USERLANDS, Board

pytestmark = pytest.mark.arm

# The tokenizer is Python alone: one board for each Python is enough.
EVERY_PYTHON = [
    next(board for board in BOARDS if board.userland == userland)
    for userland in dict.fromkeys(board.userland for board in BOARDS)
]


def test_doctor_is_right(guest: Guest, board: Board) -> None:
    done = guest.edgeformer("doctor", "--json")
    found = json.loads(done.stdout)
    machine = found["machine"]
    assert machine["cpu_model"].lower() == board.cpu
    assert machine["emulator"] == CPUS[board.cpu].qemu
    assert machine["bits"] == (32 if CPUS[board.cpu].qemu == "qemu-arm" else 64)
    assert ("asimddp" in machine["isa"]) == (board.cpu == "cortex-a76")
    assert "avx512_vnni" not in machine["isa"]
    assert found["blas"]["name"] == ("reference" if board.blas == REFERENCE_BLAS else "openblas")
    told = [advice["hint"] for advice in found["advice"]]
    assert ("sudo apt install libopenblas0" in told) == (board.blas == REFERENCE_BLAS)
    if board.userland != HOST:
        assert machine["python"].split()[1].startswith(USERLANDS[board.userland].python)
    checks = {check["engine"]: check for check in found["engines"]}
    assert {engine: check["state"] for engine, check in checks.items()} == engine_states(board)
    assert done.returncode == (1 if "fails" in engine_states(board).values() else 0)
    if "tflite-runtime" in board.sites:
        failures = {v["precision"]: v["failure"] for v in checks["tflite"]["variants"]}
        assert failures["fp32"] == ""
        assert "tflite-runtime 2.14.0 is refused: it gives wrong answers" in failures["int8"]


def engine_states(board: Board) -> dict[str, str]:
    """What the doctor should find on a board."""
    if board.userland == HOST or "engines" in board.sites:
        return dict.fromkeys(ALL_ENGINES, "works")
    tflite = "fails" if "tflite-runtime" in board.sites else "not installed"
    return {"onnx": "not installed", "tflite": tflite, "numpy": "works"}


def test_run_and_benchmark_work_from_the_command_line(guest: Guest, classifier: Path) -> None:
    done = guest.edgeformer("run", classifier, "the film was lovely", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["labels"][0]["name"] == "class 1"
    done = guest.edgeformer("benchmark", classifier, "--iterations", 3, "--json")
    report = json.loads(done.stdout)
    states = {result["variant"]: result["state"] for result in report["results"]}
    assert {v for v, s in states.items() if s == "measured"} >= set(guest.variants)
    assert done.returncode == (1 if "failed" in states.values() else 0), done.stderr
    assert any("say nothing about a real CPU" in note for note in report["notes"])


@pytest.mark.parametrize("board", EVERY_PYTHON, indirect=True, ids=lambda board: board.name)
def test_tokenizer_is_identical_on_all_code_points(guest: Guest, host: Guest, minilm: Path) -> None:
    request = {"tokenizer": str(minilm / "tokenizer" / "tokenizer.json")}
    ours, theirs = guest.ask("code_points", request), host.ask("code_points", request)
    assert [block for block in theirs if ours[block] != theirs[block]] == []


def test_errors_are_the_hosts(guest: Guest, host: Guest, classifier: Path) -> None:
    def errors(asked: Guest) -> object:
        request = {"bundle": str(classifier), "scratch": str(asked.scratch)}
        answer = json.dumps(asked.ask("errors", request))
        return json.loads(re.sub(re.escape(str(asked.scratch)), "SCRATCH", answer))

    for command in (("inspect", "missing.edge"), ("run", classifier, "good", "--engine", "fast")):
        ran, there = guest.edgeformer(*command), host.edgeformer(*command)
        assert (ran.returncode, ran.stderr) == (there.returncode, there.stderr)
        assert ran.returncode > 0
    ours, theirs = errors(guest), errors(host)
    assert ours == theirs
    assert isinstance(theirs, dict)
    assert [name for name, answer in theirs.items() if answer[0] == "no error"] == []
