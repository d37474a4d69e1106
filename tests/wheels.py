"""The wheel, built from a copy of the tree: what a user installs, not what lies here."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
_NOT_SOURCE = (".*", "build", "dist", "demo", "*.egg-info", "__pycache__")


def build_wheel(folder: Path) -> Path:
    """Build in isolation, into ``folder``."""
    source = folder / "source"
    shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_SOURCE))
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


def unpack_wheel(wheel: Path, folder: Path, *requirements: str) -> Path:
    """Install it into a folder for PYTHONPATH, with other pure Python packages."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    command += [str(folder), "--disable-pip-version-check", str(wheel), *requirements]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder
