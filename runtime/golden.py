"""The self-test a bundle carries: inputs, and what the PyTorch model answered to them.

``golden.json`` holds a few short texts with their token ids (so a tokenizer that differs is
found too) or, for a plain module, input arrays; and for each the reference output. At load one
short case runs; ``edgeformer inspect --verify`` runs all of them.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import BundleError, EngineError
from edgeformer.runtime.engine import Engine
from edgeformer.runtime.manifest import Variant
from edgeformer.runtime.tokenizer import Tokenizer

# What an answer must at least share with the reference. Conversion proved much more (the
# manifest's parity); this tells a broken engine from another CPU's rounding.
MIN_COSINE = {"fp32": 0.9999, "fp16": 0.995, "int8": 0.97}


@dataclass(frozen=True)
class GoldenCase:
    """One input and the reference answer.

    Attributes:
        text: the input of a text model, else empty.
        inputs: named input arrays as nested lists; for a text its ``input_ids`` (1, length).
        outputs: named reference outputs as nested lists.
    """

    text: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]


def dump_golden(cases: Sequence[GoldenCase]) -> bytes:
    """The cases as JSON."""
    data = {"cases": [asdict(case) for case in cases]}
    return (json.dumps(data, separators=(",", ":"), allow_nan=False) + "\n").encode("ascii")


def parse_golden(data: bytes) -> tuple[GoldenCase, ...]:
    """Read golden.json. Raises BundleError if it is not one."""
    try:
        cases = tuple(GoldenCase(**case) for case in json.loads(data)["cases"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"golden.json cannot be read: {error}") from None
    if not cases:
        raise BundleError("golden.json has no case")
    return cases


def check_golden(
    engine: Engine, variant: Variant, tokenizer: Tokenizer | None, cases: Sequence[GoldenCase]
) -> None:
    """Run ``cases`` and compare.

    Raises:
        EngineError: an answer is not a number or too far from the reference, or the tokenizer
            gives other ids than it gave on the host.
    """
    for case in cases:
        if case.text and tokenizer is not None:
            ids = tokenizer.encode(case.text)
            if [ids] != case.inputs["input_ids"]:
                raise EngineError(f"self-test: the tokenizer reads {case.text!r} differently here")
        answers = engine.run("main", {k: np.asarray(v) for k, v in case.inputs.items()})
        for port in variant.programs["main"].outputs:
            _compare(answers[port.name], np.asarray(case.outputs[port.name]), variant, port.name)


def _compare(answer: NDArray[Any], reference: NDArray[Any], variant: Variant, output: str) -> None:
    if answer.shape != reference.shape or not np.all(np.isfinite(answer)):
        raise EngineError(f"self-test: {output} of {variant.id} is not a number or misshapen")
    similarity = cosine(answer.ravel(), reference.ravel())
    least = MIN_COSINE[variant.precision]
    if similarity < least:
        raise EngineError(
            f"self-test: {output} of {variant.id} is wrong here"
            f" (cosine {similarity:.4f}, at least {least})",
            hint="another engine may be right: `edgeformer doctor` tests each of them",
        )


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Cosine between two vectors in float64; 1 for two zero vectors, 0 for one."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0.0:
        return 1.0 if not np.any(a) and not np.any(b) else 0.0
    return float(a @ b) / norms
