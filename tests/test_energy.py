"""Energy is shown where a meter is read, and nowhere else: a made-up figure would be quoted."""

from pathlib import Path

import pytest

from edgeformer.energy import find_meter


def counter(root: Path, number: str, name: str, microjoules: int, most: int = 1000) -> Path:
    """A counter as Linux shows it."""
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", most)):
        (folder / file).write_text(f"{text}\n")
    return folder


def test_the_packages_add_up_and_their_parts_are_not_counted_twice(tmp_path: Path) -> None:
    counter(tmp_path, "0", "package-0", 500)
    counter(tmp_path, "1", "package-1", 900)
    counter(tmp_path, "0:0", "core", 100)  # a part of package-0
    counter(tmp_path, "2", "psys", 100)  # the whole platform, packages included
    meter = find_meter(tmp_path)
    assert meter is not None and len(meter.folders) == 2
    before = meter.read()
    counter(tmp_path, "0", "package-0", 700)
    counter(tmp_path, "1", "package-1", 100)  # past its end, and on from 0
    counter(tmp_path, "0:0", "core", 300)
    assert meter.used_mj(before, meter.read()) == pytest.approx((200 + 200) / 1000)


def test_what_cannot_be_read_gives_no_figure(tmp_path: Path) -> None:
    assert find_meter(tmp_path / "none") is None
    (tmp_path / "intel-rapl:0").mkdir()
    assert find_meter(tmp_path) is None
    folder = counter(tmp_path, "0", "package-0", 500)
    meter = find_meter(tmp_path)
    assert meter is not None
    before = meter.read()
    (folder / "energy_uj").unlink()
    (folder / "energy_uj").mkdir()  # unreadable, also to root
    assert meter.used_mj(before, meter.read()) is None
    assert find_meter(tmp_path) is None
