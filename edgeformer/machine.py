"""What machine this is and what state it is in: a figure without it means little.

``describe_machine`` reads what stays (CPU, memory, limits), ``read_state`` what changes while one
measures (frequency, temperature, throttling, load). Everything comes from /proc and /sys; what a
system does not tell is empty or None, never guessed. Standard library only, reads only.
"""

import os
import platform
import re
import struct
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgeformer.machine_files import (
    affinity,
    cgroup_memory_mb,
    cpu_seconds,
    fastest_mhz,
    file_number,
    file_text,
    memory_mb,
    ranges,
    throttling,
    turbo,
)

ROOT = Path("/")


@dataclass(frozen=True)
class Machine:
    """What does not change while a process runs.

    Attributes:
        board: name of the board where the device tree has one, such as a Raspberry Pi's.
        cpu_model: marketing or core name; several names on big/little CPUs.
        architecture: as the kernel says: ``x86_64``, ``aarch64``, ``armv7l``.
        emulator: program that emulates this CPU, such as ``qemu-aarch64``; empty on a real one,
            and in a virtual machine, whose CPU is the real one.
        bits: of this Python, 32 or 64; a 32-bit Python can run on a 64-bit kernel.
        isa: CPU features that matter here, sorted.
        cpus: CPUs of the machine.
        affinity_cpus: CPUs that this process may use.
        cgroup_cpus: CPUs that the cgroup's quota grants, None without a quota.
        memory_mb: physical memory in MB (1e6 bytes), 0 where unknown.
        system: operating system and kernel; ``libc``: C library and version, may be empty.
        python: version and implementation.
        blas: library behind NumPy's products, with its version; empty where unknown.
        affinity: the CPUs that this process may use, such as ``0-3``; empty where unknown.
        cgroup_memory_mb: memory that the cgroup grants, in MB, None without a limit.
        turbo: True if the CPU may clock above its base frequency, None where unknown.
    """

    board: str
    cpu_model: str
    architecture: str
    emulator: str
    bits: int
    isa: tuple[str, ...]
    cpus: int
    affinity_cpus: int
    cgroup_cpus: float | None
    memory_mb: int
    system: str
    libc: str
    python: str
    blas: str = ""
    affinity: str = ""
    cgroup_memory_mb: int | None = None
    turbo: bool | None = None


@dataclass(frozen=True)
class MachineState:
    """What changes while one measures.

    Attributes:
        time: UTC, ISO 8601.
        governor: cpufreq governors of the CPUs, joined by commas; empty where unknown.
        frequency_mhz: fastest CPU just now, None where unknown.
        max_frequency_mhz: what the fastest CPU could do, None where unknown.
        temperature_c: hottest thermal zone in degrees Celsius, None where unknown.
        throttling: what holds the CPU back now, or did since the start (these end with
            ``earlier``); empty if nothing, None where the system does not say.
        load_1min: load average over one minute, None where unknown.
        available_memory_mb: memory that can still be used, 0 where unknown.
        clock_seconds: a clock that only runs forward, for differences; 0 where unknown.
        busy_seconds: what the CPUs that this process may use have worked since the system
            started, for anybody; None where unknown.
        stolen_seconds: of the same CPUs, what a hypervisor gave to other machines.
        own_seconds: CPU time of this process and of its children that have ended.
    """

    time: str
    governor: str
    frequency_mhz: int | None
    max_frequency_mhz: int | None
    temperature_c: float | None
    throttling: tuple[str, ...] | None
    load_1min: float | None
    available_memory_mb: int
    clock_seconds: float = 0.0
    busy_seconds: float | None = None
    stolen_seconds: float | None = None
    own_seconds: float = 0.0


def describe_machine(root: Path = ROOT) -> Machine:
    """Read what stays; ``root`` is where /proc and /sys lie."""
    from edgeformer.runtime.cpu import cpu_model, isa_features
    from edgeformer.runtime.threads import affinity_cpus, cgroup_cpus

    cpuinfo = file_text(root / "proc/cpuinfo")
    return Machine(
        board=file_text(root / "proc/device-tree/model").strip("\0\n "),
        cpu_model=cpu_model(cpuinfo) or platform.processor() or "unknown",
        architecture=platform.machine(),
        emulator=_emulator(root),
        bits=8 * struct.calcsize("P"),
        isa=isa_features(cpuinfo),
        cpus=os.cpu_count() or 1,
        affinity_cpus=affinity_cpus(),
        cgroup_cpus=cgroup_cpus(root / "sys/fs/cgroup", root / "proc/self/cgroup"),
        memory_mb=memory_mb(root, "MemTotal"),
        system=f"{_distribution()} (kernel {platform.release()})",
        libc=" ".join(part for part in platform.libc_ver() if part),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        blas=_blas(),
        affinity=ranges(affinity()),
        cgroup_memory_mb=cgroup_memory_mb(root),
        turbo=turbo(root),
    )


