"""One prepared module -> a verified bundle: export each variant, verify it, write, publish.

Data flows one way: PreparedModel -> files in a staging folder -> engines of the runtime ->
parity -> manifest -> the bundle. Any failure leaves nothing behind.
"""

import importlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from edgeformer.converters.buckets import OwnBuckets
from edgeformer.converters.bundle_page import bundle_page
from edgeformer.converters.bundle_writer import (
    file_records,
    publish,
    refuse_overwrite,
    staging,
    write_manifest,
)
from edgeformer.converters.cases import (
    Text,
    golden_cases,
    split_texts,
    text_lengths,
    text_reference,
    with_calibration,
)
from edgeformer.converters.conversion_text import failure_hint, failure_text, notices_of
from edgeformer.converters.exit_calibration import ExitData, ExitSettings, exit_notices
from edgeformer.converters.exit_verification import exit_reference
from edgeformer.converters.prepared import PreparedModel
from edgeformer.converters.proving import calibrate_exits, prove_all
from edgeformer.converters.refining import Refiner
from edgeformer.converters.sensitivity import Scan
from edgeformer.converters.stages import Stage, Stages, one_torch_thread, peak_rss_mb
from edgeformer.converters.task_texts import task_texts
from edgeformer.converters.tflite_export import bucket_lengths
from edgeformer.device_profiles.profile import DeviceProfile
from edgeformer.errors import EngineError, ToleranceError, UsageError
from edgeformer.runtime.engine import ENGINES, missing_engine
from edgeformer.runtime.golden import dump_golden
from edgeformer.runtime.manifest import Manifest, Variant
from edgeformer.runtime.tokenizer import Tokenizer, load_tokenizer

TOKENIZER = "tokenizer/tokenizer.json"
GOLDEN = "golden.json"

# engine -> (module, function) that exports for it
_EXPORTERS = {
    "onnx": ("edgeformer.converters.onnx_export", "export_onnx"),
    "tflite": ("edgeformer.converters.tflite_export", "export_tflite"),
    "numpy": ("edgeformer.converters.numpy_export", "export_numpy"),
}
_TOOLS = (
    "edgeformer",
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "litert-torch",
    "ai-edge-quantizer",
    "ai-edge-litert",
    "numpy",
)


@dataclass(frozen=True)
class ConversionSettings:
    """What to make and where.

    Attributes:
        profile: the device.
        output: path of the bundle.
        engines: which engines to convert for, in order of preference.
        precisions: of every engine; empty takes the profile's of each.
        texts: (text, pair) to verify and calibrate on; empty for a plain module.
        own_texts: they are the user's, so that their lengths tell what the device will see.
        golden: (text, pair) of the self-test stored in the bundle.
        recipe: name of the compression recipe that made the model, if any.
        fp32_share: share of the weights of an int8 file that stays in float32, the most sensitive
            ones, whether or not int8 alone would do; for onnx and tflite.
        zip_file: one file instead of a folder.
        force: overwrite, and write even if a tolerance is missed.
        exits: how exits are calibrated.
        exit_data: on what; None leaves them without calibration.
    """

    profile: DeviceProfile
    output: Path
    engines: tuple[str, ...]
    precisions: tuple[str, ...] = ()
    texts: tuple[Text, ...] = ()
    own_texts: bool = False
    golden: tuple[Text, ...] = ()
    recipe: str = ""
    fp32_share: float = 0.0
    zip_file: bool = False
    force: bool = False
    exits: ExitSettings = field(default_factory=ExitSettings)
    exit_data: ExitData | None = None


@dataclass(frozen=True)
class ConversionReport:
    """What was made: its path, its manifest, seconds by stage, the peak memory in MB (1e6 bytes)
    of the converting process and of its largest child, and by variant's id the sensitivity scans
    that there had to be."""

    path: Path
    manifest: Manifest
    stages: tuple[Stage, ...]
    peak_rss_mb: float
    notices: tuple[str, ...] = ()
    scans: Mapping[str, Scan] = field(default_factory=dict)


def check_settings(settings: ConversionSettings) -> None:
    """Find what cannot work before minutes are spent on it.

    Raises:
        UsageError: the output exists, or an engine or precision is unknown.
        EngineError: a converter or the engine that verifies it is not installed.
    """
    refuse_overwrite(settings.output, settings.force)
    if not settings.engines:
        raise UsageError("no engine to convert for", hint=f"--engines {','.join(ENGINES)}")
    for engine in settings.engines:
        missing = missing_engine(engine)
        if missing:
            rest = ",".join(e for e in settings.engines if e != engine)
            raise EngineError(
                f"{missing.message}; it is needed to verify its files",
                hint=missing.hint + (f", or leave it out: --engines {rest}" if rest else ""),
            )
        for precision in _precisions(settings, engine):
            allowed = ("fp32", "int8", "fp16") if engine == "onnx" else ("fp32", "int8")
            if precision not in allowed:
                raise UsageError(
                    f"{engine} has no precision {precision!r}",
                    hint=f"choose of: {', '.join(allowed)}, or leave the engine out",
                )


def _precisions(settings: ConversionSettings, engine: str) -> tuple[str, ...]:
    return settings.precisions or (getattr(settings.profile.quantization, engine),)


