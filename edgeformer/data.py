"""Rows of texts from files: JSONL, CSV, TSV or plain lines, and the small built-in set.

A text is (text, pair); pair is None where the file has no second text. ``read_rows`` gives whole
rows, for readers that need more than the texts (compression/examples.py).
"""

import csv
import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeformer.errors import DataError, UsageError

_BUILT_IN = Path(__file__).parent / "calibration_texts.txt"
TEXT_COLUMNS = ("text", "sentence", "text1", "sentence1", "premise", "question")
PAIR_COLUMNS = ("pair", "text2", "sentence2", "hypothesis", "context")

Text = tuple[str, str | None]


@dataclass(frozen=True)
class Row:
    """One row of a file.

    Attributes:
        where: file and line, for messages.
        values: by column; of a plain text, by the one column ``text``.
    """

    where: str
    values: Mapping[str, Any]


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
    texts = tuple(row_texts(row) for row in read_rows(path, tsv_quotes=True))
    if not texts:
        raise DataError(f"{path} has no text", hint="put one text on each line")
    return texts


def read_rows(path: Path, *, tsv_quotes: bool = False) -> Iterator[Row]:
    """The rows of a file, as ``read_texts`` describes it.

    Args:
        path: the file.
        tsv_quotes: in a ``.tsv``, quotation marks enclose a cell, as in a ``.csv``; else they are
            characters of the text, as in the files of GLUE.

    Raises:
        UsageError: no such file.
        DataError: not UTF-8, or malformed (with the line number).
    """
    if not path.is_file():
        raise UsageError(f"no file {path}")
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".tsv": _read_tsv}
    if tsv_quotes:
        readers[".tsv"] = _read_quoted_tsv
    reader = readers.get(path.suffix.lower(), _read_lines)
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start})",
            hint="convert it, for example with `iconv -f latin1 -t utf-8`",
        ) from None


def row_texts(row: Row, text: str | None = None, pair: str | None = None) -> Text:
    """The text of a row and the second one, None where there is none.

    Args:
        row: of ``read_rows``.
        text: its column; None for the first of ``TEXT_COLUMNS`` that the row has.
        pair: likewise of ``PAIR_COLUMNS``; empty for no second text.

    Raises:
        DataError: no such column, or a value that is not a text.
    """
    column = find_column(row, text, TEXT_COLUMNS)
    if column is None:
        raise DataError(
            f"{row.where}: no text column among {_names(row)}",
            hint=f"name the column one of: {', '.join(TEXT_COLUMNS)}",
        )
    second = None if pair == "" else find_column(row, pair, PAIR_COLUMNS)
    first_text, second_text = row.values[column], row.values[second] if second else None
    if not isinstance(first_text, str) or not isinstance(second_text, str | None):
        wrong = column if not isinstance(first_text, str) else second
        raise DataError(f"{row.where}: {wrong} is not a text")
    return first_text, second_text


def find_column(row: Row, name: str | None, usual: tuple[str, ...]) -> str | None:
    """``name``, or the first of the ``usual`` names that the row has; None if it has none.

    Raises:
        DataError: the row has no column ``name``.
    """
    if name is None:
        return next((column for column in usual if column in row.values), None)
    if name in row.values:
        return name
    near = difflib.get_close_matches(name, row.values, n=1)
    raise DataError(
        f"{row.where}: no column {name!r} among {_names(row)}",
        hint=f"did you mean {near[0]!r}?" if near else "name one of these columns",
    )


def _names(row: Row) -> str:
    return ", ".join(map(repr, row.values))


def _read_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield Row(f"{path}, line {number}", {"text": line.strip()})


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: not JSON ({error})") from None
            if not isinstance(row, str | dict):
                raise DataError(
                    f"{where}: expected a string or an object",
                    hint='write {"text": "..."} on each line',
                )
            yield Row(where, {"text": row} if isinstance(row, str) else row)


def _read_csv(path: Path) -> Iterator[Row]:
    return _read_table(path, ",", csv.QUOTE_MINIMAL)


def _read_tsv(path: Path) -> Iterator[Row]:
    return _read_table(path, "\t", csv.QUOTE_NONE)


def _read_quoted_tsv(path: Path) -> Iterator[Row]:
    return _read_table(path, "\t", csv.QUOTE_MINIMAL)


def _read_table(path: Path, delimiter: str, quoting: Literal[0, 3]) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter=delimiter, quoting=quoting, strict=True)
        try:
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if None in row:
                    raise DataError(f"{where}: more columns than the header")
                yield Row(where, row)
        except csv.Error as error:
            raise DataError(f"{path}, line {rows.reader.line_num}: {error}") from None
