"""What a board answers, as the same objects that a measurement here gives.

Nothing that comes from the board is believed before its types are right.
"""

import json
import typing
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from edgeformer.errors import RemoteError
from edgeformer.runtime.records import build

if TYPE_CHECKING:
    from edgeformer.doctor import Diagnosis
    from edgeformer.evaluation.evaluate import EvaluationReport
    from edgeformer.report.schema import Report
    from edgeformer.tuning.tune import Tuning


def read_report(data: Any) -> "Report":
    """The Report of a benchmark."""
    from edgeformer.report.schema import parse_report

    return parse_report(json.dumps(data), "what the board answered")


def read_evaluation(data: Any) -> "EvaluationReport":
    """The report of an evaluation."""
    from edgeformer.evaluation.evaluate import EvaluationReport
    from edgeformer.evaluation.exits import ExitFigures
    from edgeformer.evaluation.scores import ClassScore, Metric, Paired

    names: dict[str, Any] = {"Metric": Metric, "ClassScore": ClassScore, "Paired": Paired}
    names["ExitFigures"] = ExitFigures
    return typing.cast(EvaluationReport, _record(EvaluationReport, data, names, {}))


def read_tuning(data: Any, path: Path) -> "Tuning":
    """The result of a tuning, whose file is now ``path``."""
    from edgeformer.tuning.tune import Tuning

    return typing.cast(Tuning, _record(Tuning, data, {}, {"path": path}))


def read_diagnosis(data: Any) -> "Diagnosis":
    """What the doctor found."""
    from edgeformer.doctor import Diagnosis
    from edgeformer.runtime.blas import BlasInfo

    return typing.cast(Diagnosis, _record(Diagnosis, data, {"BlasInfo": BlasInfo}, {}))


def _record(kind: Any, data: Any, names: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """A dataclass some of whose annotations only a type checker can resolve.

    Args:
        kind: the dataclass.
        data: its fields.
        names: what those annotations mean.
        given: fields whose values are ours.
    """
    if not isinstance(data, dict):
        _refuse(f"no {kind.__name__}")
    hints = typing.get_type_hints(kind, localns=dict(names))
    values = dict(given)
    for field in fields(kind):
        if field.name not in given and field.name not in data:
            _refuse(f"{kind.__name__} without {field.name}")
        if field.name not in given:
            values[field.name] = build(
                hints[field.name], data[field.name], field.name, _refuse, open_fields=True
            )
    return kind(**values)


def _refuse(what: str) -> NoReturn:
    raise RemoteError(
        f"the board answered nonsense: {what}", hint="this is a bug; EDGEFORMER_DEBUG=1 shows where"
    )
