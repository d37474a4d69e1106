"""How many threads an engine may use: the least of profile, affinity mask and cgroup quota.

The number of CPUs of the machine is never the answer: a container or a taskset gets less.
"""

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_threads(limit: int) -> int:
    """Threads to use when ``limit`` is the most the caller wants; at least 1."""
    allowed = [limit, affinity_cpus()]
    quota = cgroup_cpus()
    if quota is not None:
        allowed.append(max(1, math.ceil(quota)))
    return max(1, min(allowed))


def affinity_cpus() -> int:
    """CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_cpus(root: Path = _CGROUP, group: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs that the cgroup's quota grants (version 2, then 1), None without a quota.

    The tightest quota on the way from this process's group up to the root counts.
    """
    quotas = [q for folder in _group_folders(root, group) if (q := _quota(folder)) is not None]
    return min(quotas) if quotas else None


def _group_folders(root: Path, group: Path) -> list[Path]:
    """Folders of this process's group and of its ancestors, for both cgroup versions."""
    folders = [root, root / "cpu", root / "cpu,cpuacct"]
    try:
        lines = group.read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        number, controllers, name = line.split(":", 2)
        if number == "0":
            base = root
        elif "cpu" in controllers.split(","):
            base = root / "cpu"
        else:
            continue
        path = base / name.lstrip("/")
        while path != base and base in path.parents:
            folders.append(path)
            path = path.parent
    return folders


def _quota(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota == "max" or int(quota) <= 0:
        return None
    return int(quota) / int(period)
