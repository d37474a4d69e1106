"""What a board says of itself, its tokenizer, and its errors."""

import json
import re
from pathlib import Path

import pytest

from tests.arm.guest import Guest
from tools.emulator.boards import CPUS, HOST, REFERENCE_BLAS, USERLANDS, Board

pytestmark = pytest.mark.arm

MODELS = {
    "cortex-a53": "Cortex-A53",
    "cortex-a72": "Cortex-A72",
    "cortex-a76": "Cortex-A76",
    "cortex-a7": "Cortex-A7",
    "arm1176": "ARM1176",
    "haswell": "Haswell",
}


def test_doctor_is_right(guest: Guest, board: Board) -> None:
    done = guest.edgeformer("doctor", "--json")
    found = json.loads(done.stdout)
    machine = found["machine"]
    assert machine["cpu_model"] == MODELS[board.cpu]
    assert machine["bits"] == (32 if CPUS[board.cpu].qemu == "qemu-arm" else 64)
    assert ("asimddp" in machine["isa"]) == (board.cpu == "cortex-a76")
    assert "avx512_vnni" not in machine["isa"]
    assert found["blas"]["is_reference"] == (board.blas == REFERENCE_BLAS)
    told = [advice["hint"] for advice in found["advice"]]
    assert ("sudo apt install libopenblas0" in told) == (board.blas == REFERENCE_BLAS)
    if board.userland != HOST:
        assert machine["python"].split()[1].startswith(USERLANDS[board.userland].python)
    states = {check["engine"]: check["state"] for check in found["engines"]}
    works = {engine for engine, state in states.items() if state == "works"}
    assert works == set(guest.engines)
    # tflite-runtime is installed on one board, and answers wrongly there: that is for test_controls
    fails = {engine for engine, state in states.items() if state == "fails"}
    assert fails == ({"tflite"} if "tflite-runtime" in board.sites else set())
    assert done.returncode == (1 if fails else 0)


def test_run_and_benchmark_work_from_the_command_line(guest: Guest, classifier: Path) -> None:
    done = guest.edgeformer("run", classifier, "the film was lovely", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["name"] == "LABEL_1"
    done = guest.edgeformer("benchmark", classifier, "--runs", 3, "--json")
    assert done.returncode == 0, done.stderr
    states = {r["engine"]: r["state"] for r in json.loads(done.stdout)["results"]}
    assert {engine for engine, state in states.items() if state == "measured"} >= set(guest.engines)


def test_tokenizer_is_identical_on_all_code_points(guest: Guest, host: Guest, minilm: Path) -> None:
    request = {"tokenizer": str(minilm / "tokenizer" / "tokenizer.json")}
    ours, theirs = guest.ask("code_points", request), host.ask("code_points", request)
    assert [block for block in theirs if ours[block] != theirs[block]] == []


def test_errors_are_the_hosts(guest: Guest, host: Guest, classifier: Path) -> None:
    def errors(asked: Guest) -> object:
        request = {"bundle": str(classifier), "scratch": str(asked.scratch)}
        answer = json.dumps(asked.ask("errors", request))
        return json.loads(re.sub(re.escape(str(asked.scratch)), "SCRATCH", answer))

    ours, theirs = errors(guest), errors(host)
    assert ours == theirs
    assert isinstance(theirs, dict)
    assert [name for name, answer in theirs.items() if answer[0] == "no error"] == []
