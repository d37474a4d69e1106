"""report.md and report.html: everything in, nothing out, and no text of a report is markup."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgeformer.cli.main import commands
from edgeformer.errors import DataError, UsageError
from edgeformer.report.choices import MAX_PROFILES, reference
from edgeformer.report.files import read_report, write_reports
from edgeformer.report.html import html_page
from edgeformer.report.markdown import markdown_page, plain
from edgeformer.report.schema import Report, dump_report
from edgeformer.report.tables import labelled, number, report_names
from tests.reports import (
    ENGINES,
    HOSTILE,
    full_report,
    hostile,
    profile,
    result,
    small_report,
    void_report,
)

VOID_TAGS = {"meta", "br"}
TAGS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "h3",
        "p",
        "b",
        "br",
        "ul",
        "li",
    ),
    *("div", "figure", "figcaption", "dl", "dt", "dd", "small", "footer"),
    *("table", "thead", "tbody", "tr", "th", "td"),
    *("svg", "g", "rect", "line", "polyline", "circle", "text"),
}
CLASSES = re.compile(r"[a-z0-9 ]*")


class Reader(HTMLParser):
    """Checks that tags are closed in order, and keeps what is to be read."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        assert tag in TAGS, tag
        for name, value in attributes:
            assert not name.startswith("on"), name
            assert name not in ("src", "href", "srcset", "action", "style", "xlink:href"), name
            if name == "class":
                assert CLASSES.fullmatch(value), value
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def matrix() -> Report:
    """As large as a report gets in practice: 36 results, each with a profile."""
    cells = [
        result(variant, tokens, batch, threads)
        for variant in ENGINES
        for threads in (1, 2)
        for tokens in (16, 64, 128)
        for batch in (1, 8)
    ]
    profiles = [
        replace(
            profile(cell.variant, 12), tokens=cell.tokens, batch=cell.batch, threads=cell.threads
        )
        for cell in cells
    ]
    return replace(full_report(), results=tuple(cells), profiles=tuple(profiles))


EVERY = {
    "small": [small_report()],
    "full": [full_report()],
    "void": [void_report()],
    "matrix": [matrix()],
    "several": [full_report("a"), small_report("b"), full_report("a")],
    "hostile": [hostile(void_report())],
    "nothing": [replace(small_report(), results=())],
    "lost": [replace(full_report(), results=full_report().results[-1:])],
}


@pytest.mark.parametrize("name", EVERY)
def test_the_page_is_whole_and_asks_for_nothing(name: str) -> None:
    page = html_page(EVERY[name])
    read(page)
    page.encode("utf-8")
    assert len(page.encode("utf-8")) < 300_000
    assert "default-src 'none'" in page
    if name != "hostile":  # whose texts name an address, and are shown
        assert not re.search(r"https?://|url\(|@import|<script", page)
    assert "nan" not in re.sub(r"[a-z]*nan[a-z]+", "", page)


@pytest.mark.parametrize("name", EVERY)
def test_every_figure_of_the_tables_is_on_both_pages(name: str) -> None:
    if name == "hostile":
        return
    words = " ".join(read(html_page(EVERY[name])).words)
    text = markdown_page(EVERY[name])
    for report in EVERY[name]:
        for found in report.measured:
            for value in (found.p50_ms, found.p99_ms, found.mean.mean):
                assert number(value) in words
                assert number(value) in text
        for found in report.results:
            if not found.measured:
                assert found.error in words
                assert plain(found.error) in text
        for reason in report.void_reasons:
            assert reason in words
            assert plain(reason) in text


def test_hostile_text_is_shown_as_what_it_is() -> None:
    words = " ".join(read(html_page([hostile(full_report())])).words)
    assert "<script>alert(1)</script><img src=http://127.0.0.1/x onerror=a()>" in words
    assert "\\u0000" in words
    assert "\\u202e" in words


def test_hostile_text_in_markdown_stays_in_its_place() -> None:
    """A table keeps its columns, a heading its line, and nothing becomes markup."""
    page = markdown_page([hostile(full_report())])
    page.encode("utf-8")
    for line in page.splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            assert len(re.findall(r"(?<!\\)\|", line)) >= 3
    assert not re.search(r"(?<!\\)<", page)
    assert not re.search(r"(?<!\\)\]\(", page)
    rows = [line for line in page.splitlines() if HOSTILE[:6] in line.replace("\\", "")]
    assert rows
    blocks = [block for block in page.split("\n\n") if block.startswith("|")]
    for block in blocks:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1


def test_accuracy_is_drawn_beside_the_model_it_was_made_from() -> None:
    assert "PyTorch" in read(html_page([full_report()])).words
    assert "PyTorch" not in read(html_page([full_report("a"), full_report("b")])).words


