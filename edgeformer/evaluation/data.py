"""What a model is evaluated on: rows of a file with their truth, read as the model's task needs.

    cases = read_cases(Path("test.tsv"), card)
    cases.kind, cases.rows[0].text, cases.rows[0].truth      # "single_label", "a film", "positive"

Every label is one that the model has, or the line is named. Standard library only.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeformer.compression.examples import LABEL_COLUMNS, Columns, class_name, read_number
from edgeformer.data import Row, find_column, read_rows, row_texts
from edgeformer.errors import DataError, UsageError

if TYPE_CHECKING:
    from edgeformer.runtime.manifest import ModelCard

# What the truth of a row is: one class, a set of classes, a number, a tag for each word, how alike
# two texts are, or the answers to a question that are accepted.
KINDS = ("single_label", "multi_label", "regression", "tags", "similarity", "answers")
TOKEN_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("tags", "ner_tags", "labels", "pos_tags")
SCORE_COLUMNS = ("score", "similarity", "label")
ANSWER_COLUMNS = ("answers", "answer")
SEPARATOR = "|"  # between the labels of one cell
USUAL_COLUMNS = Columns()

Truth = str | float | tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One row of the data.

    Attributes:
        where: file and line, for messages.
        text: the text; of words, the words with a space between; or the question.
        pair: the second text, None without one; or the context.
        truth: a label, a number, or a tuple: labels in the model's order, a tag for each word, or
            accepted answers (none where the context holds no answer).
        words: of a sentence with tags, else empty.
    """

    where: str
    text: str
    pair: str | None
    truth: Truth
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cases:
    """The data as a model's task needs it.

    Attributes:
        kind: one of ``KINDS``.
        labels: the model's, in order of its logits.
        rows: the cases in the order of the file; at least one.
        notes: how labels were read where that was not by their names.
    """

    kind: str
    labels: tuple[str, ...]
    rows: tuple[Case, ...]
    notes: tuple[str, ...] = ()


def kind_of(card: "ModelCard") -> str:
    """The kind of truth that a model of this card is evaluated by.

    Raises:
        UsageError: a plain module or a model of images, whose inputs no table of texts has.
    """
    if card.max_length == 0:
        raise UsageError(
            "this model takes no texts, so it cannot be evaluated on a table of them",
            hint="in Python, edgeformer.metrics has the figures for answers of your own",
        )
    if card.task == "classification":
        return card.problem_type
    kinds = {
        "embedding": "similarity",
        "token-classification": "tags",
        "question-answering": "answers",
    }
    if card.task not in kinds:
        raise UsageError(
            f"a model of the task {card.task} cannot be evaluated",
            hint=f"those of classification, {', '.join(kinds)} can",
        )
    return kinds[card.task]


@dataclass
class LabelReader:
    """Reads labels as the model's names for them, and remembers which were numbers.

    Attributes:
        labels: the model's.
        renamed: what the data calls some of them, from ``--labels-map``.
        numbers: numbers met so far that stand for a class of that place.
    """

    labels: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    numbers: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        for ours in self.renamed.values():
            if ours not in self.labels:
                raise UsageError(
                    f"--labels-map: the model has no label {ours!r}", hint=_near(ours, self.labels)
                )

    def read(self, value: Any, where: str) -> str:
        """The model's name of a label.

        Where none of the model's names is a number, the numbers from 0 stand for them, as in the
        data sets of Hugging Face.

        Raises:
            DataError: missing, or unknown to the model; names the nearest one.
        """
        if value is None or value == "":
            raise DataError(
                f"{where}: the label is missing", hint="leave out rows whose label is not known"
            )
        name = class_name(value, where)
        if name in self.renamed:
            return self.renamed[name]
        if name in self.labels:
            return name
        named = not any(label.isdecimal() for label in self.labels)
        if named and name.isdecimal() and int(name) < len(self.labels):
            self.numbers.add(int(name))
            return self.labels[int(name)]
        raise DataError(
            f"{where}: the model has no label {name!r}",
            hint=f"{_near(name, self.labels)} (where the data has other names for them:"
            f" --labels-map {name}=LABEL)",
        )

    def notes(self) -> tuple[str, ...]:
        """How numbers were read, if there were any."""
        if not self.numbers:
            return ()
        pairs = ", ".join(f"{number} as {self.labels[number]}" for number in sorted(self.numbers))
        return (f"labels that are numbers were read in the model's order: {pairs}",)


def _near(name: str, labels: Sequence[str]) -> str:
    by_lower = {label.lower(): label for label in labels}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    if near:
        return f"did you mean {by_lower[near[0]]!r}?"
    shown = ", ".join(labels[:20]) + (", ..." if len(labels) > 20 else "")
    return f"the labels are: {shown}"


