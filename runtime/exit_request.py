"""What a caller asked of early exits, and what that means for one variant.

request = make_request("auto", latency_ms=20)
leave = request.leave(variant, texts=1, deadline=None)
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeformer.errors import InputError
from edgeformer.runtime.exiting import (
    Controller,
    Deadline,
    ExitRule,
    Leave,
    Lookup,
    check_rule,
    parse_rule,
)
from edgeformer.runtime.manifest import Variant


@dataclass(frozen=True)
class ExitRequest:
    """How texts may leave.

    Attributes:
        rule: None for the calibrated one where ``auto`` is set, else for none.
        auto: take the rule that was calibrated at conversion.
        latency_ms: most milliseconds for each text; None for no limit.
    """

    rule: ExitRule | None
    auto: bool = False
    latency_ms: float | None = None

    def rule_for(self, variant: Variant) -> ExitRule | None:
        """The rule for ``variant``.

        Raises:
            InputError: it has no exits, or they were not calibrated, or the threshold cannot be.
        """
        table = variant.exits
        if table is None:
            raise InputError(
                f"{variant.id} has no exits: a text goes through all of its layers",
                hint="leave exit and latency_ms out, or convert a model that has exits",
            )
        if self.auto and table.threshold is None:
            raise InputError(_no_threshold(variant), hint=_CALIBRATE)
        if self.auto and table.threshold is not None:
            return ExitRule(table.criterion, table.threshold)
        if self.rule is not None:
            classes = int(variant.programs["main"].outputs[0].shape[-1])
            check_rule(self.rule, len(table.layers), classes)
        return self.rule

    def leave(self, variant: Variant, texts: int, deadline: Deadline | None) -> Leave:
        """Who leaves, for one batch of ``texts``. Raises InputError as ``rule_for``."""
        rule, table = self.rule_for(variant), variant.exits
        assert table is not None  # else rule_for raised
        lookup = Lookup(table.lookup_step, np.array(table.lookup)) if table.lookup else None
        return Controller(rule, len(table.layers), texts, lookup, deadline).leave


_CALIBRATE = (
    "pass a threshold such as exit=0.2, or convert again with labelled texts: edgeformer convert"
    " ... --exits DATA --max-drop 0.5"
)


def _no_threshold(variant: Variant) -> str:
    assert variant.exits is not None
    if variant.exits.curve:
        return (
            f"no exit threshold of {variant.id} kept the budget of {variant.exits.max_drop:g}"
            f" points on the {variant.exits.texts} texts of its calibration"
        )
    return f"the exits of {variant.id} were not calibrated, so exit='auto' has no threshold"


def make_request(exit: Any, latency_ms: Any) -> ExitRequest | None:
    """The arguments ``exit`` and ``latency_ms`` of ``Model.classify``; None for neither.

    Args:
        exit: ``"auto"``, None or ``"none"``, a threshold of the entropy as a number, or text as
            ``parse_rule`` reads it.
        latency_ms: a number above 0, or None.

    Raises:
        InputError: anything else.
    """
    if latency_ms is not None and not (_number(latency_ms) and 0 < latency_ms < math.inf):
        raise InputError(
            f"latency_ms is {latency_ms!r}, not a number above 0", hint="for example latency_ms=20"
        )
    limit = None if latency_ms is None else float(latency_ms)
    if exit is None or exit == "none":
        return None if limit is None else ExitRequest(None, latency_ms=limit)
    if exit == "auto":
        return ExitRequest(None, True, limit)
    rule = ExitRule("entropy", float(exit)) if _number(exit) else parse_rule(str(exit))
    return ExitRequest(rule, latency_ms=limit)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
