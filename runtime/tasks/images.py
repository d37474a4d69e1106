"""From an image to a model's ``pixel_values``: resize, crop, scale, mean and deviation.

The steps and their order are those of the image processors of transformers (ViT, DeiT, BiT), with
the settings that the checkpoint's preprocessor_config.json brought into the bundle.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import InputError
from edgeformer.runtime.calls import Call
from edgeformer.runtime.manifest import ImageInput
from edgeformer.runtime.tasks.resampling import resize

_HINT = (
    "pass a numpy array (height, width, channels): uint8, or floats from 0 to 1. With Pillow:"
    ' np.asarray(Image.open(path).convert("RGB"))'
)


def answer_images(call: Call, images: Any, output: str) -> NDArray[np.float32]:
    """The model's answer to each image, float32 (images, size): one image runs at a time.

    Args:
        call: of the verb.
        images: one array or a list, see ``pixel_values``.
        output: name of the model's output.

    Raises:
        InputError: no image the model can take, or a bundle that does not say how to prepare one.
    """
    how = call.card.image
    if how is None:
        raise InputError(
            "the checkpoint had no preprocessor_config.json, so this bundle cannot prepare images",
            hint="call run(pixel_values=...) with a prepared array",
        )
    rows = [
        call.run_image(pixel_values(image, how, call.image_shape), output)
        for image in as_images(images)
    ]
    return np.stack(rows) if rows else np.empty((0, call.output_size), np.float32)


def as_images(images: Any) -> list[NDArray[Any]]:
    """A list of arrays from one array (height, width, channels) or a list of them.

    Raises:
        InputError: anything else, a stack of images too.
    """
    if isinstance(images, np.ndarray):
        if images.ndim == 4:
            raise InputError(
                f"an array {images.shape} is several images", hint="pass a list: list(images)"
            )
        return [images]
    if not isinstance(images, Sequence) or isinstance(images, (str, bytes, bytearray)):
        raise InputError(f"this bundle takes images, not {type(images).__name__}", hint=_HINT)
    for i, image in enumerate(images):
        if not isinstance(image, np.ndarray):
            raise InputError(f"image {i} is {type(image).__name__}, not an array", hint=_HINT)
    return list(images)


def pixel_values(
    image: NDArray[Any], how: ImageInput, shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """One image as the model takes it.

    Args:
        image: uint8, or floats from 0 to 1, (height, width, channels).
        how: the checkpoint's settings.
        shape: (channels, height, width) of the model's input.

    Returns:
        float32 of that shape.

    Raises:
        InputError: another shape or dtype, values that are no colours, or a size that the
            checkpoint does not change to the model's.
    """
    channels, height, width = shape
    _check(image, channels)
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    if planes.dtype != np.uint8:
        planes = planes.astype(np.float64) * 255.0
    if how.resize:
        planes = resize(planes, *_target(how.resize, planes.shape[1:]), how.resample)
    if how.crop:
        planes = _center_crop(planes, *how.crop)
    if planes.shape != shape:
        raise InputError(
            f"the image is {image.shape[0]} x {image.shape[1]}, the model takes {height} x {width},"
            " and its checkpoint resizes nothing",
            hint="resize the image first",
        )
    scaled = (planes.astype(np.float64) * how.scale).astype(np.float32)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (how.mean, how.std))
    return np.ascontiguousarray((scaled - mean) / std)


def _check(image: NDArray[Any], channels: int) -> None:
    if image.ndim == 2:
        raise InputError(
            f"a gray image {image.shape}, the model takes {channels} channels",
            hint=f"np.stack([image] * {channels}, axis=-1)",
        )
    if image.ndim != 3 or 0 in image.shape:
        raise InputError(f"an array {image.shape} is no image", hint=_HINT)
    if image.shape[2] != channels:
        raise InputError(
            f"an image {image.shape} has {image.shape[2]} channels, the model takes {channels}",
            hint=_channels_hint(image.shape, channels),
        )
    if image.dtype == np.uint8:
        return
    if image.dtype.kind != "f":
        raise InputError(f"an image of dtype {image.dtype}", hint=_HINT)
    # Also for NaN, with which every comparison is False.
    if not (image.min() >= 0.0 and image.max() <= 1.0):
        raise InputError(
            f"a float image has values from {image.min():.4g} to {image.max():.4g}, not 0 to 1",
            hint="divide by 255, or pass uint8",
        )


def _channels_hint(shape: tuple[int, ...], channels: int) -> str:
    if shape[0] == channels:
        return "the channels come last: image.transpose(1, 2, 0)"
    if shape[2] == channels + 1:
        return f"leave the alpha channel out: image[..., :{channels}]"
    if shape[2] == 1:
        return f"np.repeat(image, {channels}, axis=-1)"
    return _HINT


def _target(size: tuple[int, ...], before: tuple[int, ...]) -> tuple[int, int]:
    """(height, width): as given, or the shorter edge as given and the other in proportion."""
    if len(size) == 2:
        return size[0], size[1]
    height, width = before
    long = int(size[0] * max(height, width) / min(height, width))
    return (long, size[0]) if width <= height else (size[0], long)


def _center_crop(planes: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """The middle of (channels, rows, columns); zeros around what is smaller."""
    for axis, size in ((1, height), (2, width)):
        missing = max(0, size - planes.shape[axis])
        if missing:
            before = (missing + 1) // 2
            sides = [(0, 0)] * 3
            sides[axis] = (before, missing - before)
            planes = np.pad(planes, sides)
        start = (planes.shape[axis] - size) // 2
        planes = planes[(slice(None),) * axis + (slice(start, start + size),)]
    return planes
