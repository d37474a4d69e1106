"""Prepared module -> one ONNX file for each precision, for ONNX Runtime.

    export_onnx(prepared, ("fp32", "int8"), profile, folder)   # folder/onnx-int8/model.onnx, ...

torch.export makes one graph with dynamic dimensions, the passes of ``onnx_passes`` turn a copy of
it into each precision. Opset 20, where LayerNormalization and Gelu are single ops. Weights lie
inside the file; the same module, examples and versions give the same bytes.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgeformer.converters.exits import Cut, cuts, exit_table, with_every_exit
from edgeformer.converters.onnx_ranges import channel_ranges
from edgeformer.converters.prepared import PreparedModel
from edgeformer.converters.sensitivity import Draft, Refine, nothing_kept
from edgeformer.converters.sites import site_of, weight_sites
from edgeformer.converters.tracing import quiet_libraries, trace_inputs
from edgeformer.device_profiles.profile import DeviceProfile
from edgeformer.errors import EngineError, InputError, ModelError
from edgeformer.runtime.engines.onnx_session import output_name
from edgeformer.runtime.inputs import complete_inputs
from edgeformer.runtime.manifest import Program, Variant

try:
    import onnx_ir as ir

    from edgeformer.converters.onnx_attention import TRANSLATIONS
    from edgeformer.converters.onnx_cut import cut_graph, share_weights
    from edgeformer.converters.onnx_lstm import lstm_translation
    from edgeformer.converters.onnx_passes.clean import clean
    from edgeformer.converters.onnx_passes.editing import linears, matrix
    from edgeformer.converters.onnx_passes.fuse_attention import fuse_attention
    from edgeformer.converters.onnx_passes.half_precision import convert_half
    from edgeformer.converters.onnx_passes.lstm_weights import (
        fold_lstm_weights,
        lstms,
        store_lstm_int8,
    )
    from edgeformer.converters.onnx_passes.quantize_linears import is_quantizable, quantize_linears
    from edgeformer.converters.onnx_passes.quantize_tables import quantize_tables, tables
    from edgeformer.converters.onnx_passes.quantize_texts import quantize_texts
    from edgeformer.converters.onnx_passes.smooth_inputs import smooth_inputs
    from edgeformer.converters.onnx_passes.without_padding import assume_no_padding
except ModuleNotFoundError as missing:
    raise EngineError(
        f"converting to ONNX needs {missing.name}", hint='pip install "edgeformer[convert]"'
    ) from None

OPSET = 20
ENOUGH_EXAMPLES = 8  # fewer do not show how large activations get; random texts are added
_RANDOM_LENGTHS = (3, 6, 10, 14, 20, 30, 40, 60)
MAX_BYTES = 2_000_000_000  # one protobuf message holds less than 2 GiB
_NOTES = {
    "fp32": "",
    "fp16": "float16 weights and arithmetic, float32 outputs",
    "int8": "int8 weights per channel, activations quantized per row as they come",
}
_SINGLE_NOTE = (
    "int8 weights per channel, activations quantized per text as they come, what an activation"
    " function gives per row; one text per call"
)
MASK = "attention_mask"
WEIGHTS = "weights.bin"


class _Positional(torch.nn.Module):
    """The prepared module with inputs and outputs in the order of its ports."""

    def __init__(self, prepared: PreparedModel) -> None:
        super().__init__()
        self.module = prepared.module
        self._inputs = [port.name for port in prepared.inputs]
        self._outputs = [port.name for port in prepared.outputs]

    def forward(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        answer = self.module(**dict(zip(self._inputs, arguments, strict=True)))
        return tuple(answer[name] for name in self._outputs)


def export_onnx(
    prepared: PreparedModel,
    precisions: Sequence[str],
    profile: DeviceProfile,
    root: Path,
    refine: Refine = nothing_kept,
) -> tuple[Variant, ...]:
    """Write ``root/onnx-PRECISION/model.onnx`` for each precision.

    Args:
        prepared: the module; its first example is traced. For int8 up to 32 are run to see which
            channels have outliers; a token model with fewer than 8 gets random texts besides.
        precisions: of ``fp32``, ``fp16``, ``int8``.
        profile: tells the execution provider and whether int8 weights must not saturate.
        root: existing folder.
        refine: decides which sites of the int8 file stay in float32.

    Raises:
        ModelError: the module cannot be exported, or its file would exceed 2 GB.
    """
    with quiet_libraries():
        whole = with_every_exit(prepared)
        model, program = _capture(whole)
        ranges = _ranges(model, program, whole) if "int8" in precisions else {}
        names = _site_weights(model, whole) if "int8" in precisions else {}

        def write(precision: str, kept: frozenset[str] = frozenset()) -> Variant:
            weights = [weight for site in kept for weight in names[site][1]]
            single = precision == "int8" and runs_single(prepared, profile)
            copy = model.clone()
            if single:
                _leave_padding_out(copy, prepared)
            _to_precision(copy, precision, single, ranges, profile, weights)
            return _write(copy, precision, single, prepared, profile, root)

        draft = Draft({site: size for site, (size, _) in names.items()}, partial(write, "int8"))
        return tuple(refine(draft) if p == "int8" else write(p) for p in precisions)


def _site_weights(model: ir.Model, prepared: PreparedModel) -> dict[str, tuple[int, set[str]]]:
    """Name of each site that int8 would quantize -> its number of values, and its names here."""
    sites = weight_sites(prepared.module)
    found: dict[str, tuple[int, set[str]]] = {}
    weights = [(x.weight_name, x.weight.T) for x in linears(model) if is_quantizable(x)]
    weights += [(source.name or "", table) for _, source, table in tables(model)]
    for name, weight in weights:
        site = site_of(weight, sites)
        if site is not None:
            found.setdefault(site, (weight.size, set()))[1].add(name)
    return found


def _capture(prepared: PreparedModel) -> tuple[ir.Model, torch.export.ExportedProgram]:
    arguments = tuple(trace_inputs(prepared).values())
    dynamic = tuple(
        {i: torch.export.Dim.DYNAMIC for i, size in enumerate(port.shape) if isinstance(size, str)}
        for port in prepared.inputs
    )
    module = _Positional(prepared).eval()
    try:
        with torch.no_grad():
            program = torch.export.export(
                module, arguments, dynamic_shapes=(dynamic,), strict=False
            )
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                optimize=True,
                verbose=False,
                custom_translation_table=TRANSLATIONS | lstm_translation(),
            )
    except Exception as error:
        raise ModelError(
            f"{prepared.card.name} cannot be exported to ONNX: {_reason(error)}",
            hint="leave ONNX out with --engines, or write that part of forward() with tensor"
            " operations that do not depend on values",
        ) from error
    assert exported is not None and exported.exported_program is not None  # since dynamo=True
    fold_lstm_weights(exported.model)
    return exported.model, exported.exported_program


def _ranges(
    model: ir.Model, program: torch.export.ExportedProgram, prepared: PreparedModel
) -> dict[str, NDArray[np.float32]]:
    names = {linear.x.name for linear in linears(model) if linear.x.name}
    order = [port.name for port in prepared.inputs]
    examples = [[example[name] for name in order] for example in prepared.examples]
    if len(examples) < ENOUGH_EXAMPLES and "input_ids" in order:
        words = _vocabulary_size(model, order.index("input_ids"))
        examples += [[one[name] for name in order] for one in random_texts(prepared, words)]
    return channel_ranges(program, names, examples)


def _vocabulary_size(model: ir.Model, position: int) -> int:
    """Rows of the table that ``input_ids`` looks up, 0 if it is not looked up directly."""
    for node in model.graph.inputs[position].consumers():
        table = matrix(node.inputs[0]) if node.op_type == "Gather" else None
        if table is not None:
            return len(table)
    return 0


def random_texts(prepared: PreparedModel, vocabulary_size: int) -> list[dict[str, torch.Tensor]]:
    """Inputs of random tokens: outlier channels come from the weights, and any text shows them."""
    if vocabulary_size == 0 or any(len(p.shape) != 2 for p in prepared.inputs):
        return []
    generator = np.random.default_rng(0)
    texts = []
    for length in _RANDOM_LENGTHS:
        ids = generator.integers(0, vocabulary_size, (1, min(length, prepared.card.max_length)))
        try:
            arrays = complete_inputs(prepared.inputs, {"input_ids": ids})
        except InputError:  # an input without default: only the examples know what it looks like
            return []
        texts.append({name: torch.from_numpy(array) for name, array in arrays.items()})
    return texts


def runs_single(prepared: PreparedModel, profile: DeviceProfile) -> bool:
    """True if the profile wants int8 ranges of whole texts, and the module is one of texts that
    can do without an attention mask when each runs alone."""
    by_token = all(port.shape == ("batch", "sequence") for port in prepared.inputs)
    names = {port.name for port in prepared.inputs}
    return profile.quantization.onnx_ranges == "text" and by_token and names >= {"input_ids", MASK}


def _leave_padding_out(model: ir.Model, prepared: PreparedModel) -> None:
    order = [port.name for port in prepared.inputs]
    inputs = model.graph.inputs
    assume_no_padding(model, inputs[order.index(MASK)], inputs[order.index("input_ids")])


def _to_precision(
    model: ir.Model,
    precision: str,
    single: bool,
    ranges: dict[str, NDArray[np.float32]],
    profile: DeviceProfile,
    kept: Collection[str],
) -> None:
    """Rewrite ``model``; ``single`` says that it is given one text at a time."""
    if single or precision == "fp16":
        fuse_attention(model)
    if precision == "fp16":
        convert_half(model)
    elif precision == "int8":
        smooth_inputs(model, ranges, kept)
        if single:
            quantize_texts(model, profile.quantization.reduce_range, kept)
        quantize_linears(model, profile.quantization.reduce_range, kept)
        quantize_tables(model, kept=kept)
        store_lstm_int8(model)


def _write(
    model: ir.Model,
    precision: str,
    single: bool,
    prepared: PreparedModel,
    profile: DeviceProfile,
    root: Path,
) -> Variant:
    variant_id = f"onnx-{precision}"
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    if size > MAX_BYTES:
        raise ModelError(
            f"{variant_id} would have {size / 1e9:.1f} GB of weights, and an ONNX file holds 2 GB",
            hint="convert with --precision int8, or compress the model first",
        )
    how = _SINGLE_NOTE if single else _NOTES[precision]
    note = "; ".join(filter(None, (how, _lstm_note(model, precision))))
    (root / variant_id).mkdir(exist_ok=True)  # a refined file is written again
    parts = cuts(prepared)
    if precision == "fp16":  # hidden states cross from segment to segment in float32
        note = "; ".join(filter(None, (note, "no exits" if prepared.exits else "")))
        parts = parts[:1]
    programs, weights = _write_programs(model, single, prepared, parts, root / variant_id)
    provider = profile.runtime.provider if precision == "fp16" else ""
    layout = "single" if single else "dense"
    exits = exit_table(prepared) if len(programs) > 1 else None
    return Variant(
        variant_id, "onnx", precision, layout, note, provider, programs, None, exits, weights
    )


def _write_programs(
    model: ir.Model, single: bool, prepared: PreparedModel, parts: Sequence[Cut], folder: Path
) -> tuple[dict[str, Program], str]:
    """The programs by name, each in a file of its own, and the file that has their weights."""
    inputs = [port for port in prepared.inputs if not (single and port.name == MASK)]
    outputs = with_every_exit(prepared).outputs
    models: dict[str, ir.Model] = {}
    for cut in parts:
        part = model if prepared.exits is None else cut_graph(model, inputs, outputs, cut)
        reads = [port for port in cut.inputs if not (single and port.name == MASK)]
        gives = [replace(p, name=output_name(p, cut.inputs)) for p in cut.outputs]
        clean(part, reads, gives)
        models[cut.name] = part
    weights = f"{folder.name}/{WEIGHTS}" if len(parts) > 1 else ""
    if weights:
        share_weights(tuple(models.values()), folder / WEIGHTS)
    programs = {}
    for cut in parts:
        file = "model.onnx" if cut.name == "main" else f"{cut.name}.onnx"
        data = ir.to_proto(models[cut.name]).SerializeToString(deterministic=True)
        (folder / file).write_bytes(data)
        programs[cut.name] = cut.program(f"{folder.name}/{file}")
    return programs, weights


def _lstm_note(model: ir.Model, precision: str) -> str:
    told = precision == "int8" and bool(lstms(model))
    return "LSTM weights int8 in the file, float32 from loading on" if told else ""


def _reason(error: BaseException) -> str:
    """The first lines that say something, of the innermost error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2]) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
