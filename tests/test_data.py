"""Calibration files: every format reads, and a malformed one names the line."""

from pathlib import Path

import pytest

from edgeformer.data import builtin_texts, read_texts
from edgeformer.errors import DataError, UsageError


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_builtin_texts_are_many_and_plain() -> None:
    texts = builtin_texts()
    assert len(texts) >= 100
    assert len(set(texts)) == len(texts)
    assert all(pair is None and text.strip() for text, pair in texts)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "one\n\n two \n", [("one", None), ("two", None)]),
        ("a.jsonl", '"one"\n{"text": "two", "label": 1}\n', [("one", None), ("two", None)]),
        ("a.jsonl", '{"premise": "p", "hypothesis": "h"}\n', [("p", "h")]),
        (
            "a.csv",
            'label,text\n0,"one, two"\n1,"line\nbreak"\n',
            [("one, two", None), ("line\nbreak", None)],
        ),
        ("a.tsv", 'sentence\tlabel\ngood "film\t1\n'.replace('"', ""), [("good film", None)]),
        ("a.csv", "\ufefftext\nwith a mark\n", [("with a mark", None)]),
    ],
)
def test_formats(tmp_path: Path, name: str, text: str, expected: list[object]) -> None:
    assert list(read_texts(_write(tmp_path / name, text))) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": \n', "line 2: not JSON"),
        ("a.jsonl", '{"text": "x"}\n[1]\n', "line 2: expected"),
        ("a.jsonl", '{"text": 3}\n', "line 1: text is not a text"),
        ("a.jsonl", '{"words": "x"}\n', "line 1: no text column among 'words'"),
        ("a.csv", "text,label\na,1\nb,2,3\n", "line 3: more columns"),
        ("a.csv", "label\n1\n", "line 2: no text column"),
        ("a.csv", 'text\n"open\n', "line 2"),
        ("a.txt", "\n \n", "has no text"),
        ("a.jsonl", "", "has no text"),
        ("a.csv", "", "has no text"),
    ],
)
def test_malformed_files_name_the_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_texts(_write(tmp_path / name, text))


def test_wrong_encoding_says_how_to_convert(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("caf\u00e9".encode("latin1"))
    with pytest.raises(DataError, match="UTF-8"):
        read_texts(tmp_path / "a.txt")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        read_texts(tmp_path / "none.txt")


def test_deep_json_is_an_error_not_a_crash(tmp_path: Path) -> None:
    deep = "[" * 200_000 + "]" * 200_000
    with pytest.raises(DataError, match="line 1"):
        read_texts(_write(tmp_path / "a.jsonl", deep + "\n"))
