"""Read a device profile: one TOML, one frozen dataclass, no defaults hidden in code.

A profile of the user's own is a path to a TOML file that may say ``extends = "rpi4"`` and then
only what differs. docs/device_profiles.md explains every key and its unit.
"""

import difflib
import tomllib
import typing
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from edgeformer.errors import UsageError

_FOLDER = Path(__file__).parent
ARCHITECTURES = ("aarch64", "armv7l", "x86_64")
PRECISIONS = ("fp32", "fp16", "int8")
ONNX_RANGES = ("row", "text")
# adaptivfloatNeE: N bits, E of them the exponent's, and at least the sign besides
STORED = (
    "int8",
    *(f"adaptivfloat{bits}e{e}" for bits in range(4, 9) for e in range(1, min(bits - 1, 5) + 1)),
)


@dataclass(frozen=True)
class Cpu:
    """The processor. ``isa`` names features that change what int8 costs: dotprod, i8mm, avx2,
    avx512f, vnni. ``big_cores`` is 0 where all cores are alike."""

    architecture: str
    model: str
    isa: tuple[str, ...]
    cores: int
    big_cores: int


@dataclass(frozen=True)
class Memory:
    """``budget_mb`` is what the model's process may use, in MB (1e6 bytes)."""

    budget_mb: int


@dataclass(frozen=True)
class Runtime:
    """``engines`` in the order in which ``auto`` tries them; ``threads`` is an upper limit;
    ``provider`` is the ONNX Runtime execution provider the device must have, empty for CPU."""

    engines: tuple[str, ...]
    threads: int
    provider: str


@dataclass(frozen=True)
class Length:
    """``max_tokens`` caps one input, special tokens included; ``bucket_tokens`` are the lengths of
    a TFLite file that cannot take any length, those above the model's own limit left out."""

    max_tokens: int
    bucket_tokens: tuple[int, ...]


@dataclass(frozen=True)
class Quantization:
    """``onnx``, ``tflite`` and ``numpy`` each name a precision. ``onnx_ranges`` says what
    shares the range of an int8 activation in ONNX: a ``row`` (a token), or the ``text``, which is
    quicker but means one text per call. ``reduce_range`` keeps
    neighbouring int8 weights of ONNX small enough that no pair of products overflows 16 bits, for
    CPUs whose u8 x s8 instruction saturates. ``max_fp32_share`` is the largest share of an int8
    file's weights that may stay float32 where int8 alone misses the tolerance."""

    onnx: str
    tflite: str
    numpy: str
    onnx_ranges: str
    reduce_range: bool
    max_fp32_share: float


@dataclass(frozen=True)
class Storage:
    """How the file of the NumPy engine holds its weights. ``weights`` is ``int8``, which the engine
    maps, or a kind of AdaptivFloat, whose matrices it decodes when it loads: to ``decoded``,
    ``int8`` or ``fp32``. ``ranges`` says what shares a range of exponents, the ``tensor`` or each
    ``channel``. ``sparse`` is ``auto``, a bitmask where that is smaller, or ``never``."""

    weights: str
    ranges: str
    decoded: str
    sparse: str


@dataclass(frozen=True)
class Tolerance:
    """How far answers may be from the PyTorch model's. ``*_max_abs`` is multiplied by
    max(1, largest absolute reference value); ``batch_min_cosine`` compares a text alone with the
    same text in a batch."""

    fp32_max_abs: float
    fp16_min_cosine: float
    int8_min_cosine: float
    int8_mean_cosine: float
    top1: float
    batch_min_cosine: float


@dataclass(frozen=True)
class DeviceProfile:
    """Everything EdgeFormer knows of a device."""

    name: str
    description: str
    cpu: Cpu
    memory: Memory
    runtime: Runtime
    length: Length
    quantization: Quantization
    storage: Storage
    tolerance: Tolerance


