"""On the board: what each kind of bad bundle, text or argument is answered with."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from edgeformer.errors import EdgeFormerError
from edgeformer.runtime import load


def damaged(source: Path, folder: Path, change: Callable[[Path], object]) -> Callable[[], object]:
    """Opens a copy of the bundle after ``change``."""

    def attempt() -> object:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        change(folder)
        return load(folder, engine="numpy-fp32")

    return attempt


def rewrite(name: str, old: str, new: str) -> Callable[[Path], object]:
    """Replace text in a file of the bundle."""

    def change(folder: Path) -> object:
        path = folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        return path.write_text(text.replace(old, new), encoding="utf-8")

    return change


def truncate(name: str, keep: int) -> Callable[[Path], object]:
    """Cut a file off."""

    def change(folder: Path) -> object:
        return (folder / name).write_bytes((folder / name).read_bytes()[:keep])

    return change


def remove(name: str) -> Callable[[Path], object]:
    """Delete a file."""
    return lambda folder: (folder / name).unlink()


def flip(name: str, place: int) -> Callable[[Path], object]:
    """Change one bit."""

    def change(folder: Path) -> object:
        data = bytearray((folder / name).read_bytes())
        data[place] ^= 1
        return (folder / name).write_bytes(data)

    return change


request = json.load(sys.stdin)
bundle, copy = Path(request["bundle"]), Path(request["scratch"]) / "copy.edge"
plan = "numpy-fp32/model.plan"
attempts: dict[str, Callable[[], object]] = {
    "truncated model": damaged(bundle, copy, truncate(plan, 1000)),
    "flipped bit": damaged(bundle, copy, flip(plan, 5000)),
    "missing model": damaged(bundle, copy, remove(plan)),
    "missing tokenizer": damaged(bundle, copy, remove("tokenizer/tokenizer.json")),
    "altered manifest": damaged(bundle, copy, rewrite("manifest.json", '"threads"', '"treads"')),
    "path escape": damaged(bundle, copy, rewrite("manifest.json", plan, "../../etc/passwd")),
    "newer schema": damaged(bundle, copy, rewrite("manifest.json", '"schema', '"newer_schema')),
    "not json": damaged(bundle, copy, truncate("manifest.json", 100)),
    "no such bundle": lambda: load(bundle / "missing.edge"),
    "unknown engine": lambda: load(bundle, engine="tensorrt"),
    "no threads": lambda: load(bundle, threads=0),
}
model = load(bundle, engine="numpy-fp32")
attempts |= {
    "text too long": lambda: model.classify("good " * 500, on_long="error"),
    "not a text": lambda: model.classify(7),  # type: ignore[call-overload]
    "wrong task": lambda: model.embed("good"),
    "unknown id": lambda: model.run(input_ids=[[1, 2, 10_000_000]]),
    "huge id": lambda: model.run(input_ids=[[1, 2**40]]),
    "negative id": lambda: model.run(input_ids=[[1, -1]]),
    "unknown input": lambda: model.run(pixels=[[1]]),
}
found = {}
for name, attempt in attempts.items():
    try:
        attempt()
    except EdgeFormerError as error:
        kind = type(error).__name__
        found[name] = [kind, error.exit_code, error.message, error.hint]
    else:
        found[name] = ["no error", 0, "", ""]
model.close()
json.dump(found, sys.stdout)
