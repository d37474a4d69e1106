"""Prove the exits of a variant: its segments are its model, and each answers as PyTorch's does.

1. Every text runs alone in PyTorch, through the segments of the model as it was loaded.
2. The variant answers the same texts in batches, segment after segment, and nobody leaves.
3. The last segment's logits must be those of the program ``main``, and each segment's those of
   PyTorch, both within the tolerance of the variant's precision. Equal best classes are asked of
   the last segment only: at an early one most texts are near the boundary, where rounding decides,
   and those do not leave there. What exits do to the answers is calibration's business.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeformer.converters.comparing import nearness
from edgeformer.converters.prepared import PreparedExits
from edgeformer.converters.verification import Reference, judge
from edgeformer.device_profiles.profile import Tolerance
from edgeformer.runtime.engine import Engine
from edgeformer.runtime.exit_chain import every_exit
from edgeformer.runtime.manifest import Parity, Variant

Logits = NDArray[np.float32]


def exit_reference(exits: PreparedExits, reference: Reference) -> Logits:
    """PyTorch's logits after each segment, float32 (segments, texts, classes)."""
    texts = []
    with torch.inference_mode():
        for case in reference.inputs:
            answer = exits.reference(**{name: torch.from_numpy(v) for name, v in case.items()})
            count = len(exits.layers)
            texts.append([answer[f"logits_{k}"][0].numpy() for k in range(1, count + 1)])
    return np.array(texts, np.float32).swapaxes(0, 1)


def verify_exits(
    engine: Engine,
    variant: Variant,
    reference: Reference,
    expected: Logits,
    tolerance: Tolerance,
) -> Parity:
    """The variant's parity, with what its exits miss added to the failures.

    Args:
        engine: the variant, open.
        variant: its ``parity`` was measured on ``main``.
        reference: the texts.
        expected: of ``exit_reference``.
        tolerance: the profile's.
    """
    assert variant.parity is not None and reference.batch is not None
    found = every_exit(engine.encode_exits, reference.batch, len(expected))
    whole = engine.encode(reference.batch)["logits"]
    failures = _judged("the segments together", found[-1], whole, variant, tolerance, top1=True)
    for k, (answers, wanted) in enumerate(zip(found, expected, strict=True), 1):
        last = k == len(expected)
        failures += _judged(f"segment_{k}", answers, wanted, variant, tolerance, top1=last)
    parity = variant.parity
    failures = (*parity.failures, *failures)
    return replace(parity, passed=not failures, failures=failures)


def _judged(
    name: str,
    answers: NDArray[Any],
    wanted: NDArray[Any],
    variant: Variant,
    tolerance: Tolerance,
    *,
    top1: bool,
) -> tuple[str, ...]:
    near = nearness("classification", [(answers, wanted)])
    finite = bool(np.isfinite(answers).all())
    measured = Parity(
        texts=len(wanted),
        max_abs=float(np.abs(answers - wanted).max(initial=0.0)) if finite else float("inf"),
        max_ref=float(np.abs(wanted).max(initial=0.0)),
        min_cosine=min(near.cosines),
        mean_cosine=float(np.mean(near.cosines)),
        top1=near.top1 if top1 else None,
        batch_cosine=None,
        passed=True,
    )
    judged = judge(measured, variant.precision, tolerance)
    return tuple(f"{name}: {failure}" for failure in judged.failures)
