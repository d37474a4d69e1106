"""How many bytes the file of a NumPy variant spends on what, and what it becomes in memory.

    for row in stored_sizes(bundle, bundle.manifest.variant("numpy-int8")):
        print(row.kind, row.form, row.values, row.file_bytes, row.decoded_bytes)

NumPy and the standard library only; no weight is decoded.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgeformer.errors import BundleError
from edgeformer.runtime.bundle import Bundle
from edgeformer.runtime.manifest import Variant
from edgeformer.runtime.operations import OPS
from edgeformer.runtime.plan import PlanProgram, parse_header
from edgeformer.runtime.plan_tensors import TensorRecord

KINDS = ("tables", "matrices", "other")


@dataclass(frozen=True)
class StoredSize:
    """One kind of tensors in one form.

    Attributes:
        kind: ``tables`` (embeddings), ``matrices`` (of linear layers and LSTMs) or ``other``
            (biases, norms, constants).
        form: ``int8``, ``float32``, ``adaptivfloat8e3``, ...; with ``+ bitmask`` where zeros are
            left out.
        values: how many there are.
        nonzeros: how many of them are stored, fewer than ``values`` only with a bitmask.
        file_bytes: with scales and ranges.
        decoded_bytes: of memory that the process needs for them; 0 where they are mapped.
    """

    kind: str
    form: str
    values: int
    nonzeros: int
    file_bytes: int
    decoded_bytes: int


def bundle_sizes(bundle: Bundle) -> dict[str, tuple[StoredSize, ...]]:
    """``stored_sizes`` of every NumPy variant by its id; one whose file is damaged is left out, for
    ``inspect --verify`` to say so."""
    sizes = {}
    for variant in bundle.manifest.variants:
        if variant.engine == "numpy":
            with contextlib.suppress(BundleError):
                sizes[variant.id] = stored_sizes(bundle, variant)
    return sizes


def stored_sizes(bundle: Bundle, variant: Variant) -> tuple[StoredSize, ...]:
    """Sizes by kind and form, of every tensor of ``variant``'s plan once.

    Args:
        bundle: open; the plan's hash is checked before it is read.
        variant: one whose engine is ``numpy``.

    Raises:
        BundleError: a file that was altered or is not a plan.
    """
    rows: dict[tuple[str, str], StoredSize] = {}
    for name in dict.fromkeys(program.file for program in variant.programs.values()):
        bundle.check([name])
        records, programs, _ = parse_header(bundle.map(name))
        kinds = _kinds(programs.values())
        scales = {record.scale for record in records}
        for k in set(range(len(records))) - scales:
            row = _row(kinds.get(k, "other"), records, records[k])
            before = rows.get((row.kind, row.form))
            rows[row.kind, row.form] = _sum(before, row) if before else row
    return tuple(sorted(rows.values(), key=lambda row: (KINDS.index(row.kind), row.form)))


def _kinds(programs: Iterable[PlanProgram]) -> Mapping[int, str]:
    """Tensors that are weights -> their kind."""
    kinds = {}
    for program in programs:
        for step in program.steps:
            position = OPS[step.op].quantized
            operand = step.inputs[position] if position >= 0 else None
            if operand is not None and operand < 0:
                kinds[-1 - operand] = "tables" if step.op == "embedding" else "matrices"
    return kinds


def _row(kind: str, records: Sequence[TensorRecord], record: TensorRecord) -> StoredSize:
    store, form, stored = record.store, record.dtype, record.count
    if store is not None and store.exponent_bits:
        form = f"adaptivfloat{store.bits}e{store.exponent_bits}"
    if store is not None and store.nonzeros is not None:
        form, stored = f"{form} + bitmask", store.nonzeros
    scale_bytes = 0 if record.scale is None else records[record.scale].file_bytes
    return StoredSize(
        kind,
        form,
        record.count,
        stored,
        record.file_bytes + scale_bytes,
        0 if record.mapped else record.loaded_bytes,
    )


def _sum(a: StoredSize, b: StoredSize) -> StoredSize:
    return StoredSize(
        a.kind,
        a.form,
        a.values + b.values,
        a.nonzeros + b.nonzeros,
        a.file_bytes + b.file_bytes,
        a.decoded_bytes + b.decoded_bytes,
    )
