"""TOML to frozen dataclasses, with nothing let through: every error names file, line and key.

    source = read_source(Path("mine.toml"), find=lambda name: folder / f"{name}.toml")
    recipe = build(Recipe, source)

A field's metadata says what its value may be: ``choices`` (names), ``least`` and ``most`` (numbers,
that bound included), ``above`` and ``below`` (excluded).
"""

import difflib
import math
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from edgeformer.errors import UsageError

Key = tuple[str | int, ...]
"""Where a value stands: names of tables and numbers of list items, from the top."""
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Source:
    """A parsed file, and what it extends.

    Attributes:
        path: of the file.
        text: its contents.
        data: parsed, over that of the file it extends.
        base: the file it extends, None without one.
    """

    path: Path
    text: str
    data: dict[str, Any]
    base: "Source | None" = None

    def where(self, key: Key) -> str:
        """``FILE, line N`` of a key, or of the nearest thing above it that is written down."""
        for length in range(len(key), 0, -1):
            source: Source | None = self
            while source is not None:
                line = _line_of(source.text, key[:length])
                if line:
                    return f"{source.path}, line {line}"
                source = source.base
        return str(self.path)

    def fail(self, key: Key, message: str, hint: str = "") -> NoReturn:
        """Raises UsageError with file and line of ``key``."""
        raise UsageError(f"{self.where(key)}: {message}", hint=hint)


def choice(names: Iterable[str], default: Any = MISSING) -> Any:
    """A field that holds one of ``names``."""
    return field(default=default, metadata={"choices": tuple(names)})


def number(default: Any = MISSING, **limits: float) -> Any:
    """A field with limits: ``least``, ``most``, ``above``, ``below``."""
    return field(default=default, metadata=limits)


def read_source(path: Path, find: Callable[[str], Path], seen: tuple[Path, ...] = ()) -> Source:
    """Read a TOML file that may say ``extends = "name or path"``.

    Tables are laid over those of the extended file key by key; lists replace lists.

    Args:
        path: of the file.
        find: gives the path of a name that is not a path.
        seen: files on the way here.

    Raises:
        UsageError: not readable, not TOML, or it extends itself.
    """
    path = path.resolve()
    if path in seen:
        raise UsageError(f"{path} extends itself")
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    extends = data.pop("extends", None)
    if extends is None:
        return Source(path, text, data)
    if not isinstance(extends, str):
        Source(path, text, data).fail(("extends",), "extends must be a name or a path")
    is_path = "/" in extends or extends.endswith(".toml")
    below = path.parent / extends if is_path else find(extends)
    base = read_source(below, find, (*seen, path))
    return Source(path, text, _overlay(base.data, data), base)


def build(kind: type[_Made], source: Source) -> _Made:
    """The data of ``source`` as the dataclass ``kind``.

    Raises:
        UsageError: a key or a value that does not belong there, with file, line and nearest name.
    """
    made: _Made = _build(kind, source.data, (), source)
    return made


def spelled(key: Key) -> str:
    """A key as people write it: ``stages[0].losses[1].kind``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint: the known name that looks most like ``name``, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose from: {', '.join(names)}"


def _line_of(text: str, key: Key) -> int:
    """The line on which ``key`` starts, counted from 1; 0 if the text does not hold it.

    The key is there once enough lines are read: prefixes of the text are parsed, one line longer
    each, and those that end inside a value (which do not parse) are passed over.
    """
    lines = text.splitlines()
    start = 0
    for end in range(1, len(lines) + 1):
        try:
            data = tomllib.loads("\n".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue
        if _holds(data, key):
            return start + 1
        start = end
    return 0


def _holds(data: Any, key: Key) -> bool:
    for part in key:
        inside = isinstance(data, list) if isinstance(part, int) else isinstance(data, dict)
        if not inside or (part >= len(data) if isinstance(part, int) else part not in data):
            return False
        data = data[part]
    return True


def _overlay(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _overlay(merged[key], value) if both else value
    return merged


def _build(kind: Any, value: Any, key: Key, source: Source) -> Any:
    """``value``, as parsed, as the annotated type ``kind``."""
    if typing.get_origin(kind) is types.UnionType:
        kind = next(option for option in typing.get_args(kind) if option is not types.NoneType)
    if is_dataclass(kind):
        return _build_table(typing.cast(type, kind), value, key, source)
    if typing.get_origin(kind) is tuple:
        return _build_list(typing.get_args(kind), value, key, source)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        wanted = {"str": "a text", "int": "a whole number", "float": "a number", "bool": "a bool"}
        name = wanted[kind.__name__].replace("a bool", "true or false")
        source.fail(key, f"{spelled(key)} must be {name}, not {value!r}")
    return value


def _build_list(items: tuple[Any, ...], value: Any, key: Key, source: Source) -> tuple[Any, ...]:
    if not isinstance(value, list):
        source.fail(key, f"{spelled(key)} must be a list, not {value!r}")
    if items[-1] is not Ellipsis and len(items) != len(value):
        source.fail(key, f"{spelled(key)} must have {len(items)} entries, not {len(value)}")
    return tuple(_build(items[0], item, (*key, i), source) for i, item in enumerate(value))


def _build_table(kind: type[Any], value: Any, key: Key, source: Source) -> Any:
    if not isinstance(value, dict):
        source.fail(key, f"{spelled(key)} must be a table, not {value!r}")
    known = {entry.name: entry for entry in fields(kind) if entry.init and entry.repr}
    for name in value:
        if name not in known:
            source.fail((*key, name), f"unknown key {spelled((*key, name))}", nearest(name, known))
    hints, built = typing.get_type_hints(kind), {}
    for name, entry in known.items():
        if name in value:
            built[name] = _build(hints[name], value[name], (*key, name), source)
            _check_value(entry, built[name], (*key, name), source)
        elif entry.default is MISSING and entry.default_factory is MISSING:
            source.fail(key, f"{spelled((*key, name))} is missing")
    return kind(**built)


def _check_value(entry: "Field[Any]", value: Any, key: Key, source: Source) -> None:
    items = value if isinstance(value, tuple) else (value,)
    choices = entry.metadata.get("choices")
    for item in items:
        if choices is not None and item not in choices:
            source.fail(key, f"{spelled(key)} is {item!r}", nearest(str(item), choices))
        if type(item) in (int, float):
            wrong = _broken_limit(item, entry.metadata)
            if wrong:
                source.fail(key, f"{spelled(key)} must be {wrong}, not {item:g}")


def _broken_limit(value: float, limits: Mapping[str, Any]) -> str:
    """The limit that a number does not keep, in words; empty if it keeps them all."""
    checks: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
        ("least", "at least", lambda bound: value >= bound),
        ("most", "at most", lambda bound: value <= bound),
        ("above", "above", lambda bound: value > bound),
        ("below", "below", lambda bound: value < bound),
    )
    if not math.isfinite(value):
        return "a finite number"
    for name, words, keeps in checks:
        if name in limits and not keeps(limits[name]):
            return f"{words} {limits[name]:g}"
    return ""
