"""From preprocessor_config.json of a checkpoint to the ``ImageInput`` that its bundle carries.

What the file leaves out has the default of the image processor that it names (transformers:
ViTImageProcessor, DeiTImageProcessor, BitImageProcessor). Opens no file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgeformer.errors import ModelError
from edgeformer.runtime.manifest import ImageInput

_PLAIN = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
# processor -> its defaults
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {**_PLAIN, "resample": 2, "size": 224},
    "DeiT": {**_PLAIN, "resample": 3, "size": 256, "do_center_crop": True, "crop_size": 224},
    "Bit": {
        **_PLAIN,
        "resample": 3,
        "size": {"shortest_edge": 224},
        "do_center_crop": True,
        "crop_size": 224,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
}
_OF_FAMILY = {"vit": "ViT", "deit": "DeiT", "dinov2": "Bit"}
_RESAMPLES = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # as Pillow numbers them
_KNOWN_STEPS = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}


def read_image_input(
    settings: Mapping[str, Any], family: str, channels: int, edge: int
) -> tuple[ImageInput | None, str]:
    """How images are prepared, and a notice if there is something to know.

    Args:
        settings: contents of preprocessor_config.json, empty if there is none.
        family: model_type of the checkpoint.
        channels: of the model's input.
        edge: height and width of the model's input, in pixels.

    Returns:
        None, with the reason as the notice, where the bundle can only be run on prepared arrays.
    """
    if not settings:
        return None, _only_arrays("the checkpoint has no preprocessor_config.json")
    try:
        found = _read(settings, family, channels)
        fitted = _fitted(found, edge)
    except ModelError as error:
        return None, _only_arrays(f"preprocessor_config.json: {error.message}")
    if fitted == found:
        return found, ""
    made = (found.crop or found.resize)[0]
    return fitted, (
        f"preprocessor_config.json makes images of {made} x {made}, the model takes {edge} x"
        f" {edge}: they are resized and cropped in proportion"
    )


def _only_arrays(reason: str) -> str:
    return f"{reason}: the bundle takes prepared arrays only, model.run(pixel_values=...)"


def _read(settings: Mapping[str, Any], family: str, channels: int) -> ImageInput:
    kind = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "")
    name = kind.removesuffix("Fast").removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    name = name or _OF_FAMILY.get(family, "")
    if name not in _DEFAULTS:
        raise ModelError(f"the processor {kind or family} is unknown")
    given = {key: value for key, value in settings.items() if value is not None}
    values = {**_DEFAULTS[name], **given}
    other = [k for k, v in values.items() if k.startswith("do_") and v and k not in _KNOWN_STEPS]
    if other:
        raise ModelError(f"{', '.join(other)} is unknown")
    normalizes = values["do_normalize"]
    resample = values["resample"]
    if values["do_resize"] and resample not in _RESAMPLES:
        raise ModelError(f"resample {resample!r} is none of bilinear, bicubic and lanczos")
    return ImageInput(
        resize=_size(values["size"], name == "Bit") if values["do_resize"] else (),
        resample=_RESAMPLES.get(resample, "bilinear"),
        crop=_size(values["crop_size"], False) if values["do_center_crop"] else (),
        scale=_number(values["rescale_factor"]) if values["do_rescale"] else 1.0,
        mean=_channels(values["image_mean"] if normalizes else 0.0, channels),
        std=_channels(values["image_std"] if normalizes else 1.0, channels),
    )


def _size(value: Any, shortest: bool) -> tuple[int, ...]:
    """(height, width), or one number for the shorter edge."""
    if isinstance(value, Mapping) and set(value) == {"shortest_edge"}:
        value, shortest = value["shortest_edge"], True
    elif isinstance(value, Mapping) and set(value) == {"height", "width"}:
        value = [value["height"], value["width"]]
    numbers = value if isinstance(value, Sequence) and len(value) == 2 else [value]
    if not all(type(n) is int and n > 0 for n in numbers):
        raise ModelError(f"a size of {value!r} is unknown")
    return tuple(numbers) if len(numbers) == 2 or shortest else (numbers[0], numbers[0])


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ModelError(f"{value!r} is no number")
    return float(value)


def _channels(value: Any, channels: int) -> tuple[float, ...]:
    values = list(value) if isinstance(value, Sequence) else [value] * channels
    if len(values) != channels:
        raise ModelError(f"{len(values)} values for {channels} channels")
    return tuple(_number(v) for v in values)


def _fitted(image: ImageInput, edge: int) -> ImageInput:
    """The same settings, scaled so that they make images of the model's size."""
    result = image.crop or image.resize
    if not result:
        return image  # as they come: another size is an error when it is asked
    if len(result) != 2 or result[0] != result[1]:
        raise ModelError(f"it makes images of {result}, the model takes {edge} x {edge}")
    if result[0] == edge:
        return image
    resize = tuple(round(n * edge / result[0]) for n in image.resize)
    return replace(image, resize=resize, crop=(edge, edge) if image.crop else ())
