"""int8 answers on different CPU families: near each other, and where one saturates, avoided.

x86 without VNNI adds products of u8 and s8 in pairs into 16 bits, which saturate; ONNX Runtime
computes so. Files of the profile ``x86`` are proven not to let that happen.
"""

from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgeformer.converters.onnx_passes.quantize_linears import model_saturating_pairs
from edgeformer.machine import describe_machine
from edgeformer.pipeline import convert
from tests.arm.conftest import ALL_ENGINES, varied_texts
from tests.arm.guest import Guest
from tests.arm.test_answers import BETWEEN_FAMILIES, cosines
from tools.emulator.boards import BOARDS, HOST, WHEELS, Board

pytestmark = pytest.mark.arm

ARM = [board for board in BOARDS if (board.userland, board.sites) == ("bookworm", WHEELS)]
(HASWELL,) = (board for board in BOARDS if board.userland == HOST)
PI_5 = next(board for board in ARM if board.cpu == "cortex-a76")

PROVEN = """
extends = "x86"
[length]
max_tokens = 64
bucket_tokens = [64]
"""


@pytest.fixture(scope="session")
def proven(minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 for ONNX Runtime, by the profile for x86 without VNNI."""
    folder = tmp_path_factory.mktemp("proven")
    profile = folder / "x86.toml"
    profile.write_text(PROVEN, encoding="utf-8")
    output = folder / "minilm.edge"
    return convert(profile=str(profile), output=output, engines=("onnx",)).path


def has_vnni() -> bool:
    """Whether this host's own ONNX Runtime adds into 32 bits."""
    return any("vnni" in feature for feature in describe_machine().isa)


def families(
    engine: str, guest_of: Callable[[Board], Guest], host: Guest
) -> Iterator[tuple[str, Guest]]:
    """Those on which one file of ``engine`` may run: no x86 without VNNI for an ONNX file that is
    not proven."""
    for board in ARM:
        yield board.cpu, guest_of(board)
    if engine != "onnx" or has_vnni():
        yield "host", host
    if engine != "onnx":
        yield HASWELL.cpu, guest_of(HASWELL)


@pytest.mark.parametrize("engine", ALL_ENGINES)
def test_int8_answers_are_near_between_any_two_families(
    engine: str, guest_of: Callable[[Board], Guest], host: Guest, minilm: Path
) -> None:
    assert len(varied_texts()) >= 60
    answers = {
        name: guest.answers(minilm, f"{engine}-int8", varied_texts())["alone"]
        for name, guest in families(engine, guest_of, host)
    }
    least = {
        f"{a} and {b}": float(cosines(answers[a], answers[b]).min())
        for a, b in combinations(answers, 2)
    }
    assert len(least) >= 3
    assert min(least.values()) >= BETWEEN_FAMILIES, least


def onnx_on(guest: Guest, bundle: Path) -> np.ndarray:
    return guest.answers(bundle, "onnx-int8", varied_texts())["alone"]


def saturating_pairs(bundle: Path) -> int:
    return model_saturating_pairs(ir.load(bundle / "onnx-int8" / "model.onnx"))


def test_the_profile_for_x86_without_vnni_keeps_its_answers_there(
    guest_of: Callable[[Board], Guest], proven: Path
) -> None:
    """Against a CPU that cannot saturate."""
    assert saturating_pairs(proven) == 0
    ours, theirs = onnx_on(guest_of(HASWELL), proven), onnx_on(guest_of(PI_5), proven)
    assert cosines(ours, theirs).min() >= BETWEEN_FAMILIES


def test_without_that_profile_they_saturate(
    guest_of: Callable[[Board], Guest], minilm: Path
) -> None:
    """The positive control: should this pass 0.99, the proof is no longer needed, or unproven."""
    assert saturating_pairs(minilm) > 0
    ours, theirs = onnx_on(guest_of(HASWELL), minilm), onnx_on(guest_of(PI_5), minilm)
    assert cosines(ours, theirs).min() < BETWEEN_FAMILIES
