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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path("/")

# Bits of the Raspberry Pi firmware's get_throttled: now, and (shifted by 16) since it was started.
_PI_THROTTLING = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")


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
    """

    time: str
    governor: str
    frequency_mhz: int | None
    max_frequency_mhz: int | None
    temperature_c: float | None
    throttling: tuple[str, ...] | None
    load_1min: float | None
    available_memory_mb: int


def describe_machine(root: Path = ROOT) -> Machine:
    """Read what stays; ``root`` is where /proc and /sys lie."""
    from edgeformer.runtime.cpu import cpu_model, isa_features
    from edgeformer.runtime.threads import affinity_cpus, cgroup_cpus

    cpuinfo = _text(root / "proc/cpuinfo")
    return Machine(
        board=_text(root / "proc/device-tree/model").strip("\0\n "),
        cpu_model=cpu_model(cpuinfo) or platform.processor() or "unknown",
        architecture=platform.machine(),
        emulator=_emulator(root),
        bits=8 * struct.calcsize("P"),
        isa=isa_features(cpuinfo),
        cpus=os.cpu_count() or 1,
        affinity_cpus=affinity_cpus(),
        cgroup_cpus=cgroup_cpus(root / "sys/fs/cgroup", root / "proc/self/cgroup"),
        memory_mb=_memory_mb(root, "MemTotal"),
        system=f"{_distribution()} (kernel {platform.release()})",
        libc=" ".join(part for part in platform.libc_ver() if part),
        python=f"{platform.python_implementation()} {platform.python_version()}",
    )


def read_state(root: Path = ROOT) -> MachineState:
    """Read what changes; ``root`` is where /proc and /sys lie."""
    cpus = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*"))
    governors = dict.fromkeys(_text(cpu / "cpufreq/scaling_governor").strip() for cpu in cpus)
    zones = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    degrees = [value / 1000 for zone in zones if (value := _number(zone)) is not None]
    return MachineState(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        governor=",".join(name for name in governors if name),
        frequency_mhz=_fastest_mhz(cpus, "scaling_cur_freq"),
        max_frequency_mhz=_fastest_mhz(cpus, "cpuinfo_max_freq"),
        temperature_c=max(degrees, default=None),
        throttling=_throttling(root, cpus),
        load_1min=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        available_memory_mb=_memory_mb(root, "MemAvailable"),
    )


def disturbances(machine: Machine, start: MachineState, end: MachineState) -> tuple[str, ...]:
    """Sentences about what makes figures taken between two states less than trustworthy."""
    found = list(contention(machine, start, end))
    if machine.emulator:
        found.append(f"emulated by {machine.emulator}: these times say nothing about a real CPU")
    slow = [g for g in start.governor.split(",") if g in ("powersave", "conservative", "ondemand")]
    if slow:
        found.append(f"CPU governor {','.join(slow)}: the clock follows the work with a delay")
    return tuple(found)


def contention(machine: Machine, start: MachineState, end: MachineState) -> tuple[str, ...]:
    """Sentences about what took the CPU away between two states: other work, throttling."""
    found = []
    if start.load_1min is not None and start.load_1min > 0.5 * machine.affinity_cpus:
        found.append(f"other work was running: load {start.load_1min:.1f} at the start")
    before = start.throttling or ()
    held = [f for f in end.throttling or () if not f.endswith(" earlier") or f not in before]
    if held:
        found.append(f"the CPU was held back: {', '.join(held)}")
    return tuple(found)


def peak_rss_mb(root: Path = ROOT) -> float:
    """Largest resident memory of this process so far, in MB (1e6 bytes); 0 where unknown."""
    for line in _text(root / "proc/self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # absent on this system, or not for us: said as unknown
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _memory_mb(root: Path, key: str) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 // 1_000_000
    return 0


def _emulator(root: Path) -> str:
    """qemu's user mode hides itself in /proc/self, but not in /proc/thread-self."""
    maps = _text(root / "proc/thread-self/maps")
    found = re.search(r"/(qemu-\w+)(?:-static)?$", maps, re.MULTILINE)
    return found[1] if found else ""


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _fastest_mhz(cpus: list[Path], name: str) -> int | None:
    kilohertz = [value for cpu in cpus if (value := _number(cpu / "cpufreq" / name)) is not None]
    return max(kilohertz) // 1000 if kilohertz else None


def _throttling(root: Path, cpus: list[Path]) -> tuple[str, ...] | None:
    flags = _text(root / "sys/devices/platform/soc/soc:firmware/get_throttled").strip()
    if flags:
        bits = int(flags, 16)
        now = [name for i, name in enumerate(_PI_THROTTLING) if bits >> i & 1]
        past = [name for i, name in enumerate(_PI_THROTTLING) if bits >> (16 + i) & 1]
        return (*now, *(f"{name} earlier" for name in past if name not in now))
    counts = [_number(cpu / "thermal_throttle/core_throttle_count") for cpu in cpus]
    known = [count for count in counts if count is not None]
    if not known:
        return None
    return (f"throttled {max(known)} times earlier",) if max(known) else ()
