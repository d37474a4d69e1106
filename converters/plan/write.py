"""Write a plan file: quantize the weights, lay them out, and put the JSON header before them.

With int8, every weight of a linear layer gets one scale per output channel and every embedding
table of more than ``_SMALL_TABLE`` values one per row, symmetric around zero. Smaller tables (a
position table, as a rule), biases and norms stay float32: they save little and reach every token.

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

from edgeformer.converters.plan.buffers import assign_slots
from edgeformer.converters.plan.graph import Graph
from edgeformer.runtime.operations import OPS
from edgeformer.runtime.plan import MAGIC, aligned

_SMALL_TABLE = 1 << 18


def write_plan(
    path: Path, programs: Mapping[str, tuple[str, Graph]], precision: str, tile_width: int = 0
) -> None:
    """Write one file with all ``programs`` (name -> layout and graph); equal weights once.

    Args:
        path: file to make; its folder exists.
        programs: ``main`` among them.
        precision: ``fp32`` or ``int8``.
        tile_width: columns of a tile of int8 weights; 0 for no tiles.
    """
    store = _Store(tile_width)
    described = {
        name: _program(layout, graph, store, precision)
        for name, (layout, graph) in programs.items()
    }
    header = {"tensors": store.records, "programs": described}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    with path.open("wb") as file:
        file.write(MAGIC + len(text).to_bytes(8, "little") + text)
        file.write(bytes(aligned(file.tell()) - file.tell()))
        base = file.tell()
        for record, array in zip(store.records, store.arrays, strict=True):
            file.write(bytes(base + record["offset"] - file.tell()))
            file.write(array.tobytes())


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

    def __init__(self, tile_width: int) -> None:
        self._tile_width = tile_width
        self.records: list[dict[str, Any]] = []
        self.arrays: list[NDArray[Any]] = []
        self._known: dict[tuple[str, ...], int] = {}
        self._end = 0

    def add(self, array: NDArray[Any], scale: int | None = None, axis: int = 0) -> int:
        """Index of a tensor with this content."""
        array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        content = hashlib.sha256(array.tobytes()).hexdigest()
        key = (str(array.dtype), str(array.shape), f"{scale} {axis}", content)
        if key not in self._known:
            self._known[key] = len(self.records)
            self.records.append(
                {
                    "dtype": str(array.dtype),
                    "shape": list(array.shape),
                    "offset": self._end,
                    "scale": scale,
                    "axis": axis,
                }
            )
            self.arrays.append(array)
            self._end = aligned(self._end + array.nbytes)
        return self._known[key]

    def add_quantized(self, array: NDArray[Any], axis: int) -> int:
        """Index of the int8 form of a matrix."""
        levels, scale = quantize(array, axis)
        if axis == 1 and self._tile_width and levels.shape[1] % self._tile_width == 0:
            levels = levels.reshape(len(levels), -1, self._tile_width).transpose(1, 0, 2)
        return self.add(levels, self.add(scale), axis)


def _program(layout: str, graph: Graph, store: _Store, precision: str) -> dict[str, Any]:
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
            if precision == "int8" and position == spec.quantized and not small:
                index = store.add_quantized(array, spec.scale_axis)
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
