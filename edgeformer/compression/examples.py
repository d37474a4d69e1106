"""Labelled texts: what a model is trained on and measured by.

    examples = read_examples(Path("train.tsv"))
    examples.labels, examples.targets[:3]                    # ("negative", "positive"), (1, 0, 1)
    train, held_out = split(examples, share=0.1, seed=0)

Standard library only, so that a device can read the same files.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any

from edgeformer.data import Row, find_column, read_rows, row_texts
from edgeformer.errors import DataError, UsageError

LABEL_COLUMNS = ("label", "labels", "target", "class", "category", "score")
_TABLES = (".jsonl", ".csv", ".tsv")

Label = str | float
_Read = Callable[[Any, str], Label]


@dataclass(frozen=True)
class Columns:
    """Which columns of a file hold what.

    Attributes:
        text: the text; None for the first of ``data.TEXT_COLUMNS`` that there is.
        pair: the second text; None for the first of ``data.PAIR_COLUMNS`` if there is one, empty
            for no second text.
        label: the label; None for the first of ``LABEL_COLUMNS`` that there is.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Example:
    """A text or a pair of texts, and its label.

    Attributes:
        text: the text.
        pair: the second text, None without one.
        label: name of the class, a number for regression, or None if it is not known.
    """

    text: str
    pair: str | None = None
    label: Label | None = None


@dataclass(frozen=True)
class Examples:
    """Labelled texts in the order of their source.

    Attributes:
        rows: the examples.
        labels: names of the classes in order of the logits; empty for regression and for texts
            without labels.
    """

    rows: tuple[Example, ...]
    labels: tuple[str, ...] = ()

    @property
    def texts(self) -> Iterator[str]:
        """Every text, the second ones of pairs too."""
        for row in self.rows:
            yield row.text
            if row.pair is not None:
                yield row.pair

    @property
    def targets(self) -> tuple[int, ...] | tuple[float, ...]:
        """Number of each row's class, or its value for regression; empty without labels."""
        if self.labels:
            numbers = {name: number for number, name in enumerate(self.labels)}
            return tuple(numbers[str(row.label)] for row in self.rows)
        return tuple(row.label for row in self.rows if isinstance(row.label, float))


def read_examples(
    source: Path | str | Iterable[Mapping[str, Any]],
    columns: Columns = Columns(),
    *,
    labels: Sequence[str] | None = None,
    regression: bool = False,
) -> Examples:
    """Read labelled texts.

    Args:
        source: a ``.jsonl``, ``.csv`` or ``.tsv`` file (a TSV has no quoting, as those of GLUE), or
            the rows themselves, each a mapping with the columns as keys.
        columns: where text, second text and label stand.
        labels: names of a model's classes in order of its logits; None for those of the source,
            sorted. Where none of the names is a number, the numbers from 0 stand for them, as in
            the data sets of Hugging Face.
        regression: labels are numbers, not classes.

    Raises:
        UsageError: no such file, or one of another kind.
        DataError: not UTF-8 or malformed, a column or a label that is missing, a label that is
            unknown or not a number (each with the line number), no text, or only one class.
    """
    read = read_number if regression else _class_reader(labels)
    rows = tuple(_example(row, columns, read) for row in _rows(source))
    name = str(source) if isinstance(source, Path | str) else "the source"
    if not rows:
        raise DataError(f"{name} has no text", hint="write one labelled text in each row")
    if regression:
        return Examples(rows)
    found = sorted({str(row.label) for row in rows})
    if len(found) == 1:
        raise DataError(
            f"{name}: all {len(rows)} texts have the label {found[0]!r}, and one class is nothing"
            " to learn",
            hint="take texts of every class; name the column of the labels if it is another one",
        )
    return Examples(rows, tuple(found if labels is None else labels))


def without_labels(texts: Iterable[tuple[str, str | None]]) -> Examples:
    """Texts, as ``data.read_texts`` gives them, as examples whose label is not known."""
    return Examples(tuple(Example(text, pair) for text, pair in texts))


def split(examples: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """Set a seeded share of the examples aside.

    A text that occurs several times goes to one side with all its rows, so that nothing held out
    was trained on.

    Args:
        examples: at least two different ones.
        share: of the rows that are set aside, between 0 and 1; at least one text, never all.
        seed: of the choice.

    Returns:
        The rest and the share, each in the order of ``examples``.

    Raises:
        UsageError: ``share`` is not between 0 and 1, or there is only one text.
    """
    if not 0 < share < 1:
        raise UsageError(f"a share of {share} cannot be held out", hint="use one as 0.1")
    texts = list(dict.fromkeys((row.text, row.pair) for row in examples.rows))
    if len(texts) < 2:
        raise UsageError(
            f"{len(texts)} different texts are too few to hold one out",
            hint="give more examples, or a file of their own to measure on",
        )
    random.Random(seed).shuffle(texts)
    counts = dict.fromkeys(texts, 0)
    for row in examples.rows:
        counts[row.text, row.pair] += 1
    wanted = max(1, round(share * len(examples.rows)))
    held = set()
    for text in texts[:-1]:
        if wanted <= 0:
            break
        held.add(text)
        wanted -= counts[text]
    sides = [
        tuple(row for row in examples.rows if ((row.text, row.pair) in held) == side)
        for side in (False, True)
    ]
    return replace(examples, rows=sides[0]), replace(examples, rows=sides[1])


def _rows(source: Path | str | Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    if isinstance(source, Path | str):
        path = Path(source)
        if path.is_file() and path.suffix.lower() not in _TABLES:
            raise UsageError(
                f"{path} is not a table with labels", hint=f"use one of: {', '.join(_TABLES)}"
            )
        yield from read_rows(path)
        return
    for number, values in enumerate(source, 1):
        yield Row(f"row {number}", values)


def _example(row: Row, columns: Columns, read: _Read) -> Example:
    text, pair = row_texts(row, columns.text, columns.pair)
    column = find_column(row, columns.label, LABEL_COLUMNS)
    if column is None:
        raise DataError(
            f"{row.where}: no label column among {', '.join(map(repr, row.values))}",
            hint=f"name the column one of: {', '.join(LABEL_COLUMNS)}",
        )
    value = row.values[column]
    if value is None or value == "":
        raise DataError(f"{row.where}: label missing in the column {column!r}")
    return Example(text, pair, read(value, row.where))


def read_number(value: Any, where: str) -> float:
    """A label of a regression. Raises DataError, saying ``where``, if it is not a finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if isinstance(value, bool) or not isfinite(number):
        raise DataError(f"{where}: the label {value!r} is not a number, as regression needs it")
    return number


def _class_reader(labels: Sequence[str] | None) -> _Read:
    if labels is None:
        return class_name
    known = {name: name for name in labels}
    if not any(name.isdecimal() for name in labels):
        known |= {str(number): name for number, name in enumerate(labels)}

    def read(value: Any, where: str) -> str:
        name = class_name(value, where)
        if name not in known:
            raise DataError(
                f"{where}: unknown label {name!r}", hint=f"the labels are: {', '.join(labels)}"
            )
        return known[name]

    return read


def class_name(value: Any, where: str) -> str:
    """The name of a class; a CSV has strings, JSON whole numbers and truth values too.

    Raises:
        DataError: it is none of these; the message says ``where``.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Real) and float(value).is_integer():
        return str(int(float(value)))
    raise DataError(
        f"{where}: the label {value!r} is not the name of a class",
        hint="a text has one label; numbers with fractions need regression",
    )
