"""The emulated boards, without a network and without qemu: what they are and how they are made."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edgeformer.machine import describe_machine
from tools.emulator import debian, install
from tools.emulator.boards import BOARDS, CONTROLS, CPUS, HOST, SITES, USERLANDS, Board, Cpu
from tools.emulator.debian import EmulatorError, Packages

TOOLS = """#!/bin/sh
echo "$0 $*" >> {log}
{body}
"""
DOWNLOAD = """for word; do case $word in Dir::Cache=*) cache=${word#Dir::Cache=};; esac; done
case "$*" in *--download-only*) touch "$cache/archives/b.deb" "$cache/archives/a.deb";; esac"""
UNPACK = """mkdir -p "$3/usr/share/doc" "$3/usr/bin"; touch "$3/usr/share/doc/x"
echo "$2" >> "$3/usr/bin/order\""""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a cache"
    monkeypatch.setenv(install.CACHE_VARIABLE, str(folder))
    return folder


def fake_tools(folder: Path, monkeypatch: pytest.MonkeyPatch, **bodies: str) -> Path:
    """Programs of these shell texts, the first on PATH; returns the log of their calls."""
    programs, log = folder / "programs", folder / "calls"
    programs.mkdir()
    for name, body in bodies.items():
        path = programs / name.replace("_", "-")
        path.write_text(TOOLS.format(log=log, body=body))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return log


def content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def builder(text: str, fails: bool = False) -> tuple[list[Path], Callable[[Path], None]]:
    calls: list[Path] = []

    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "below").mkdir(parents=True)
        (folder / "below" / "file").write_text(text)
        if fails:
            raise EmulatorError("no network")

    return calls, build


def test_a_part_is_made_once_and_again_when_its_recipe_changes(tmp_path: Path) -> None:
    calls, build = builder("one")
    for _ in range(2):
        install._once(tmp_path / "part", "recipe 1", build)
    assert len(calls) == 1
    assert content(tmp_path / "part") == {"below/file": "one"}
    install._once(tmp_path / "part", "recipe 2", builder("two")[1])
    assert content(tmp_path / "part") == {"below/file": "two"}


@pytest.mark.parametrize("before", [False, True])
def test_a_part_that_cannot_be_made_leaves_nothing(tmp_path: Path, before: bool) -> None:
    """Nor does it pass for the old one: the next attempt makes it whole."""
    if before:
        install._once(tmp_path / "part", "recipe 1", builder("one")[1])
    with pytest.raises(EmulatorError, match="no network"):
        install._once(tmp_path / "part", "recipe 2", builder("half", fails=True)[1])
    assert content(tmp_path) == {}
    for recipe, text in (("recipe 1", "one again"), ("recipe 2", "two")):
        install._once(tmp_path / "part", recipe, builder(text)[1])
        assert content(tmp_path / "part") == {"below/file": text}


def test_a_part_that_was_interrupted_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "part.unfinished").mkdir()
    (tmp_path / "part.unfinished" / "old").touch()
    (tmp_path / "part").mkdir()  # renamed, but killed before it was stamped
    (tmp_path / "part" / "old").touch()
    install._once(tmp_path / "part", "recipe", builder("new")[1])
    assert content(tmp_path / "part") == {"below/file": "new"}


def test_packages_are_unpacked_in_order_and_apt_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(debian.MIRROR_VARIABLE, "http://mirror.invalid/debian")
    log = fake_tools(tmp_path, monkeypatch, apt_get=DOWNLOAD, dpkg_deb=UNPACK)
    made = tmp_path / "made" / "root"
    made.parent.mkdir()
    debian.unpack(Packages("arm64", "bookworm", ("python3", "libc6")), made)
    order = [Path(line).name for line in (made / "usr/bin/order").read_text().split()]
    assert order == ["a.deb", "b.deb"]
    assert not (made / "usr/share/doc").exists()
    assert list(made.parent.iterdir()) == [made]
    update, download = (line for line in log.read_text().splitlines() if "apt-get" in line)
    assert update.endswith(" update") and download.endswith(" install python3 libc6")
    assert "APT::Architecture=arm64" in download
    paths = [w.split("=", 1)[1] for w in download.split() if w.startswith("Dir::")]
    assert all(p == "/dev/null" or p.startswith(str(made.parent)) for p in paths)  # not the host's


