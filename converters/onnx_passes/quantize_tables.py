"""Embedding tables as int8 with one scale per row: a row is a token, so nothing else shares it.

1. A Gather along axis 0 from a constant float32 matrix is rewritten if the matrix has at least
   262,144 values (1 MB): word tables do, position and segment tables stay exact.
2. Each row is symmetric int8 in [-127, 127]; looking up gathers the row and its scale, and
   multiplies.
3. A table that several Gathers read is stored once.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeformer.converters.onnx_passes.editing import constant, insert, matrix, replace

MIN_VALUES = 1 << 18


def quantize_tables(model: ir.Model, min_values: int = MIN_VALUES) -> int:
    """Rewrite the large tables of ``model`` in place and return how many lookups there were."""
    count = 0
    for node in list(model.graph):
        if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 0:
            continue
        source = node.inputs[0]
        table = matrix(source)
        if source is None or table is None or table.size < min_values:
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


def quantize_rows(
    table: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 per row: int8 (rows, width) and float32 (rows, 1) scales."""
    largest = np.abs(table).max(axis=1, keepdims=True)
    scale = (np.maximum(largest, 1e-20) / 127).astype(np.float32)
    return np.clip(np.rint(table / scale), -127, 127).astype(np.int8), scale
