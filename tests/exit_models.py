"""Tiny classifiers with exits: checkpoint folders, and bundles made of them once per test run."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgeformer.models.build import HeadConfig
from edgeformer.models.checkpoint import load_checkpoint
from edgeformer.models.exits import with_exits
from edgeformer.models.saving import save_checkpoint
from edgeformer.pipeline import convert
from tests.tiny_bundles import _folder, texts_file
from tests.tiny_models import randomise, tiny_bert_folder, tiny_family_folder

LAYERS = 4


def exit_folder(path: Path, family: str = "bert", *, num_labels: int = 2, **sizes: Any) -> Path:
    """A tiny checkpoint with exits, every tensor random, so that no two exits agree."""
    plain = path.with_name(path.name + "-plain")
    if family == "bert":
        sizes = {"num_hidden_layers": LAYERS, "hidden_size": 96, "intermediate_size": 192} | sizes
        tiny_bert_folder(plain, "classification", num_labels=num_labels, **sizes)
    else:
        tiny_family_folder(plain, family, "classification", num_labels=num_labels)
    loaded = load_checkpoint(plain)
    model = with_exits(loaded.module, torch.Generator().manual_seed(1))
    randomise(model, 2)
    head = replace(loaded.head, exits=True) if isinstance(loaded.head, HeadConfig) else loaded.head
    return save_checkpoint(replace(loaded, module=model, head=head), path)


def exit_checkpoint(family: str = "bert") -> Path:
    """A folder of ``exit_folder``; read it only."""
    return _checkpoint(family)  # one key however it was asked for


@functools.cache
def _checkpoint(family: str) -> Path:
    return exit_folder(_folder() / f"exits-{family}", family)


def exit_bundle(engine: str = "numpy", precision: str = "fp32", family: str = "bert") -> Path:
    """A bundle of that checkpoint for one engine; read it only."""
    return _bundle(engine, precision, family)


@functools.cache
def _bundle(engine: str, precision: str, family: str) -> Path:
    report = convert(
        exit_checkpoint(family),
        profile="x86",
        output=_folder() / f"exits-{family}-{engine}-{precision}.edge",
        engines=(engine,),
        precisions=(precision,),
        calibration=texts_file(),
        force=True,  # random weights need not hold a tolerance of int8
    )
    return report.path
