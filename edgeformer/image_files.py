"""Images from files, as the arrays that ``Model.classify`` and ``Model.embed`` take.

NumPy reads .npy, .ppm and .pgm by itself; every other format goes through Pillow, where it is
installed. It runs on the device: NumPy and the standard library otherwise.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeformer.errors import EngineError, InputError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Netpbm: magic number, width, height and largest value, with white space and comments between.
_HEADER = re.compile(rb"P([56])" + rb"(?:\s|#[^\n]*\n)+(\d+)" * 3 + rb"\s")


def read_image(path: str | Path) -> "NDArray[Any]":
    """An image file as an array.

    Returns:
        the array of an .npy file as it is; of other files uint8 (height, width, 3), gray as three
        equal channels and without an alpha channel.

    Raises:
        UsageError: no such file.
        InputError: not an image that can be read.
        EngineError: a format that needs Pillow, which is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no file {path}", hint="pass an image: .npy, .ppm, .pgm, .png, .jpg")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _read_npy(path)
    if suffix in (".ppm", ".pgm", ".pnm"):
        return _read_netpbm(path)
    return _read_with_pillow(path)


def _read_npy(path: Path) -> "NDArray[Any]":
    import numpy as np

    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(
            f"{path} is no .npy file: {error}", hint="write it with np.save(path, image)"
        ) from None
    return array


def _read_netpbm(path: Path) -> "NDArray[Any]":
    import numpy as np

    data = path.read_bytes()
    header = _HEADER.match(data)
    if header is None:
        raise InputError(
            f"{path} is no binary .ppm or .pgm file", hint="P6 and P5 are read, P3 and P2 are not"
        )
    kind, width, height, largest = (int(text) for text in header.groups())
    if largest != 255:
        raise InputError(f"{path} has values up to {largest}", hint="write it with 255 as largest")
    channels = 3 if kind == 6 else 1
    pixels = np.frombuffer(data, np.uint8, offset=header.end())
    if 0 in (width, height) or pixels.size < height * width * channels:
        raise InputError(f"{path} is empty or cut off", hint="copy it again")
    image = pixels[: height * width * channels].reshape(height, width, channels)
    return image if channels == 3 else np.repeat(image, 3, axis=2)


def _read_with_pillow(path: Path) -> "NDArray[Any]":
    import numpy as np

    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise EngineError(
            f"reading {path} needs the package Pillow",
            hint="pip install pillow, or pass a .npy or .ppm file",
        ) from None
    try:
        with Image.open(path) as image:
            # As the pipelines of transformers read it: upright, and in three channels.
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise InputError(
            f"{path} is no image that Pillow reads: {error}",
            hint="open it elsewhere and save it as .png",
        ) from None