def test_a_failing_download_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(debian.MIRROR_VARIABLE, "http://mirror.invalid/debian")
    fake_tools(tmp_path, monkeypatch, apt_get="echo 'E: Unable to locate package x' >&2; exit 100")
    made = tmp_path / "made" / "root"
    made.parent.mkdir()
    with pytest.raises(EmulatorError, match=r"(?s)apt-get failed \(status 100\).*Unable to locate"):
        debian.unpack(Packages("arm64", "bookworm", ("x",)), made)
    assert list(made.parent.iterdir()) == []


def test_the_mirror_is_the_named_one_or_the_hosts_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tools(
        tmp_path,
        monkeypatch,
        apt_get="echo http://x/security Debian-Security main; echo http://x/debian Debian main",
    )
    monkeypatch.delenv(debian.MIRROR_VARIABLE, raising=False)
    assert debian.mirror() == "http://x/debian"
    monkeypatch.setenv(debian.MIRROR_VARIABLE, "http://y/debian")
    assert debian.mirror() == "http://y/debian"


def found_programs(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    monkeypatch.setattr(
        debian.shutil, "which", lambda name: None if name in missing else f"/usr/bin/{name}"
    )


@pytest.mark.parametrize(
    ("missing", "keyring", "mirror", "says"),
    [
        ((), True, "http://x", ""),
        (("apt-get",), True, "http://x", "no apt-get: install"),
        (("apt-get", "dpkg-deb"), True, "http://x", "no apt-get and no dpkg-deb: install"),
        ((), False, "http://x", "install the package debian-archive-keyring"),
        ((), True, "", "set EDGEFORMER_DEBIAN_MIRROR to the URL"),
    ],
)
def test_a_host_that_cannot_emulate_says_what_to_install(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: Sequence[str],
    keyring: bool,
    mirror: str,
    says: str,
) -> None:
    (tmp_path / "keyring").touch()
    found_programs(monkeypatch, *missing)
    monkeypatch.setattr(debian, "KEYRING", tmp_path / ("keyring" if keyring else "none"))
    monkeypatch.setattr(debian, "mirror", lambda: mirror)
    monkeypatch.setattr(debian, "host_architecture", lambda: "amd64")
    monkeypatch.setattr(sys, "platform", "linux")
    reason = install.unavailable()
    assert says in reason and bool(says) == bool(reason)


def test_other_hosts_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "unavailable", lambda: "")
    monkeypatch.setattr(debian, "host_architecture", lambda: "riscv64")
    assert "riscv64" in install.unavailable()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "Linux only" in install.unavailable()


def test_wheels_are_those_of_the_lock_file() -> None:
    locked = install._LOCK_FILE.read_text().splitlines()
    assert install.pinned("numpy") in locked
    assert install.pinned("numpy==1.2") == "numpy==1.2"
    with pytest.raises(EmulatorError, match=r"not pinned in requirements\.lock"):
        install.pinned("left-pad")
    for requirements in SITES.values():
        assert all("==" in install.pinned(requirement) for requirement in requirements)


def test_every_board_is_made_of_parts_that_exist() -> None:
    boards = (*BOARDS, *CONTROLS)
    assert len({board.name for board in boards}) == len(boards)
    for board in boards:
        assert board.cpu in CPUS
        assert board.userland in (*USERLANDS, HOST)
        assert all(USERLANDS[board.userland].wheel_platform for _ in board.sites)
        assert set(board.sites) <= set(SITES)
    assert {board.cpu for board in BOARDS} == set(CPUS)


@pytest.mark.parametrize("cpu", CPUS.values(), ids=lambda cpu: cpu.name)
def test_cpuinfo_tells_edgeformer_which_cpu_it_is(cpu: Cpu, tmp_path: Path) -> None:
    install._make_view(tmp_path, cpu, None)
    machine = describe_machine(tmp_path)
    assert machine.cpu_model.lower() == cpu.name
    assert ("asimddp" in machine.isa) == (cpu.name == "cortex-a76")
    assert not any("vnni" in feature for feature in machine.isa)


