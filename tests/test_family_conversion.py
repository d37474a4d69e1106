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

from edgeformer.converters.conversion import ConversionReport
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


PLAIN = EncoderConfig(
    vocab_size=len(tiny_vocabulary()),
    hidden_size=32,
    num_heads=(4, 4, 4),
    head_dim=8,
    intermediate_sizes=(40, 40, 40),
    max_positions=48,
)
UNEVEN = replace(PLAIN, num_heads=(3, 1, 3), intermediate_sizes=(40, 7, 40))
SHAPES = {
    "uneven heads and neurons": UNEVEN,
    "all layers tied": replace(PLAIN, layer_groups=(0, 0, 0)),
    "layers tied in groups": replace(UNEVEN, layer_groups=(0, 1, 0)),
    "factorised tokens": replace(PLAIN, embedding_size=12, embedding_projection="tokens"),
    "factorised sum": replace(PLAIN, embedding_size=12, embedding_projection="sum"),
    "factorised maps": replace(UNEVEN, linear_ranks=(6, 0, 6, 5, 8, 0) * 3),
    "layer scale": replace(PLAIN, pre_norm=True, layer_scale=True),
    "root mean square norm": replace(PLAIN, norm="rms_norm"),
    "pruned, tied and factorised": replace(
        UNEVEN, layer_groups=(0, 1, 0), embedding_size=12, embedding_projection="tokens"
    ),
    "pruned, tied and scaled": replace(
        UNEVEN, layer_groups=(0, 1, 0), pre_norm=True, layer_scale=True
    ),
}


def convert_shape(
    name: str, tmp_path: Path, profile: str, engines: tuple[str, ...], precision: str
) -> tuple[Path, ConversionReport]:
    """The folder of an encoder of that shape, saved in our own form, and its conversion."""
    head = HeadConfig("embedding")
    module = make_model(SHAPES[name], head).eval()
    randomise(module, 0)
    loaded = load_checkpoint(tiny_bert_folder(tmp_path / "bert"))
    folder = save_checkpoint(replace(loaded, module=module, head=head), tmp_path / "saved")
    report = convert(
        folder,
        profile=profile,
        output=tmp_path / f"{precision}.edge",
        engines=engines,
        precisions=(precision,),
    )
    assert all(v.parity is not None and v.parity.passed for v in report.manifest.variants)
    return folder, report


@pytest.mark.parametrize("name", ["pruned, tied and factorised", "pruned, tied and scaled"])
def test_shapes_of_our_own_convert(name: str, profile: str, tmp_path: Path) -> None:
    """Layers of different heads and widths, two of which share their weights, and more."""
    engines = ("onnx", "numpy")
    folder, report = convert_shape(name, tmp_path, profile, engines, "fp32")
    assert report.manifest.model.family == "bert"
    layouts = {v.engine: v.layout for v in report.manifest.variants}
    assert layouts["numpy"] == "packed"
    check_embeddings(report.path, folder, engines)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_converts_to_every_engine(name: str, profile: str, tmp_path: Path) -> None:
    """Verified: float32 answers to 1e-5, int8 ones to a cosine of 0.98, in any batch."""
    engines = ("onnx", "tflite", "numpy")
    folder, report = convert_shape(name, tmp_path, profile, engines, "fp32")
    assert {v.engine: v.layout for v in report.manifest.variants} == {
        "onnx": "dense",
        "tflite": "dense",
        "numpy": "packed",
    }
    check_embeddings(report.path, folder, engines)
    shared = tmp_path / "int8"
    shared.mkdir()
    _, quantized = convert_shape(name, shared, profile, engines, "int8")
    sizes = [
        sum(record.size for file, record in made.manifest.files.items() if "model" in file)
        for made in (report, quantized)
    ]
    assert sizes[1] < sizes[0]


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
