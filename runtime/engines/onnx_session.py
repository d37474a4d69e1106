"""onnxruntime, imported with care: refused versions, no telemetry, and one way to open a file.

Touches the environment variable ORT_DISABLE_TELEMETRY, which must be set before the import: 1.32
on Linux otherwise writes a database under the home directory as soon as it is imported.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import os
import platform
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeformer.errors import BundleError, EngineError
from edgeformer.runtime.cpu import isa_features
from edgeformer.runtime.manifest import Port

_PACKAGES = ("onnxruntime", "onnxruntime-gpu")  # two distributions of one import name
ARM_MACHINES = ("aarch64", "arm64", "armv8l")
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class KnownBad:
    """A package version that must not be imported, and what it does.

    Attributes:
        package: name on the package index.
        version: exactly this version.
        machines: values of ``platform.machine()`` it is refused on.
        lacking: refused where the CPU has not this feature, as /proc/cpuinfo spells it.
        reason: what happens, as it was measured.
    """

    package: str
    version: str
    machines: tuple[str, ...]
    lacking: str
    reason: str


# Measured on emulated CPUs (tests/arm/test_controls.py): Cortex-A53 and A72 die, A76 does not.
KNOWN_BAD = (
    KnownBad(
        "onnxruntime",
        "1.21.0",
        ARM_MACHINES,
        "asimdhp",
        "importing it kills Python with an illegal instruction on CPUs without half-precision"
        " arithmetic, such as Cortex-A53 and A72 (Raspberry Pi 3, Zero 2 W and 4)",
    ),
)


def known_bad(package: str, version: str, machine: str, features: Container[str]) -> str:
    """Why this combination is refused; empty if nothing is known against it."""
    for entry in KNOWN_BAD:
        if (
            (entry.package, entry.version) == (package, version)
            and machine in entry.machines
            and entry.lacking not in features
        ):
            return entry.reason
    return ""


def refused() -> str:
    """Why the installed onnxruntime must not be imported here; empty if it may be.

    Reads the installed packages' metadata and the CPU's features only: the import itself can
    kill the process. Without /proc/cpuinfo (not Linux, other wheels) nothing is refused.
    """
    try:
        features = isa_features(_CPUINFO.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    for package in _PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        reason = known_bad(package, version, platform.machine(), features)
        if reason:
            return f"{package} {version} is refused on {platform.machine()}: {reason}"
    return ""


def output_name(port: Port, inputs: Sequence[Port]) -> str:
    """What an ONNX file calls an output: in a graph of ONNX no two values have one name, and a
    segment gives ``hidden`` as it reads ``hidden``."""
    return f"{port.name}.out" if any(port.name == given.name for given in inputs) else port.name


def import_onnxruntime() -> Any:
    """The onnxruntime module, its telemetry switched off.

    Raises:
        EngineError: not installed, a refused version, or one that cannot be imported.
    """
    reason = refused()
    if reason:
        raise EngineError(reason, hint='pip install -U "edgeformer[onnx]", or use --engine numpy')
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise EngineError(
            f"onnxruntime cannot be imported: {error}", hint='pip install "edgeformer[onnx]"'
        ) from None


def open_session(
    model: Path | bytes,
    threads: int,
    provider: str,
    name: str,
    spinning: bool = True,
    profile: str = "",
    weights: Mapping[str, bytes] | None = None,
    shared_memory: bool = False,
) -> Any:
    """An onnxruntime.InferenceSession.

    Args:
        model: a path, or the bytes where there is no file of its own (a zipped bundle).
        threads: threads within one operator; operators run one after the other.
        provider: execution provider it must have; empty for the CPU's.
        name: of the file, for messages.
        spinning: idle threads wait for more work in a loop, which is quicker but takes a CPU.
        profile: write times of every node to a file whose name starts so; empty for none.
        weights: files that the model has its weights in, where they do not lie beside it.
        shared_memory: compute in the memory of the process's other sessions that do: sessions that
            run one after the other find it in the CPU's caches.

    Raises:
        EngineError: no usable onnxruntime, no such provider here, or a model of a newer format.
        BundleError: the bytes are not a model.
    """
    library = import_onnxruntime()
    chosen = _providers(library, provider)
    source = model if isinstance(model, bytes) else str(model)
    try:
        options = _options(library, threads, spinning)
        if profile:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        if shared_memory:
            _share_memory(library, options)
        if weights:
            _give_weights(options, weights, name)
        session = library.InferenceSession(source, options, providers=chosen)
    except EngineError:
        raise
    except Exception as error:  # onnxruntime's own classes have no public name
        raise _unreadable(error, name, library.__version__) from None
    if provider and provider not in session.get_providers():
        raise EngineError(
            f"onnxruntime has {provider} but could not start it on this machine",
            hint="check the device's driver, or choose another engine: --engine numpy",
        )
    return session


def _providers(library: Any, provider: str) -> list[str]:
    """onnxruntime would run on the CPU, with a warning at most, if the provider is missing."""
    available = library.get_available_providers()
    if provider and provider not in available:
        raise EngineError(
            f"this onnxruntime has no {provider}; it has {', '.join(available)}",
            hint='pip uninstall onnxruntime && pip install "edgeformer[cuda]"',
        )
    return [*([provider] if provider else []), "CPUExecutionProvider"]


def _options(library: Any, threads: int, spinning: bool) -> Any:
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = library.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A memory pattern is planned anew for every input shape and kept: with texts of all lengths
    # that only grows.
    options.enable_mem_pattern = False
    # The fused kernel is slower on CPUs than the Add and LayerNormalization it replaces.
    options.add_session_config_entry(
        "optimization.disable_specified_optimizers", "SkipLayerNormFusion"
    )
    return options


@functools.cache
def _register_arena(library: Any) -> None:
    kind = library.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = library.OrtMemoryInfo("Cpu", kind, 0, library.OrtMemType.DEFAULT)
    with contextlib.suppress(Exception):  # the process has registered one: that one it is
        library.create_and_register_allocator(memory, None)


def _share_memory(library: Any, options: Any) -> None:
    if hasattr(library, "create_and_register_allocator"):
        _register_arena(library)
        options.add_session_config_entry("session.use_env_allocators", "1")


def _give_weights(options: Any, weights: Mapping[str, bytes], name: str) -> None:
    give = getattr(options, "add_external_initializers_from_files_in_memory", None)
    if give is None:
        raise EngineError(
            f"this onnxruntime cannot read the weights of {name} out of a zip",
            hint='unzip the bundle into a folder, or pip install -U "edgeformer[onnx]"',
        )
    give(list(weights), list(weights.values()), [len(data) for data in weights.values()])


def _unreadable(error: Exception, name: str, version: str) -> BundleError | EngineError:
    reason = " ".join(str(error).split("\n")[0].split(":")[-1].split())
    kind = type(error).__name__
    if kind in ("InvalidProtobuf", "InvalidGraph", "NoSuchFile", "InvalidArgument"):
        return BundleError(
            f"{name} is not an ONNX model that can be read: {reason}",
            hint="copy the bundle again, or convert again",
        )
    return EngineError(
        f"onnxruntime {version} cannot load {name}: {reason}",
        hint='pip install -U "edgeformer[onnx]", or convert again with this version',
    )
