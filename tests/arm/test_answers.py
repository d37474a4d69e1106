"""The same model gives the same answers on every CPU: to the host's, and text by text."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.arm.conftest import PRECISIONS, film_reviews, varied_texts
from tests.arm.guest import Guest

pytestmark = pytest.mark.arm

# Without a fast BLAS or a floating point unit a text takes seconds to emulate.
SLOW_BOARDS = {"arm1176-bookworm-armel-reference-blas": 12}
FP32_TOLERANCE = 1e-5  # times max(1, largest value): DESIGN.md's
BETWEEN_FAMILIES = 0.99
BATCH_COSINE = 0.9999


def variants(guest: Guest) -> list[str]:
    return [f"{engine}-{precision}" for engine in guest.engines for precision in PRECISIONS]


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


def test_every_golden_answer_holds(guest: Guest, minilm: Path, classifier: Path) -> None:
    for bundle in (minilm, classifier):
        done = guest.edgeformer("inspect", bundle, "--verify", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        checked = json.loads(done.stdout)["verified"]
        states = {check["variant"]: check["state"] for check in checked}
        assert {name for name, state in states.items() if state == "ok"} >= set(variants(guest))


def test_minilm_answers_like_the_host_and_apart_from_its_batch(
    guest: Guest, host: Guest, minilm: Path
) -> None:
    texts = varied_texts()[: SLOW_BOARDS.get(guest.name)]
    for variant in variants(guest):
        ours = guest.answers(minilm, variant, texts)
        theirs = host.answers(minilm, variant, texts)
        assert_alike(ours["alone"], theirs["alone"], variant)
        assert cosines(ours["alone"], ours["batch"]).min() >= BATCH_COSINE, variant


def test_classifier_gives_the_same_label_on_every_engine(guest: Guest, classifier: Path) -> None:
    texts, kinds = zip(*film_reviews(), strict=True)
    for variant in variants(guest):
        scores = guest.answers(classifier, variant, texts)
        for way in ("alone", "batch"):
            assert scores[way].argmax(-1).tolist() == list(kinds), (variant, way)


def test_classifier_scores_are_the_hosts(guest: Guest, host: Guest, classifier: Path) -> None:
    texts = [text for text, _ in film_reviews()]
    for variant in variants(guest):
        ours = guest.answers(classifier, variant, texts)
        assert_alike(ours["alone"], host.answers(classifier, variant, texts)["alone"], variant)


def test_plain_module_answers_like_the_host(guest: Guest, host: Guest, pictures: Path) -> None:
    for variant in variants(guest):
        ours, theirs = guest.answers(pictures, variant, ()), host.answers(pictures, variant, ())
        assert set(ours) == set(theirs) != set()
        for name, values in ours.items():
            assert_alike(values, theirs[name], variant)