def profile_names() -> list[str]:
    """Names of the built-in profiles, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_profile(name_or_path: str) -> DeviceProfile:
    """The built-in profile of that name, or the one in that TOML file.

    Raises:
        UsageError: unknown name (with the nearest one), unreadable file, an unknown, missing or
            wrongly typed key, or ``extends`` in a circle.
    """
    data = _merged(name_or_path, ())
    profile: DeviceProfile = _build(DeviceProfile, data, "", name_or_path)
    _check_values(profile)
    return profile


def _merged(name_or_path: str, seen: tuple[str, ...]) -> dict[str, Any]:
    path = _locate(name_or_path)
    if str(path) in seen:
        raise UsageError(f"profile {name_or_path} extends itself")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"profile {path} cannot be read: {error}") from None
    data.setdefault("name", path.stem)
    base = data.pop("extends", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise UsageError(f"profile {path}: extends must be a name or a path")
    if "/" in base or base.endswith(".toml"):
        base = str(path.parent / base)
    return _overlay(_merged(base, (*seen, str(path))), data)


def _locate(name_or_path: str) -> Path:
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise UsageError(f"no profile file {path}")
        return path
    if name_or_path in profile_names():
        return _FOLDER / f"{name_or_path}.toml"
    near = difflib.get_close_matches(name_or_path, profile_names(), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(
        f"no profile {name_or_path!r}",
        hint=f"{hint}`edgeformer profiles list` shows all; a file of your own needs its .toml",
    )


def _overlay(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _overlay(merged[key], value) if both else value
    return merged


def _build(kind: Any, value: Any, where: str, source: str) -> Any:
    """``value`` (parsed TOML) as the annotated type ``kind``."""
    if is_dataclass(kind):
        names = [f.name for f in fields(kind)]
        if not isinstance(value, dict):
            raise UsageError(f"profile {source}: {where} must be a table")
        for key in value:
            if key not in names:
                raise UsageError(
                    f"profile {source}: unknown key {_join(where, key)}", hint=_nearest(key, names)
                )
        for key in names:
            if key not in value:
                raise UsageError(
                    f"profile {source}: {_join(where, key)} is missing",
                    hint='set it, or inherit it with extends = "x86"',
                )
        hints = typing.get_type_hints(kind)
        built = {k: _build(hints[k], value[k], _join(where, k), source) for k in names}
        return typing.cast(type, kind)(**built)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        item = typing.get_args(kind)[0]
        return tuple(_build(item, v, f"{where}[{i}]", source) for i, v in enumerate(value))
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        wanted = "list" if typing.get_origin(kind) is tuple else kind.__name__
        raise UsageError(f"profile {source}: {where} must be {wanted}, not {value!r}")
    return value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _nearest(key: str, names: list[str]) -> str:
    near = difflib.get_close_matches(key, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"the keys are: {', '.join(names)}"


def _check_values(profile: DeviceProfile) -> None:
    def need(ok: bool, what: str) -> None:
        if not ok:
            raise UsageError(f"profile {profile.name}: {what}")

    buckets, quantization = profile.length.bucket_tokens, profile.quantization
    need(profile.cpu.architecture in ARCHITECTURES, f"cpu.architecture must be {ARCHITECTURES}")
    need(profile.runtime.threads >= 1, "runtime.threads must be at least 1")
    need(bool(profile.runtime.engines), "runtime.engines must name an engine")
    engines = ("onnx", "tflite", "numpy")
    need(set(profile.runtime.engines) <= set(engines), f"runtime.engines must be of {engines}")
    need(profile.length.max_tokens >= 2, "length.max_tokens must be at least 2")
    need(
        list(buckets) == sorted(set(buckets)) and all(b > 1 for b in buckets),
        "length.bucket_tokens must ascend",
    )
    need(
        "tflite" not in profile.runtime.engines or bool(buckets),
        "length.bucket_tokens must not be empty where tflite is an engine",
    )
    need(quantization.onnx in PRECISIONS, f"quantization.onnx must be of {PRECISIONS}")
    need(
        quantization.onnx_ranges in ONNX_RANGES,
        f"quantization.onnx_ranges must be of {ONNX_RANGES}",
    )
    need(0 <= quantization.max_fp32_share <= 1, "quantization.max_fp32_share must be from 0 to 1")
    for name in ("tflite", "numpy"):
        need(
            getattr(quantization, name) in ("fp32", "int8"),
            f"quantization.{name} must be fp32 or int8",
        )
    for name, words in (
        ("weights", STORED),
        ("ranges", ("tensor", "channel")),
        ("decoded", ("int8", "fp32")),
        ("sparse", ("auto", "never")),
    ):
        need(getattr(profile.storage, name) in words, f"storage.{name} must be of {words}")
