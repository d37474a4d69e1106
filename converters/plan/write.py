"""Write a plan file: quantize the weights, lay them out, and put the JSON header before them.

With int8, every weight of a linear layer gets one scale per output channel and every embedding
table of more than ``_SMALL_TABLE`` values one per row, symmetric around zero. Smaller tables (a
position table, as a rule), biases and norms stay float32: they save little and reach every token.

The profile's ``storage`` may put AdaptivFloat in the place of int8, in the file: then small tables
have eight bits, and no table is ever decoded as a whole. Weights that are mostly zero are stored
with a bitmask.

The int8 weights of linear layers may be laid out in tiles of some columns: the docstring of
``runtime.kernels.linear`` says where that is faster. Columns that do not divide into tiles stay.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.converters.adaptivfloat import adaptivfloat
from edgeformer.converters.plan.buffers import assign_slots
from edgeformer.converters.plan.graph import Graph
from edgeformer.converters.plan.storage import (
    StoredForm,
    adaptivfloat_form,
    sparse_form,
    tiled,
)
from edgeformer.device_profiles.profile import Storage
from edgeformer.runtime.adaptivfloat import AdaptivFloat
from edgeformer.runtime.operations import OPS
from edgeformer.runtime.plan import MAGIC
from edgeformer.runtime.plan_checks import aligned

_SMALL_TABLE = 1 << 18
_SMALLEST = 1 << 10  # values: what is smaller is mapped as it is, whatever it has of zeros


def write_plan(
    path: Path,
    programs: Mapping[str, tuple[str, Graph]],
    precision: str,
    tile_width: int = 0,
    storage: Storage | None = None,
) -> None:
    """Write one file with all ``programs`` (name -> layout and graph); equal weights once.

    Args:
        path: file to make; its folder exists.
        programs: ``main`` among them.
        precision: ``fp32`` or ``int8``.
        tile_width: columns of a tile of int8 weights; 0 for no tiles.
        storage: how the file holds the weights; None for as they are in memory.

    Raises:
        ModelError: a weight that AdaptivFloat cannot store, since it is not finite.
    """
    store = _Store(precision, tile_width, storage)
    described = {name: _program(layout, graph, store) for name, (layout, graph) in programs.items()}
    header = {"tensors": store.records, "programs": described}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    with path.open("wb") as file:
        file.write(MAGIC + len(text).to_bytes(8, "little") + text)
        file.write(bytes(aligned(file.tell()) - file.tell()))
        base = file.tell()
        for record, contents in zip(store.records, store.contents, strict=True):
            file.write(bytes(base + record["offset"] - file.tell()))
            file.write(contents)


def quantize(array: NDArray[Any], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 of a float matrix, one scale for each row (axis 0) or column (axis 1).

    Returns:
        int8 within +-127 of the same shape, and float32 (rows or columns,); their product is
        ``array`` to half a step.
    """
    peak = np.abs(array).max(axis=1 - axis, keepdims=True, initial=0)
    scale = np.where(peak > 0, peak / 127, 1).astype(np.float32)
    levels = np.clip(np.rint(array / scale), -127, 127)
    return levels.astype(np.int8), scale.reshape(-1)


