"""The texts on which exits are calibrated, with labels or without."""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeformer.compression.examples import LABEL_COLUMNS
from edgeformer.data import find_column, read_rows, read_texts
from edgeformer.errors import ModelError
from edgeformer.evaluation.data import read_cases

if TYPE_CHECKING:
    from edgeformer.converters.exit_calibration import ExitData, ExitSettings
    from edgeformer.runtime.manifest import ModelCard


def read_exit_data(
    path: Path, card: "ModelCard", exits: int, settings: "ExitSettings"
) -> "ExitData":
    """Read ``--exits DATA``.

    Args:
        path: a table whose rows have labels, as ``eval`` takes it; without a column of labels, or
            any other file, texts as ``--calibration`` takes them.
        card: of the model, whose labels they are.
        exits: of the model, its last layer among them; 0 without any.
        settings: with the budget that they must be able to prove.

    Raises:
        UsageError: no such file.
        DataError: malformed, an unknown label, or too few texts.
        ModelError: the model has no exits.
    """
    from edgeformer.converters.exit_calibration import ExitData, check_enough

    if not exits:
        raise ModelError(
            f"{card.name} has no exits to calibrate",
            hint="leave --exits out, or train exits: edgeformer compress MODEL --recipe exits",
        )
    if settings.predictor and exits < 3:
        raise ModelError(
            "there is nothing to predict: after the first exit comes the last layer",
            hint="leave --exit-predictor out",
        )
    first = next(iter(read_rows(path)), None)
    table = path.suffix.lower() in (".jsonl", ".csv", ".tsv")
    labelled = table and first is not None and find_column(first, None, LABEL_COLUMNS) is not None
    if labelled:
        cases = read_cases(path, card)
        texts = tuple((case.text, case.pair) for case in cases.rows)
        places = {label: i for i, label in enumerate(card.labels)}
        data = ExitData(texts, tuple(places[str(case.truth)] for case in cases.rows))
    else:
        data = ExitData(read_texts(path), None)
    count = len(data.texts) - (len(data.texts) + 2) // 3 * settings.predictor
    check_enough(count, labelled, settings.max_drop)
    return data