def test_a_view_shows_the_userland_and_not_what_is_the_hosts(tmp_path: Path) -> None:
    root = tmp_path / "userland"
    for name in ("usr", "lib", "lib64", "etc", "tmp", "home", "proc"):
        (root / name).mkdir(parents=True)
    for _ in range(2):
        install._make_view(tmp_path / "view", CPUS["cortex-a72"], root)
    links = {path.name for path in (tmp_path / "view").iterdir() if path.is_symlink()}
    assert links == {"usr", "lib", "lib64", "etc"}


def launched(board: Board, environment: dict[str, str], *arguments: str) -> list[str]:
    """The words that qemu is started with."""
    done = subprocess.run(
        [str(install.install(board)), *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split("\n")[:-1]


@pytest.fixture
def no_downloads(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A qemu that prints its words, one a line, and userlands without files."""
    fake_tools(tmp_path, monkeypatch, qemu="printf '%s\\n' \"$@\"")
    monkeypatch.setattr(install, "install_qemu", lambda program: ["qemu", program])
    monkeypatch.setattr(install, "_userland", lambda name: cache)
    monkeypatch.setattr(install, "_wheels", lambda name, site: cache / site)


@pytest.mark.usefixtures("no_downloads")
def test_a_launcher_starts_its_python_on_its_cpu(cache: Path) -> None:
    board = Board("cortex-a53", "bookworm", ("engines", "numpy2"))
    words = launched(board, {"PYTHONPATH": "/my code:/more"}, "-c", "print(1,  2)", "")
    home = cache / "boards" / board.name
    assert words[:7] == [
        "qemu-aarch64",
        *("-0", str(home / "bin" / "python3")),  # sys.executable, to start Python again
        *("-cpu", "cortex-a53"),
        *("-L", str(home / "root")),
    ]
    assert words[-4:] == [f"{cache}/usr/bin/python3", "-c", "print(1,  2)", ""]
    assert f"PYTHONPATH={cache}/engines:{cache}/numpy2:/my code:/more" in words
    assert f"PYTHONHOME={cache}/usr" in words
    (libraries,) = (word for word in words if word.startswith("LD_LIBRARY_PATH="))
    assert libraries.split("=")[1].startswith(f"{cache}/usr/lib/aarch64-linux-gnu/openblas-pthread")
    for hosts in ("LD_PRELOAD", "OPENBLAS_CORETYPE", "PYTHONDONTWRITEBYTECODE"):
        assert words[words.index(hosts) - 1] == "-U"


@pytest.mark.usefixtures("no_downloads")
@pytest.mark.parametrize(
    ("board", "given", "expected"),
    [
        (Board("cortex-a7", "bookworm-armhf"), {"PYTHONPATH": "/site"}, "/site"),
        (Board("cortex-a7", "bookworm-armhf"), {}, ""),
        (Board("cortex-a7", "bookworm-armhf", ("engines",)), {}, "{cache}/engines"),
    ],
)
def test_the_working_folder_is_never_on_the_path(
    board: Board, given: dict[str, str], expected: str, cache: Path
) -> None:
    """An empty part of PYTHONPATH would be that."""
    assert f"PYTHONPATH={expected.format(cache=cache)}" in launched(board, given)


@pytest.mark.usefixtures("no_downloads")
def test_a_launcher_is_not_rewritten_while_it_may_be_read(cache: Path) -> None:
    board = Board("cortex-a53", "bookworm")
    first = install.install(board)
    before = (first.stat().st_ino, first.stat().st_mtime_ns)
    assert install.install(board) == first
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == before
    first.write_text("something older")
    install.install(board)
    assert first.stat().st_mode & 0o111
    assert "something older" not in first.read_text()
    assert {path.name for path in first.parent.iterdir()} == {"python3"}


@pytest.mark.usefixtures("no_downloads")
def test_the_hosts_python_runs_with_what_it_has_installed() -> None:
    words = launched(Board("haswell", HOST), {})
    assert words[-1] == str(Path(sys.executable).resolve())
    assert f"PYTHONHOME={sys.base_prefix}" in words
    (path,) = (word for word in words if word.startswith("PYTHONPATH="))
    assert str(Path(pytest.__file__).parent.parent) in path


def test_the_cache_lies_outside_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(install.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert install.cache_folder() == Path("/somewhere/edgeformer/emulator")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Path.home() in install.cache_folder().parents
    monkeypatch.setenv(install.CACHE_VARIABLE, "relative")
    assert install.cache_folder() == Path.cwd() / "relative"
