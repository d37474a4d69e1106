"""Parsed JSON as frozen dataclasses, believing nothing.

    build(Manifest, data, "manifest", refuse)

Every field is compared with its annotation; ``refuse`` is called with a sentence about the first
that does not fit, and must raise. Nothing here touches the disk.
"""

import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, NoReturn

Refuse = Callable[[str], NoReturn]


def build(kind: Any, value: Any, where: str, refuse: Refuse, *, open_fields: bool = False) -> Any:
    """``value`` (parsed JSON) as the annotated type ``kind``.

    Args:
        kind: str, int, float, bool, None, Any, a dataclass, ``tuple[X, ...]``, ``tuple[X, Y]``,
            ``dict[str, X]`` or a union with one of the plain types.
        value: what ``json.loads`` gave.
        where: its name, for messages.
        refuse: called with what is wrong; it must raise.
        open_fields: ignore unknown fields and give absent ones their default, so that a file may
            have been written by a somewhat newer or older version. Without it only fields whose
            metadata says ``added`` may be absent.
    """
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _record(kind, value, where, refuse, open_fields)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            if _plain(option, value):
                return value if option is not type(None) else None
        return build(arguments[0], value, where, refuse, open_fields=open_fields)
    if origin is tuple and isinstance(value, list):
        kinds = arguments if arguments[-1] is not ... else arguments[:1] * len(value)
        if len(kinds) != len(value):
            refuse(f"{where} has not {len(kinds)} items")
        return tuple(
            build(kind, item, f"{where}[{i}]", refuse, open_fields=open_fields)
            for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is dict and isinstance(value, dict):
        return {
            key: build(arguments[1], item, f"{where}.{key}", refuse, open_fields=open_fields)
            for key, item in value.items()
        }
    if _plain(kind, value):
        return float(value) if kind is float else value
    refuse(f"{where} has the wrong type")


def _record(kind: Any, value: Any, where: str, refuse: Refuse, open_fields: bool) -> Any:
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    needed = {
        name
        for name, field in known.items()
        if not (open_fields or field.metadata.get("added"))
        or (field.default is MISSING and field.default_factory is MISSING)
    }
    if not isinstance(value, dict) or not needed <= set(value):
        refuse(f"{where} has missing or unknown fields")
    if not open_fields and not set(value) <= set(known):
        refuse(f"{where} has missing or unknown fields")
    given = {name: value[name] for name in known if name in value}
    return kind(
        **{
            name: build(hints[name], item, f"{where}.{name}", refuse, open_fields=open_fields)
            for name, item in given.items()
        }
    )


def _plain(kind: Any, value: Any) -> bool:
    """True if ``value`` is of the plain JSON type ``kind`` (a bool is not an int)."""
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind in (str, int, bool, type(None)):
        return type(value) is kind
    return kind is dict and isinstance(value, dict)
