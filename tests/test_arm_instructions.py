"""The comparison of instruction counts, its file and its table; counting itself is tests/arm."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.arm_instructions import PLANS
from benchmarks.guest_count import INPUTS, OTHER_TEXT, TEXTS
from benchmarks.instruction_figures import (
    FILE,
    Entry,
    Figures,
    compare,
    dump_figures,
    load_figures,
    merged,
    save_figures,
    selected,
)
from benchmarks.instruction_table import markdown
from tools.emulator import counting
from tools.emulator.debian import EmulatorError

DOCUMENT = Path(__file__).parent.parent / "docs" / "instructions.md"


def entry(board: str = "a", tokens: int = 16, instructions: int = 1_000_000) -> Entry:
    return Entry(board, "onnx", "int8", tokens, "token-ids", instructions, 7, None)


def figures(*entries: Entry, version: str = "1") -> Figures:
    boards = {e.board: {"numpy": version} for e in entries}
    return Figures({"qemu": "7"}, boards, entries)


@pytest.mark.parametrize(
    ("now", "grown", "shrunk"),
    [
        (1_000_000, False, False),
        (1_020_000, False, False),
        (1_020_001, True, False),
        (980_000, False, False),
        (979_999, False, True),
    ],
)
def test_growth_above_two_percent_fails_and_shrinking_is_told(
    now: int, grown: bool, shrunk: bool
) -> None:
    comparison = compare(figures(entry()), figures(entry(instructions=now)))
    assert comparison.failed == bool(comparison.grown) == grown
    assert bool(comparison.shrunk) == shrunk
    assert comparison.counted == 1
    assert ("--update" in comparison.text()) == (grown or shrunk)


def test_table_names_what_grew_before_now_and_by_how_much() -> None:
    text = compare(figures(entry()), figures(entry(instructions=1_100_000))).text()
    assert "| a onnx int8 16 token-ids | 1,000,000 | 1,100,000 | +10.00 % |" in text
    assert "executed instructions, not time" in text


@pytest.mark.parametrize("swap", [False, True])
def test_a_count_on_one_side_only_fails(swap: bool) -> None:
    pair = [figures(entry()), figures(entry(), entry(tokens=64))]
    comparison = compare(*(reversed(pair) if swap else pair))
    assert comparison.failed
    assert [change.key[3] for change in comparison.missing] == [64]
    assert "missing" in comparison.text()


def test_a_failure_says_which_versions_differ() -> None:
    now = figures(entry(instructions=2_000_000), version="2")
    assert "a numpy: 1, now 2" in compare(figures(entry()), now).text()


def test_other_boards_and_variants_are_left_out_on_request() -> None:
    other = replace(entry(), precision="fp32")
    all_of_them = figures(entry(), other, entry("b"))
    assert selected(all_of_them, ["a"]).entries == (entry(), other)
    assert selected(all_of_them, ["a"], "onnx-int8").entries == (entry(),)
    assert set(selected(all_of_them, ["a"]).boards) == {"a"}


def test_update_of_one_board_leaves_the_others() -> None:
    before = figures(entry("a"), entry("b"), version="1")
    after = merged(before, figures(entry("a", instructions=5), version="2"))
    assert after.entries == (entry("a", instructions=5), entry("b"))
    assert after.boards == {"a": {"numpy": "2"}, "b": {"numpy": "1"}}


def test_file_comes_back_as_it_went_and_is_one_line_for_each_count(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    whole = figures(entry(), replace(entry(tokens=64), simd_fp=None))
    save_figures(whole, path)
    assert load_figures(path) == whole
    assert sum('"instructions"' in line for line in path.read_text().splitlines()) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["figures.json"]


def test_a_file_of_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text(json.dumps({"schema_version": 2}))
    with pytest.raises(ValueError, match="schema version 2"):
        load_figures(path)


def test_committed_file_holds_every_count_and_nothing_else() -> None:
    expected = {
        (plan.board.name, engine, precision, tokens, name)
        for plan in PLANS
        for engine in plan.engines
        for precision in ("int8", "fp32")
        for tokens in plan.texts
        for name in INPUTS
    }
    committed = load_figures()
    assert {e.key for e in committed.entries} == expected
    assert list(committed.entries) == sorted(committed.entries, key=lambda e: e.key)
    assert dump_figures(committed) == FILE.read_text(encoding="utf-8")


def test_document_shows_the_committed_figures() -> None:
    assert markdown(load_figures()) in DOCUMENT.read_text(encoding="utf-8")


def test_no_word_is_in_two_texts() -> None:
    texts = [OTHER_TEXT, *(text for some in TEXTS.values() for text in some)]
    words = [set(re.findall("[a-z]+", text.lower())) for text in texts]
    assert sum(map(len, words)) == len(set().union(*words))


def test_without_a_compiler_the_reason_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counting, "emulator_unavailable", lambda: "")
    monkeypatch.setattr(counting.shutil, "which", lambda name: None)
    assert "install gcc" in counting.unavailable()
    with pytest.raises(EmulatorError, match="install gcc"):
        counting.build_plugin()


def test_a_count_with_two_threads_is_refused() -> None:
    assert counting._parsed("3 100 40 -1 1") == counting.Count(3, 100, 40, None)
    with pytest.raises(EmulatorError, match="2 threads"):
        counting._parsed("3 100 40 -1 2")
