"""manifest.json: dataclasses to JSON and back, believing nothing.

    manifest == parse_manifest(dump_manifest(manifest))     # for every valid manifest

``digest`` is the SHA-256 of the canonical JSON (sorted keys, no spaces) of everything else, so a
changed byte anywhere in the manifest is found before the manifest is believed. Nothing here
touches the disk.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import PurePosixPath
from typing import Any, NoReturn

from edgeformer.errors import BundleError
from edgeformer.runtime.manifest import (
    SCHEMA_VERSION,
    ImageInput,
    Manifest,
    ModelCard,
    Parity,
    Port,
    Variant,
)
from edgeformer.runtime.records import build


def digest(data: dict[str, Any]) -> str:
    """SHA-256 (hex) of the canonical JSON of ``data`` without its ``digest`` key."""
    body = {key: value for key, value in data.items() if key != "digest"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def manifest_digest(manifest: Manifest) -> str:
    """The ``digest`` that ``dump_manifest`` writes."""
    return digest(_plain_data(manifest))


def _plain_data(manifest: Manifest) -> dict[str, Any]:
    """The manifest as it is written: without fields that were added later and are not used."""
    data = asdict(manifest)
    records: list[tuple[Manifest | ModelCard | Parity | Variant | None, Any]] = [
        (manifest, data),
        (manifest.model, data["model"]),
    ]
    for variant, row in zip(manifest.variants, data["variants"], strict=True):
        records += [(variant, row), (variant.parity, row["parity"])]
    for record, row in records:
        for added in fields(record) if record else ():
            if added.metadata.get("added") and row[added.name] == added.default:
                del row[added.name]
    return data


def dump_manifest(manifest: Manifest) -> bytes:
    """The manifest as indented JSON with its digest."""
    data = _plain_data(manifest)
    data["digest"] = digest(data)
    return (json.dumps(data, indent=1, ensure_ascii=True) + "\n").encode("ascii")


def parse_manifest(text: bytes) -> Manifest:
    """Read and check manifest.json.

    Raises:
        BundleError: not JSON, another schema, a digest that does not match, a missing or wrongly
            typed field, or a file path that could leave the bundle.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json is not JSON: {error}", hint=_AGAIN) from None
    if not isinstance(data, dict) or not isinstance(data.get("schema_version"), int):
        raise BundleError("manifest.json is not an EdgeFormer manifest", hint=_AGAIN)
    if data["schema_version"] != SCHEMA_VERSION:
        raise BundleError(
            f"the bundle has schema {data['schema_version']}, this EdgeFormer reads"
            f" {SCHEMA_VERSION}",
            hint="upgrade with `pip install -U edgeformer`, or convert again with this version",
        )
    if data.pop("digest", None) != digest(data):
        raise BundleError("manifest.json was altered: its digest does not match", hint=_AGAIN)
    manifest: Manifest = build(Manifest, data, "manifest", _refuse)
    _check_paths(manifest)
    _check_values(manifest)
    return manifest


_AGAIN = "copy the bundle again, or convert again"


def _refuse(what: str) -> NoReturn:
    raise BundleError(f"manifest.json: {what}", hint=_AGAIN)


def safe_path(name: str) -> bool:
    """True if ``name`` is a relative POSIX path that stays inside the bundle."""
    path = PurePosixPath(name)
    return (
        name == str(path)
        and not path.is_absolute()
        and path.parts != ()
        and ".." not in path.parts
        and not any(c in name for c in "\\:\0")
    )


def _check_paths(manifest: Manifest) -> None:
    for name in manifest.files:
        if not safe_path(name):
            raise BundleError(
                f"manifest.json names a file outside the bundle: {name!r}",
                hint="do not use this bundle: it was made to reach other files",
            )
    used = [name for variant in manifest.variants for name in variant.files]
    used += [manifest.golden] + ([manifest.tokenizer] if manifest.tokenizer else [])
    for name in used:
        if name not in manifest.files:
            raise BundleError(f"manifest.json has no size and hash for {name!r}", hint=_AGAIN)


def _check_values(manifest: Manifest) -> None:
    """What has the right type can still be something that no engine knows."""

    def need(ok: bool, what: str) -> None:
        if not ok:
            raise BundleError(f"manifest.json: {what}", hint=_AGAIN)

    need(bool(manifest.variants), "there is no variant")
    need(manifest.threads >= 1, "threads is below 1")
    need(manifest.model.task in _TASKS, f"unknown task {manifest.model.task!r}")
    masks = manifest.model.task == "fill-mask"
    need(masks == bool(manifest.model.mask_token), "mask_token goes with fill-mask")
    if manifest.model.image is not None:
        for variant in manifest.variants:
            main = variant.programs.get("main")
            _check_image(manifest.model.image, main.inputs if main else (), need)
    for variant in manifest.variants:
        need("main" in variant.programs, f"variant {variant.id!r} has no program 'main'")
        need(variant.engine in manifest.engines, f"engine {variant.engine!r} is not listed")
        need(variant.precision in _PRECISIONS, f"unknown precision {variant.precision!r}")
        if manifest.model.task != "module":
            sizes = [port.shape[-1:] for port in variant.programs["main"].outputs]
            whole = all(type(n) is int and n > 0 for size in sizes for n in size)
            need(whole and all(sizes), "an answer has no number of values")
        if variant.exits is not None or any(n.startswith("segment_") for n in variant.programs):
            from edgeformer.runtime.exit_checks import check_exits  # most bundles have no exits

            check_exits(variant, manifest.model.problem_type, need)
        ports = [q for p in variant.programs.values() for q in (*p.inputs, *p.outputs)]
        for port in ports:
            need(port.dtype in _DTYPES, f"{port.name}: unknown dtype {port.dtype!r}")
            known = port.default is None or _DEFAULT.fullmatch(port.default) is not None
            need(known, f"{port.name}: unknown default {port.default!r}")
            need(
                all(isinstance(n, str) or n >= 0 for n in port.shape),
                f"{port.name} has a negative size",
            )


def _check_image(
    image: ImageInput, ports: tuple[Port, ...], need: Callable[[bool, str], None]
) -> None:
    (name, shape) = (ports[0].name, ports[0].shape) if len(ports) == 1 else ("", ())
    whole = len(shape) == 4 and all(isinstance(n, int) for n in shape[1:])
    need(name == "pixel_values" and whole, "image goes with pixel_values of one size")
    need(len(image.mean) == len(image.std) == shape[1], "image needs mean and std of each channel")
    numbers = (image.scale, *image.mean, *image.std)
    need(all(math.isfinite(n) for n in numbers), "a number of image is infinite")
    need(len(image.resize) <= 2 and len(image.crop) in (0, 2), "image has no size of that form")
    need(all(0 < n <= MAX_IMAGE_EDGE for n in (*image.resize, *image.crop)), "an image of no size")
    need(image.resample in _RESAMPLES, f"unknown resample {image.resample!r}")
    need(all(image.std), "a std of image is 0")


_TASKS = (
    "embedding",
    "classification",
    "token-classification",
    "question-answering",
    "fill-mask",
    "module",
)
_RESAMPLES = ("bilinear", "bicubic", "lanczos")
MAX_IMAGE_EDGE = 1 << 14  # pixels
_PRECISIONS = ("fp32", "fp16", "int8")
_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
_DEFAULT = re.compile(r"ones|zeros|positions\+\d{1,9}")
