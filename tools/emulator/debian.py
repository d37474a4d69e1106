"""Debian packages unpacked into a folder: no root, no chroot, nothing of the host's system changed.

    unpack(Packages("arm64", "bookworm", ("python3", "python3-numpy")), folder)

apt-get resolves and checks signatures in a state folder of its own; ``dpkg-deb -x`` unpacks. No
maintainer script runs, so links that those would make (``libblas.so.3``) do not exist.
"""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

MIRROR_VARIABLE = "EDGEFORMER_DEBIAN_MIRROR"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info")


@dataclass(frozen=True)
class Packages:
    """What to unpack.

    Attributes:
        architecture: as Debian says: ``arm64``, ``armhf``, ``armel``, ``amd64``.
        suite: Debian release, such as ``bookworm``.
        names: of the packages; what they depend on comes along.
    """

    architecture: str
    suite: str
    names: tuple[str, ...]


class EmulatorError(Exception):
    """The emulator cannot be set up; the message says what to do."""


def mirror() -> str:
    """URL of a Debian mirror: the variable's, else this host's own; empty if there is neither."""
    named = os.environ.get(MIRROR_VARIABLE)
    if named:
        return named
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(COMPONENT)"]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    return next((line[0] for line in lines if line[1:] == ["Debian", "main"]), "")


def unavailable() -> str:
    """Why this host cannot unpack Debian packages, and what to do; empty if it can."""
    missing = [name for name in ("apt-get", "dpkg-deb") if not shutil.which(name)]
    if missing:
        return f"no {' and no '.join(missing)}: install them (packages apt and dpkg)"
    if not KEYRING.is_file():
        return f"no {KEYRING}: install the package debian-archive-keyring"
    if not mirror():
        return f"not a Debian system: set {MIRROR_VARIABLE} to the URL of a Debian mirror"
    return ""


def host_architecture() -> str:
    """Debian's name of this host's architecture."""
    return _output("dpkg", "--print-architecture").strip()


def unpack(packages: Packages, folder: Path) -> None:
    """Download the packages with what they depend on, and unpack them into ``folder``.

    Raises:
        EmulatorError: a package does not exist or cannot be downloaded.
    """
    with tempfile.TemporaryDirectory(prefix="apt-", dir=folder.parent) as state:
        _unpack(packages, folder, Path(state))
    for name in _UNUSED:
        shutil.rmtree(folder / name, ignore_errors=True)


def _unpack(packages: Packages, folder: Path, state: Path) -> None:
    """``state`` is an empty folder for apt-get."""
    for name in ("lists/partial", "archives/partial", "parts"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    source = f"deb [signed-by={KEYRING}] {mirror()} {packages.suite} main\n"
    (state / "sources.list").write_text(source, encoding="utf-8")
    apt = ("apt-get", "-qq", "-y", *_options(packages.architecture, state))
    _output(*apt, "update")
    _output(*apt, "--download-only", "install", *packages.names)
    folder.mkdir(parents=True)
    for archive in sorted((state / "archives").glob("*.deb")):
        _output("dpkg-deb", "-x", str(archive), str(folder))


def _options(architecture: str, state: Path) -> list[str]:
    """apt-get options that leave the host's own package state out of it."""
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures::": architecture,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Dir::Cache": state,
        "Dir::Etc::parts": state / "parts",
        "Dir::Etc::preferencesparts": state / "parts",
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise EmulatorError(f"{' '.join(command[:1])} failed (status {done.returncode}):\n{tail}")
    return done.stdout
