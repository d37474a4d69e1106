"""Checks of a plan file's header: each returns what it was given, or says what is wrong with it."""

from typing import Any, NoReturn

from edgeformer.errors import BundleError

ALIGNMENT = 64
DTYPES = ("float32", "int64", "int32", "int8", "bool")
MAX_SIZE = 1 << 40
MAX_RANK = 8


def fail(what: str) -> NoReturn:
    """Say what is wrong with the file. Raises BundleError."""
    raise BundleError(
        f"model.plan is not a valid plan: {what}", hint="copy the bundle again, or convert again"
    )


def aligned(offset: int) -> int:
    """``offset`` rounded up to where a tensor may start."""
    return (offset + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def as_record(value: Any, names: tuple[str, ...], where: str) -> dict[str, Any]:
    """A table with exactly these fields."""
    if not isinstance(value, dict) or set(value) != set(names):
        fail(f"{where} must have exactly the fields {', '.join(names)}")
    return value


def as_table(value: Any, high: int, where: str) -> dict[str, int]:
    """A table of whole numbers from 0 to ``high``."""
    if not isinstance(value, dict):
        fail(f"{where} must be a table")
    return {name: as_int(number, 0, high, where) for name, number in value.items()}


def as_list(value: Any, where: str) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        fail(f"{where} must be a list")
    return value


def as_word(value: Any, words: tuple[str, ...], where: str) -> str:
    """One of ``words``."""
    if not isinstance(value, str) or value not in words:
        fail(f"{where} has {value!r}, which is not known")
    return value


def as_int(value: Any, low: int, high: int, where: str) -> int:
    """A whole number from ``low`` to ``high``, and no truth value."""
    if type(value) is not int or not low <= value <= high:
        fail(f"{where} must be a whole number from {low} to {high}")
    return value
