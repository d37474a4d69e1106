"""Count the instructions that a Python script executes on an emulated board, between its marks.

    counts, printed = count(install(board), Path("guest_count.py"), ["model.edge"], environment)

The script calls ``getpriority(0x45644765, tag)`` of the C library, which does nothing but is seen
by a qemu plugin (instructions.c, compiled once into the cache folder). Tag 0 starts the counting,
any other ends it. Executed instructions are not time: they say nothing about caches, memory or how
many run at once.
"""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.emulator import debian
from tools.emulator.debian import EmulatorError
from tools.emulator.install import cache_folder, install_qemu
from tools.emulator.install import unavailable as emulator_unavailable

_SOURCE = Path(__file__).with_name("instructions.c")
_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-shared", "-fPIC", "-O2", "-fvisibility=hidden")
_START = 0  # tag of a mark that only starts the counting

# One thread, since counters are not locked and waiting threads spin; strings that hash alike in
# every process; and nothing of the host's environment. glibc keeps a few freed blocks of each size
# at hand and merges the others: when it does, and what that costs, differs from process to process
# (0.2 % of a short call of onnxruntime). Here it keeps them all.
_ENVIRONMENT = {
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=65535",
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": "/usr/bin:/bin",
    "PYTHONHASHSEED": "0",
}


@dataclass(frozen=True)
class Count:
    """What was executed between two marks.

    Attributes:
        tag: of the mark at the end.
        instructions: all of the guest's, those of the call that makes the mark included.
        simd_fp: scalar floating point and SIMD among them, without loads and stores; None on 32
            bits, where instructions are not decoded.
        dot_product: SDOT and UDOT among them; None on 32 bits.
    """

    tag: int
    instructions: int
    simd_fp: int | None
    dot_product: int | None


def unavailable() -> str:
    """Why this host cannot count instructions, and what to install; empty if it can."""
    if reason := emulator_unavailable():
        return reason
    return "" if _compiler() else f"no C compiler ({', '.join(_COMPILERS)}): install gcc"


def count(
    python: Path, script: Path, arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple[list[Count], str]:
    """Run ``script`` once.

    Args:
        python: launcher of an emulated board.
        script: marks what is to be counted.
        arguments: of the script.
        environment: in addition to a fixed one; the host's is not handed on.

    Returns:
        one Count for each mark with a tag other than 0, and what the script printed.

    Raises:
        EmulatorError: the script failed, or had more than one thread between two marks.
    """
    plugin = build_plugin()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "counts"
        loaded = {"QEMU_PLUGIN": f"{plugin},out={out}"}
        done = subprocess.run(
            [str(python), str(script), *arguments],
            env=_ENVIRONMENT | dict(environment) | loaded,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            tail = "\n".join(done.stderr.strip().splitlines()[-10:])
            raise EmulatorError(f"{script.name} failed (status {done.returncode}):\n{tail}")
        lines = out.read_text(encoding="ascii").splitlines()
    return [_parsed(line) for line in lines if line.split()[0] != str(_START)], done.stdout


def qemu_version() -> str:
    """Such as ``7.2.22``."""
    command = [*install_qemu("qemu-aarch64"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split("version ")[1].split()[0]


def build_plugin() -> Path:
    """The compiled plugin, from the cache if its source has not changed.

    Raises:
        EmulatorError: there is no C compiler, or it refuses the source.
    """
    compiler = _compiler()
    if not compiler:
        raise EmulatorError(unavailable())
    source = _SOURCE.read_bytes()
    digest = hashlib.sha256(source + " ".join(_FLAGS).encode()).hexdigest()[:16]
    plugin = cache_folder() / f"instructions-{debian.host_architecture()}-{digest}.so"
    if plugin.is_file():
        return plugin
    plugin.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=plugin.parent) as folder:
        made = Path(folder) / plugin.name
        command = [compiler, *_FLAGS, "-o", str(made), str(_SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise EmulatorError(f"{compiler} cannot build {_SOURCE.name}:\n{done.stderr.strip()}")
        made.rename(plugin)
    return plugin


def _compiler() -> str:
    return next((path for name in _COMPILERS if (path := shutil.which(name))), "")


def _parsed(line: str) -> Count:
    tag, instructions, simd_fp, dot_product, threads = map(int, line.split())
    if threads != 1:
        raise EmulatorError(
            f"{threads} threads were alive before mark {tag}: its count would not be exact"
        )
    return Count(
        tag,
        instructions,
        simd_fp if simd_fp >= 0 else None,
        dot_product if dot_product >= 0 else None,
    )
