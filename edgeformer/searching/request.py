"""What a user asks of a search to a budget, and whether it can be had: checked before any work."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgeformer.compression.examples import Columns, read_examples
from edgeformer.data import Text, read_texts
from edgeformer.errors import UsageError
from edgeformer.evaluation.data import Cases, read_cases
from edgeformer.searching.trials import Budget

if TYPE_CHECKING:
    from edgeformer.models.checkpoint import LoadedModel

TRAINED_PROBLEMS = ("single_label", "regression")
MOST_SHARED = 0.5  # of the data's rows that may also be training texts, with a word of warning


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
        model: checkpoint folder; None for the embedded default.
        profile: name of a device profile, or path of a TOML file.
        output: path of the bundle.
        budget: what it may cost.
        data: labelled rows to evaluate on; None for none.
        train: labelled texts (texts, for an embedding model) on which smaller models learn; None
            trains nothing.
        columns: of ``data`` and ``train``.
        labels_map: the model's label for each label that ``data`` names otherwise.
        engines, precisions: to try; empty for the profile's.
        max_length, calibration, golden, zip_file, force: as for ``convert``.
    """

    model: Path | None
    profile: str
    output: Path
    budget: Budget
    data: Path | None = None
    train: Path | None = None
    columns: Columns = field(default_factory=Columns)
    labels_map: Mapping[str, str] = field(default_factory=dict)
    engines: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    max_length: int | None = None
    calibration: Path | None = None
    golden: Path | None = None
    zip_file: bool = False
    force: bool = False

    @property
    def folder(self) -> Path:
        """The checkpoint."""
        from edgeformer.pipeline import default_model

        return default_model() if self.model is None else self.model


def check_options(request: Request) -> None:
    """What can be wrong with the options alone.

    Raises:
        UsageError: a budget of accuracy without data, data without anything to judge by it, one
            file in two roles.
    """
    if request.budget.max_drop is not None and request.data is None:
        raise UsageError(
            "--max-drop needs data: how far the answers drop is measured on labelled rows",
            hint="add --eval DATA (.jsonl, .csv or .tsv; docs/eval.md)",
        )
    if request.train is not None and request.data is None:
        raise UsageError(
            "--train makes smaller models, and without data nothing tells whether they are right",
            hint="add --eval DATA, other rows than those of --train",
        )


def read_data(request: Request, loaded: "LoadedModel") -> Cases | None:
    """The data as the model's task needs it; None where none was given.

    Raises:
        UsageError: a task that no table of texts has.
        DataError: rows that cannot be read, or labels that the model does not have.
    """
    from edgeformer.checkpoint_model import card_of

    if request.data is None:
        return None
    return read_cases(request.data, card_of(loaded), request.columns, request.labels_map)


def shared_rows(request: Request, loaded: "LoadedModel", cases: Cases | None) -> tuple[str, ...]:
    """Words of warning where rows of the data were also trained or calibrated on.

    Raises:
        UsageError: most rows of the data are training texts; or a model that cannot be trained.
        DataError: training or calibration texts that cannot be read.
    """
    notes = []
    rows = {(case.text, case.pair) for case in cases.rows} if cases else set()
    if request.train is not None:
        common = len(rows & set(_training_texts(request, loaded)))
        if common > MOST_SHARED * len(rows):
            raise UsageError(
                f"{common} of {len(rows)} texts of {request.data} are also in --train: a model"
                " that learned them by heart would look good",
                hint="hold some rows out of --train, and give them as --eval",
            )
        if common:
            notes.append(f"{common} of {len(rows)} texts of the data are also in --train")
    if request.calibration is not None:
        common = len(rows & set(read_texts(request.calibration)))
        if common:
            notes.append(
                f"{common} of {len(rows)} texts of the data are also in --calibration: int8 was"
                " fitted to them, and may do a little worse on others"
            )
    return tuple(notes)


def _training_texts(request: Request, loaded: "LoadedModel") -> Sequence[Text]:
    assert request.train is not None
    if loaded.task == "embedding":
        return read_texts(request.train)
    if loaded.problem_type not in TRAINED_PROBLEMS:
        raise UsageError(
            f"no smaller model of {loaded.problem_type or loaded.task} can be trained",
            hint="leave out --train: layers, neurons and heads are then cut without training",
        )
    regression = loaded.problem_type == "regression"
    labels = None if regression else loaded.labels
    found = read_examples(request.train, request.columns, labels=labels, regression=regression)
    return [(row.text, row.pair) for row in found.rows]


def path_of(value: str | os.PathLike[str] | None) -> Path | None:
    """A path; None stays."""
    return None if value is None else Path(value)