def read_state(root: Path = ROOT) -> MachineState:
    """Read what changes; ``root`` is where /proc and /sys lie."""
    cpus = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*"))
    governors = dict.fromkeys(file_text(cpu / "cpufreq/scaling_governor").strip() for cpu in cpus)
    zones = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    degrees = [value / 1000 for zone in zones if (value := file_number(zone)) is not None]
    busy, stolen = cpu_seconds(root)
    return MachineState(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        governor=",".join(name for name in governors if name),
        frequency_mhz=fastest_mhz(cpus, "scaling_cur_freq"),
        max_frequency_mhz=fastest_mhz(cpus, "cpuinfo_max_freq"),
        temperature_c=max(degrees, default=None),
        throttling=throttling(root, cpus),
        load_1min=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        available_memory_mb=memory_mb(root, "MemAvailable"),
        clock_seconds=time.monotonic(),
        busy_seconds=busy,
        stolen_seconds=stolen,
        own_seconds=sum(os.times()[:4]),
    )


def disturbances(machine: Machine, start: MachineState, end: MachineState) -> tuple[str, ...]:
    """Sentences about what makes figures taken between two states less than trustworthy."""
    return contention(machine, start, end) + doubts(machine, start)


def doubts(machine: Machine, start: MachineState) -> tuple[str, ...]:
    """Sentences about what makes figures of this machine less than trustworthy on any day."""
    found = []
    if machine.emulator:
        found.append(f"emulated by {machine.emulator}: these times say nothing about a real CPU")
    slow = [g for g in start.governor.split(",") if g in ("powersave", "conservative", "ondemand")]
    if slow:
        found.append(f"CPU governor {','.join(slow)}: the clock follows the work with a delay")
    return tuple(found)


def contention(machine: Machine, start: MachineState, end: MachineState) -> tuple[str, ...]:
    """Sentences about what took the CPU away between two states: load, throttling."""
    return _load(machine, start) + _held_back(start, end)


def interference(machine: Machine, start: MachineState, end: MachineState) -> tuple[str, ...]:
    """The same, with other work measured: what the CPUs did between the states that was not ours.

    Where the system does not count that, the load at the start has to do.
    """
    return _other_work(machine, start, end) + _held_back(start, end)


def _load(machine: Machine, start: MachineState) -> tuple[str, ...]:
    if start.load_1min is None or start.load_1min <= 0.5 * machine.affinity_cpus:
        return ()
    return (f"other work was running: load {start.load_1min:.1f} at the start",)


def _held_back(start: MachineState, end: MachineState) -> tuple[str, ...]:
    before = start.throttling or ()
    held = [f for f in end.throttling or () if not f.endswith(" earlier") or f not in before]
    return (f"the CPU was held back: {', '.join(held)}",) if held else ()


# Shares of the CPUs that other work, or other virtual machines, may take unmentioned.
_OTHER_SHARE, _STOLEN_SHARE = 0.10, 0.05


def _other_work(machine: Machine, start: MachineState, end: MachineState) -> tuple[str, ...]:
    seconds = (end.clock_seconds - start.clock_seconds) * machine.affinity_cpus
    if start.busy_seconds is None or end.busy_seconds is None or seconds <= 0:
        return _load(machine, start)
    own = end.own_seconds - start.own_seconds
    other = (end.busy_seconds - start.busy_seconds - own) / seconds
    stolen = ((end.stolen_seconds or 0.0) - (start.stolen_seconds or 0.0)) / seconds
    found = []
    if other > _OTHER_SHARE:
        found.append(f"other work took {other:.0%} of the CPUs")
    if stolen > _STOLEN_SHARE:
        found.append(f"the hypervisor took {stolen:.0%} of the CPUs")
    return tuple(found)


def rss_mb(root: Path = ROOT) -> float:
    """Resident memory of this process now, in MB (1e6 bytes); 0 where unknown."""
    for line in file_text(root / "proc/self/status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def peak_rss_mb(root: Path = ROOT) -> float:
    """Largest resident memory of this process so far, in MB (1e6 bytes); 0 where unknown."""
    for line in file_text(root / "proc/self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _emulator(root: Path) -> str:
    """qemu's user mode hides itself in /proc/self, but not in /proc/thread-self."""
    maps = file_text(root / "proc/thread-self/maps")
    found = re.search(r"/(qemu-\w+)(?:-static)?$", maps, re.MULTILINE)
    return found[1] if found else ""


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _blas() -> str:
    from edgeformer.runtime.blas import identify_blas

    found = identify_blas()
    words = [found.name, *found.version.removeprefix("OpenBLAS").split()]
    return "" if found.name == "unknown" else " ".join(words)