def convert_prepared(
    prepared: PreparedModel, settings: ConversionSettings, stages: Stages
) -> ConversionReport:
    """Export, verify and write.

    Raises:
        ModelError: an engine's converter cannot take the module.
        DataError: the texts do not fit the tokenizer.
        ToleranceError: a variant's answers differ too much, and ``force`` is not set.
        EdgeFormerError: no disk space.
    """
    with one_torch_thread():
        return _convert(prepared, settings, stages)


def _convert(
    prepared: PreparedModel, settings: ConversionSettings, stages: Stages
) -> ConversionReport:
    tokenizer = load_tokenizer(prepared.tokenizer_json) if prepared.tokenizer_json else None
    texts, calibration_texts = split_texts(task_texts(settings.texts, prepared.card))
    with stages.stage("reference answers"):
        reference = text_reference(prepared, tokenizer, texts)
        calibration = text_reference(prepared, tokenizer, calibration_texts)
        expected = exit_reference(prepared.exits, reference) if prepared.exits else None
        golden_texts = task_texts(settings.golden, prepared.card)
        golden = golden_cases(prepared, tokenizer, golden_texts)
    prepared = with_calibration(prepared, calibration)
    buckets = _own_buckets(prepared, tokenizer, settings)
    with staging(settings.output) as folder:
        if prepared.tokenizer_json:
            (folder / TOKENIZER).parent.mkdir()
            (folder / TOKENIZER).write_bytes(prepared.tokenizer_json)
        (folder / GOLDEN).write_bytes(dump_golden(golden))
        refiner = Refiner(
            prepared, calibration, settings.profile, folder, stages, settings.fp32_share
        )
        variants = _export_all(prepared, settings, folder, stages, refiner, buckets)
        manifest = _manifest(prepared, settings, variants)
        tolerance = settings.profile.tolerance
        verified = prove_all(folder, manifest, reference, expected, tolerance, stages)
        again = tuple(_repaired(variant, refiner, buckets) for variant in verified)
        if again != verified:
            manifest = replace(manifest, variants=again)
            verified = prove_all(folder, manifest, reference, expected, tolerance, stages)
        verified = calibrate_exits(
            folder, verified, tokenizer, prepared.card, settings.exit_data, settings.exits, stages
        )
        failed = [v for v in verified if v.parity and not v.parity.passed]
        manifest = replace(manifest, variants=verified, forced=bool(failed))
        if failed and not settings.force:
            raise ToleranceError(failure_text(failed, refiner.scans), hint=failure_hint(verified))
        with stages.stage("write bundle"):
            (folder / "README.md").write_text(bundle_page(manifest), encoding="utf-8")
            manifest = replace(manifest, files=file_records(folder))
            write_manifest(folder, manifest)
            publish(folder, settings.output, settings.zip_file)
    notices = (*notices_of(manifest, refiner.scans), *exit_notices(manifest))
    return ConversionReport(
        settings.output, manifest, tuple(stages.done), peak_rss_mb(), notices, refiner.scans
    )


def _own_buckets(
    prepared: PreparedModel, tokenizer: Tokenizer | None, settings: ConversionSettings
) -> OwnBuckets | None:
    """Fixed lengths chosen from the user's texts, should TFLite need any."""
    if tokenizer is None or not settings.own_texts or "tflite" not in settings.engines:
        return None
    buckets = bucket_lengths(prepared, settings.profile)
    if not buckets:
        return None
    texts = task_texts(settings.texts, prepared.card)
    return OwnBuckets(text_lengths(prepared, tokenizer, texts), buckets)


def _export_all(
    prepared: PreparedModel,
    settings: ConversionSettings,
    folder: Path,
    stages: Stages,
    refiner: Refiner,
    buckets: OwnBuckets | None,
) -> tuple[Variant, ...]:
    profile = buckets.in_profile(settings.profile) if buckets else settings.profile
    variants: list[Variant] = []
    for engine in settings.engines:
        precisions = _precisions(settings, engine)
        with stages.stage(f"convert to {engine} ({', '.join(precisions)})"):
            module, function = _EXPORTERS[engine]
            export = getattr(importlib.import_module(module), function)
            refine = () if engine == "numpy" else (refiner.refine,)
            made = export(prepared, precisions, profile, folder, *refine)
        variants += [buckets.noted(v) for v in made] if buckets else made
    return tuple(variants)


def _repaired(variant: Variant, refiner: Refiner, buckets: OwnBuckets | None) -> Variant:
    """Without parity if it is another one now."""
    made = refiner.repair(variant)
    if made is None:
        return variant
    return buckets.noted(made) if buckets else made


def _manifest(
    prepared: PreparedModel,
    settings: ConversionSettings,
    variants: tuple[Variant, ...],
) -> Manifest:
    return Manifest(
        model=prepared.card,
        profile=json.loads(json.dumps(asdict(settings.profile))),
        engines=settings.engines,
        threads=settings.profile.runtime.threads,
        tokenizer=TOKENIZER if prepared.tokenizer_json else "",
        golden=GOLDEN,
        variants=variants,
        files={},
        tools=_tool_versions(),
        recipe=settings.recipe,
    )


def _tool_versions() -> dict[str, str]:
    versions = {}
    for name in _TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
