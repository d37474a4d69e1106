"""Small real bundles, converted once per test run from the tiny seeded checkpoints."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import torch

from edgeformer.pipeline import convert
from tests.tiny_models import TEXTS, tiny_bert_folder


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="edgeformer-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def checkpoint(task: str = "classification") -> Path:
    """A tiny BERT checkpoint folder of the task."""
    return tiny_bert_folder(_folder() / f"checkpoint-{task}", task)


@functools.cache
def texts_file() -> Path:
    """A calibration file of a few texts that the tiny vocabulary knows."""
    path = _folder() / "texts.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


def bundle(task: str = "classification", precisions: tuple[str, ...] = ("int8",)) -> Path:
    """A bundle of that checkpoint for the NumPy engine; read it, never write into it."""
    return _converted(task, precisions)  # one key however it was asked for


@functools.cache
def _converted(task: str, precisions: tuple[str, ...]) -> Path:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        report = convert(
            checkpoint(task),
            profile="x86",
            output=_folder() / f"{task}-{'-'.join(precisions)}.edge",
            engines=("numpy",),
            precisions=precisions,
            calibration=texts_file(),
        )
    finally:
        torch.set_num_threads(threads)
    return report.path
