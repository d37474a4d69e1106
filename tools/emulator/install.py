"""Set up qemu, the userlands, the wheels and one launcher per board, in a cache folder.

    python = install(BOARDS[0])                    # a path; run it like any Python
    subprocess.run([python, "-m", "edgeformer", "doctor"], env=...)

Everything lies under ``cache_folder()`` and is made once: a stamp beside each part holds what it
was made from. The launcher is a script that starts qemu, and ``sys.executable`` of the Python in
it, so that a program which starts Python again (as the doctor does) gets the same board.
"""

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.emulator import debian
from tools.emulator.boards import (
    CPUS,
    HOST,
    QEMU_PACKAGES,
    QEMU_PROGRAMS,
    QEMU_SUITE,
    SITES,
    USERLANDS,
    Board,
    Cpu,
)
from tools.emulator.debian import EmulatorError, Packages

CACHE_VARIABLE = "EDGEFORMER_EMULATOR_CACHE"
_LOCK_FILE = Path(__file__).resolve().parents[2] / "requirements.lock"
_GLIBC = ("2014", "_2_17", "_2_27", "_2_28", "_2_31", "_2_34")  # manylinux, as old as any wheel
_LOADERS = {"amd64": "x86_64-linux-gnu/ld-linux-x86-64.so.2", "arm64": "ld-linux-aarch64.so.1"}
_TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
_SYSTEM_FOLDERS = ("bin", "etc", "lib", "sbin", "usr")  # not /tmp or /home: those are the host's

_LAUNCHER = """#!/bin/sh
# Python on an emulated {model}; written by tools/emulator/install.py.
exec {qemu} -0 "$0" -cpu {model} -L {view} \\
  -U LD_PRELOAD -U OPENBLAS_CORETYPE -U PYTHONDONTWRITEBYTECODE \\
  -E PYTHONHOME={home} -E PYTHONNOUSERSITE=1 {libraries} \\
  -E PYTHONPATH={path} {python} "$@"
"""


def cache_folder() -> Path:
    """Where everything is kept: the variable's, else the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgeformer" / "emulator"


def unavailable() -> str:
    """Why this host cannot emulate, and what to install; empty if it can."""
    if not sys.platform.startswith("linux"):
        return "qemu's user mode emulation runs on Linux only"
    reason = debian.unavailable()
    if not reason and debian.host_architecture() not in _LOADERS:
        reason = f"no emulator is set up for hosts of architecture {debian.host_architecture()}"
    return reason


def install(board: Board) -> Path:
    """Make whatever of a board is not there yet, and return its Python.

    Raises:
        EmulatorError: a package or wheel cannot be had; nothing half-made is left.
    """
    cpu = CPUS[board.cpu]
    folder = cache_folder() / "boards" / board.name
    root = None if board.userland == HOST else _userland(board.userland)
    fields = {
        "qemu": shlex.join(install_qemu(cpu.qemu)),
        "model": cpu.model,
        "view": shlex.quote(str(folder / "root")),
        **(_host_python() if root is None else _board_python(board, root)),
    }
    launcher = folder / "bin" / "python3"
    with _locked(folder):
        _make_view(folder / "root", cpu, root)
        _write(launcher, _LAUNCHER.format(**fields), 0o755)
    return launcher


def install_qemu(program: str) -> list[str]:
    """Unpack qemu, and return the command that starts ``program`` with its own libraries."""
    packages = Packages(debian.host_architecture(), QEMU_SUITE, QEMU_PACKAGES)
    folder = cache_folder() / "qemu"
    _once(folder, repr((packages, QEMU_PROGRAMS)), lambda made: _unpack_qemu(packages, made))
    triplet = _TRIPLETS[packages.architecture]
    libraries = f"{folder}/lib/{triplet}:{folder}/usr/lib/{triplet}"
    loader = folder / "lib" / _LOADERS[packages.architecture]
    return [str(loader), "--library-path", libraries, f"{folder}/usr/bin/{program}"]


def _unpack_qemu(packages: Packages, folder: Path) -> None:
    """Without the programs for the other architectures: a hundred MB of them."""
    debian.unpack(packages, folder)
    for program in (folder / "usr" / "bin").glob("qemu-*"):
        if program.name not in QEMU_PROGRAMS:
            program.unlink()


def pinned(requirement: str) -> str:
    """``name==version``: as given, or as requirements.lock pins it."""
    if "==" in requirement:
        return requirement
    for line in _LOCK_FILE.read_text(encoding="utf-8").splitlines():
        if line.split("==")[0] == requirement:
            return line
    raise EmulatorError(f"{requirement} is not pinned in {_LOCK_FILE.name}")


def _board_python(board: Board, root: Path) -> dict[str, str]:
    """The launcher's fields for a Python of Debian's, as a shell reads them."""
    triplet = USERLANDS[board.userland].triplet
    libraries = ":".join(map(str, _libraries(root, triplet, board.blas)))
    return {
        "python": shlex.quote(f"{root}/usr/bin/python3"),
        "home": shlex.quote(f"{root}/usr"),
        "libraries": f"-E LD_LIBRARY_PATH={shlex.quote(libraries)}",
        "path": _path([_wheels(board.userland, site) for site in board.sites]),
    }


def _host_python() -> dict[str, str]:
    """The launcher's fields for the Python that runs this, with all it has installed."""
    return {
        "python": shlex.quote(str(Path(sys.executable).resolve())),
        "home": shlex.quote(sys.base_prefix),
        "libraries": "",
        "path": _path([Path(sysconfig.get_path("purelib"))]),
    }


