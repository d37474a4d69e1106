"""The models of an evaluation: a bundle, on the host a checkpoint, and what to compare with."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeformer.errors import UsageError
from edgeformer.evaluation.answers import Answers, read_predictions
from edgeformer.evaluation.data import Cases, LabelReader

if TYPE_CHECKING:
    from edgeformer.runtime.manifest import Manifest, ModelCard
    from edgeformer.runtime.model import Model


@dataclass(frozen=True)
class Opening:
    """A model to compare with: an engine or variant of the ``same`` bundle, or another path."""

    same: bool


def find_other(
    against: str | os.PathLike[str] | None,
    manifest: "Manifest",
    cases: Cases,
    labels_map: Mapping[str, str] | None,
) -> Answers | Opening | None:
    """What ``--against`` means; all that can be found wrong with it before anything runs.

    Args:
        against: predictions file, bundle, checkpoint folder, or engine or variant.
        manifest: of the model that is evaluated.
        cases: the data.
        labels_map: as in ``evaluate``.

    Raises:
        UsageError: nothing of that name, or a model of another kind.
        DataError: predictions of other data.
    """
    if against is None:
        return None
    path = Path(against)
    if path.is_file() and path.suffix.lower() == ".jsonl":
        return read_predictions(path, cases, _reader(cases, labels_map or {}))
    if path.exists():
        if not is_checkpoint(path):
            from edgeformer.runtime.bundle import open_bundle

            with open_bundle(path) as bundle:
                check_alike(manifest.model, bundle.manifest.model, str(path))
        return Opening(same=False)
    names = {name for v in manifest.variants for name in (v.engine, v.id)}
    if str(against) in names:
        return Opening(same=True)
    raise UsageError(
        f"--against {against}: no such file, bundle or folder, nor a variant of this bundle",
        hint=f"its variants are: {', '.join(v.id for v in manifest.variants)}",
    )


def _reader(cases: Cases, labels_map: Mapping[str, str]) -> LabelReader:
    """Reads predictions, in which the model's own names mean themselves, whatever data calls so."""
    renamed = {name: ours for name, ours in labels_map.items() if name not in cases.labels}
    return LabelReader(cases.labels, renamed)


def check_alike(card: "ModelCard", other: "ModelCard", name: str) -> None:
    """Raises UsageError unless both models answer the same question with the same labels."""
    if (card.task, card.problem_type) != (other.task, other.problem_type):
        raise UsageError(
            f"{name} is for {other.problem_type or other.task}, not"
            f" {card.problem_type or card.task}: their answers cannot be compared",
            hint="compare with a model of the same task",
        )
    if set(card.labels) != set(other.labels):
        raise UsageError(
            f"{name} has other labels ({', '.join(other.labels[:9])}): its answers cannot be"
            " compared",
            hint="save its predictions, and map their names with --labels-map",
        )


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """True for a Hugging Face or sentence-transformers folder, which is no bundle."""
    folder = Path(path)
    marks = ("config.json", "modules.json")
    return any((folder / m).is_file() for m in marks) and not (folder / "manifest.json").exists()


def open_model(
    path: str | os.PathLike[str], engine: str, threads: int | None
) -> "AbstractContextManager[Model]":
    """The bundle, or on the host the checkpoint, as a Model.

    Raises:
        UsageError: an engine named for a checkpoint; and what ``load`` raises.
    """
    if not is_checkpoint(path):
        from edgeformer.runtime import load

        return load(path, engine, threads)
    if engine != "auto":
        raise UsageError(f"{path} is a checkpoint: PyTorch answers", hint="leave out --engine")
    from edgeformer.checkpoint_model import open_checkpoint

    return open_checkpoint(Path(path), threads)
