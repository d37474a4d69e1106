"""report.html in a real browser: nothing is fetched, nothing complains, nothing overflows.

EDGEFORMER_SCREENSHOTS=FOLDER keeps the pictures.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeformer.report.html import html_page
from tests.chromium import NAMES, Chromium, find
from tests.reports import full_report, hostile, small_report, void_report

PHONE, DESKTOP = 390, 1280
PAPER = {False: (255, 255, 255), True: (0x14, 0x17, 0x1A)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    program = find()
    if program is None:
        pytest.skip(f"no {' or '.join(NAMES)} here: apt-get install chromium")
    with Chromium(program) as started:
        yield started


def keep(name: str, png: bytes) -> None:
    folder = os.environ.get("EDGEFORMER_SCREENSHOTS")
    if folder:
        (Path(folder) / f"{name}.png").write_bytes(png)


def first_pixel(png: bytes) -> tuple[int, ...]:
    """The top left pixel: no filter of PNG changes the first one of a picture."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    data, place = b"", 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        if png[place + 4 : place + 8] == b"IDAT":
            data += png[place + 8 : place + 8 + length]
        place += 12 + length
    return tuple(zlib.decompressobj().decompress(data, 4)[1:4])


@pytest.mark.parametrize(
    ("name", "width", "dark"),
    [
        *(("full", width, dark) for width in (PHONE, DESKTOP) for dark in (False, True)),
        *((name, PHONE, False) for name in ("small", "void", "several", "hostile")),
        *((name, DESKTOP, True) for name in ("void", "several", "hostile")),
    ],
)
def test_a_page_is_shown_without_a_request_or_a_complaint(
    browser: Chromium, tmp_path: Path, name: str, width: int, dark: bool
) -> None:
    reports = {
        "full": [full_report()],
        "small": [small_report()],
        "void": [void_report()],
        "several": [full_report("MiniLM-L6"), full_report("MiniLM-L3")],
        "hostile": [hostile(void_report())],
    }[name]
    file = tmp_path / "report.html"
    file.write_text(html_page(reports), encoding="utf-8")
    page = browser.open(file, width, dark=dark)
    keep(
        f"{name}-{'phone' if width == PHONE else 'desktop'}-{'dark' if dark else 'light'}", page.png
    )
    assert page.requests == [file.resolve().as_uri()]
    assert page.problems == []
    assert page.overflow <= 0
    assert page.height > 900
    assert first_pixel(page.png) == PAPER[dark]
    for words in ("At a glance", "Latency", "Memory", "Machine"):
        assert words in page.text
    assert ("Void: do not quote these figures." in page.text) == (name in ("void", "hostile"))


@pytest.mark.parametrize(
    ("body", "policy"),
    [
        ('<img src="http://127.0.0.1:9/x.png">', ""),
        ('<img src="http://127.0.0.1:9/x.png">', "default-src 'none'"),
        ("<script>console.log(1)</script>", ""),
        ("<script>nothing()</script>", ""),
        ("<script>1</script>", "default-src 'none'"),
        ('<div style="width: 3000px">wide</div>', ""),
    ],
)
def test_the_browser_would_see_it(
    browser: Chromium, tmp_path: Path, body: str, policy: str
) -> None:
    """What the test above looks for is found where it is."""
    file = tmp_path / "bad.html"
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">' if policy else ""
    file.write_text(f"<!DOCTYPE html>{head}<body>{body}</body>")
    page = browser.open(file, DESKTOP)
    assert len(page.requests) > 1 or page.problems or page.overflow > 0