class _Store:
    """Tensors of the file, each content once."""

    def __init__(self, precision: str, tile_width: int, storage: Storage | None) -> None:
        self._precision, self._tile_width, self._storage = precision, tile_width, storage
        self._sparse = storage is not None and storage.sparse == "auto"
        self.records: list[dict[str, Any]] = []
        self.contents: list[bytes] = []
        self._known: dict[tuple[str, ...], int] = {}
        self._end = 0

    def add(self, array: NDArray[Any]) -> int:
        """Index of a tensor with this content, as it is."""
        return self._add_values(array, None, 0, sparse=False)

    def add_weight(self, array: NDArray[Any], axis: int, small: bool) -> int:
        """Index of the form that a matrix of float32 has at this precision.

        Args:
            array: float32 (rows, columns).
            axis: of its channels.
            small: a table that is too small for its rows to be int8.
        """
        if self._precision == "int8" and self._storage and self._storage.weights != "int8":
            return self._add_adaptivfloat(array, axis, small, self._storage)
        if self._precision == "fp32" or small:
            return self._add_values(array, None, axis, self._sparse)
        levels, scale = quantize(array, axis)
        if self._tiles(array, axis):
            levels = tiled(levels, self._tile_width)
        return self._add_values(levels, self.add(scale), axis, self._sparse)

    def _add_values(self, array: NDArray[Any], scale: int | None, axis: int, sparse: bool) -> int:
        array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        key = (*_content(array), f"{scale} {axis} {sparse}")
        if key not in self._known:
            form = sparse_form(array) if sparse and array.size >= _SMALLEST else None
            self._known[key] = self._append(str(array.dtype), array.shape, scale, axis, form)
            self._fill(array.tobytes() if form is None else form.to_bytes())
        return self._known[key]

    def _add_adaptivfloat(
        self, array: NDArray[Any], axis: int, small: bool, storage: Storage
    ) -> int:
        key = (*_content(array), f"adaptivfloat {axis} {small}")
        if key not in self._known:
            kind = AdaptivFloat(8, 3) if small else adaptivfloat(storage.weights)
            dtype = "float32" if storage.decoded == "fp32" else "int8"
            dtype = "codes" if axis == 0 else dtype  # tables are looked up by row
            width = self._tile_width if dtype == "int8" and self._tiles(array, axis) else 0
            form = adaptivfloat_form(
                array,
                kind,
                axis,
                per_channel=storage.ranges == "channel",
                sparse=self._sparse,
                tile_width=width,
            )
            rows, columns = array.shape
            shape = (columns // width, rows, width) if width else array.shape
            self._known[key] = self._append(dtype, shape, None, axis, form)
            self._fill(form.to_bytes())
        return self._known[key]

    def _tiles(self, array: NDArray[Any], axis: int) -> bool:
        return axis == 1 and self._tile_width > 0 and array.shape[1] % self._tile_width == 0

    def _append(
        self,
        dtype: str,
        shape: tuple[int, ...],
        scale: int | None,
        axis: int,
        form: StoredForm | None,
    ) -> int:
        record: dict[str, Any] = {
            "dtype": dtype,
            "shape": list(shape),
            "offset": self._end,
            "scale": scale,
            "axis": axis,
        }
        if form is not None:
            record["store"] = form.header()
        self.records.append(record)
        return len(self.records) - 1

    def _fill(self, contents: bytes) -> None:
        self.contents.append(contents)
        self._end = aligned(self._end + len(contents))


def _content(array: NDArray[Any]) -> tuple[str, str, str]:
    """What two equal arrays have in common."""
    contents = np.ascontiguousarray(array)
    return str(array.dtype), str(array.shape), hashlib.sha256(contents.data).hexdigest()


def _program(layout: str, graph: Graph, store: _Store) -> dict[str, Any]:
    slots = assign_slots(graph)
    numbers = {name: k for k, name in enumerate(slots)}
    steps = []
    for node in graph.nodes:
        operands: list[int | None] = []
        for position, name in enumerate(node.inputs):
            if name is None or name in numbers:
                operands.append(None if name is None else numbers[name])
                continue
            array = graph.constants[name]
            spec = OPS[node.op]
            small = node.op == "embedding" and array.size <= _SMALL_TABLE
            if position == spec.quantized:
                index = store.add_weight(array, spec.scale_axis, small)
            else:
                index = store.add(array)
            operands.append(-1 - index)
        steps.append(
            {
                "op": node.op,
                "inputs": operands,
                "output": numbers[node.output],
                "attributes": dict(node.attributes),
            }
        )
    values = [
        {"shape": list(kind.shape), "dtype": kind.dtype, "slot": slots[name]}
        for name, kind in ((name, graph.types[name]) for name in slots)
    ]
    return {
        "layout": layout,
        "dimensions": graph.limits,
        "inputs": {name: numbers[name] for name in graph.inputs},
        "outputs": {port: numbers[name] for port, name in graph.outputs.items()},
        "values": values,
        "steps": steps,
    }
