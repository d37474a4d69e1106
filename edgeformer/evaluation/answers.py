"""A model's answers to the cases of an evaluation, and the files that keep them.

A predictions file is JSONL, one line for each row of the data and in its order; docs/eval.md
describes it. Only ``answer`` is needed, so that any program can write one.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeformer.data import Row, find_column, read_rows
from edgeformer.errors import DataError, UsageError
from edgeformer.evaluation.data import Case, Cases, LabelReader, Truth, truth_reader

if TYPE_CHECKING:
    from edgeformer.runtime.answers import Word
    from edgeformer.runtime.model import Model

ANSWER_COLUMNS = ("answer", "prediction", "label")
CHUNK = 256  # cases between two words about progress
LEAST_PROBABILITY = 0.5  # of a label that a multi-label model gives
OUTSIDE = "O"


@dataclass(frozen=True)
class Answers:
    """What a model, or a file, says of each case.

    Attributes:
        source: path of what answered.
        variant: that answered, several joined with ``+``; empty for a file.
        values: as ``Case.truth``. A word that the model did not reach has the tag ``O``, or an
            empty one where there is no such label.
        scores: probability of each label, for classes; else empty.
        seconds: that answering took; 0 from a file.
        truncated_texts: texts that did not fit.
        missing_words: words without an answer.
    """

    source: str
    variant: str
    values: tuple[Truth, ...]
    scores: tuple[dict[str, float], ...] = ()
    seconds: float = 0.0
    truncated_texts: int = 0
    missing_words: int = 0


@dataclass(frozen=True)
class _Part:
    """Answers to some cases."""

    values: list[Truth]
    scores: list[dict[str, float]]
    missing_words: int = 0


def answer_cases(
    model: "Model",
    cases: Cases,
    source: str,
    on_long: str,
    tell: Callable[[str], None],
    exit: str | None = None,
) -> Answers:
    """Run ``model`` on every case.

    Args:
        model: open, of the cases' kind.
        cases: the data.
        source: path of the model.
        on_long: as in ``Model.embed``; empty for ``window`` where contexts are read for answers,
            else ``truncate``.
        tell: called with how far it is.
        exit: as in ``Model.classify``, for classes of one label.

    Raises:
        UsageError: ``exit`` for other cases.
    """
    if exit is not None and cases.kind != "single_label":
        raise UsageError(
            f"--exit {exit} is for classifiers of one label for each text", hint="leave it out"
        )
    on_long = on_long or ("window" if cases.kind == "answers" else "truncate")
    parts: list[_Part] = []
    truncated_texts = 0
    variants: dict[str, None] = {}
    began = time.perf_counter()
    for start in range(0, len(cases.rows), CHUNK):
        tell(f"{start} of {len(cases.rows)} texts answered")
        rows = cases.rows[start : start + CHUNK]
        if cases.kind == "answers":
            parts.append(_found_answers(model, rows, on_long, not all(r.truth for r in cases.rows)))
        elif exit is not None:
            parts.append(_single_label(model, rows, on_long, exit))
        else:
            parts.append(_ANSWER[cases.kind](model, rows, on_long))
        truncated_texts += model.last_call.truncated_texts
        variants |= dict.fromkeys(model.last_call.variants)
    return Answers(
        source=source,
        variant="+".join(variants),
        values=tuple(value for part in parts for value in part.values),
        scores=tuple(scores for part in parts for scores in part.scores),
        seconds=time.perf_counter() - began,
        truncated_texts=truncated_texts,
        missing_words=sum(part.missing_words for part in parts),
    )


def _classified(
    model: "Model", rows: Sequence[Case], on_long: str, exit: str | None = None
) -> list[dict[str, float]]:
    """Score of every label, best first."""
    pairs = [row.pair or "" for row in rows] if rows[0].pair is not None else None
    texts = [row.text for row in rows]
    answers = model.classify(texts, pairs, top_k=None, on_long=on_long, exit=exit)
    return [{label.name: label.score for label in labels} for labels in answers]


def _single_label(
    model: "Model", rows: Sequence[Case], on_long: str, exit: str | None = None
) -> _Part:
    scores = _classified(model, rows, on_long, exit)
    return _Part([next(iter(row)) for row in scores], scores)


def _multi_label(model: "Model", rows: Sequence[Case], on_long: str) -> _Part:
    scores = _classified(model, rows, on_long)
    labels = model.manifest.model.labels
    given = [tuple(name for name in labels if row[name] >= LEAST_PROBABILITY) for row in scores]
    return _Part(list(given), scores)


def _regression(model: "Model", rows: Sequence[Case], on_long: str) -> _Part:
    return _Part([next(iter(row.values())) for row in _classified(model, rows, on_long)], [])


def _similarity(model: "Model", rows: Sequence[Case], on_long: str) -> _Part:
    from edgeformer.metrics import row_cosines

    texts = [row.text for row in rows] + [row.pair or "" for row in rows]
    vectors = model.embed(texts, on_long=on_long)
    return _Part(row_cosines(vectors[: len(rows)], vectors[len(rows) :]).tolist(), [])


def _tags(model: "Model", rows: Sequence[Case], on_long: str) -> _Part:
    found = model.tag_words([row.text for row in rows], on_long=on_long)
    tags = [word_tags(row.words, words) for row, words in zip(rows, found, strict=True)]
    outside = OUTSIDE if OUTSIDE in model.manifest.model.labels else ""
    filled = [tuple(outside if tag is None else tag for tag in sentence) for sentence in tags]
    return _Part(list(filled), [], sum(sentence.count(None) for sentence in tags))


def _found_answers(model: "Model", rows: Sequence[Case], on_long: str, no_answer: bool) -> _Part:
    """``no_answer``: some question of the data has none, so "no answer" may win."""
    questions, contexts = [row.text for row in rows], [row.pair or "" for row in rows]
    found = model.answer(questions, contexts, no_answer=no_answer, on_long=on_long)
    return _Part([answer.text for answer in found], [])


_ANSWER: dict[str, Callable[["Model", Sequence[Case], str], _Part]] = {
    "single_label": _single_label,
    "multi_label": _multi_label,
    "regression": _regression,
    "similarity": _similarity,
    "tags": _tags,
}


def word_tags(words: Sequence[str], found: "Sequence[Word]") -> list[str | None]:
    """The tag of each word of the data: that of the first piece which begins in it.

    Args:
        words: of the sentence, which stood in the text with one space between.
        found: words as the tokenizer cut them, in order; it may cut finer, at punctuation.

    Returns:
        None for a word in which no piece begins: it did not fit, or the tokenizer drops it.
    """
    tags: list[str | None] = []
    pieces = iter((*found, None))
    piece = next(pieces)
    end = -1
    for word in words:
        start, end = end + 1, end + 1 + len(word)
        while piece is not None and piece.start < start:
            piece = next(pieces)
        tags.append(piece.label if piece is not None and piece.start < end else None)
    return tags


def write_predictions(path: Path, cases: Cases, answers: Answers) -> None:
    """Write what a later evaluation can be compared with: the whole file, or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="ascii") as file:
            for line in _lines(cases, answers):
                file.write(json.dumps(line) + "\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _lines(cases: Cases, answers: Answers) -> Iterator[dict[str, Any]]:
    for i, (case, value) in enumerate(zip(cases.rows, answers.values, strict=True)):
        line: dict[str, Any] = {"text_sha256": text_digest(case), "truth": case.truth}
        line["answer"] = value
        if answers.scores:
            line["scores"] = answers.scores[i]
        yield line


def text_digest(case: Case) -> str:
    """SHA-256 of the case's texts, which a predictions file names instead of the texts."""
    texts = json.dumps([case.text, case.pair], ensure_ascii=True)
    return hashlib.sha256(texts.encode("ascii")).hexdigest()


def check_writable(path: Path, force: bool) -> None:
    """Nothing is answered that could not be kept.

    Raises:
        UsageError: the file exists and ``force`` is False, or its folder cannot be written to.
    """
    if path.exists() and not force:
        raise UsageError(f"{path} exists", hint="pass --force to overwrite it")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"cannot write {path}", hint="choose another --save-predictions")


