"""The machine's own words: what is read from /proc and /sys of a Pi, a laptop, a bare container."""

import os
import platform
import re
from dataclasses import replace
from pathlib import Path

import pytest
import threadpoolctl

from edgeformer.machine import (
    MachineState,
    describe_machine,
    disturbances,
    interference,
    peak_rss_mb,
    read_state,
)
from edgeformer.machine_files import affinity, ranges

PI4_CPUINFO = "".join(
    f"processor\t: {i}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"
    "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd08\n\n"
    for i in range(4)
)


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def pi4(root: Path, throttled: str = "0x0") -> Path:
    cpu = "sys/devices/system/cpu/cpu0/cpufreq"
    return tree(
        root,
        {
            "proc/cpuinfo": PI4_CPUINFO,
            "proc/meminfo": "MemTotal:        3884400 kB\nMemAvailable:    3000000 kB\n",
            "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
            "proc/self/status": "VmPeak:\t 9 kB\nVmHWM:\t   50000 kB\nVmRSS:\t 40000 kB\n",
            "sys/class/thermal/thermal_zone0/temp": "48199\n",
            f"{cpu}/scaling_governor": "ondemand\n",
            f"{cpu}/scaling_cur_freq": "600000\n",
            f"{cpu}/cpuinfo_max_freq": "1800000\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": f"{throttled}\n",
        },
    )


def test_a_raspberry_pi_is_recognised(tmp_path: Path) -> None:
    root = pi4(tmp_path)
    machine, state = describe_machine(root), read_state(root)
    assert machine.board == "Raspberry Pi 4 Model B Rev 1.4"
    assert machine.cpu_model == "Cortex-A72"
    assert machine.isa == ("asimd",)
    assert machine.memory_mb == 3884400 * 1024 // 1_000_000
    assert state.governor == "ondemand"
    assert (state.frequency_mhz, state.max_frequency_mhz) == (600, 1800)
    assert state.temperature_c == pytest.approx(48.199)
    assert state.throttling == ()
    assert peak_rss_mb(root) == pytest.approx(51.2)


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("0", ()),
        ("50005", ("under-voltage", "throttled")),
        ("50000", ("under-voltage earlier", "throttled earlier")),
        (
            "0xf0008",
            (
                "soft temperature limit",
                *(f"{name} earlier" for name in ("under-voltage", "frequency capped", "throttled")),
            ),
        ),
    ],
)
def test_throttling_flags_of_a_raspberry_pi(
    tmp_path: Path, flags: str, wanted: tuple[str, ...]
) -> None:
    """Bits as the firmware documents them: 0-3 now, 16-19 since it was started."""
    assert read_state(pi4(tmp_path, flags)).throttling == wanted


def test_big_and_little_cores_are_both_named(tmp_path: Path) -> None:
    cores = "".join(
        f"CPU implementer\t: 0x41\nCPU part\t: {p}\n" for p in ("0xd05", "0xd0b", "0xfff")
    )
    machine = describe_machine(tree(tmp_path, {"proc/cpuinfo": cores}))
    assert machine.cpu_model == "Cortex-A55 + Cortex-A76 + Arm part 0xfff"


