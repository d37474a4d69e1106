"""`edgeformer run`: texts, questions or images in, answers out, as lines or as JSON."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeformer.cli import text as cli_text
from edgeformer.cli.common import json_option, say, split_names, threads_option
from edgeformer.errors import DataError, InputError, UsageError

if TYPE_CHECKING:
    from edgeformer.runtime.manifest import Manifest
    from edgeformer.runtime.model import Model

STDIN_BATCH = 32
# option -> the tasks it is for
_TASKS = {
    "--pair": ("classification",),
    "--candidates": ("classification",),
    "--hypothesis": ("classification",),
    "--multi-label": ("classification",),
    "--exit": ("classification",),
    "--latency-ms": ("classification",),
    "--context": ("question-answering",),
    "--top-k": ("classification", "question-answering", "fill-mask"),
}
_Answer = tuple[dict[str, Any], str]  # as plain data, and as text


@dataclass(frozen=True)
class _Options:
    """What was typed, None or empty where it was not."""

    pair: str | None
    context: str | None
    candidates: tuple[str, ...] | None
    hypothesis: str | None
    multi_label: bool
    top_k: int | None
    exit: str | None
    latency_ms: float | None

    def given(self) -> list[str]:
        """The options that were typed, by their names."""
        typed = [name for name, value in asdict(self).items() if value not in (None, False)]
        return ["--" + name.replace("_", "-") for name in typed]


@click.command()
@click.argument("bundle")
@click.argument("text", required=False)
@click.option("--pair", metavar="TEXT", help="Second text, for classifiers of pairs.")
@click.option("--context", metavar="TEXT|FILE", help="Where the answer to TEXT is looked for.")
@click.option(
    "--image",
    "images",
    metavar="FILE",
    multiple=True,
    help="In place of TEXT: .npy, .ppm, .pgm; others with Pillow. May be repeated.",
)
@click.option(
    "--candidates",
    metavar="A,B",
    callback=split_names,
    help="Labels of your own, for models of language inference.",
)
@click.option(
    "--hypothesis",
    metavar="TEXT",
    help='What a candidate means.  [default: "This example is {}."]',
)
@click.option("--multi-label", is_flag=True, help="Several candidates may be true.")
@click.option("--engine", default="auto", show_default=True, help="Engine or variant to use.")
@threads_option
@click.option(
    "--top-k", type=click.IntRange(min=1), help="Answers of each text.  [default: 1; masks: 5]"
)
@click.option(
    "--exit",
    "exit_rule",
    metavar="auto|T|none",
    help="When a text may leave a model with exits: as calibrated, or below an entropy of T.",
)
@click.option("--latency-ms", type=float, help="Most milliseconds of a text, with exits.")
@json_option
def run(
    bundle: str,
    text: str | None,
    pair: str | None,
    context: str | None,
    images: tuple[str, ...],
    candidates: tuple[str, ...] | None,
    hypothesis: str | None,
    multi_label: bool,
    engine: str,
    threads: int | None,
    top_k: int | None,
    exit_rule: str | None,
    latency_ms: float | None,
    as_json: bool,
) -> None:
    """Answer TEXT, or an image, with BUNDLE.

    The task of BUNDLE decides what an answer is: an embedding, labels, tagged spans, the answer to
    a question (--context), or tokens for the mask in TEXT.

    With - for TEXT, or without it, every line of stdin is a text. An answer is one line; of tagged
    spans, masks and several answers it is a line for each, and an empty line after each text of
    stdin. --json prints one object a line.
    """
    from edgeformer.plain_json import finite
    from edgeformer.runtime import load

    context = None if context is None else _context(context)
    options = _Options(
        pair, context, candidates, hypothesis, multi_label, top_k, exit_rule, latency_ms
    )
    truncated = 0
    with load(bundle, engine, threads) as model:
        for name, reason in model.skipped:
            say(f"note: {name} was skipped: {reason}")
        _check(model.manifest, options, text, images)
        from_stdin = not images and text in (None, "-")
        blank = from_stdin and not as_json and _several_lines(model.manifest.model.task, top_k)
        for batch in _batches(text, images):
            answers = _image_answers if images else _answers
            for one, (data, shown) in zip(batch, answers(model, batch, options), strict=True):
                if as_json:
                    row = {"image" if images else "text": one}
                    row["variant"] = "+".join(model.last_call.variants)
                    shown = json.dumps(finite({**row, **data}))
                click.echo(shown + "\n" if blank else shown)
            truncated += model.last_call.truncated_texts
        for notice in model.notices:
            say(f"note: {notice}")
    if truncated:
        longest = model.manifest.model.max_length
        say(f"note: {truncated} of the texts did not fit and were cut to {longest} tokens")


def _several_lines(task: str, top_k: int | None) -> bool:
    return task in ("token-classification", "fill-mask") or (
        task == "question-answering" and (top_k or 1) > 1
    )


def _check(manifest: "Manifest", options: _Options, text: str | None, images: Any) -> None:
    """Raises UsageError for what the bundle's task cannot do."""
    task = manifest.model.task
    if task == "module":
        raise UsageError(
            "this bundle takes arrays, not texts",
            hint="in Python: edgeformer.runtime.load(PATH).run(name=array, ...)",
        )
    for name in options.given():
        if task not in _TASKS[name]:
            raise UsageError(
                f"{name} is for {', '.join(_TASKS[name])}; this model's task is {task}",
                hint="leave it out",
            )
    if manifest.takes_images != bool(images):
        raise UsageError(
            "this bundle takes images" if manifest.takes_images else "this bundle takes texts",
            hint="edgeformer run BUNDLE " + ("--image FILE" if manifest.takes_images else "TEXT"),
        )
    if images and text is not None:
        raise UsageError("TEXT and --image exclude each other", hint="leave one out")
    if task == "question-answering" and options.context is None:
        raise UsageError(
            "a question needs a context", hint="--context TEXT, or --context FILE with the text"
        )


