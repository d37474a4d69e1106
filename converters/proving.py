"""Ask every variant of a staged bundle, with the engine that the device will use: does it answer as
PyTorch does, and after which layer may a text leave?

Writes the manifest into the staging folder; opens every variant there.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeformer.converters.bundle_writer import file_records, write_manifest
from edgeformer.converters.exit_calibration import ExitData, ExitSettings, calibrate_variant
from edgeformer.converters.exit_verification import verify_exits
from edgeformer.converters.stages import Stages
from edgeformer.converters.verification import Reference, open_to_verify, verify
from edgeformer.device_profiles.profile import Tolerance
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.manifest import Manifest, ModelCard, Variant
from edgeformer.runtime.text import encode_texts
from edgeformer.runtime.tokenizer import Tokenizer


def prove_all(
    folder: Path,
    manifest: Manifest,
    reference: Reference,
    expected: NDArray[np.float32] | None,
    tolerance: Tolerance,
    stages: Stages,
) -> tuple[Variant, ...]:
    """The variants with their parity; those that have one are left as they are.

    Args:
        folder: the staged bundle; its manifest is written, so that it can be opened.
        manifest: its variants are those to prove.
        reference: PyTorch's answers.
        expected: PyTorch's answers after each layer, of a model with exits; else None.
        tolerance: the profile's.
        stages: of the conversion.
    """
    write_manifest(folder, replace(manifest, files=file_records(folder)))
    verified = []
    with open_bundle(folder) as bundle:
        for variant in manifest.variants:
            if variant.parity is not None:
                verified.append(variant)
                continue
            with stages.stage(f"verify {variant.id}"):
                engine = open_to_verify(bundle, variant)
                try:
                    parity = verify(engine, variant, reference, tolerance, manifest.model.task)
                    if expected is not None and variant.exits is not None:
                        measured = replace(variant, parity=parity)
                        parity = verify_exits(engine, measured, reference, expected, tolerance)
                finally:
                    engine.close()
                verified.append(replace(variant, parity=parity))
    return tuple(verified)


def calibrate_exits(
    folder: Path,
    variants: tuple[Variant, ...],
    tokenizer: Tokenizer | None,
    card: ModelCard,
    data: ExitData | None,
    settings: ExitSettings,
    stages: Stages,
) -> tuple[Variant, ...]:
    """The variants with their exits calibrated, each on its own answers; the same without exits or
    data."""
    if data is None or tokenizer is None:
        return variants
    firsts = [text for text, _ in data.texts]
    seconds = [pair or "" for _, pair in data.texts] if data.texts[0][1] is not None else None
    batch = encode_texts(tokenizer, firsts, seconds, card.max_length, "truncate").batch
    calibrated = []
    with open_bundle(folder) as bundle:
        for variant in variants:
            if variant.exits is not None:
                with stages.stage(f"calibrate the exits of {variant.id}"):
                    engine = open_to_verify(bundle, variant)
                    try:
                        table = calibrate_variant(engine, variant.exits, batch, data, settings)
                    finally:
                        engine.close()
                variant = replace(variant, exits=table)
            calibrated.append(variant)
    return tuple(calibrated)
