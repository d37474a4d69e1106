"""Measuring on a board: a real ssh to a real sshd on loopback, and a Python with NumPy only."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeformer.remote.board import Board, connect
from tests import tiny_bundles
from tests.ssh_server import Server, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("sshd")) as started:
        yield started


def call(server: Server, **settings: object) -> Board:
    return connect(
        "board",
        **{"config": server.config, "python": str(server.python), **settings},  # type: ignore[arg-type]
    )


def test_figures_of_a_board_come_back_and_nothing_stays(server: Server) -> None:
    bundle = tiny_bundles.bundle()
    said: list[str] = []
    with call(server, progress=said.append) as board:
        assert Path(board.facts.folder).parent == server.temporary
        report = board.benchmark(bundle, iterations=3, tokens=(8, 16), progress=said.append)
    assert [r.tokens for r in report.results] == [8, 16]
    assert all(r.measured and len(r.samples_ms) == 3 for r in report.results)
    assert report.bundle.path == str(bundle)
    assert report.host == board.name
    assert said[0] == "calling board"
    assert server.is_clean()
