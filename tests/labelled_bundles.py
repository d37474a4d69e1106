"""Tiny bundles for evaluations: real conversions of seeded checkpoints, with labels of our own.

A random classifier answers the same to every text, so its mean logits are taken out of its bias:
then every class is answered sometimes.
"""

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from edgeformer.pipeline import convert
from tests.tiny_bundles import texts_file
from tests.tiny_models import save_folder, tiny_model, tiny_tokenizer_json

SENTIMENT = ("negative", "neutral", "positive")
BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TEXTS = tuple(
    f"{a} {b} {c}"
    for a in ("the film", "a very lovely film", "not the book,", "x 7")
    for b in ("was", "and", "is not", "?")
    for c in ("good", "bad", "boring!", "very very good and lovely")
)

_FOLDER = tempfile.TemporaryDirectory(prefix="edgeformer-tests-")


def tokenizer() -> Tokenizer:
    """Hugging Face's, of the tiny vocabulary, without truncation and padding."""
    made = Tokenizer.from_str(tiny_tokenizer_json().decode())
    made.no_truncation()
    made.no_padding()
    return made


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Tiny products are faster so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def torch_answers(model: Any, *texts: str | tuple[str, str]) -> list[torch.Tensor]:
    """What transformers answers to each text or pair alone: logits or hidden states."""
    answers = []
    for text in texts:
        encoding = tokenizer().encode(*([text] if isinstance(text, str) else text))
        with torch.inference_mode():
            found = model(
                input_ids=torch.tensor([encoding.ids]),
                token_type_ids=torch.tensor([encoding.type_ids]),
            )
        answers.append(found[0][0])
    return answers


@functools.cache
def reference(
    task: str = "classification", labels: tuple[str, ...] = SENTIMENT, problem_type: str = ""
) -> Any:
    """The model of transformers; ``problem_type`` as config.json spells it."""
    model = tiny_model("bert", task, num_labels=len(labels), problem_type=problem_type or None)
    if task != "embedding":
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: i for i, label in enumerate(labels)}
        logits = [answer.reshape(-1, len(labels)) for answer in torch_answers(model, *TEXTS)]
        with torch.no_grad():
            model.classifier.bias -= torch.cat(logits).mean(0)
    return model


@functools.cache
def checkpoint(
    task: str = "classification", labels: tuple[str, ...] = SENTIMENT, problem_type: str = ""
) -> Path:
    """Its Hugging Face folder."""
    name = "-".join((task, problem_type or "plain", str(len(labels)), labels[0]))
    return save_folder(reference(task, labels, problem_type), Path(_FOLDER.name) / name)


@functools.cache
def bundle(
    task: str = "classification", labels: tuple[str, ...] = SENTIMENT, problem_type: str = ""
) -> Path:
    """That checkpoint for the NumPy engine in fp32, the plain classifier also in int8; never write
    into it."""
    plain = (task, labels, problem_type) == ("classification", SENTIMENT, "")
    folder = checkpoint(task, labels, problem_type)
    with one_thread():
        report = convert(
            folder,
            profile="x86",
            output=folder.with_suffix(".edge"),
            engines=("numpy",),
            precisions=("fp32", "int8") if plain else ("fp32",),
            calibration=texts_file(),
            force=True,  # near ties of random classes may fall otherwise in int8
        )
    return report.path
