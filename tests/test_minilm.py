"""The embedded default, whole: what a user gets from `edgeformer convert --profile rpi4`."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from benchmarks.held_out import held_out_texts
from edgeformer.runtime import load
from edgeformer.runtime.manifest_json import parse_manifest

ENGINES = ("onnx", "tflite", "numpy")
LEAST = {"onnx": 0.98, "tflite": 0.98, "numpy": 0.99}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [text for text in held_out_texts(count=60) if len(text) < 200][:40]


@pytest.fixture(scope="module")
def vectors(minilm_folder: Path, texts: list[str]) -> np.ndarray:
    """Mean-pooled, normalised embeddings by transformers itself."""
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder)
    model = AutoModel.from_pretrained(minilm_folder).eval()
    rows = []
    with torch.inference_mode():
        for text in texts:
            inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
            mean = model(**inputs).last_hidden_state[0].mean(0)
            rows.append((mean / mean.norm()).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("engine", ENGINES)
def test_embeddings_equal_transformers(
    minilm_bundle: Path, engine: str, texts: list[str], vectors: np.ndarray
) -> None:
    with load(minilm_bundle, engine=engine) as model:
        answers = model.embed(texts)
    assert answers.dtype == np.float32
    assert answers.shape == (len(texts), 384)
    assert (answers * vectors).sum(1).min() >= LEAST[engine]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_does_not_depend_on_its_batch(
    minilm_bundle: Path, engine: str, texts: list[str]
) -> None:
    with load(minilm_bundle, engine=engine) as model:
        together = model.embed(texts)
        alone = np.stack([model.embed(text) for text in texts])
    assert (together * alone).sum(1).min() >= 0.9999


@pytest.mark.parametrize("engine", ENGINES)
def test_odd_but_valid_inputs(minilm_bundle: Path, engine: str) -> None:
    with load(minilm_bundle, engine=engine) as model:
        assert model.embed([]).shape == (0, 384)
        assert np.linalg.norm(model.embed("")) == pytest.approx(1, abs=1e-5)
        long = "word " * 500
        model.embed(long)
        assert (model.last_call.truncated_texts, model.last_call.tokens) == (1, 64)
        model.embed(long, on_long="window")
        assert model.last_call.windows > 7 and model.last_call.truncated_tokens == 0
        one = model.run(input_ids=np.array([[101, 7592, 102]], np.uint16))["embedding"]
        np.testing.assert_allclose(one[0], model.embed("hello"), atol=2e-6)


def test_auto_takes_the_profiles_order(minilm_bundle: Path) -> None:
    with load(minilm_bundle) as model:
        assert model.variant.id == "tflite-int8"
        assert model.skipped == ()


def test_files_are_small_and_proven(minilm_bundle: Path) -> None:
    manifest = parse_manifest((minilm_bundle / "manifest.json").read_bytes())
    assert manifest.model.parameters == 22_713_216
    assert [v.id for v in manifest.variants] == ["tflite-int8", "onnx-int8", "numpy-int8"]
    for variant in manifest.variants:
        assert manifest.files[variant.programs["main"].file].size <= 25e6
        assert variant.parity is not None and variant.parity.passed
        assert variant.parity.texts > 90


def test_the_bundle_names_no_path_or_person(minilm_bundle: Path) -> None:
    """What travels to a device must not carry where it was made."""
    home = str(Path.home()).encode()
    here = os.fsencode(Path.cwd())
    for path in minilm_bundle.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert here not in data and (len(home) < 6 or home not in data), path


def test_golden_file_holds_only_our_texts(minilm_bundle: Path) -> None:
    from edgeformer.data import builtin_texts

    ours = {text for text, _ in builtin_texts()}
    cases = json.loads((minilm_bundle / "golden.json").read_bytes())["cases"]
    assert cases and all(case["text"] in ours for case in cases)
