"""Embedding tables as int8 with one scale per row: a row is a token, so nothing else shares it.

1. A Gather along axis 0 from a constant float32 matrix is rewritten if the matrix has at least
   262,144 values (1 MB): word tables do, position and segment tables stay exact.
2. Each row is symmetric int8 in [-127, 127]; looking up gathers the row and its scale, and
   multiplies.
3. A table that several Gathers read is stored once.
4. Tables named by the caller stay float32.
"""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeformer.converters.onnx_passes.editing import constant, insert, matrix, replace

MIN_VALUES = 1 << 18


def quantize_tables(
    model: ir.Model, min_values: int = MIN_VALUES, kept: Collection[str] = frozenset()
) -> int:
    """Rewrite the large tables of ``model`` in place and return how many lookups there were.

    Args:
        model: float32 graph.
        min_values: rule 1.
        kept: names of tables that stay float32.
    """
    count = 0
    for node, source, table in tables(model, min_values):
        if source.name in kept:
            continue
        rows, scales = quantize_rows(table)
        held = constant(model, f"{source.name}.int8", rows)
        scale = constant(model, f"{source.name}.scale", scales)
        ids = node.inputs[1]
        picked = insert(model, node, "Gather", [held, ids])
        exact = insert(model, node, "Cast", [picked], {"to": int(ir.DataType.FLOAT)})
        row_scale = insert(model, node, "Gather", [scale, ids])
        replace(model, node, insert(model, node, "Mul", [exact, row_scale]))
        count += 1
    return count


def tables(
    model: ir.Model, min_values: int = MIN_VALUES
) -> list[tuple[ir.Node, ir.Value, NDArray[np.float32]]]:
    """Rule 1: each lookup, the value that it reads from, and the table, float32 (rows, width)."""
    found = []
    for node in model.graph:
        if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 0:
            continue
        source = node.inputs[0]
        table = matrix(source)
        if source is not None and table is not None and table.size >= min_values:
            found.append((node, source, table))
    return found


def quantize_rows(
    table: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 per row: int8 (rows, width) and float32 (rows, 1) scales."""
    largest = np.abs(table).max(axis=1, keepdims=True)
    scale = (np.maximum(largest, 1e-20) / 127).astype(np.float32)
    return np.clip(np.rint(table / scale), -127, 127).astype(np.int8), scale
