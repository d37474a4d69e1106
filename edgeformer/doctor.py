"""Is this machine fit to run bundles, and what should be installed or changed?

    diagnosis = diagnose()
    diagnosis.healthy        # True: an engine works, and no installed engine fails

Every engine opens and runs a tiny bundle (doctor_models/tiny.zip, fp32 and int8) in a process of
its own, with the very code that runs real bundles, and its answers are compared with PyTorch's: an
engine can be installed and yet die of an instruction that the CPU lacks, or answer wrongly.
NumPy and the standard library only; reads, never writes.
"""

import importlib.metadata
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeformer.isolation import run_worker, serve
from edgeformer.machine import Machine, MachineState, describe_machine, read_state

if TYPE_CHECKING:
    from edgeformer.runtime.blas import BlasInfo

SCHEMA_VERSION = 1
TINY_BUNDLE = Path(__file__).parent / "doctor_models" / "tiny.zip"
_TIMEOUT_SECONDS = 120

# engine -> the distributions that can be behind it
_DISTRIBUTIONS = {
    "onnx": ("onnxruntime", "onnxruntime-gpu"),
    "tflite": ("ai-edge-litert", "tflite-runtime"),
    "numpy": ("numpy",),
}
# Versions that the documentation's figures and the whole test suite were made with
# (requirements.lock), by extra. Others may work; these do.
PROVEN = {
    "convert": {
        "torch": "2.13.0",
        "onnx": "1.23.2",
        "onnxscript": "0.7.2",
        "onnx-ir": "1.1.0",
        "safetensors": "0.8.0",
        "tokenizers": "0.23.3",
        "transformers": "5.23.0",
        "jinja2": "3.1.6",
    },
    "convert-tflite": {"litert-torch": "0.10.0", "ai-edge-quantizer": "0.10.0"},
}


@dataclass(frozen=True)
class VariantCheck:
    """One tiny model file on one engine; ``failure`` is empty if it answered as it should."""

    precision: str
    failure: str
    hint: str


@dataclass(frozen=True)
class EngineCheck:
    """One engine.

    Attributes:
        engine: ``onnx``, ``tflite`` or ``numpy``.
        packages: ``name version`` of what is installed for it; empty if nothing.
        state: ``works``, ``fails`` (installed, but some variant does not answer as it should; a
            version that is refused counts here) or ``not installed``.
        variants: what was tried.
        hint: what to install.
    """

    engine: str
    packages: tuple[str, ...]
    state: str
    variants: tuple[VariantCheck, ...]
    hint: str


@dataclass(frozen=True)
class ExtraCheck:
    """One extra of the converting side: installed versions, and those that are proven to work.
    A version is empty where the package is not installed."""

    extra: str
    installed: dict[str, str]
    proven: dict[str, str]

    @property
    def complete(self) -> bool:
        """True if every package is installed."""
        return all(self.installed.values())


@dataclass(frozen=True)
class Advice:
    """Something that costs speed or answers, and what to do about it."""

    message: str
    hint: str


@dataclass(frozen=True)
class Diagnosis:
    """Everything the doctor found."""

    edgeformer: str
    numpy: str
    machine: Machine
    state: MachineState
    blas: "BlasInfo"
    engines: tuple[EngineCheck, ...]
    extras: tuple[ExtraCheck, ...]
    advice: tuple[Advice, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def healthy(self) -> bool:
        """At least one engine works, and none that is installed fails."""
        states = [check.state for check in self.engines]
        return "works" in states and "fails" not in states

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "healthy": self.healthy}


def diagnose(progress: Callable[[str], None] | None = None) -> Diagnosis:
    """Examine this machine; takes a few seconds.

    Args:
        progress: called with the id of each variant before it is tried.
    """
    import numpy as np

    from edgeformer import __version__
    from edgeformer.runtime.blas import identify_blas
    from edgeformer.runtime.engine import ENGINES

    machine, state, blas = describe_machine(), read_state(), identify_blas()
    engines = tuple(check_engine(name, machine.bits, progress) for name in ENGINES)
    return Diagnosis(
        edgeformer=__version__,
        numpy=np.__version__,
        machine=machine,
        state=state,
        blas=blas,
        engines=engines,
        extras=tuple(check_extra(extra) for extra in PROVEN),
        advice=advise(machine, state, blas, engines),
    )


