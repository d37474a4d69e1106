"""Families that no other test converts: thin layers, uneven widths, images.

tests/test_numpy_engine.py lowers every family of texts; here whole conversions are verified.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from edgeformer.models.build import HeadConfig, make_model
from edgeformer.models.checkpoint import load_checkpoint
from edgeformer.models.config import EncoderConfig
from edgeformer.models.saving import save_checkpoint
from edgeformer.pipeline import convert
from edgeformer.runtime import load
from tests.test_families import IMAGE_SIZES
from tests.tiny_models import (
    TEXTS,
    add_sentence_files,
    randomise,
    tiny_bert_folder,
    tiny_family_folder,
    tiny_vocabulary,
)

PROFILE = 'extends = "rpi4"\n[length]\nmax_tokens = 32\nbucket_tokens = [32]\n'


@pytest.fixture
def profile(tmp_path: Path) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(PROFILE)
    return str(path)


def check_embeddings(bundle: Path, folder: Path, engines: tuple[str, ...]) -> None:
    """Each engine embeds a mixed batch as PyTorch embeds each text alone."""
    loaded = load_checkpoint(folder)
    for engine in engines:
        with load(bundle, engine=engine) as model:
            together = model.embed(list(TEXTS))
            for row, text in zip(together, TEXTS, strict=True):
                ids = torch.tensor([model.tokenizer.encode(text)])
                with torch.no_grad():
                    expected = loaded.module(ids, torch.ones_like(ids))["embedding"][0]
                assert np.abs(row - expected.numpy()).max() <= 1e-5


def test_mobilebert_answers_alike_in_any_batch(profile: str, tmp_path: Path) -> None:
    """Its trigrams look at neighbours: padding must not be one of them."""
    folder = add_sentence_files(tiny_family_folder(tmp_path / "mobilebert", "mobilebert"))
    engines = ("onnx", "tflite", "numpy")
    report = convert(
        folder, profile=profile, output=tmp_path / "m.edge", engines=engines, precisions=("fp32",)
    )
    for variant in report.manifest.variants:
        assert variant.parity is not None and (variant.parity.batch_cosine or 0) >= 0.99999
    check_embeddings(report.path, folder, engines)


def test_a_pruned_and_tied_encoder_converts(profile: str, tmp_path: Path) -> None:
    """Layers of different heads and widths, two of which share their weights."""
    config = EncoderConfig(
        vocab_size=len(tiny_vocabulary()),
        hidden_size=32,
        num_heads=(3, 1, 3),
        head_dim=8,
        intermediate_sizes=(40, 7, 40),
        max_positions=48,
        layer_groups=(0, 1, 0),
    )
    head = HeadConfig("embedding")
    module = make_model(config, head).eval()
    randomise(module, 0)
    loaded = load_checkpoint(tiny_bert_folder(tmp_path / "bert"))
    folder = save_checkpoint(replace(loaded, module=module, head=head), tmp_path / "pruned")
    engines = ("onnx", "numpy")
    report = convert(
        folder, profile=profile, output=tmp_path / "m.edge", engines=engines, precisions=("fp32",)
    )
    assert report.manifest.model.family == "bert"
    layouts = {v.engine: v.layout for v in report.manifest.variants}
    assert layouts["numpy"] == "packed"
    check_embeddings(report.path, folder, engines)


@pytest.mark.parametrize("name", ["ViTForImageClassification", "Dinov2ForImageClassification"])
def test_an_image_model_converts(name: str, profile: str, tmp_path: Path) -> None:
    model_class: Any = getattr(transformers, name)
    model = model_class(model_class.config_class(**IMAGE_SIZES, num_labels=5)).eval()
    randomise(model, 0)
    model.save_pretrained(tmp_path / "model")
    engines = ("onnx", "tflite", "numpy")
    report = convert(
        tmp_path / "model",
        profile=profile,
        output=tmp_path / "m.edge",
        engines=engines,
        precisions=("fp32",),
    )
    assert (report.manifest.model.task, report.manifest.model.max_length) == ("classification", 0)
    image = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(image).logits.numpy()
    for engine in engines:
        with load(report.path, engine=engine) as bundle:
            logits = bundle.run(pixel_values=image.numpy())["logits"]
        assert np.abs(logits - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
