"""Images: resized as Pillow does, prepared as transformers does, answered as its models do."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeformer.errors import EngineError, InputError, UsageError
from edgeformer.image_files import read_image
from edgeformer.image_settings import read_image_input
from edgeformer.pipeline import convert
from edgeformer.runtime import load
from edgeformer.runtime.manifest import ImageInput
from edgeformer.runtime.tasks.images import pixel_values
from edgeformer.runtime.tasks.resampling import FILTERS, resize
from tests.test_families import IMAGE_SIZES
from tests.tiny_bundles import bundle
from tests.tiny_models import randomise

pytest.importorskip("PIL", minversion="13")  # before, it resizes in another order
PIL = pytest.importorskip("PIL.Image")

PROFILE = 'extends = "rpi4"\n[length]\nmax_tokens = 32\nbucket_tokens = [32]\n'
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
VIT = {"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 12}}
DEIT = {
    "image_processor_type": "DeiTImageProcessor",
    "size": {"height": 15, "width": 14},
    "crop_size": {"height": 12, "width": 12},
    "image_mean": MEAN,
    "image_std": STD,
}
DINOV2 = {
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 14},
    "crop_size": {"height": 12, "width": 12},
    "resample": 3,
    "image_mean": MEAN,
    "image_std": STD,
}


def picture(height: int, width: int, seed: int = 0, channels: int = 3) -> NDArray[np.uint8]:
    """Noise with smooth parts and saturated ones: overshoot must be cut off."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 256, (height, width, channels))
    noise[: height // 2] = np.clip(noise[: height // 2] * 3 - 256, 0, 255)
    return noise.astype(np.uint8)


# --- resampling against Pillow ----------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(
    st.tuples(*[st.integers(1, 70)] * 4),
    st.sampled_from(sorted(FILTERS)),
    st.integers(0, 10**6),
)
def test_resizing_is_pillows_to_the_bit(sizes: tuple[int, ...], resample: str, seed: int) -> None:
    height, width, new_height, new_width = sizes
    image = picture(height, width, seed)
    number = {"bilinear": 2, "bicubic": 3, "lanczos": 1}[resample]
    expected = np.asarray(PIL.fromarray(image).resize((new_width, new_height), number))
    found = resize(image.transpose(2, 0, 1), new_height, new_width, resample)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found.transpose(1, 2, 0), expected)


@pytest.mark.parametrize("resample", sorted(FILTERS))
def test_a_large_photograph_shrinks_as_in_pillow(resample: str) -> None:
    image = picture(700, 1031)
    number = {"bilinear": 2, "bicubic": 3, "lanczos": 1}[resample]
    expected = np.asarray(PIL.fromarray(image).resize((224, 224), number))
    found = resize(image.transpose(2, 0, 1), 224, 224, resample)
    np.testing.assert_array_equal(found.transpose(1, 2, 0), expected)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 50)] * 4), st.sampled_from(sorted(FILTERS)))
def test_floats_are_resized_without_rounding(sizes: tuple[int, ...], resample: str) -> None:
    height, width, new_height, new_width = sizes
    plane = np.random.default_rng(0).random((height, width))
    number = {"bilinear": 2, "bicubic": 3, "lanczos": 1}[resample]
    image = PIL.fromarray(plane.astype(np.float32))
    expected = np.asarray(image.resize((new_width, new_height), number))
    found = resize(plane[None], new_height, new_width, resample)[0]
    np.testing.assert_allclose(found, expected, atol=2e-6)


# --- preparation against transformers ---------------------------------------------------------


def processor(settings: dict[str, Any]) -> Any:
    """The NumPy and Pillow backend of the image processor that the settings name."""
    name = settings["image_processor_type"]
    return getattr(transformers, f"{name}Pil")(**settings)


