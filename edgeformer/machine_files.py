"""What /proc and /sys say: one function for each fact, None or empty where they are silent.

Every function takes the root under which they lie, so that tests can make a machine of files.
Standard library only, reads only.
"""

import os
from pathlib import Path

# Bits of the Raspberry Pi firmware's get_throttled: now, and (shifted by 16) since it was started.
_PI_THROTTLING = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")


def file_text(path: Path) -> str:
    """The file's text, empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # absent on this system, or not for us: said as unknown
        return ""


def file_number(path: Path) -> int | None:
    """The whole number a file holds, None where it holds none."""
    text = file_text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def memory_mb(root: Path, key: str) -> int:
    """A line of /proc/meminfo in MB (1e6 bytes), 0 where unknown."""
    for line in file_text(root / "proc/meminfo").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 // 1_000_000
    return 0


def fastest_mhz(cpus: list[Path], name: str) -> int | None:
    """Largest of the CPUs' cpufreq figures of that name, in MHz."""
    kilohertz = [
        value for cpu in cpus if (value := file_number(cpu / "cpufreq" / name)) is not None
    ]
    return max(kilohertz) // 1000 if kilohertz else None


def throttling(root: Path, cpus: list[Path]) -> tuple[str, ...] | None:
    """What holds the CPU back, see ``MachineState.throttling``."""
    flags = file_text(root / "sys/devices/platform/soc/soc:firmware/get_throttled").strip()
    if flags:
        bits = int(flags, 16)
        now = [name for i, name in enumerate(_PI_THROTTLING) if bits >> i & 1]
        past = [name for i, name in enumerate(_PI_THROTTLING) if bits >> (16 + i) & 1]
        return (*now, *(f"{name} earlier" for name in past if name not in now))
    counts = [file_number(cpu / "thermal_throttle/core_throttle_count") for cpu in cpus]
    known = [count for count in counts if count is not None]
    if not known:
        return None
    return (f"throttled {max(known)} times earlier",) if max(known) else ()


def affinity() -> list[int]:
    """Numbers of the CPUs that this process may use; empty where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def ranges(numbers: list[int]) -> str:
    """Ascending numbers as the kernel writes lists of CPUs: ``0-3,6``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def cgroup_memory_mb(root: Path) -> int | None:
    """The tightest limit on the way from this process's group to the root, versions 2 and 1."""
    base = root / "sys/fs/cgroup"
    files = [base / "memory.max", base / "memory/memory.limit_in_bytes"]
    for line in file_text(root / "proc/self/cgroup").splitlines():
        number, controllers, name = line.split(":", 2)
        if number == "0":
            home, file = base, "memory.max"
        elif "memory" in controllers.split(","):
            home, file = base / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = home / name.lstrip("/")
        files += [folder / file for folder in (group, *group.parents) if home in folder.parents]
    limits = [limit for file in files if (limit := file_number(file)) is not None]
    # Version 1 writes the largest number of pages where there is no limit.
    return next((limit // 1_000_000 for limit in sorted(limits) if limit < 1 << 60), None)


def turbo(root: Path) -> bool | None:
    """True if the CPU may clock above its base frequency, None where unknown."""
    cpus = root / "sys/devices/system/cpu"
    off = file_number(cpus / "intel_pstate/no_turbo")
    if off is not None:
        return not off
    boost = file_number(cpus / "cpufreq/boost")
    return None if boost is None else bool(boost)


def cpu_seconds(root: Path) -> tuple[float | None, float | None]:
    """(busy, stolen) seconds of the CPUs that this process may use, since the system started."""
    allowed = {f"cpu{number}" for number in affinity()}
    rows = [line.split() for line in file_text(root / "proc/stat").splitlines()]
    ticks = [[int(n) for n in row[1:9]] for row in rows if row and row[0] in allowed]
    if not ticks or any(len(row) < 8 for row in ticks):
        return None, None
    per_second = os.sysconf("SC_CLK_TCK")
    # user, nice, system, idle, iowait, irq, softirq, steal
    busy = sum(row[0] + row[1] + row[2] + row[5] + row[6] for row in ticks)
    if not busy:  # a sandbox that shows nothing
        return None, None
    return busy / per_second, sum(row[7] for row in ticks) / per_second
