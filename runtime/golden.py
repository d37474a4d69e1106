"""The self-test a bundle carries: inputs, and what the PyTorch model answered to them.

``golden.json`` holds a few short texts with their token ids (so a tokenizer that differs is
found too) or, for a plain module, input arrays; and for each the reference output. At load
``quick_cases`` run: as a rule one short text; ``edgeformer inspect --verify`` runs all of them.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import BundleError, EngineError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.engine import Engine
from edgeformer.runtime.manifest import Variant
from edgeformer.runtime.tokenizer import Tokenizer

# Largest ||answer - reference|| / ||reference||, over all answers of a self-test together.
# Conversion proved much more (the manifest's parity); this tells a broken engine from another CPU's
# rounding. For equal lengths these are cosines of 0.9999, 0.995 and 0.97; unlike a cosine, the
# distance sees that a single number is wrong, and that two are too small.
MAX_DISTANCE = {"fp32": 0.015, "fp16": 0.1, "int8": 0.25}
_NOISE = 1e-5  # of each value, for references near zero: the fp32 tolerance of verification

_QUICK_VALUES = 64  # one embedding cannot be right by chance, one logit can


@dataclass(frozen=True)
class GoldenCase:
    """One input and the reference answer.

    Attributes:
        text: the input of a text model, else empty.
        inputs: named input arrays as nested lists; for a text its ``input_ids`` (1, length).
        outputs: named reference outputs as nested lists.
        pair: the second text, empty if there is none.
        every: of the outputs' last dimension each ``every``-th value is stored.
    """

    text: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    pair: str = ""
    every: int = 1


def dump_golden(cases: Sequence[GoldenCase]) -> bytes:
    """The cases as JSON; a field that has its default is left out."""
    rows = [asdict(case) for case in cases]
    defaults = {field.name: field.default for field in fields(GoldenCase)}
    data = {"cases": [{k: v for k, v in row.items() if v != defaults[k]} for row in rows]}
    return (json.dumps(data, separators=(",", ":"), allow_nan=False) + "\n").encode("ascii")


def parse_golden(data: bytes) -> tuple[GoldenCase, ...]:
    """Read golden.json. Raises BundleError if it is not one."""
    try:
        cases = tuple(GoldenCase(**case) for case in json.loads(data)["cases"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"golden.json cannot be read: {error}") from None
    if not cases:
        raise BundleError("golden.json has no case")
    if any(type(case.every) is not int or case.every < 1 for case in cases):
        raise BundleError("golden.json stores each n-th value, and n is not 1 or more")
    return cases


def quick_cases(cases: Sequence[GoldenCase]) -> tuple[GoldenCase, ...]:
    """The first cases, just so many that their answers hold enough numbers to tell."""
    values = 0
    for count, case in enumerate(cases, 1):
        values += sum(np.size(output) for output in case.outputs.values())
        if values >= _QUICK_VALUES:
            return tuple(cases[:count])
    return tuple(cases)


def check_golden(
    engine: Engine,
    variant: Variant,
    tokenizer: Tokenizer | None,
    cases: Sequence[GoldenCase],
    max_length: int,
) -> None:
    """Run ``cases`` and compare.

    Args:
        engine: open, of ``variant``.
        variant: says the outputs and how far they may be off.
        tokenizer: the bundle's, None where there is none to test.
        cases: inputs and references.
        max_length: most tokens of a text; the ids of a longer one were cut there on the host too.

    Raises:
        EngineError: an answer is not a number or too far from the reference, or the tokenizer
            gives other ids than it gave on the host.
    """
    names = [port.name for port in variant.programs["main"].outputs]
    pairs: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {name: [] for name in names}
    for case in cases:
        if case.text and tokenizer is not None:
            pair = case.pair or None
            ids = tokenizer.encoding(case.text, pair, max_length=max_length).ids
            if [ids] != case.inputs["input_ids"]:
                raise EngineError(f"self-test: the tokenizer reads {case.text!r} differently here")
        answers = engine.run("main", {k: np.asarray(v) for k, v in case.inputs.items()})
        for name in names:
            answer, reference = answers[name], np.asarray(case.outputs[name])
            answer = answer[..., :: case.every] if case.every > 1 else answer
            if answer.shape != reference.shape or not np.all(np.isfinite(answer)):
                raise EngineError(f"self-test: {name} of {variant.id} is not a number or misshapen")
            pairs[name].append((answer.ravel(), reference.ravel()))
    for name, found in pairs.items():
        answer, reference = (np.concatenate(side) for side in zip(*found, strict=True))
        _compare(answer, reference, variant, name)


def check_exits(engine: Engine, variant: Variant, cases: Sequence[GoldenCase]) -> None:
    """Run ``cases`` through all segments of ``variant``, one after the other, and compare.

    Raises:
        EngineError: the answers are not those of the model: segments of another file or order.
    """

    def stay(segment: int, texts: NDArray[np.intp], logits: NDArray[Any]) -> NDArray[np.bool_]:
        return np.zeros(len(texts), np.bool_)

    ids = [case.inputs["input_ids"][0] for case in cases]
    types = [
        case.inputs["token_type_ids"][0] if "token_type_ids" in case.inputs else [0] * len(row)
        for case, row in zip(cases, ids, strict=True)
    ]
    logits, _ = engine.encode_exits(RaggedBatch.from_lists(ids, types), stay)
    reference = np.concatenate([np.asarray(case.outputs["logits"]) for case in cases])
    if logits.shape != reference.shape or not np.all(np.isfinite(logits)):
        raise EngineError(f"self-test: the segments of {variant.id} give no numbers")
    _compare(logits.ravel(), reference.ravel(), variant, "segments")


def _compare(answer: NDArray[Any], reference: NDArray[Any], variant: Variant, output: str) -> None:
    """Both one-dimensional."""
    difference = answer.astype(np.float64) - reference
    size = float(np.linalg.norm(reference))
    most = MAX_DISTANCE[variant.precision]
    if float(np.linalg.norm(difference)) > most * size + _NOISE * len(reference) ** 0.5:
        similarity = cosine(answer, reference)
        raise EngineError(
            f"self-test: {output} of {variant.id} is wrong here (off by"
            f" {np.linalg.norm(difference) / size if size else np.inf:.0%} of its size, at most"
            f" {most:.1%}; cosine {similarity:.4f})",
            hint="another engine may be right: `edgeformer doctor` tests each of them",
        )


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Cosine between two vectors in float64; 1 for two zero vectors, 0 for one."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0.0:
        return 1.0 if not np.any(a) and not np.any(b) else 0.0
    return float(a @ b) / norms