@pytest.mark.parametrize("settings", [VIT, DEIT, DINOV2], ids=["vit", "deit", "dinov2"])
@pytest.mark.parametrize("size", [(31, 47), (47, 31), (12, 12), (5, 90), (13, 14)])
def test_pixel_values_are_those_of_transformers(
    settings: dict[str, Any], size: tuple[int, int]
) -> None:
    image = picture(*size)
    how, notice = read_image_input(settings, "vit", 3, 12)
    assert how is not None and not notice
    expected = processor(settings)(image, return_tensors="np")["pixel_values"][0]
    found = pixel_values(image, how, (3, 12, 12))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"do_rescale": False, "image_mean": [120.0] * 3, "image_std": [60.0] * 3},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"resample": 1},
        {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 12, "width": 12}},
    ],
)
def test_every_setting_is_obeyed(changes: dict[str, Any]) -> None:
    settings = {**VIT, **changes}
    how, _ = read_image_input(settings, "vit", 3, 12)
    assert how is not None
    for size in ((31, 47), (7, 40)):  # the second is smaller than what is cropped
        image = picture(*size)
        expected = processor(settings)(image, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(pixel_values(image, how, (3, 12, 12)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "family", "like"),
    [
        ({"do_resize": True, "size": 12}, "vit", {**VIT}),
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 12, "resample": None}, "", VIT),
        (
            {"image_processor_type": "DeiTImageProcessorFast", "size": 16, "crop_size": 12},
            "",
            {
                "image_processor_type": "DeiTImageProcessor",
                "size": {"height": 16, "width": 16},
                "crop_size": {"height": 12, "width": 12},
            },
        ),
        (
            {"size": 14, "crop_size": 12},
            "dinov2",
            {
                "image_processor_type": "BitImageProcessor",
                "size": {"shortest_edge": 14},
                "crop_size": {"height": 12, "width": 12},
            },
        ),
    ],
)
def test_what_a_file_leaves_out_is_its_processors_default(
    settings: dict[str, Any], family: str, like: dict[str, Any]
) -> None:
    how, notice = read_image_input(settings, family, 3, 12)
    assert how is not None and not notice
    image = picture(40, 29)
    expected = processor(like)(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(pixel_values(image, how, (3, 12, 12)), expected, atol=1e-6)


def test_floats_from_0_to_1_are_the_same_image() -> None:
    """Within what rounding each pass to whole values changes: two passes, half a value each."""
    how, _ = read_image_input(VIT, "vit", 3, 12)
    assert how is not None
    image = picture(31, 47)
    whole = pixel_values(image, how, (3, 12, 12))
    for dtype in (np.float32, np.float64):
        floats = pixel_values((image / 255).astype(dtype), how, (3, 12, 12))
        assert np.abs(floats - whole).max() <= 1.01 / 255 / 0.5
        assert np.abs(floats - whole).max() > 0
    same = pixel_values((image[:12, :12] / 255), how, (3, 12, 12))
    np.testing.assert_allclose(same, pixel_values(image[:12, :12], how, (3, 12, 12)), atol=1e-6)


def test_an_image_of_another_size_than_the_checkpoints_is_scaled_in_proportion() -> None:
    """DINOv2's files say 224 and its position table 518."""
    how, notice = read_image_input(DINOV2, "dinov2", 3, 24)
    assert how is not None
    assert (how.resize, how.crop) == ((28,), (24, 24))
    assert "12 x 12, the model takes 24 x 24" in notice


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "no preprocessor_config.json"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 12}, "ConvNextImageProcessor"),
        ({**VIT, "do_pad": True}, "do_pad is unknown"),
        ({**VIT, "resample": 0}, "resample 0"),
        ({**VIT, "size": {"longest_edge": 12}}, "longest_edge"),
        ({**VIT, "size": {"shortest_edge": 12}}, "makes images of"),
        ({**VIT, "size": -3}, "-3"),
        ({**VIT, "image_mean": [0.5]}, "1 values for 3 channels"),
        ({**VIT, "rescale_factor": "x"}, "no number"),
    ],
)
def test_settings_that_are_unknown_leave_arrays_only(settings: dict[str, Any], says: str) -> None:
    how, notice = read_image_input(settings, "vit", 3, 12)
    assert how is None
    assert says in notice
    assert "model.run(pixel_values=...)" in notice


# --- bundles ----------------------------------------------------------------------------------


