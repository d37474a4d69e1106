"""What a user asks of a compression: models, texts and settings, nothing read yet."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeformer.compression.examples import Columns

Source = str | os.PathLike[str] | Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
        model: folder of the teacher, or of the model to fine-tune.
        train: labelled training texts: a file or rows.
        evaluate: labelled texts to measure on.
        texts: file of texts without labels.
        student: folder of a model to start from, instead of one made from the teacher.
        columns: of ``train`` and ``evaluate``.
        seed: of everything random.
        scale: factor of every stage's steps.
        micro_batch: examples in memory at once; 0 for a whole batch.
        bf16: multiply matrices in bfloat16; None does so on a GPU that can.
        device: ``cpu``, ``cuda``, ``cuda:1``; None for the GPU where there is one.
    """

    model: Path
    train: Source
    evaluate: Source | None = None
    texts: Path | None = None
    student: Path | None = None
    columns: Columns = field(default_factory=Columns)
    seed: int = 0
    scale: float = 1.0
    micro_batch: int = 0
    bf16: bool | None = None
    device: str | None = None


def make_request(
    model: str | os.PathLike[str],
    train: Source,
    evaluate: Source | None = None,
    texts: str | os.PathLike[str] | None = None,
    student: str | os.PathLike[str] | None = None,
    columns: Columns | None = None,
    seed: int = 0,
    scale: float = 1.0,
    micro_batch: int = 0,
    bf16: bool | None = None,
    device: str | None = None,
) -> Request:
    """A request in which paths may be texts; the arguments are those of ``Request``."""
    return Request(
        model=Path(model),
        train=train,
        evaluate=evaluate,
        texts=None if texts is None else Path(texts),
        student=None if student is None else Path(student),
        columns=columns or Columns(),
        seed=seed,
        scale=scale,
        micro_batch=micro_batch,
        bf16=bf16,
        device=device,
    )
