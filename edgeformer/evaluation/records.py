"""An evaluation's main figure in the report of a benchmark: speed and rightness on one page.

    add_to_report("report.json", evaluate("model.edge", "test.tsv"))

Standard library only.
"""

import math
import os
from dataclasses import replace
from pathlib import Path

from edgeformer.errors import UsageError
from edgeformer.evaluation.evaluate import EvaluationReport
from edgeformer.evaluation.models import is_checkpoint
from edgeformer.report.exit_records import ExitRun
from edgeformer.report.files import read_report, write_reports
from edgeformer.report.schema import Accuracy, Report


def check_report(path: str | os.PathLike[str], model: str | os.PathLike[str]) -> Report:
    """The report that a figure of ``model`` may be added to.

    Raises:
        UsageError: no such file, or a report of another bundle.
        DataError: not a report, or of another schema.
    """
    from edgeformer.runtime.bundle import open_bundle
    from edgeformer.runtime.manifest_json import manifest_digest

    report = read_report(path)
    if is_checkpoint(model):  # what the bundle was made from: nothing says so, the user does
        return report
    with open_bundle(model) as bundle:
        if manifest_digest(bundle.manifest) != report.bundle.digest:
            raise UsageError(
                f"{path} is of another bundle than {model}",
                hint=f"edgeformer benchmark {model} --report FILE.json",
            )
    return report


def add_to_report(path: str | os.PathLike[str], evaluation: EvaluationReport) -> None:
    """Write the main figure, and where texts left early, into the report, in place of those of the
    same variant and data.

    Raises:
        UsageError: see ``check_report``; or the figure is not defined.
    """
    report = check_report(path, evaluation.model)
    main = evaluation.metrics[0]
    if not math.isfinite(main.value):
        raise UsageError(
            f"{main.name} is not defined on {evaluation.data}: a report has no place for that",
            hint="leave out --add-to",
        )
    known = math.isfinite(main.interval.low)
    row = Accuracy(
        variant=evaluation.variant,
        dataset=Path(evaluation.data).name,
        metric=main.name,
        value=main.value,
        examples=evaluation.texts,
        low=main.interval.low if known else None,
        high=main.interval.high if known else None,
    )
    key = (row.variant, row.dataset, row.metric)
    others = [a for a in report.accuracy if (a.variant, a.dataset, a.metric) != key]
    exits = [e for e in report.exits if (e.variant, e.dataset) != key[:2]]
    if evaluation.exits is not None:
        found = evaluation.exits
        exits.append(
            ExitRun(
                *key[:2],
                layers=found.layers,
                texts=found.texts,
                threshold=found.rule,
                accuracy=found.accuracy,
                curve=found.curve,
                times=found.times,
            )
        )
    changed = replace(report, accuracy=(*others, row), exits=tuple(exits))
    write_reports([changed], path, force=True)
