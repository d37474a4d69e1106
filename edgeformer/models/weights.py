"""Reading the weights of a checkpoint folder: names to float32 tensors, every value checked.

Reads model.safetensors or pytorch_model.bin, whole or in shards. A .bin file is a pickle and is
opened by torch's restricted loader only (``weights_only``): nothing in it is ever called.
"""

import pickle
import zipfile
from pathlib import Path

import torch

from edgeformer.errors import EngineError, ModelError
from edgeformer.models.model_folder import read_json

Tensors = dict[str, torch.Tensor]

# In the order in which transformers looks for them.
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_SAVE_AGAIN = "save it again with model.save_pretrained(folder) of transformers"


def read_weights(folder: Path) -> Tensors:
    """All tensors of a checkpoint, floating ones as float32.

    Raises:
        ModelError: no weights, a corrupt file, a missing shard, or NaN or infinite values.
    """
    tensors: Tensors = {}
    for path in _weight_files(folder):
        stored = _read_file(path)
        # A tensor saved under two names is cast once, so that it stays one tensor.
        cast: dict[tuple[int, torch.Size], torch.Tensor] = {}
        for name, tensor in stored.items():
            if name in tensors:
                raise ModelError(f"two weight files of {folder} hold the tensor {name!r}")
            key = (tensor.data_ptr(), tensor.shape)
            if key not in cast:
                cast[key] = _checked(name, tensor)
            tensors[name] = cast[key]
    return tensors


def count_parameters(tensors: Tensors) -> int:
    """Number of trained values: elements of floating tensors, shared storage counted once."""
    sizes = {
        (tensor.data_ptr(), tensor.shape): tensor.numel()
        for tensor in tensors.values()
        if tensor.is_floating_point()
    }
    return sum(sizes.values())


def _weight_files(folder: Path) -> list[Path]:
    for name in _WHOLE:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    found = sorted(p.name for p in folder.iterdir() if p.suffix in (".h5", ".msgpack", ".onnx"))
    raise ModelError(
        f"{folder} has no weights: neither {' nor '.join(_WHOLE)}"
        + (f" ({', '.join(found)} cannot be read)" if found else ""),
        hint=_SAVE_AGAIN,
    )


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no weight_map", hint=_SAVE_AGAIN)
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name:
            raise ModelError(f"{index} names a file outside its folder: {name!r}")
        if not (index.parent / name).is_file():
            raise ModelError(f"the shard {name} named by {index} is missing", hint=_SAVE_AGAIN)
    return [index.parent / name for name in names]


def _read_file(path: Path) -> Tensors:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is corrupt or holds more than tensors, and code in a model folder is never"
            f" run: {str(error).splitlines()[0]}",
            hint=_SAVE_AGAIN,
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is corrupt: {error}", hint="copy the folder again") from None
    if not isinstance(loaded, dict) or not all(torch.is_tensor(t) for t in loaded.values()):
        raise ModelError(f"{path} is not a dict of tensors", hint=_SAVE_AGAIN)
    return loaded


def _read_safetensors(path: Path) -> Tensors:
    try:
        import safetensors.torch
    except ImportError:
        raise EngineError(
            "reading model.safetensors needs the package safetensors",
            hint='pip install "edgeformer[convert]"',
        ) from None
    try:
        return dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(f"{path} is corrupt: {error}", hint="copy the folder again") from None


def _checked(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    tensor = tensor.float()
    if not bool(torch.isfinite(tensor).all()):
        kind = "NaN" if bool(torch.isnan(tensor).any()) else "infinite values"
        raise ModelError(
            f"the weights contain {kind}: tensor {name!r}",
            hint="training diverged or the file is damaged; use an earlier checkpoint",
        )
    return tensor
