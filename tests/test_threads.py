"""Threads: a container or a taskset gets what it was given, not the machine."""

import os
from pathlib import Path

import pytest

from edgeformer.runtime.threads import affinity_cpus, available_threads, cgroup_cpus


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "group", "cpus"),
    [
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({"cpu.max": "150000 100000"}, "0::/", 1.5),
        ({"cpu.max": "400000 100000", "a/b/cpu.max": "200000 100000"}, "0::/a/b", 2.0),
        ({"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b", 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/", None),
        (
            {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"},
            "3:cpu,cpuacct:/x",
            3.0,
        ),
        ({}, "", None),
    ],
)
def test_cgroup_quota(
    tmp_path: Path, files: dict[str, str], group: str, cpus: float | None
) -> None:
    root = _tree(tmp_path / "fs", files)
    _tree(tmp_path, {"group": group})
    assert cgroup_cpus(root, tmp_path / "group") == cpus


def test_never_more_than_the_affinity_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert affinity_cpus() == 1
    assert available_threads(4) == 1


def test_at_least_one_and_at_most_the_limit() -> None:
    assert available_threads(1) == 1