def checkpoint(folder: Path, name: str, settings: dict[str, Any] | None, **sizes: Any) -> Path:
    model_class: Any = getattr(transformers, name)
    config = model_class.config_class(**{**IMAGE_SIZES, **sizes}, num_labels=5)
    model = model_class(config).eval()
    randomise(model, 0)
    model.save_pretrained(folder)
    if settings is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny ViT for every engine: (checkpoint, bundle)."""
    folder = tmp_path_factory.mktemp("vit")
    (folder / "tiny.toml").write_text(PROFILE)
    source = checkpoint(folder / "model", "ViTForImageClassification", VIT)
    report = convert(
        source,
        profile=str(folder / "tiny.toml"),
        output=folder / "vit.edge",
        precisions=("fp32",),
    )
    return source, report.path


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny DINOv2 that embeds, for the NumPy engine: (checkpoint, bundle)."""
    folder = tmp_path_factory.mktemp("dinov2")
    source = checkpoint(folder / "model", "Dinov2Model", DINOV2)
    output = folder / "dinov2.edge"
    report = convert(source, profile="x86", output=output, engines=("numpy",), precisions=("fp32",))
    return source, report.path


@pytest.mark.parametrize("engine", ["onnx", "tflite", "numpy"])
def test_images_are_classified_as_by_transformers(vit: tuple[Path, Path], engine: str) -> None:
    source, path = vit
    oracle = transformers.ViTForImageClassification.from_pretrained(source).eval()
    images = [picture(31, 47, 1), picture(12, 12, 2), picture(80, 20, 3)]
    pixels = processor(VIT)(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = oracle(pixels).logits.softmax(1)
    with load(path, engine=engine) as model:
        found = model.classify(images, top_k=None)
        assert model.last_call.texts == model.last_call.windows == 3
        for labels, shares in zip(found, expected, strict=True):
            scores = {label.name: label.score for label in labels}
            wanted = {f"LABEL_{i}": float(p) for i, p in enumerate(shares)}
            assert scores == pytest.approx(wanted, abs=1e-5)
        assert model.classify(images[0]) == found[0][:1]
        assert model.classify([]) == []


def test_images_are_embedded_as_by_transformers(dinov2: tuple[Path, Path]) -> None:
    source, path = dinov2
    oracle = transformers.Dinov2Model.from_pretrained(source).eval()
    images = [picture(31, 47, 1), picture(20, 20, 2)]
    pixels = processor(DINOV2)(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        first = oracle(pixels).last_hidden_state[:, 0]
    expected = (first / first.norm(dim=1, keepdim=True)).numpy()
    with load(path) as model:
        np.testing.assert_allclose(model.embed(images), expected, atol=1e-5)
        np.testing.assert_allclose(model.embed(images[0]), expected[0], atol=1e-5)
        assert model.embed([]).shape == (0, 32)


def test_images_that_no_model_can_take_say_what_to_pass(vit: tuple[Path, Path]) -> None:
    image = picture(20, 20)
    bad: list[tuple[Any, str, str]] = [
        (image[..., 0], "a gray image (20, 20)", "np.stack"),
        (image[..., :1], "1 channels, the model takes 3", "np.repeat"),
        (picture(20, 20, channels=4), "4 channels, the model takes 3", "image[..., :3]"),
        (image.transpose(2, 0, 1), "20 channels, the model takes 3", "transpose(1, 2, 0)"),
        (np.stack([image, image]), "is several images", "list(images)"),
        (image[:0], "is no image", "height, width, channels"),
        (image.astype(np.int64), "dtype int64", "uint8"),
        (image.astype(np.float32), "values from 0 to 255", "divide by 255"),
        (image / 255 - 0.5, "values from -0.5", "divide by 255"),
        (np.full((20, 20, 3), np.nan), "values from nan", "uint8"),
        ("a text", "takes images, not str", "numpy array"),
        ([image, "text"], "image 1 is str", "numpy array"),
    ]
    with load(vit[1], engine="numpy") as model:
        for value, message, hint in bad:
            with pytest.raises(InputError) as caught:
                model.classify(value)
            assert message in caught.value.message
            assert hint in caught.value.hint
        with pytest.raises(InputError, match="second text"):
            model.classify(image, "pair")  # type: ignore[call-overload]
        with pytest.raises(InputError, match="candidates go with texts"):
            model.classify(image, candidates=["a"])
        with pytest.raises(InputError, match="task is classification, not embedding"):
            model.embed(image)
    with load(bundle()) as texts, pytest.raises(InputError, match="takes texts, not arrays"):
        texts.classify(image)


def test_without_resizing_only_the_models_size_fits() -> None:
    how, _ = read_image_input({**VIT, "do_resize": False}, "vit", 3, 12)
    assert how is not None
    assert pixel_values(picture(12, 12), how, (3, 12, 12)).shape == (3, 12, 12)
    with pytest.raises(InputError, match="20 x 12, the model takes 12 x 12"):
        pixel_values(picture(20, 12), how, (3, 12, 12))


def test_a_bundle_without_settings_says_so(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "model", "ViTForImageClassification", None)
    output = tmp_path / "m.edge"
    report = convert(source, profile="x86", output=output, engines=("numpy",))
    assert any("preprocessor_config.json" in notice for notice in report.notices)
    with load(report.path) as model:
        with pytest.raises(InputError, match=r"no preprocessor_config\.json") as caught:
            model.classify(picture(12, 12))
        assert "run(pixel_values=...)" in caught.value.hint
        prepared = np.zeros((1, 3, 12, 12), np.float32)
        assert model.run(pixel_values=prepared)["logits"].shape == (1, 5)


# --- files ------------------------------------------------------------------------------------


def test_files_are_read(tmp_path: Path) -> None:
    image = picture(7, 9)
    np.save(tmp_path / "a.npy", image)
    PIL.fromarray(image).save(tmp_path / "b.ppm")
    PIL.fromarray(image).save(tmp_path / "c.png")
    (tmp_path / "d.ppm").write_bytes(b"P6 # by hand\n9\n#more\n 7\n255\n" + image.tobytes() + b"\n")
    for name in ("a.npy", "b.ppm", "c.png", "d.ppm"):
        np.testing.assert_array_equal(read_image(tmp_path / name), image)
    gray = image[..., 0]
    PIL.fromarray(gray).save(tmp_path / "e.pgm")
    PIL.fromarray(gray).save(tmp_path / "f.png")
    PIL.fromarray(np.dstack([image, gray])).save(tmp_path / "g.png")  # with alpha
    for name in ("e.pgm", "f.png"):
        np.testing.assert_array_equal(read_image(tmp_path / name), np.stack([gray] * 3, -1))
    np.testing.assert_array_equal(read_image(tmp_path / "g.png"), image)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.npy", b"not numpy", "no .npy file"),
        ("a.npy", np.lib.format.magic(1, 0) + b"\x10", "no .npy file"),
        ("a.ppm", b"P3 1 1 255 1 2 3", "no binary .ppm"),
        ("a.ppm", b"P6 2 2 255 abc", "cut off"),
        ("a.ppm", b"P6 0 2 255 abc", "cut off"),
        ("a.pgm", b"P5 1 1 65535 ab", "up to 65535"),
        ("a.png", b"not png", "no image that Pillow reads"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 20, "no image that Pillow reads"),
    ],
)
def test_broken_files_are_one_error(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_image(tmp_path / name)
    assert says in caught.value.message


def test_pickled_arrays_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"no \.npy file"):
        read_image(tmp_path / "a.npy")


def test_without_pillow_the_error_says_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(EngineError, match="needs the package Pillow") as caught:
        read_image(tmp_path / "a.jpg")
    assert ".npy" in caught.value.hint
    with pytest.raises(UsageError, match="no file"):
        read_image(tmp_path / "b.jpg")


def test_prepared_values_do_not_depend_on_the_layout_in_memory() -> None:
    how = ImageInput((12, 12), "bilinear", (), 1 / 255, (0.5,) * 3, (0.5,) * 3)
    image = picture(30, 40)
    turned = np.asfortranarray(image)
    np.testing.assert_array_equal(
        pixel_values(turned, how, (3, 12, 12)), pixel_values(image, how, (3, 12, 12))
    )
    view = picture(60, 40)[::2]
    copy = replace(how, resample="bicubic")
    np.testing.assert_array_equal(
        pixel_values(view, copy, (3, 12, 12)), pixel_values(view.copy(), copy, (3, 12, 12))
    )
