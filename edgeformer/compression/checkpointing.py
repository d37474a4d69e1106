"""The state of an interrupted training: one file, replaced whole, read without running code.

A kill at any moment leaves the old file or the new one. The file says what it belongs to, and is
refused where the recipe, the data, the teacher or the seed is another one.
"""

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgeformer.errors import TrainingError

_FORMAT = 1
_START_AGAIN = "start again with --force, or with another --output"


def save_state(path: Path, belongs_to: Mapping[str, str], state: Mapping[str, Any]) -> None:
    """Write a state.

    Args:
        path: of the file; its folder exists.
        belongs_to: what must be the same when it is read: names and values.
        state: tensors, numbers, texts, and dicts, lists and tuples of them.
    """
    beside = path.with_name(path.name + ".new")
    whole = {"format": _FORMAT, "belongs_to": dict(belongs_to), "state": dict(state)}
    with beside.open("wb") as file:
        torch.save(whole, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read_state(path: Path, belongs_to: Mapping[str, str]) -> dict[str, Any]:
    """The state in a file; tensors are on the CPU.

    Raises:
        TrainingError: the file is missing or damaged, or belongs to another training.
    """
    try:
        whole = torch.load(path, map_location="cpu", weights_only=True)
        saved, state = dict(whole["belongs_to"]), dict(whole["state"])
        known = whole["format"] == _FORMAT
    except FileNotFoundError:
        raise TrainingError(
            f"nothing to resume: there is no {path}", hint="leave --resume out"
        ) from None
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path} is damaged: {error}", hint=_START_AGAIN) from None
    except (pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path} is damaged: {error}", hint=_START_AGAIN) from None
    if not known:
        raise TrainingError(f"{path} is of another EdgeFormer", hint=_START_AGAIN)
    changed = [name for name in belongs_to if saved.get(name) != belongs_to[name]]
    if changed:
        raise TrainingError(
            f"{path} belongs to a training with another {' and another '.join(changed)}",
            hint=f"set it back to go on, or {_START_AGAIN}",
        )
    return state
