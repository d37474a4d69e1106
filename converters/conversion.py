"""One prepared module -> a verified bundle: export each variant, verify it, write, publish.

Data flows one way: PreparedModel -> files in a staging folder -> engines of the runtime ->
parity -> manifest -> the bundle. Any failure leaves nothing behind.
"""

import importlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgeformer.converters.bundle_page import bundle_page
from edgeformer.converters.bundle_writer import (
    file_records,
    publish,
    refuse_overwrite,
    staging,
    write_manifest,
)
from edgeformer.converters.cases import Text, golden_cases, text_reference, with_calibration
from edgeformer.converters.prepared import PreparedModel
from edgeformer.converters.stages import Stage, Stages, one_torch_thread, peak_rss_mb
from edgeformer.converters.verification import Reference, verify
from edgeformer.device_profiles.profile import DeviceProfile, Tolerance
from edgeformer.errors import EngineError, ToleranceError, UsageError
from edgeformer.runtime.bundle import Bundle, open_bundle
from edgeformer.runtime.engine import ENGINES, Engine, missing_engine, open_engine
from edgeformer.runtime.golden import dump_golden
from edgeformer.runtime.manifest import Manifest, Variant
from edgeformer.runtime.tokenizer import load_tokenizer

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
        texts: (text, pair) to verify on; empty for a plain module.
        golden: (text, pair) of the self-test stored in the bundle.
        recipe: name of the compression recipe that made the model, if any.
        zip_file: one file instead of a folder.
        force: overwrite, and write even if a tolerance is missed.
    """

    profile: DeviceProfile
    output: Path
    engines: tuple[str, ...]
    precisions: tuple[str, ...] = ()
    texts: tuple[Text, ...] = ()
    golden: tuple[Text, ...] = ()
    recipe: str = ""
    zip_file: bool = False
    force: bool = False


@dataclass(frozen=True)
class ConversionReport:
    """What was made: its path, its manifest, seconds by stage, and the peak memory in MB (1e6
    bytes) of the converting process and of its largest child."""

    path: Path
    manifest: Manifest
    stages: tuple[Stage, ...]
    peak_rss_mb: float
    notices: tuple[str, ...] = ()


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
    with stages.stage("reference answers"):
        reference = text_reference(prepared, tokenizer, settings.texts)
        golden = golden_cases(prepared, tokenizer, settings.golden)
    prepared = with_calibration(prepared, reference)
    with staging(settings.output) as folder:
        variants = _export_all(prepared, settings, folder, stages)
        if prepared.tokenizer_json:
            (folder / TOKENIZER).parent.mkdir()
            (folder / TOKENIZER).write_bytes(prepared.tokenizer_json)
        (folder / GOLDEN).write_bytes(dump_golden(golden))
        manifest = _manifest(prepared, settings, variants, folder)
        write_manifest(folder, manifest)
        verified = _verify_all(folder, manifest, reference, settings.profile.tolerance, stages)
        failed = [v for v in verified if v.parity and not v.parity.passed]
        manifest = replace(manifest, variants=verified, forced=bool(failed))
        if failed and not settings.force:
            raise ToleranceError(_failure_text(failed), hint=_failure_hint(verified))
        with stages.stage("write bundle"):
            (folder / "README.md").write_text(bundle_page(manifest), encoding="utf-8")
            manifest = replace(manifest, files=file_records(folder))
            write_manifest(folder, manifest)
            publish(folder, settings.output, settings.zip_file)
    notices = _notices(manifest)
    return ConversionReport(settings.output, manifest, tuple(stages.done), peak_rss_mb(), notices)


def _export_all(
    prepared: PreparedModel, settings: ConversionSettings, folder: Path, stages: Stages
) -> tuple[Variant, ...]:
    variants: list[Variant] = []
    for engine in settings.engines:
        precisions = _precisions(settings, engine)
        with stages.stage(f"convert to {engine} ({', '.join(precisions)})"):
            module, function = _EXPORTERS[engine]
            export = getattr(importlib.import_module(module), function)
            variants += export(prepared, precisions, settings.profile, folder)
    return tuple(variants)


def _manifest(
    prepared: PreparedModel,
    settings: ConversionSettings,
    variants: tuple[Variant, ...],
    folder: Path,
) -> Manifest:
    return Manifest(
        model=prepared.card,
        profile=json.loads(json.dumps(asdict(settings.profile))),
        engines=settings.engines,
        threads=settings.profile.runtime.threads,
        tokenizer=TOKENIZER if prepared.tokenizer_json else "",
        golden=GOLDEN,
        variants=variants,
        files=file_records(folder),
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


def _verify_all(
    folder: Path,
    manifest: Manifest,
    reference: Reference,
    tolerance: Tolerance,
    stages: Stages,
) -> tuple[Variant, ...]:
    verified = []
    with open_bundle(folder) as bundle:
        for variant in manifest.variants:
            with stages.stage(f"verify {variant.id}"):
                engine = _open_to_verify(bundle, variant)
                try:
                    has_classes = bool(manifest.model.labels)
                    parity = verify(engine, variant, reference, tolerance, has_classes)
                finally:
                    engine.close()
                verified.append(replace(variant, parity=parity))
    return tuple(verified)


def _open_to_verify(bundle: Bundle, variant: Variant) -> Engine:
    """A variant for another provider (a GPU this host may lack) is verified on the CPU's.

    One thread: answers do not depend on it, and a busy host is not slowed by waiting threads.
    """
    return open_engine(bundle, replace(variant, provider=""), 1)


def _failure_text(failed: Sequence[Variant]) -> str:
    lines = ["the converted answers differ too much from the model's; no bundle was written"]
    for variant in failed:
        assert variant.parity is not None
        lines += [f"  {variant.id}: {sentence}" for sentence in variant.parity.failures]
    return "\n".join(lines)


def _failure_hint(verified: Sequence[Variant]) -> str:
    """What to try: other precisions or texts for int8, else the engines that did pass."""
    failed = [v for v in verified if v.parity and not v.parity.passed]
    bad = {v.engine for v in failed}
    good = ",".join(dict.fromkeys(v.engine for v in verified if v.engine not in bad))
    choices = ["texts of the model's own kind with --calibration FILE"]
    if any(v.precision != "fp32" for v in failed):
        choices.insert(0, "--precision fp32")
    if good:
        choices.append(f"only what passed: --engines {good}")
    return "try " + ", or ".join(choices)


def _notices(manifest: Manifest) -> tuple[str, ...]:
    budget = manifest.profile["memory"]["budget_mb"] * 1e6
    notices = []
    for variant in manifest.variants:
        names = {program.file for program in variant.programs.values()}
        size = sum(manifest.files[name].size for name in names)
        if size > budget:
            notices.append(
                f"{variant.id} has {size / 1e6:.0f} MB, more than the profile's memory budget"
            )
    if manifest.forced:
        notices.append("a tolerance was missed: the manifest is marked 'forced'")
    return tuple(notices)