def read_predictions(path: Path, cases: Cases, reader: LabelReader) -> Answers:
    """Read the answers of somebody else to the same cases.

    Args:
        path: a predictions file.
        cases: the data; the file has one line for each of its rows, in its order.
        reader: reads labels as the model's names.

    Raises:
        UsageError: no such file, or not a JSONL file.
        DataError: malformed, an unknown label, or a file about other data.
    """
    if path.is_file() and path.suffix.lower() != ".jsonl":
        raise UsageError(
            f"{path} is not a .jsonl file of predictions",
            hint="`edgeformer eval MODEL DATA --save-predictions FILE.jsonl` writes one",
        )
    rows = list(read_rows(path))
    if len(rows) != len(cases.rows):
        raise DataError(
            f"{path} has {len(rows)} predictions, the data has {len(cases.rows)} rows",
            hint="write it with `edgeformer eval MODEL DATA --save-predictions FILE`, same DATA",
        )
    read = _read_answer if cases.kind == "answers" else truth_reader(cases.kind, reader)
    pairs = zip(rows, cases.rows, strict=True)
    return Answers(str(path), "", tuple(_prediction(row, case, read) for row, case in pairs))


def _read_answer(value: Any, where: str) -> str:
    """The one answer to a question; empty for none."""
    if not isinstance(value, str):
        raise DataError(f"{where}: {value!r} is not a text", hint='write {"answer": "..."}')
    return value


def _prediction(row: Row, case: Case, read: Callable[[Any, str], Truth]) -> Truth:
    digest = row.values.get("text_sha256")
    if digest is not None and digest != text_digest(case):
        raise DataError(
            f"{row.where} is about another text than {case.where}",
            hint="predictions and data must have the same rows in the same order",
        )
    column = find_column(row, None, ANSWER_COLUMNS)
    if column is None:
        raise DataError(f"{row.where}: no answer", hint='write {"answer": ...} on each line')
    value = read(row.values[column], row.where)
    if case.words and len(case.words) != len(value):  # type: ignore[arg-type]
        raise DataError(
            f"{row.where}: {len(case.words)} words but another number of tags",
            hint="write one tag for each word",
        )
    return value
