"""Texts from files: JSONL, CSV, TSV or plain lines, and the small built-in set.

A row is (text, pair); pair is None where the file has no second text.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeformer.errors import DataError, UsageError

_BUILT_IN = Path(__file__).parent / "calibration_texts.txt"
TEXT_COLUMNS = ("text", "sentence", "text1", "sentence1", "premise", "question")
PAIR_COLUMNS = ("pair", "text2", "sentence2", "hypothesis", "context")

Text = tuple[str, str | None]


def builtin_texts() -> tuple[Text, ...]:
    """The texts EdgeFormer verifies on when the user gives none: a hundred odd lines of prose,
    questions, chat, code, numbers and a few degenerate inputs, of 1 to about 150 tokens."""
    lines = _BUILT_IN.read_text(encoding="utf-8").splitlines()
    return tuple((line, None) for line in lines if line and not line.startswith("# "))


def read_texts(path: Path) -> tuple[Text, ...]:
    """Read calibration texts.

    Args:
        path: ``.jsonl`` (a string or an object with a text column per line), ``.csv`` or ``.tsv``
            (with a header that names a text column) or anything else as one text per line.
            Empty lines are skipped.

    Raises:
        UsageError: no such file.
        DataError: not UTF-8, malformed (with the line number), or without any text.
    """
    if not path.is_file():
        raise UsageError(f"no file {path}")
    readers = {".jsonl": _read_jsonl, ".csv": _read_table, ".tsv": _read_table}
    reader = readers.get(path.suffix.lower(), _read_lines)
    try:
        texts = tuple(reader(path))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start})",
            hint="convert it, for example with `iconv -f latin1 -t utf-8`",
        ) from None
    if not texts:
        raise DataError(f"{path} has no text", hint="put one text on each line")
    return texts


def _read_lines(path: Path) -> Iterator[Text]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                yield line.strip(), None


def _read_jsonl(path: Path) -> Iterator[Text]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number}: not JSON ({error})") from None
            if isinstance(row, str):
                yield row, None
            elif isinstance(row, dict):
                yield _row_texts(row, f"{path}, line {number}")
            else:
                raise DataError(
                    f"{path}, line {number}: expected a string or an object",
                    hint='write {"text": "..."} on each line',
                )


def _read_table(path: Path) -> Iterator[Text]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter=delimiter, restkey="", strict=True)
        try:
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if "" in row:
                    raise DataError(f"{where}: more columns than the header")
                yield _row_texts(row, where)
        except csv.Error as error:
            raise DataError(f"{path}, line {rows.reader.line_num}: {error}") from None


def _row_texts(row: dict[str, Any], where: str) -> Text:
    column = next((name for name in TEXT_COLUMNS if name in row), None)
    if column is None:
        raise DataError(
            f"{where}: no text column among {', '.join(map(repr, row))}",
            hint=f"name the column one of: {', '.join(TEXT_COLUMNS)}",
        )
    second = next((name for name in PAIR_COLUMNS if name in row), None)
    text, pair = row[column], row[second] if second else None
    if not isinstance(text, str) or not isinstance(pair, str | None):
        raise DataError(f"{where}: {column if not isinstance(text, str) else second} is not a text")
    return text, pair