def _path(folders: list[Path]) -> str:
    """PYTHONPATH: the folders, then the caller's. An empty part would be the working folder."""
    if not folders:
        return '"$PYTHONPATH"'
    return shlex.quote(":".join(map(str, folders))) + '"${PYTHONPATH:+:$PYTHONPATH}"'


def _userland(name: str) -> Path:
    packages = USERLANDS[name].packages
    folder = cache_folder() / "userlands" / name
    _once(folder, repr(packages), lambda made: debian.unpack(packages, made))
    return folder


def _wheels(name: str, site: str) -> Path:
    """One folder of wheels for a userland, by pip, which knows how to choose them."""
    userland = USERLANDS[name]
    requirements = [pinned(requirement) for requirement in SITES[site]]
    folder = cache_folder() / "wheels" / f"{name}-{site}"
    platforms = [f"manylinux{glibc}_{userland.wheel_platform}" for glibc in _GLIBC]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--implementation=cp"]
    command += [f"--python-version={userland.python}"]
    command += [f"--platform={platform}" for platform in platforms]

    def build(made: Path) -> None:
        done = subprocess.run(
            [*command, f"--target={made}", *requirements], capture_output=True, text=True
        )
        if done.returncode:
            raise EmulatorError(f"pip cannot install {requirements}:\n{done.stderr.strip()}")

    _once(folder, " ".join([userland.python, *requirements]), build)
    return folder


def _make_view(view: Path, cpu: Cpu, root: Path | None) -> None:
    """What qemu shows instead of the host's files: the userland, and the CPU's /proc/cpuinfo."""
    view.mkdir(parents=True, exist_ok=True)
    for entry in root.iterdir() if root else ():
        link = view / entry.name
        if entry.name.startswith(_SYSTEM_FOLDERS) and not link.is_symlink():
            link.symlink_to(entry)
    processors = range(os.cpu_count() or 1)
    lines = [
        "".join(f"{key}\t: {value}\n" for key, value in (("processor", n), *cpu.cpuinfo))
        for n in processors
    ]
    _write(view / "proc" / "cpuinfo", "\n".join(lines), 0o644)


def _libraries(root: Path, triplet: str, blas: str) -> list[Path]:
    """Library folders in the order they are searched; LAPACK lies with the BLAS or by itself."""
    folders = [
        root / "usr/lib" / triplet / name for name in dict.fromkeys((blas, "blas", "lapack"))
    ]
    return [*folders, root / "lib" / triplet, root / "usr/lib" / triplet]


def _write(path: Path, text: str, mode: int) -> None:
    """All at once, and only what is new: a guest may be reading it just now."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.chmod(mode)
    unfinished.replace(path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time makes one folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _once(folder: Path, made_from: str, build: Callable[[Path], None]) -> None:
    """Let ``build`` make ``folder``, unless it was made from the same before; never a part."""
    stamp = folder.with_name(folder.name + ".made-from")
    digest = hashlib.sha256(made_from.encode()).hexdigest()
    with _locked(folder):
        if folder.is_dir() and stamp.is_file() and stamp.read_text(encoding="utf-8") == digest:
            return
        unfinished = folder.with_name(folder.name + ".unfinished")
        stamp.unlink(missing_ok=True)
        for old in (folder, unfinished):
            shutil.rmtree(old, ignore_errors=True)
        try:
            build(unfinished)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        stamp.write_text(digest, encoding="utf-8")
