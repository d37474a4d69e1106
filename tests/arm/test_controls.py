"""Positive controls: what must fail on a board does fail, and EdgeFormer says so before it happens.

Each test has two halves. The raw half runs the bad package by itself: should a build of it start to
work, the refusal is out of date. The other half asks EdgeFormer: should the refusal be removed, a
user's program dies or answers wrongly.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.arm.guest import Guest
from tools.emulator.boards import BOARDS, CONTROLS, Board

pytestmark = pytest.mark.slow

SIGILL_STATUS = 128 + 4  # as a shell reports death by that signal; qemu re-raises it on itself

ONNXRUNTIME = [board for board in CONTROLS if "onnxruntime1210" in board.sites]
WITHOUT_HALF_PRECISION = ("cortex-a53", "cortex-a72")
(NUMPY_2,) = (board for board in CONTROLS if "tflite-runtime" in board.sites)
(ARMHF,) = (board for board in BOARDS if board.sites == ("tflite-runtime",))

RUN_TFLITE = """
import sys
import numpy as np
from tflite_runtime.interpreter import Interpreter
print("imported")
interpreter = Interpreter(sys.argv[1])
runner = interpreter.get_signature_runner(next(iter(interpreter.get_signature_list())))
ones = {n: np.ones(d["shape"], d["dtype"]) for n, d in runner.get_input_details().items()}
print(runner(**ones).keys())
"""
LOAD_WITHOUT_THE_REFUSAL = """
import json, sys
from edgeformer.errors import EngineError
from edgeformer.runtime import load
from edgeformer.runtime.engines import tflite_session
tflite_session.KNOWN_BAD = ()
bundle = sys.argv[1]
try:
    load(bundle, engine="tflite-int8")
    refusal = ""
except EngineError as error:
    refusal = error.message
model = load(bundle)
json.dump({"refusal": refusal, "chosen": model.variant.id, "skipped": model.skipped}, sys.stdout)
"""


def engine_state(guest: Guest, engine: str) -> dict[str, object]:
    """What the doctor says of one engine there."""
    checks = json.loads(guest.edgeformer("doctor", "--json").stdout)["engines"]
    found: dict[str, object] = next(check for check in checks if check["engine"] == engine)
    return found


@pytest.mark.parametrize("board", ONNXRUNTIME, ids=lambda board: str(board.cpu))
def test_onnxruntime_1_21_0_dies_where_half_precision_is_missing_and_only_there(
    board: Board, guest_of: Callable[[Board], Guest]
) -> None:
    guest = guest_of(board)
    done = guest.run("-c", "import onnxruntime; print(onnxruntime.__version__)")
    checked = engine_state(guest, "onnx")
    assert checked["packages"] == ["onnxruntime 1.21.0"]
    if board.cpu not in WITHOUT_HALF_PRECISION:
        assert (done.returncode, done.stdout) == (0, "1.21.0\n"), done.stderr
        assert checked["state"] == "works"
        return
    assert done.returncode in (-4, SIGILL_STATUS), done.stderr
    assert "Illegal instruction" in done.stderr
    assert checked["state"] == "fails"
    said = json.dumps(checked)
    assert said.count("onnxruntime 1.21.0 is refused") == 2  # fp32 and int8
    assert "SIGILL" not in said, "refused means that it was not even imported"
    assert "edgeformer[onnx]" in said


def test_the_doctor_names_the_signal_where_no_refusal_is_known(
    guest_of: Callable[[Board], Guest], site: Path, tmp_path: Path
) -> None:
    """The same death, not known beforehand: a copy of EdgeFormer whose list is empty."""
    board = next(board for board in ONNXRUNTIME if board.cpu == "cortex-a72")
    ignorant = shutil.copytree(site, tmp_path / "site")
    module = ignorant / "edgeformer" / "runtime" / "engines" / "onnx_session.py"
    text, count = re.subn("^KNOWN_BAD = ", "KNOWN_BAD = () and ", module.read_text(), flags=re.M)
    assert count == 1
    module.write_text(text)
    checked = engine_state(replace(guest_of(board), site=ignorant), "onnx")
    assert checked["state"] == "fails"
    assert json.dumps(checked).count("SIGILL (it uses an instruction that this CPU") == 2


def test_tflite_runtime_cannot_open_a_model_under_numpy_2(
    guest_of: Callable[[Board], Guest], minilm_bundle: Path
) -> None:
    guest = guest_of(NUMPY_2)
    done = guest.run("-c", RUN_TFLITE, minilm_bundle / "tflite-int8" / "model.tflite")
    assert done.returncode != 0 and done.stdout == "imported\n", done.stdout
    assert "numpy" in done.stderr
    checked = engine_state(guest, "tflite")
    assert checked["state"] == "fails"
    assert json.dumps(checked).count("cannot open a model under numpy 2") == 2


def test_tflite_runtime_answers_int8_wrongly_and_the_self_test_sees_it(
    guest_of: Callable[[Board], Guest], minilm_bundle: Path
) -> None:
    """Weights quantized per channel: no error, another vector. Refused by version, and without
    that by the self-test; ``auto`` ends on numpy and says why."""
    guest = guest_of(ARMHF)
    raw = guest.run("-c", RUN_TFLITE, minilm_bundle / "tflite-int8" / "model.tflite")
    assert raw.returncode == 0 and "embedding" in raw.stdout, raw.stderr

    done = guest.run("-c", LOAD_WITHOUT_THE_REFUSAL, minilm_bundle)
    found = json.loads(done.stdout)
    wrong = re.search(r"self-test: embedding .*; cosine (-?[\d.]+)\)", found["refusal"])
    assert wrong and float(wrong[1]) < 0.5, found["refusal"]

    done = guest.run(
        "-c", LOAD_WITHOUT_THE_REFUSAL.replace("tflite_session.KNOWN_BAD", "_"), minilm_bundle
    )
    found = json.loads(done.stdout)
    assert "tflite-runtime 2.14.0 is refused: it gives wrong answers" in found["refusal"]
    assert found["chosen"] == "numpy-int8"
    assert "wrong answers" in dict(found["skipped"])["tflite-int8"]