def read_cases(
    path: Path,
    card: "ModelCard",
    columns: Columns = USUAL_COLUMNS,
    renamed: Mapping[str, str] | None = None,
) -> Cases:
    """Read the data that a model is evaluated on.

    Args:
        path: ``.jsonl``, ``.csv`` or ``.tsv`` file (a TSV has no quoting, as those of GLUE).
        card: of the model; its task decides what the columns must hold (docs/eval.md).
        columns: where text, second text and truth stand; for tags, words and tags.
        renamed: the model's label for each label of the data that is named otherwise.

    Raises:
        UsageError: no such file, a task that cannot be evaluated, a wrong ``renamed``.
        DataError: malformed, a column missing, an unknown label (each with the line), or no row.
    """
    kind = kind_of(card)
    if path.is_file() and path.suffix.lower() not in (".jsonl", ".csv", ".tsv"):
        raise UsageError(
            f"{path} is not a table with labels", hint="use a .jsonl, .csv or .tsv file"
        )
    if renamed and kind in ("regression", "similarity", "answers"):
        raise UsageError(
            "--labels-map is for classes; this model's answers are none", hint="leave it out"
        )
    reader = LabelReader(card.labels, renamed or {})
    truth_of = truth_reader(kind, reader)
    make = _sentence if kind == "tags" else _text
    rows = tuple(make(row, columns, kind, truth_of) for row in read_rows(path))
    if not rows:
        raise DataError(f"{path} has no row", hint="write one labelled text in each row")
    _check_pairs(rows, kind)
    return Cases(kind, card.labels, rows, reader.notes())


def truth_reader(kind: str, reader: LabelReader) -> Callable[[Any, str], Truth]:
    """Reads the truth (or, in a file of predictions, the answer) of one row."""
    if kind == "answers":
        return _accepted
    if kind == "single_label":
        return reader.read
    if kind in ("regression", "similarity"):
        return read_number

    def read_all(value: Any, where: str) -> tuple[str, ...]:
        return tuple(reader.read(item, where) for item in _items(value, where))

    if kind == "tags":
        return read_all
    return lambda value, where: tuple(sorted(set(read_all(value, where)), key=reader.labels.index))


def _items(value: Any, where: str) -> list[Any]:
    """A JSON list as it is; a cell at its separators."""
    if isinstance(value, list):
        return value
    if value is None or not isinstance(value, str):
        raise DataError(
            f"{where}: {value!r} is not a list of labels",
            hint=f'write ["a", "b"] in JSONL, a{SEPARATOR}b in a table',
        )
    return value.split(SEPARATOR) if value else []


def _accepted(value: Any, where: str) -> tuple[str, ...]:
    """The answers to a question: a text, a list of them, or SQuAD's {"text": [...]}."""
    if isinstance(value, dict):
        value = value.get("text")
    found = [value] if isinstance(value, str) else value if value is not None else []
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise DataError(
            f"{where}: expected the texts of the answers",
            hint='write ["an answer", "the same otherwise"], or [] where there is none',
        )
    return tuple(text for text in found if text)


def _text(row: Row, columns: Columns, kind: str, truth_of: Callable[[Any, str], Truth]) -> Case:
    text, pair = row_texts(row, columns.text, columns.pair)
    usual = {"similarity": SCORE_COLUMNS, "answers": ANSWER_COLUMNS}.get(kind, LABEL_COLUMNS)
    column = _need_column(row, columns.label, usual, "answers" if kind == "answers" else "label")
    return Case(row.where, text, pair, truth_of(row.values[column], row.where))


def _sentence(row: Row, columns: Columns, kind: str, truth_of: Callable[[Any, str], Truth]) -> Case:
    words = row.values[_need_column(row, columns.text, TOKEN_COLUMNS, "words")]
    values = row.values[_need_column(row, columns.label, TAG_COLUMNS, "tags")]
    if isinstance(words, str) and isinstance(values, str):  # cells of a table
        words, values = words.split(), values.split()
    if not isinstance(words, list) or not all(isinstance(w, str) and w.strip() for w in words):
        raise DataError(
            f"{row.where}: expected a list of words",
            hint='write {"tokens": ["Ada", "sleeps"], "tags": ["B-PER", "O"]} on each line',
        )
    tags = truth_of(values, row.where)
    assert isinstance(tags, tuple)
    if len(tags) != len(words):
        raise DataError(
            f"{row.where}: {len(words)} words but {len(tags)} tags",
            hint="write one tag for each word",
        )
    return Case(row.where, " ".join(words), None, tags, tuple(words))


def _need_column(row: Row, name: str | None, usual: tuple[str, ...], what: str) -> str:
    column = find_column(row, name, usual)
    if column is None:
        raise DataError(
            f"{row.where}: no column of {what} among {', '.join(map(repr, row.values))}",
            hint=f"name it one of: {', '.join(usual)}",
        )
    return column


def _check_pairs(rows: Sequence[Case], kind: str) -> None:
    """All rows have a second text, or none has; a similarity is one of two texts, and a question
    has a context."""
    if kind in ("similarity", "answers") and rows[0].pair is None:
        names = "text1, text2 and score" if kind == "similarity" else "question, context, answers"
        raise DataError(
            f"{rows[0].where}: this model is evaluated on pairs of texts, and there is no second"
            " one",
            hint=f"columns {names}, or name yours with --columns",
        )
    for row in rows:
        if (row.pair is None) != (rows[0].pair is None):
            has, had = ("no", "have one") if row.pair is None else ("a", "have none")
            raise DataError(
                f"{row.where}: {has} second text, and the rows before {had}",
                hint="evaluate single texts and pairs apart; --columns pair= takes the first only",
            )
