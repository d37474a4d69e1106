"""The same model gives the same answers on every CPU: to the host's, and text by text."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.arm.conftest import film_reviews, varied_texts
from tests.arm.guest import Guest

pytestmark = pytest.mark.arm

FP32_TEXTS = 12  # whose answers are compared number by number
# Without a floating point unit a text takes seconds to emulate.
SLOW_BOARDS = {"arm1176-bookworm-armel-reference-blas": 8}
FP32_TOLERANCE = 1e-5  # times max(1, largest value): DESIGN.md's
BETWEEN_FAMILIES = 0.99
BATCH_COSINE = 0.9999


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 (rows,)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def assert_alike(ours: np.ndarray, theirs: np.ndarray, variant: str) -> None:
    """fp32 to the last digits, int8 by cosine."""
    assert np.isfinite(ours).all()
    if variant.endswith("fp32"):
        worst, largest = float(np.abs(ours - theirs).max()), float(np.abs(theirs).max())
        assert worst <= FP32_TOLERANCE * max(1.0, largest), variant
    else:
        assert cosines(ours, theirs).min() >= BETWEEN_FAMILIES, variant


def test_every_golden_answer_holds(
    guest: Guest, minilm: Path, classifier: Path, mixer: Path
) -> None:
    for bundle in (minilm, classifier, mixer):
        done = guest.edgeformer("inspect", bundle, "--verify", "--json")
        checked = json.loads(done.stdout)["verification"]["answers"]
        states = {check["variant"]: check["state"] for check in checked}
        passed = {variant for variant, state in states.items() if state == "passed"}
        assert passed >= set(guest.variants), checked
        assert done.returncode == (1 if "failed" in states.values() else 0), done.stderr


def test_minilm_answers_like_the_host_and_apart_from_its_batch(
    guest: Guest, host: Guest, minilm: Path
) -> None:
    texts = varied_texts()[: SLOW_BOARDS.get(guest.name)]
    asked = {v: texts if v.endswith("int8") else texts[:FP32_TEXTS] for v in guest.variants}
    ours, theirs = guest.all_answers(minilm, asked), host.all_answers(minilm, asked)
    for variant in guest.variants:
        alone, batch = ours[variant]["alone"], ours[variant]["batch"]
        assert_alike(alone, theirs[variant]["alone"], variant)
        assert cosines(alone[: len(batch)], batch).min() >= BATCH_COSINE, variant


def test_classifier_labels_and_scores_are_the_same_everywhere(
    guest: Guest, host: Guest, classifier: Path
) -> None:
    texts, kinds = zip(*film_reviews(), strict=True)
    asked = dict.fromkeys(guest.variants, texts)
    ours, theirs = guest.all_answers(classifier, asked), host.all_answers(classifier, asked)
    for variant, scores in ours.items():
        assert_alike(scores["alone"], theirs[variant]["alone"], variant)
        for way, found in scores.items():
            assert found.argmax(-1).tolist() == list(kinds[: len(found)]), (variant, way)


def test_plain_module_answers_like_the_host(guest: Guest, host: Guest, mixer: Path) -> None:
    asked: dict[str, tuple[str, ...]] = dict.fromkeys(guest.variants, ())
    ours, theirs = guest.all_answers(mixer, asked), host.all_answers(mixer, asked)
    for variant, outputs in ours.items():
        assert set(outputs) == set(theirs[variant]) != set()
        for name, values in outputs.items():
            assert_alike(values, theirs[variant][name], variant)
