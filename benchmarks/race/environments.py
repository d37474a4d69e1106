"""One virtual environment per lock file of benchmarks/peers, and each contender's files.

Both lie in a cache folder outside the tree and are made once; a stamp beside each says what it was
made from, and nothing half-made is ever taken for whole.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from benchmarks.peers import CHECKPOINT, PROJECT, Contender, contender, lock_file

CACHE_VARIABLE = "EDGEFORMER_PEERS_CACHE"
ROOT = Path(__file__).parents[2]
# What turns a text into our files: a change there converts again.
_OUR_SOURCES = ("converters", "runtime", "device_profiles", "edgeformer")
_UNWANTED = ("OPENBLAS_", "OMP_", "MKL_", "KMP_", "GOTO_", "PYTHONDONTWRITEBYTECODE")
_SETUP_SECONDS = 1800
PEERS = "benchmarks.peers"  # package of the contenders' scripts


class ContenderError(Exception):
    """A contender that cannot be installed, made or run; the text says why."""


def cache_folder() -> Path:
    """Where everything is kept: the variable's, else the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgeformer" / "peers"


def clean_environment(threads: int) -> dict[str, str]:
    """This process's variables without those that choose kernels or threads by hand."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_UNWANTED)}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "RAYON_NUM_THREADS": str(threads),  # HF tokenizers would take every CPU for a batch
        "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
    }


def python_of(environment: str, pip_options: Sequence[str] = ()) -> Path:
    """The interpreter of an environment, which is made if it is not there yet.

    Args:
        environment: name of a lock file of benchmarks/peers; empty for this interpreter.
        pip_options: for installing torch, as in docs/install.md.

    Raises:
        ContenderError: pip could not install it.
    """
    if environment == PROJECT:
        return Path(sys.executable)
    lock = lock_file(environment)
    made_from = f"{sys.version}\n{lock.read_text(encoding='utf-8')}"
    folder = cache_folder() / "environments" / environment

    def build(made: Path) -> None:
        _command([sys.executable, "-m", "venv", str(made)])
        pip = [str(made / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
        pip += ["--disable-pip-version-check", "--only-binary=:all:"]
        pins = [line for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line]
        torch = [pin for pin in pins if pin.startswith("torch==")]
        if torch:
            _command([*pip, *pip_options, *torch])
        _command([*pip, *(pin for pin in pins if pin not in torch)])

    # A virtual environment holds its own path, so it is made in place.
    made_once(folder, made_from, build, in_place=True)
    return folder / "bin" / "python"


@cache
def files_of(chosen: Contender, checkpoint: Path, pip_options: tuple[str, ...] = ()) -> Path:
    """The folder with a contender's files, made if they are not there or out of date.

    Asked once a race: an edit of the sources meanwhile must not change what is being measured.

    Raises:
        ContenderError: they, or those they need, could not be made.
    """
    if chosen.files_of:
        return files_of(contender(chosen.files_of), checkpoint, pip_options)
    needed = [files_of(contender(name), checkpoint, pip_options) for name in chosen.needs]
    root = cache_folder() / "files" / hashlib.sha256(str(checkpoint).encode()).hexdigest()[:12]
    root.mkdir(parents=True, exist_ok=True)
    link = root / CHECKPOINT
    if not link.is_symlink():
        link.symlink_to(checkpoint)
    python = python_of(chosen.made_in, pip_options)

    def build(made: Path) -> None:
        made.mkdir()
        module = f"{PEERS}.{chosen.name}"
        _command(
            [str(python), "-m", "benchmarks.race.worker", "--prepare", module, str(made)],
            environment=clean_environment(os.cpu_count() or 1),
        )

    stamps = [stamp_of(folder).read_text(encoding="utf-8") for folder in needed]
    made_from = "\n".join(
        [_sources(chosen), *stamps, *([str(time.time())] if chosen.fresh else [])]
    )
    made_once(root / chosen.name, made_from, build)
    return root / chosen.name


def made_once(
    folder: Path, made_from: str, build: Callable[[Path], None], in_place: bool = False
) -> None:
    """Let ``build`` make ``folder``, unless it was made from the same before; never a part.

    ``in_place`` builds under the final name: then the stamp alone tells whole from half-made.
    """
    digest = hashlib.sha256(made_from.encode()).hexdigest()
    stamp = stamp_of(folder)
    if folder.is_dir() and stamp.is_file() and stamp.read_text(encoding="utf-8") == digest:
        return
    unfinished = folder if in_place else folder.with_name(folder.name + ".unfinished")
    stamp.unlink(missing_ok=True)
    for old in (folder, unfinished):
        shutil.rmtree(old, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        build(unfinished)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    if not in_place:
        unfinished.rename(folder)
    stamp.write_text(digest, encoding="utf-8")


def stamp_of(folder: Path) -> Path:
    """The file that says what a folder was made from."""
    return folder.with_name(folder.name + ".made-from")


def _sources(chosen: Contender) -> str:
    """A digest of everything that a contender's files depend on."""
    peers = lock_file("any").parent
    paths = [peers / f"{chosen.name}.py", peers / "common.py", lock_file(chosen.made_in)]
    if chosen.ours:
        paths.append(peers / "bundle.py")
        for name in _OUR_SOURCES:
            found = sorted(p for p in (ROOT / name).rglob("*") if p.suffix in (".py", ".toml"))
            paths += [p for p in found if "__pycache__" not in p.parts]
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _command(command: list[str], environment: dict[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_SETUP_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ContenderError(f"not done within {_SETUP_SECONDS} s: {' '.join(command)}") from None
    if done.returncode:
        raise ContenderError(last_words(done.stderr) or f"exit code {done.returncode}")


def last_words(errors: str) -> str:
    """The exception at the end of a traceback, or the last line, on one line."""
    lines = [line for line in errors.splitlines() if line.strip()]
    start = len(lines) - 1
    while start > 0 and lines[start].startswith(" "):  # the rest of a message of several lines
        start -= 1
    return " ".join(" ".join(lines[max(start, 0) :]).split())