def _batches(text: str | None, images: tuple[str, ...]) -> Iterator[list[str]]:
    """Image files one by one; TEXT; or lines of stdin, some at a time."""
    if images:
        yield from ([image] for image in images)
    elif text in (None, "-"):
        yield from _stdin_batches(text)
    else:
        yield [text or ""]


def _stdin_batches(text: str | None) -> Iterator[list[str]]:
    """Lines of stdin, some at a time; on a terminal one by one, as they are typed."""
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if sys.stdin is None or (terminal and text is None):
        raise UsageError(
            "no text", hint="give a TEXT, or - to type lines: edgeformer run BUNDLE TEXT"
        )
    size = 1 if terminal else STDIN_BATCH
    batch: list[str] = []
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            batch.append(line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n"))
        except UnicodeDecodeError:
            raise InputError(
                f"line {number} of stdin is not UTF-8",
                hint="convert it first: iconv -f latin1 -t utf-8",
            ) from None
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _answers(model: "Model", texts: list[str], options: _Options) -> Iterator[_Answer]:
    """For each text its answer."""
    task = model.manifest.model.task
    if task == "embedding":
        yield from map(_vector, model.embed(texts))
    elif task == "classification":
        pairs = None if options.pair is None else [options.pair] * len(texts)
        found = model.classify(
            texts,
            pairs,
            top_k=options.top_k or 1,
            candidates=options.candidates,
            hypothesis=options.hypothesis,
            multi_label=options.multi_label,
            exit=options.exit,
            latency_ms=options.latency_ms,
        )
        yield from map(_labels, found)
    elif task == "token-classification":
        for spans in model.tag(texts):
            yield {"spans": [asdict(span) for span in spans]}, cli_text.spans_text(spans)
    elif task == "question-answering":
        contexts = [options.context or ""] * len(texts)
        for best in model.answer(texts, contexts, top_k=options.top_k or 1):
            yield {"answers": [asdict(answer) for answer in best]}, cli_text.answers_text(best)
    else:
        for fills in model.fill_mask(texts, top_k=options.top_k or 5):
            masks = fills if isinstance(fills[0], list) else [fills]
            data = [[asdict(fill) for fill in mask] for mask in masks]
            yield {"masks": data}, "\n".join(cli_text.fills_text(mask) for mask in masks)


def _image_answers(model: "Model", paths: list[str], options: _Options) -> Iterator[_Answer]:
    """For each image file its answer."""
    from edgeformer.image_files import read_image

    images = [read_image(path) for path in paths]
    if model.manifest.model.task == "embedding":
        yield from map(_vector, model.embed(images))
    else:
        yield from map(_labels, model.classify(images, top_k=options.top_k or 1))


def _vector(vector: Any) -> _Answer:
    values = [float(f"{value:.9g}") for value in vector]
    return {"embedding": values}, cli_text.vector_text(values)


def _labels(labels: Any) -> _Answer:
    return {"labels": [cli_text.label_data(label) for label in labels]}, cli_text.labels_text(
        labels
    )


def _context(value: str) -> str:
    """The text, or the text in the file of that name."""
    try:
        is_file = Path(value).is_file()
    except (OSError, ValueError):  # longer than any name, or with a zero byte: a text
        is_file = False
    if not is_file:
        return value
    try:
        return Path(value).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{value} is not UTF-8 ({error.reason} at byte {error.start})",
            hint="convert it, for example with `iconv -f latin1 -t utf-8`",
        ) from None
