"""docs/devices.md says what the boards of tools/emulator show, no more and no less."""

import re
from pathlib import Path

import pytest

from edgeformer.runtime.engines import onnx_session, tflite_session
from tools.emulator.boards import BOARDS, CPUS, HOST, SITES, USERLANDS, Board
from tools.emulator.install import pinned

PAGE = (Path(__file__).parent.parent / "docs" / "devices.md").read_text(encoding="utf-8")
ROWS = {
    cells[0].strip("`"): cells[1:]
    for line in PAGE.splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
SYSTEMS = {"bookworm": "Debian 12", "trixie": "Debian 13"}


def test_the_table_names_every_board_and_no_other() -> None:
    assert list(ROWS) == [board.name for board in BOARDS]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_a_row_says_what_the_board_is(board: Board) -> None:
    machines, system, python, onnx, tflite, numpy = ROWS[board.name]
    for name in re.findall(r"[\w-]+", CPUS[board.cpu].users.split(",")[0]):
        assert name in machines
    assert "int8, fp32" in numpy
    if board.userland == HOST:
        return
    userland = USERLANDS[board.userland]
    bits = "64 bits" if userland.packages.architecture == "arm64" else "32 bits"
    assert system.startswith(SYSTEMS[userland.packages.suite]) and system.endswith(bits)
    assert python.startswith(f"{userland.python}, ")
    assert ("PyPI" in python) == ("numpy2" in board.sites)
    assert ("int8" in onnx) == ("int8" in tflite) == ("engines" in board.sites)
    assert ("fp32" in tflite) == bool({"engines", "tflite-runtime"} & set(board.sites))
    assert ("slow" in numpy) == (board.blas == "blas")


def test_versions_are_those_of_the_boards() -> None:
    engines = (pinned(name) for name in SITES["engines"][:2])
    for requirement in (*engines, *SITES["tflite-runtime"]):
        assert requirement.replace("==", " ") in PAGE


def test_every_blocked_version_is_named() -> None:
    blocked = [
        *((bad.package, bad.version) for bad in onnx_session.KNOWN_BAD),
        *((bad.package, bad.version) for bad in tflite_session.KNOWN_BAD),
    ]
    table = PAGE.split("## Blocked versions")[1].split("##")[0]
    assert len(blocked) == table.count("\n| ") - 1
    for package, version in blocked:
        assert f"| {package} {version}" in table
