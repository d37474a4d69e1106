"""A prepared module -> model.tflite: one file for any length, weights stored once.

Token models are converted at two lengths, from which ``tflite_any_length`` makes one signature,
``main``, that takes every length, batch 1. Where that cannot be, the file gets a signature
``main_LENGTH`` for each length bucket of the profile, and the variant's note says why.
A module without an attention mask cannot be padded, so it gets one (``main_0``, ``main_1``, ...)
for each distinct set of shapes among its examples. int8 is made from the fp32 file.
Writes only under the folder it is given; the converter's own messages are shown if it fails.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from edgeformer.converters.exits import cuts, exit_table, with_every_exit
from edgeformer.converters.prepared import PreparedModel
from edgeformer.converters.sensitivity import Draft, Refine, nothing_kept
from edgeformer.converters.sites import Sites, weight_sites
from edgeformer.converters.tflite_any_length import ENTRY, FixedLengthError, any_length
from edgeformer.converters.tflite_convert import (
    LEAVE_OUT,
    Signature,
    check_host,
    convert,
    process_restored,
)
from edgeformer.converters.tflite_cut import cut_signatures
from edgeformer.converters.tflite_lstm import holds_lstms, teach_lstm, with_lstm_kernels
from edgeformer.converters.tflite_quantize import quantize, quantized_sites
from edgeformer.converters.tflite_smoothing import smoothed
from edgeformer.device_profiles.profile import DeviceProfile
from edgeformer.errors import ModelError
from edgeformer.runtime.manifest import Port, Variant

PRECISIONS = ("fp32", "int8")
_PROBES = (16, 24)  # two lengths that show where a graph depends on the length


@dataclass(frozen=True)
class _Converted:
    """A fp32 file: its lengths are fixed, or () and it takes any length or its examples' shapes.

    ``sites`` names its weights; ``layout``, ``entry`` and ``note`` are the variant's.
    """

    content: bytes
    sites: Sites
    lengths: tuple[int, ...]
    layout: str
    entry: str
    note: str


def export_tflite(
    prepared: PreparedModel,
    precisions: Sequence[str],
    profile: DeviceProfile,
    root: Path,
    refine: Refine = nothing_kept,
) -> tuple[Variant, ...]:
    """Write ``root/tflite-PRECISION/model.tflite`` for each precision.

    Args:
        prepared: the module with its ports and examples.
        precisions: of ``fp32`` and ``int8``.
        profile: its ``length.bucket_tokens`` become the lengths of a file that needs fixed ones.
        root: staging folder of the bundle.
        refine: decides which sites of the int8 file stay in float32.

    Returns:
        one variant per precision, ``parity`` None.

    Raises:
        EngineError: the converter is not installed, or this machine has none.
        ModelError: the module does not lower; names the operation.
    """
    for precision in precisions:
        if precision not in PRECISIONS:
            raise ModelError(f"TFLite files are fp32 or int8, not {precision}", hint=LEAVE_OUT)
    check_host()
    variants = []
    with process_restored():
        converted = _convert(with_every_exit(prepared), bucket_lengths(prepared, profile))
        for precision in precisions:
            variant = _variant(prepared, precision, converted)
            path = root / variant.programs["main"].file
            path.parent.mkdir(parents=True)
            if precision == "fp32":
                path.write_bytes(_finished(converted.content, prepared))
            else:
                variant = refine(_draft(variant, converted, prepared, path))
            variants.append(variant)
    return tuple(variants)


def _convert(prepared: PreparedModel, lengths: tuple[int, ...]) -> _Converted:
    module, note = prepared.module, ""
    teach_lstm()
    with smoothed(module, prepared.examples):
        sites = weight_sites(module)
        if lengths and lengths[-1] > 2:
            probes = _PROBES if lengths[-1] >= _PROBES[-1] else (lengths[-1] - 1, lengths[-1])
            try:
                content = any_length(convert(module, _signatures(prepared, probes)))
            except FixedLengthError as reason:
                note = f"fixed lengths: {reason}"
            else:
                return _Converted(content, sites, (), "dense", ENTRY, "")
        content = convert(module, _signatures(prepared, lengths))
    if not lengths:
        note = "no attention mask to pad with: runs at its example shapes only"
    entry = "main_{length}" if lengths else "main_{example}"
    return _Converted(content, sites, lengths, "buckets", entry, note)


def _variant(prepared: PreparedModel, precision: str, converted: _Converted) -> Variant:
    name = f"tflite-{precision}"
    file = f"{name}/model.tflite"
    programs = {
        cut.name: cut.program(file, _entry(cut.name, converted), converted.lengths)
        for cut in cuts(prepared)
    }
    plain = precision == "int8" and holds_lstms(converted.content)
    note = "; ".join(filter(None, (converted.note, "LSTM weights stay float32" if plain else "")))
    exits = exit_table(prepared)
    return Variant(name, "tflite", precision, converted.layout, note, "", programs, exits=exits)


def _entry(name: str, converted: _Converted) -> str:
    return converted.entry.replace(ENTRY, name, 1)


def _finished(content: bytes, prepared: PreparedModel) -> bytes:
    return with_lstm_kernels(cut_signatures(content, cuts(prepared)))


def _draft(variant: Variant, converted: _Converted, prepared: PreparedModel, path: Path) -> Draft:
    def write(kept: frozenset[str]) -> Variant:
        content = quantize(converted.content, converted.sites, kept)
        path.write_bytes(_finished(content, prepared))
        return variant

    return Draft(quantized_sites(converted.content, converted.sites), write)


def bucket_lengths(prepared: PreparedModel, profile: DeviceProfile) -> tuple[int, ...]:
    """Lengths in tokens of the file's signatures, ascending; empty if it cannot be padded.

    The profile's buckets below the model's longest input, and then that or the largest bucket,
    whichever is smaller. A module of the user's own says nothing of its longest input, so there
    the longest example counts.
    """
    ids = next((p for p in prepared.inputs if p.name == "input_ids"), None)
    if not prepared.paddable or ids is None or "sequence" not in ids.shape:
        return ()
    axis = ids.shape.index("sequence")
    longest = prepared.card.max_length or max(
        example["input_ids"].shape[axis] for example in prepared.examples
    )
    last = min(longest, max(profile.length.bucket_tokens))
    return (*(b for b in profile.length.bucket_tokens if b < last), last)


def _signatures(prepared: PreparedModel, lengths: tuple[int, ...]) -> list[Signature]:
    """Every tensor is a new object: one object in two places makes one input of the two."""
    if lengths:
        return [
            Signature(f"main_{n}", {p.name: _sample(p, n, prepared) for p in prepared.inputs})
            for n in lengths
        ]
    distinct: dict[tuple[torch.Size, ...], dict[str, torch.Tensor]] = {}
    for example in prepared.examples:
        tensors = {p.name: example[p.name].detach().clone() for p in prepared.inputs}
        distinct.setdefault(tuple(t.shape for t in tensors.values()), tensors)
    return [Signature(f"main_{i}", tensors) for i, tensors in enumerate(distinct.values())]


def _sample(port: Port, length: int, prepared: PreparedModel) -> torch.Tensor:
    """A tensor of the port's shape; tracing looks at the shape and dtype only."""
    example = prepared.examples[0][port.name]
    sizes = {"batch": 1, "sequence": length}
    shape = [
        sizes.get(s, n) if isinstance(s, str) else s
        for s, n in zip(port.shape, example.shape, strict=True)
    ]
    return torch.zeros(shape, dtype=example.dtype)