def test_exits_are_drawn_whole_and_energy_only_where_it_was_read() -> None:
    report = full_report()
    page, text = read(html_page([report])), markdown_page([report])
    words = " ".join(page.words)
    for said in ("0.60x", "1.10x", "3.55 layers, 89.2 %", "mean 3.55", "mJ", "21.0"):
        assert said in words
    for said in ("0.60x", "1.10x", "89.20 %", "mean 3.55", "mJ"):
        assert plain(said) in text
    found = report.calibrations[0]
    assert found.chosen is not None
    promise = f"at most {found.chosen.bound:.2f}"
    assert promise in words and promise in text
    assert "auto: 4.68 layers" in words  # ringed
    run = report.exits[1]
    assert run.times is not None
    plain_times = replace(run.times, with_mj=None, without_mj=None, worst_mj=None, meter="")
    unmetered = replace(report, exits=(replace(run, times=plain_times),))
    for view in (html_page([unmetered]), markdown_page([unmetered])):
        assert "mJ" not in view and "nergy" not in view
    lost = replace(run, error="it died", hint="look", texts=(), layers=(), times=None)
    for view in (html_page, markdown_page):
        assert "it died" in view([replace(report, exits=(lost,))])
    assert run.times is not None and "2 threads" not in words
    other = replace(run, times=replace(run.times, threads=2))
    both = " ".join(read(html_page([replace(report, exits=(run, other))])).words)
    assert "0.2), 1 thread" in both and "0.2), 2 threads" in both
    refused = replace(found, threshold=None)
    assert "no threshold kept 0.5" in html_page([replace(report, calibrations=(refused,))])


def test_one_workload_stands_for_all_on_the_cards() -> None:
    chosen = reference(labelled([matrix()]))
    assert [row.label for row in chosen] == list(ENGINES)
    assert {(r.result.threads, r.result.tokens, r.result.batch) for r in chosen} == {(2, 128, 1)}
    assert reference([]) == []


def test_a_page_shows_some_profiles_and_counts_the_others() -> None:
    page = html_page([matrix()])
    assert page.count("Timed by") == MAX_PROFILES
    assert f"{len(matrix().profiles) - MAX_PROFILES} more are in report.json" in page


def test_reports_are_told_apart_by_what_differs() -> None:
    a, b = small_report("a"), small_report("b")
    assert report_names([a, b]) == ["a", "b"]
    other = replace(a, bundle=replace(a.bundle, profile="rpi5"))
    assert report_names([a, other]) == ["a (rpi4)", "a (rpi5)"]
    elsewhere = replace(a, machine=replace(a.machine, board="Other Pi"))
    assert report_names([a, elsewhere]) == ["a on Raspberry Pi 4 Model B Rev 1.4", "a on Other Pi"]
    assert report_names([a, a]) == ["a #1", "a #2"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.0, "0.00"), (0.00012, "1.2e-04"), (0.0123, "0.0123"), (0.123, "0.12")),
        *((1.234, "1.23"), (9.999, "10.0"), (12.34, "12.3"), (99.96, "100"), (1234.5, "1234")),
    ],
)
def test_figures_have_the_digits_that_mean_something(value: float, text: str) -> None:
    assert number(value) == text
    assert number(-value) == (text if value == 0 else f"-{text}")


@pytest.mark.parametrize("form", [".json", ".md", ".html"])
def test_a_report_is_written_whole_or_not_at_all(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / f"report{form}"
    write_reports([full_report()], file)
    first = file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o666 & ~_umask()
    with pytest.raises(UsageError, match="exists"):
        write_reports([small_report()], file)
    assert file.read_bytes() == first
    write_reports([small_report()], file, force=True)
    assert file.read_bytes() != first
    monkeypatch.setattr(Path, "replace", _broken)
    with pytest.raises(OSError, match="no room"):
        write_reports([full_report()], file, force=True)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def _broken(*arguments: Any) -> None:
    raise OSError("no room")


def _umask() -> int:
    import os

    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_reports_are_read_back_from_their_file(tmp_path: Path) -> None:
    write_reports([full_report()], tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == full_report()
    with pytest.raises(UsageError, match="no file"):
        read_report(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match=r"bad\.json"):
        read_report(tmp_path / "bad.json")
    with pytest.raises(UsageError, match="one report"):
        write_reports([full_report(), full_report()], tmp_path / "two.json")


def test_the_command_shows_several_reports_on_one_page(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(dump_report(full_report(name)))
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    out = tmp_path / "out.html"
    done = CliRunner().invoke(commands, ["report", *files, "-o", str(out)])
    assert (done.exit_code, done.stdout) == (0, "")
    words = " ".join(read(out.read_text(encoding="utf-8")).words)
    for name in ("a: onnx-int8", "b: onnx-int8", "accuracy on sst2", "Early exits"):
        assert name in words
    again = CliRunner().invoke(commands, ["report", *files, "-o", str(out)])
    assert again.exit_code != 0
    assert "exists" in str(again.exception)