def test_an_x86_machine_names_its_features_and_throttling(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu/cpu{}/thermal_throttle/core_throttle_count"
    root = tree(
        tmp_path,
        {
            "proc/cpuinfo": "model name\t: Some CPU @ 3GHz\nflags\t: fpu avx2 avx512_vnni fma\n",
            cpu.format(0): "0",
            cpu.format(1): "7",
        },
    )
    machine = describe_machine(root)
    assert (machine.cpu_model, machine.isa) == ("Some CPU @ 3GHz", ("avx2", "avx512_vnni", "fma"))
    assert read_state(root).throttling == ("throttled 7 times earlier",)


@pytest.mark.parametrize("program", ["qemu-aarch64", "qemu-arm-static"])
def test_an_emulated_cpu_is_named_and_its_times_doubted(tmp_path: Path, program: str) -> None:
    """qemu's user mode, also as containers for another architecture use it."""
    paths = ("/opt/qemu-tools/lib.so", f"/usr/bin/{program}", "/usr/lib/libc.so.6")
    maps = "".join(f"0000-1000 r-xp 0000 08:01 7    {path}\n" for path in paths)
    machine = describe_machine(tree(tmp_path, {"proc/thread-self/maps": maps}))
    assert machine.emulator == program.removesuffix("-static")
    (note,) = disturbances(machine, QUIET, QUIET)
    assert f"emulated by {machine.emulator}" in note


def test_what_a_system_does_not_tell_is_unknown(tmp_path: Path) -> None:
    machine, state = describe_machine(tmp_path), read_state(tmp_path)
    assert (machine.board, machine.isa, machine.memory_mb, machine.cgroup_cpus) == ("", (), 0, None)
    assert machine.cpu_model
    assert machine.emulator == ""
    unknown = (state.governor, state.frequency_mhz, state.temperature_c, state.throttling)
    assert unknown == ("", None, None, None)
    assert peak_rss_mb(tmp_path) > 1  # from getrusage


def test_this_machine() -> None:
    machine, state = describe_machine(), read_state()
    assert machine.architecture == platform.machine()
    assert machine.bits in (32, 64)
    assert 1 <= machine.affinity_cpus <= machine.cpus == os.cpu_count()
    assert platform.python_version() in machine.python
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", state.time)
    if Path("/proc/meminfo").exists():
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
        assert machine.memory_mb == pytest.approx(total, rel=0.02)
        assert 0 < state.available_memory_mb <= machine.memory_mb


def stat(busy: int, stolen: int = 0) -> str:
    """/proc/stat where each CPU of this process has been busy for so many ticks, and 99 more that
    this process may not use for ever."""
    line = "cpu{} {} 0 {} 500 9 0 1 {} 0 0\n"
    mine = [line.format(n, busy - 1, 0, stolen) for n in affinity()]
    return "cpu 1 2 3 4 5 6 7 8 0 0\n" + "".join(mine) + line.format(4095, 10**9, 0, 10**9)


def test_what_the_cpus_did_for_others_is_told_from_our_own_work(tmp_path: Path) -> None:
    """Ticks are those of the kernel, 100 a second on all our systems."""
    count = len(affinity())
    start = read_state(tree(tmp_path, {"proc/stat": stat(1000)}))
    assert start.busy_seconds == pytest.approx(10.0 * count)
    end = read_state(tree(tmp_path, {"proc/stat": stat(2000, stolen=100)}))
    end = replace(end, clock_seconds=start.clock_seconds + 20)
    machine = replace(describe_machine(), affinity_cpus=count)
    ours = replace(end, own_seconds=start.own_seconds + 9.0 * count)
    assert interference(machine, start, ours) == ()  # 10 s busy, 9 of them ours, 1 s stolen, of 20
    found = interference(machine, start, replace(end, own_seconds=start.own_seconds + 2.0 * count))
    assert found == ("other work took 40% of the CPUs",)
    stolen = replace(ours, stolen_seconds=4.0 * count)
    assert interference(machine, start, stolen) == ("the hypervisor took 20% of the CPUs",)


def test_a_sandbox_that_counts_nothing_is_judged_by_its_load(tmp_path: Path) -> None:
    state = read_state(tree(tmp_path, {"proc/stat": "cpu0 0 0 0 0 0 0 0 0 0 0\n"}))
    assert (state.busy_seconds, state.stolen_seconds) == (None, None)
    later = replace(state, clock_seconds=state.clock_seconds + 20)
    busy = replace(state, load_1min=64.0)
    assert "load 64.0" in interference(describe_machine(), busy, later)[0]


@pytest.mark.parametrize(
    ("files", "memory_mb", "turbo"),
    [
        ({}, None, None),
        (
            {
                "proc/self/cgroup": "0::/box/inner\n",
                "sys/fs/cgroup/box/memory.max": "536870912\n",
                "sys/fs/cgroup/box/inner/memory.max": "max\n",
                "sys/devices/system/cpu/intel_pstate/no_turbo": "1\n",
            },
            536,
            False,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,memory:/docker/x\n1:name=systemd:/x\n",
                "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "1000000000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/devices/system/cpu/cpufreq/boost": "1\n",
            },
            1000,
            True,
        ),
    ],
)
def test_limits_of_memory_and_clock(
    tmp_path: Path, files: dict[str, str], memory_mb: int | None, turbo: bool | None
) -> None:
    machine = describe_machine(tree(tmp_path, files))
    assert (machine.cgroup_memory_mb, machine.turbo) == (memory_mb, turbo)


def test_lists_of_cpus_are_written_as_the_kernel_writes_them() -> None:
    assert ranges([0, 1, 2, 3, 6]) == "0-3,6"
    assert ranges([5]) == "5"
    assert ranges([]) == ""


def test_the_blas_is_named() -> None:
    """As threadpoolctl finds it."""
    names = {info["internal_api"] for info in threadpoolctl.threadpool_info()}
    assert describe_machine().blas.split()[0] in names


QUIET = MachineState("2026-01-01T00:00:00+00:00", "performance", 1800, 1800, 40.0, (), 0.0, 1000)


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [
        (QUIET, QUIET, ""),
        (replace(QUIET, load_1min=64.0), QUIET, "load 64.0"),
        (replace(QUIET, governor="performance,powersave"), QUIET, "governor powersave"),
        (QUIET, replace(QUIET, throttling=("under-voltage",)), "held back: under-voltage"),
        (QUIET, replace(QUIET, throttling=("throttled earlier",)), "held back: throttled earlier"),
        (
            replace(QUIET, throttling=("throttled earlier",)),
            replace(QUIET, throttling=("throttled earlier",)),
            "",
        ),
        (
            replace(QUIET, throttling=("throttled 3 times earlier",)),
            replace(QUIET, throttling=("throttled 4 times earlier",)),
            "throttled 4 times",
        ),
        (replace(QUIET, load_1min=None, throttling=None), replace(QUIET, throttling=None), ""),
    ],
)
def test_disturbances_are_named(start: MachineState, end: MachineState, says: str) -> None:
    found = disturbances(replace(describe_machine(), affinity_cpus=4), start, end)
    assert len(found) == (1 if says else 0)
    assert says in "".join(found)
