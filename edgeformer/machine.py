"""What machine this is and what state it is in: a figure without it means little.

``describe_machine`` reads what stays (CPU, memory, limits), ``read_state`` what changes while one
measures (frequency, temperature, throttling, load). Everything comes from /proc and /sys; what a
system does not tell is empty or None, never guessed. Standard library only, reads only.
"""

import os
import platform
import struct
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path("/")

# Features that change what fp32 and int8 arithmetic cost, as /proc/cpuinfo spells them.
_ARM_FEATURES = {"neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"}
_X86_FEATURES = {"avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"}
_X86_FEATURES |= {"avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"}
# MIDR part numbers of the cores in the boards people use (implementer 0x41, Arm).
_ARM_CORES = {
    "0xb76": "ARM1176",
    "0xc07": "Cortex-A7",
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd42": "Cortex-A78AE",
    "0xd49": "Neoverse-N2",
}
# Bits of the Raspberry Pi firmware's get_throttled: now, and (shifted by 16) since it was started.
_PI_THROTTLING = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")


@dataclass(frozen=True)
class Machine:
    """What does not change while a process runs.

    Attributes:
        board: name of the board where the device tree has one, such as a Raspberry Pi's.
        cpu_model: marketing or core name; several names on big/little CPUs.
        architecture: as the kernel says: ``x86_64``, ``aarch64``, ``armv7l``.
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
    from edgeformer.runtime.threads import affinity_cpus, cgroup_cpus

    cpuinfo = _text(root / "proc/cpuinfo")
    return Machine(
        board=_text(root / "proc/device-tree/model").strip("\0\n "),
        cpu_model=_cpu_model(cpuinfo) or platform.processor() or "unknown",
        architecture=platform.machine(),
        bits=8 * struct.calcsize("P"),
        isa=_isa(cpuinfo),
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
    found = []
    if start.load_1min is not None and start.load_1min > 0.5 * machine.affinity_cpus:
        found.append(f"other work was running: load {start.load_1min:.1f} at the start")
    slow = [g for g in start.governor.split(",") if g in ("powersave", "conservative", "ondemand")]
    if slow:
        found.append(f"CPU governor {','.join(slow)}: the clock follows the work with a delay")
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


def _values(cpuinfo: str, key: str) -> list[str]:
    """Distinct values of ``key`` over all CPUs, in order."""
    pairs = (line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line)
    return list(dict.fromkeys(v.strip() for k, v in pairs if k.strip() == key))


def _cpu_model(cpuinfo: str) -> str:
    parts = _values(cpuinfo, "CPU part")
    if parts and _values(cpuinfo, "CPU implementer") == ["0x41"]:
        return " + ".join(_ARM_CORES.get(part, f"Arm part {part}") for part in parts)
    return " + ".join(_values(cpuinfo, "model name"))


def _isa(cpuinfo: str) -> tuple[str, ...]:
    words = " ".join(_values(cpuinfo, "flags") + _values(cpuinfo, "Features")).split()
    return tuple(sorted((_ARM_FEATURES | _X86_FEATURES) & set(words)))


def _memory_mb(root: Path, key: str) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 // 1_000_000
    return 0


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
