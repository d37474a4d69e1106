"""Energy, where a meter can be read: the RAPL counters of Intel's and AMD's processors.

    meter = find_meter()                      # None: no counter, or no right to read it
    before = meter.read(); work(); meter.used_mj(before, meter.read())

Linux shows them below /sys/class/powercap, as a rule to root only. They count whole processor
packages: whatever else runs there is counted too, and so is what idling takes. Standard library
only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Meter:
    """The counters of all packages.

    Attributes:
        name: what they are.
        folders: one for each package.
    """

    name: str
    folders: tuple[Path, ...]

    def read(self) -> dict[Path, int]:
        """Each counter in microjoules; those that cannot be read are absent."""
        found = {folder: _number(folder / "energy_uj") for folder in self.folders}
        return {folder: value for folder, value in found.items() if value is not None}

    def used_mj(self, before: Mapping[Path, int], after: Mapping[Path, int]) -> float | None:
        """Energy between two readings, in mJ; None where a counter was not read both times.

        A counter that has reached its end begins at 0 again.
        """
        if not self.folders or any(f not in before or f not in after for f in self.folders):
            return None
        total = 0
        for folder in self.folders:
            used = after[folder] - before[folder]
            if used < 0:
                used += _number(folder / "max_energy_range_uj") or 0
            total += used
        return total / 1000 if total >= 0 else None


def find_meter(root: Path = _ROOT) -> Meter | None:
    """The meter of this machine's processors, None where there is none that can be read.

    Args:
        root: where Linux shows the counters.
    """
    packages = []
    for folder in sorted(root.glob("intel-rapl:*")):
        name = _text(folder / "name")
        if name.startswith("package") and _number(folder / "energy_uj") is not None:
            packages.append(folder)
    return Meter("RAPL, processor package", tuple(packages)) if packages else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None
