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
EXIT_DROP = 0.5  # points that exits may cost, where a time is the only limit
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
        exits: texts on which exits are calibrated; None leaves them out.
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
    exits: Path | None = None
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

    @property
    def exit_drop(self) -> float:
        """Points that exits may cost: the budget's; it may be 0 only where there are no exits."""
        if self.exits is None or self.budget.max_drop is None:
            return EXIT_DROP
        return self.budget.max_drop


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
    if request.exits is not None and request.data is None:
        raise UsageError(
            "--exits lets texts leave early, and without data nothing tells whether they are right",
            hint="add --eval DATA, other rows than those of --exits",
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


def read_exits(request: Request, loaded: "LoadedModel") -> Sequence[Text]:
    """The texts on which exits are calibrated; none where none were given.

    Raises:
        UsageError: no such file, or a budget that exits cannot have.
        ModelError: the model has no exits.
        DataError: malformed, an unknown label, or too few texts.
    """
    from edgeformer.checkpoint_model import card_of
    from edgeformer.converters.exit_calibration import ExitSettings
    from edgeformer.exit_data import read_exit_data

    if request.exits is None:
        return ()
    settings = ExitSettings(request.exit_drop)
    return read_exit_data(request.exits, card_of(loaded), exit_count(loaded), settings).texts


def exit_count(loaded: "LoadedModel") -> int:
    """Exits of a model, its last layer among them; 0 without any."""
    from edgeformer.models.exits import ExitClassifier

    module = loaded.module
    return module.encoder.config.num_layers if isinstance(module, ExitClassifier) else 0


def exits_left_out(request: Request, loaded: "LoadedModel") -> tuple[str, ...]:
    """A note where a model has exits and no texts to calibrate them."""
    if request.exits is not None or not exit_count(loaded):
        return ()
    missing = "--exits DATA" if request.data else "--eval DATA and --exits DATA"
    return (
        f"the model has exits, and they were left out: with {missing} (labelled texts that are not"
        " those of --eval) texts that leave early are tried too",
    )


def shared_rows(request: Request, loaded: "LoadedModel", cases: Cases | None) -> tuple[str, ...]:
    """Words of warning where rows of the data were also trained or calibrated on.

    Raises:
        UsageError: most rows of the data are training texts, or those of the exits; or a model
            that cannot be trained.
        ModelError: texts for exits, and a model without.
        DataError: such texts, or calibration texts, that cannot be read.
    """
    notes = []
    rows = {(case.text, case.pair) for case in cases.rows} if cases else set()
    if request.train is not None:
        texts = _training_texts(request, loaded)
        why = "a model that learned them by heart would look good"
        notes += _shared(request, rows, texts, "--train", why)
    exit_texts, why = read_exits(request, loaded), "exits that were fitted to them would look good"
    notes += _shared(request, rows, exit_texts, "--exits", why)
    if request.calibration is not None:
        common = len(rows & set(read_texts(request.calibration)))
        if common:
            notes.append(
                f"{common} of {len(rows)} texts of the data are also in --calibration: int8 was"
                " fitted to them, and may do a little worse on others"
            )
    return tuple(notes)


def _shared(
    request: Request, rows: set[Text], texts: Sequence[Text], option: str, why: str
) -> list[str]:
    """A word of warning where rows are also among ``texts``; UsageError where most are."""
    common = len(rows & set(texts))
    if common > MOST_SHARED * len(rows):
        raise UsageError(
            f"{common} of {len(rows)} texts of {request.data} are also in {option}: {why}",
            hint=f"hold some rows out of {option}, and give them as --eval",
        )
    return [f"{common} of {len(rows)} texts of the data are also in {option}"] if common else []


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