def check_engine(
    name: str, bits: int, progress: Callable[[str], None] | None = None
) -> EngineCheck:
    """Try one engine on its variants of the tiny bundle, each in a process of its own.

    Args:
        name: of the engine.
        bits: 32 or 64, of this Python: decides what can be installed.
        progress: see ``diagnose``.
    """
    from edgeformer.runtime.bundle import open_bundle
    from edgeformer.runtime.engine import missing_engine

    packages = tuple(f"{d} {v}" for d in _DISTRIBUTIONS[name] if (v := installed_version(d)))
    missing = missing_engine(name)
    if missing:
        hint = _no_32_bit(name) if bits == 32 else ""
        return EngineCheck(name, packages, "not installed", (), hint or missing.hint)
    with open_bundle(TINY_BUNDLE) as bundle:
        variants = [v for v in bundle.manifest.variants if v.engine == name]
    checks = []
    for variant in variants:
        if progress:
            progress(variant.id)
        request = {"variant": variant.id}
        outcome = run_worker("edgeformer.doctor", request, _TIMEOUT_SECONDS)
        checks.append(VariantCheck(variant.precision, outcome.failure, outcome.hint))
    works = bool(checks) and not any(check.failure for check in checks)
    state = "works" if works else "fails"
    return EngineCheck(name, packages, state, tuple(checks), "")


def _no_32_bit(name: str) -> str:
    if name == "onnx":
        return "onnxruntime has no 32-bit build: use a 64-bit system, or the numpy engine"
    if name == "tflite" and platform.machine() == "armv6l":
        return "no TFLite runtime is built for ARMv6: use the numpy engine"
    if name == "tflite":
        return 'use the numpy engine; for fp32 files also pip install "edgeformer[tflite]"'
    return ""


def installed_version(distribution: str) -> str:
    """Version of an installed package, empty if there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def check_extra(extra: str) -> ExtraCheck:
    """Installed and proven versions of the packages of one converting extra."""
    proven = PROVEN[extra]
    return ExtraCheck(extra, {name: installed_version(name) for name in proven}, proven)


def advise(
    machine: Machine, state: MachineState, blas: "BlasInfo", engines: tuple[EngineCheck, ...] = ()
) -> tuple[Advice, ...]:
    """What could be better here, most costly first."""
    found = []
    if blas.is_reference:
        found.append(
            Advice(
                "numpy uses the reference BLAS: the numpy engine is many times slower than"
                " with OpenBLAS",
                "sudo apt install libopenblas0",
            )
        )
    elif not blas.controllable:
        found.append(
            Advice(
                "the BLAS behind numpy is not one EdgeFormer knows: its threads cannot be set",
                "set them yourself before starting Python, for example OMP_NUM_THREADS=4",
            )
        )
    coretype = os.environ.get("OPENBLAS_CORETYPE")
    if coretype and blas.name == "openblas":
        found.append(
            Advice(
                f"OPENBLAS_CORETYPE={coretype} chooses numpy's kernels, perhaps not the fastest",
                "unset OPENBLAS_CORETYPE",
            )
        )
    if machine.bits == 32 and machine.architecture in ("aarch64", "x86_64"):
        found.append(
            Advice(
                f"a 32-bit Python on a {machine.architecture} kernel: the faster engines exist for"
                " 64 bits only",
                "install a 64-bit system (Raspberry Pi OS has one)",
            )
        )
    held = [flag for flag in state.throttling or () if not flag.endswith(" earlier")]
    if held:
        found.append(
            Advice(
                f"the CPU is held back just now: {', '.join(held)}",
                "check the power supply and the cooling",
            )
        )
    for check in engines:
        if len(check.packages) > 1 and check.engine == "onnx":
            found.append(
                Advice(
                    f"{' and '.join(check.packages)} share one import name: one hides the other",
                    "pip uninstall both, then install the one you want",
                )
            )
    return tuple(found)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """In the worker: open one variant of the tiny bundle and compare its answers."""
    from edgeformer.runtime.bundle import open_bundle
    from edgeformer.runtime.golden import parse_golden
    from edgeformer.runtime.loading import open_checked

    with open_bundle(TINY_BUNDLE) as bundle:
        manifest = bundle.manifest
        bundle.check([manifest.golden])
        cases = parse_golden(bundle.read(manifest.golden))
        open_checked(bundle, manifest.variant(request["variant"]), 1, None, cases).close()
    return {"cases": len(cases)}


if __name__ == "__main__":
    serve(_answer)
