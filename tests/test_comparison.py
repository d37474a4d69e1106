"""`edgeformer compare`: what is said to differ differs, and no condition for CI passes unseen."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgeformer.comparison.answers import TextAnswers, agreement
from edgeformer.comparison.compare import compare_bundles
from edgeformer.comparison.conditions import METRICS, parse_condition, parse_conditions
from edgeformer.comparison.reports import compare_reports
from edgeformer.comparison.text import bundle_text, report_text
from edgeformer.data import builtin_texts
from edgeformer.doctor import TINY_BUNDLE
from edgeformer.errors import DataError, EngineError, ThresholdError, UsageError
from edgeformer.report.schema import Report, dump_report
from edgeformer.runtime.manifest import ModelCard
from tests.command_line import Edgeformer, is_error
from tests.labelled_bundles import BIO, TEXTS, bundle
from tests.reports import full_report, result, small_report


@pytest.fixture
def edgeformer_command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Edgeformer:
    return Edgeformer(capfd, monkeypatch)


def write(path: Path, report: Report) -> Path:
    path.write_text(dump_report(report), encoding="utf-8")
    return path


def slower(report: Report, factor: float) -> Report:
    """The same report with every call so many times as long."""
    results = tuple(
        replace(r, samples_ms=tuple(factor * t for t in r.samples_ms), tokenize_ms=(), model_ms=())
        for r in report.results
    )
    return replace(report, results=results)


@pytest.fixture
def reports(tmp_path: Path) -> tuple[Path, Path]:
    """A report, and one of calls 20 % longer."""
    before = small_report()
    return write(tmp_path / "a.json", before), write(tmp_path / "b.json", slower(before, 1.2))


# ---- conditions


@pytest.mark.parametrize(
    ("text", "value", "first", "expected"),
    [
        ("p50>+10%", 11.1, 10.0, True),
        ("p50>+10%", 10.9, 10.0, False),
        ("p50>-5%", 9.6, 10.0, True),  # demands 5 % less
        ("p50 > -5 %", 9.4, 10.0, False),
        ("size<-50%", 4.9, 10.0, True),
        ("size<+0%", 9.9, 10.0, True),
        ("p99>25ms", 25.1, 0.0, True),
        ("p99>25ms", 24.9, 0.0, False),
        ("cold>1.5s", 1499.0, 0.0, False),
        ("cold>1.5s", 1501.0, 0.0, True),
        ("mean>300us", 0.31, 0.0, True),
        ("rss>0.2GB", 201.0, 0.0, True),
        ("size>900kB", 0.89, 0.0, False),
        ("load<.5s", 499.0, 0.0, True),
    ],
)
def test_a_condition_means_what_it_says(
    text: str, value: float, first: float, expected: bool
) -> None:
    assert parse_condition(text).holds(value, first) is expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("p50", "not a condition"),
        ("", "not a condition"),
        ("p50>", "not a condition"),
        ("p50>=10ms", "not a condition"),
        ("p50=10ms", "not a condition"),
        ("p50>10ms and p90>20ms", "not a condition"),
        ("p50>1e3ms", "not a condition"),
        ("p50>ten ms", "not a condition"),
        ("10ms<p50", "not a condition"),
        ("p50>--5%", "not a condition"),
        ("p5>10ms", "did you mean"),
        ("latency>10ms", "the figures are: p50"),
        ("p50>10", "there is no unit"),
        ("p50>10MB", "p50 is not in MB"),
        ("size>10ms", "size is not in ms"),
        ("size>10mb", "size is not in mb"),
        ("p50>10%", "needs a sign"),
        ("p50>+10ms", "a sign goes with a percentage"),
        ("p50<-101%", "more than 100 %"),
    ],
)
def test_what_is_not_a_condition_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_condition(text)
    assert says in str(error.value)
    assert error.value.hint


@given(st.text("p509mean size<>+-.10%ms \tMB", max_size=12))
def test_a_condition_is_read_or_refused(text: str) -> None:
    """Nothing half-read: what is accepted names a figure, a comparison and a limit."""
    try:
        condition = parse_condition(text)
    except UsageError:
        return
    assert condition.metric in METRICS
    assert condition.text.startswith(condition.metric)
    assert condition.above is (">" in text)
    assert condition.limit >= 0


# ---- reports


def test_reports_are_compared_point_by_point(reports: tuple[Path, Path]) -> None:
    found = compare_reports(reports)
    (point,) = found.points
    first, second = point.rows
    assert first.ratio is None and first.p_value is None
    assert second.ratio is not None
    assert second.ratio.value == pytest.approx(1.2)
    assert second.ratio.significant
    assert second.figures["p50"] == pytest.approx(1.2 * first.figures["p50"])
    a = small_report().results[0].samples_ms
    b = [1.2 * value for value in a]
    wanted = stats.mannwhitneyu(b, a, method="asymptotic").pvalue
    assert second.p_value == pytest.approx(wanted, rel=1e-9)
    assert first.figures["p95"] == pytest.approx(np.percentile(a, 95))
    page = report_text(found)
    assert "slower" in page and "1.200" in page


def test_a_report_equals_itself(reports: tuple[Path, Path]) -> None:
    row = compare_reports([reports[0], reports[0]]).points[0].rows[1]
    assert row.ratio is not None
    assert (row.ratio.value, row.ratio.significant) == (1.0, False)
    assert row.p_value == 1.0


def test_every_point_is_matched_by_what_ran(tmp_path: Path) -> None:
    before = full_report()
    after = replace(before, results=(*before.results[3:], result("onnx-int8", 256)))
    found = compare_reports([write(tmp_path / "a.json", before), write(tmp_path / "b.json", after)])
    by_point = {
        (p.point.variant, p.point.tokens, p.point.batch): [row.report for row in p.rows]
        for p in found.points
    }
    assert by_point["tflite-int8", 16, 1] == [0]
    assert by_point["onnx-int8", 16, 1] == [0, 1]
    assert by_point["onnx-int8", 256, 1] == [1]
    assert by_point["onnx-fp32", 128, 1] == [0, 1]
    page = report_text(found)
    assert "onnx-fp32: missing: engine 'onnx' is not installed" in page
    assert page.splitlines()[3].split()[:4] == ["variant", "tokens", "batch", "in"]


def test_single_results_are_compared_whatever_they_are(tmp_path: Path) -> None:
    before = small_report()
    after = replace(before, results=(result("numpy-int8", 64),))
    paths = [write(tmp_path / "a.json", before), write(tmp_path / "b.json", after)]
    found = compare_reports(paths)
    assert [row.variant for row in found.points[0].rows] == ["onnx-int8", "numpy-int8"]
    assert any("not the same work" in note for note in found.notes)


def test_what_makes_reports_hard_to_compare_is_said(tmp_path: Path) -> None:
    before = small_report()
    after = replace(
        before,
        machine=replace(before.machine, cpu_model="Cortex-A76"),
        versions={"edgeformer": "0.2.0"},
        void_reasons=("the CPU was held back: throttled",),
    )
    paths = [write(tmp_path / "a.json", before), write(tmp_path / "b.json", after)]
    notes = " ".join(compare_reports(paths).notes)
    assert "differ in: CPU, versions" in notes
    assert "void, not to be quoted: report 2" in notes


def test_another_schema_is_one_clear_error(reports: tuple[Path, Path]) -> None:
    data = json.loads(reports[1].read_text())
    reports[1].write_text(json.dumps({**data, "schema_version": 1}))
    with pytest.raises(DataError, match=r"b.json has schema 1, this EdgeFormer reads 2"):
        compare_reports(reports)
    reports[1].write_text("{}")
    with pytest.raises(DataError, match="is not a report"):
        compare_reports(reports)


@pytest.mark.parametrize(
    ("condition", "broken"),
    [
        ("p50>+10%", "p50 is 15.89 ms, +20.0% against 13.24 ms"),
        ("p50>+21%", ""),
        ("p99>20ms", "p99 is 22.2 ms"),
        ("size>+0%", ""),
        ("rss>100MB", "rss is 133.8 MB"),
        ("p50<-10%", ""),
    ],
)
def test_conditions_are_tried_on_all_but_the_first(
    reports: tuple[Path, Path], condition: str, broken: str
) -> None:
    found = compare_reports(reports, parse_conditions((condition,)))
    if not broken:
        assert found.broken == ()
        return found.check()
    assert len(found.broken) == 1
    assert broken in found.broken[0]
    with pytest.raises(ThresholdError, match="onnx-int8"):
        found.check()


def test_the_first_may_be_as_slow_as_it_likes(reports: tuple[Path, Path]) -> None:
    found = compare_reports([reports[1], reports[0]], parse_conditions(("p50>15ms",)))
    assert found.broken == ()


def test_what_was_not_measured_does_not_pass(tmp_path: Path) -> None:
    """The engine died in the new version: there is no time that could be too long."""
    before = small_report()
    dead = replace(
        before.results[0],
        state="failed",
        error="died with signal SIGILL",
        samples_ms=(),
        tokenize_ms=(),
        model_ms=(),
    )
    paths = [
        write(tmp_path / "a.json", before),
        write(tmp_path / "b.json", replace(before, results=(dead,))),
    ]
    found = compare_reports(paths, parse_conditions(("p50>+10%",)))
    assert len(found.broken) == 1
    assert "was not measured (failed: died with signal SIGILL)" in found.broken[0]


def test_a_condition_that_judges_nothing_is_an_error(tmp_path: Path) -> None:
    before = replace(full_report(), results=full_report().results[:4])
    after = replace(before, results=full_report().results[4:8])
    paths = [write(tmp_path / "a.json", before), write(tmp_path / "b.json", after)]
    with pytest.raises(UsageError, match="nothing here has such a figure in both"):
        compare_reports(paths, parse_conditions(("p50>+10%",)))
    # Judged where both have the point, and said where they have not.
    both = replace(before, results=full_report().results[:6])
    found = compare_reports(
        [paths[0], write(tmp_path / "c.json", both)], parse_conditions(("p50>+10%",))
    )
    assert found.broken == ()
    assert sum("nothing to judge onnx-int8" in note for note in found.notes) == 2


# ---- bundles


def _card(task: str = "embedding", labels: Any = (), problem: str = "") -> ModelCard:
    return ModelCard("m", "bert", task, labels, problem)


def test_agreement_of_classes_does_not_depend_on_their_order() -> None:
    first = TextAnswers(
        _card("classification", ("a", "b"), "single_label"),
        ("x",),
        1,
        np.array([[0.9, 0.1], [0.4, 0.6]]),
    )
    other = TextAnswers(
        _card("classification", ("b", "a"), "single_label"),
        ("x",),
        1,
        np.array([[0.2, 0.8], [0.45, 0.55]]),
    )
    found = agreement(1, other, first)
    assert (found.top1, found.max_difference) == (0.5, pytest.approx(0.15))
    assert agreement(1, replace(other, card=_card("embedding")), first).note == "another task"
    unlike = _card("classification", ("b", "c"), "single_label")
    assert agreement(1, replace(other, card=unlike), first).note == "other labels"


def test_agreement_of_sets_values_and_vectors() -> None:
    a = np.array([[0.9, 0.6], [0.4, 0.6]])
    multi = _card("classification", ("a", "b"), "multi_label")
    first = TextAnswers(multi, ("x",), 1, a)
    found = agreement(1, replace(first, vectors=a - [[0.0, 0.2], [0.0, 0.0]]), first)
    assert (found.top1, found.max_difference) == (0.5, pytest.approx(0.2))
    value = TextAnswers(_card("classification", ("v",), "regression"), ("x",), 1, a[:, :1])
    found = agreement(1, replace(value, vectors=a[:, :1] + 0.25), value)
    assert (found.top1, found.max_difference) == (None, pytest.approx(0.25))
    small = TextAnswers(_card(), ("x",), 1, np.eye(2, 3))
    assert (
        agreement(1, replace(small, vectors=np.eye(2, 4)), small).note
        == "vectors of 4 and 3 numbers"
    )
    found = agreement(1, replace(small, vectors=np.array([[1.0, 1, 0], [0, 2, 0]])), small)
    assert (found.min_cosine, found.mean_cosine) == pytest.approx((0.5**0.5, (1 + 0.5**0.5) / 2))


def test_agreement_of_tags_is_by_words() -> None:
    card = _card("token-classification", BIO)
    first = TextAnswers(card, ("x",), 1, None, ({0: "O", 4: "B-PER"}, {0: "O"}))
    other = replace(first, tags=({0: "O", 4: "O"}, {0: "O", 9: "O"}))
    assert agreement(1, other, first).top1 == 0.5


def test_bundles_are_compared_with_the_first(tmp_path: Path) -> None:
    """What is reported is what the bundles answer and how large they are."""
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS), encoding="utf-8")
    paths = [bundle("embedding"), bundle("embedding"), bundle()]
    found = compare_bundles(paths, engine="numpy-fp32", texts=file)
    same, other = found.agreements
    assert (same.texts, same.min_cosine) == (len(TEXTS), pytest.approx(1.0))
    assert other.note == "another task"
    facts = found.bundles[0]
    assert [v.id for v in facts.variants] == ["numpy-fp32"]
    assert facts.total_mb == pytest.approx(
        sum(
            f.stat().st_size
            for f in paths[0].rglob("*")
            if f.is_file() and f.name != "manifest.json"
        )
        / 1e6
    )
    assert found.answered == ("numpy-fp32",) * 3
    page = bundle_text(found)
    assert "another task" in page
    assert json.loads(json.dumps(found.as_dict()))["bundles"][0]["task"] == "embedding"


def test_bundles_without_texts_are_compared_by_their_files() -> None:
    found = compare_bundles([TINY_BUNDLE, TINY_BUNDLE], conditions=parse_conditions(("size>+1%",)))
    assert (found.agreements[0].note, found.broken) == ("no answers to texts", ())
    with pytest.raises(UsageError, match="cannot be timed"):
        compare_bundles([TINY_BUNDLE, bundle()], measure=True)


def test_bundles_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeformer.comparison.race._TURN_MS", 5.0)
    told: list[str] = []
    conditions = parse_conditions(("p50>0.001us", "load>1us", "cold>1us", "rss>1MB", "p99<+0%"))
    found = compare_bundles(
        [bundle(), bundle()],
        engine="numpy-fp32",
        threads=1,
        measure=True,
        tokens=12,
        conditions=conditions,
        progress=told.append,
    )
    first, second = found.timings
    for timing in found.timings:
        assert [len(start.rounds_ms) for start in timing.starts] == [4] * 6
        calls = [ms for start in timing.starts for turn in start.rounds_ms for ms in turn]
        for percent in (50, 90, 95, 99):
            assert timing.figures[f"p{percent}"] == pytest.approx(np.percentile(calls, percent))
        assert timing.figures["mean"] == pytest.approx(np.mean(calls))
        assert timing.figures["cold"] == np.median([start.cold_ms for start in timing.starts])
        assert timing.figures["rss"] == max(start.peak_rss_mb for start in timing.starts)
        assert all(0 < start.load_ms < start.cold_ms for start in timing.starts)
        assert (timing.threads, timing.variant) == (1, "numpy-fp32")
    assert first.ratio is None and second.ratio is not None
    ratios = []
    for a, b in zip(second.starts, first.starts, strict=True):
        rounds = zip(a.rounds_ms, b.rounds_ms, strict=True)
        ratios.append(np.median([np.median(x) / np.median(y) for x, y in rounds]))
    assert second.ratio.value == pytest.approx(np.median(ratios))
    interval = second.ratio.interval
    assert (interval.low, interval.high) == pytest.approx((min(ratios), max(ratios)))
    assert {sentence.split(":")[0] for sentence in found.broken} >= {
        "p50>0.001us",
        "load>1us",
        "cold>1us",
        "rss>1MB",
    }
    assert told[-1] == "start 6 of 6"
    assert "timed in turns, 6 processes of each" in bundle_text(found)


def test_a_bundle_that_dies_while_timed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeformer.comparison.race._MODULE", "edgeformer.no_such_module")
    with pytest.raises(EngineError, match=r"classification.*could not be measured"):
        compare_bundles([bundle(), bundle()], measure=True)


# ---- the command


def test_a_broken_condition_exits_3_after_the_table(
    reports: tuple[Path, Path], edgeformer_command: Any
) -> None:
    code, out, err = edgeformer_command("compare", *reports, "--fail-if", "p50>+10%")
    assert code == 3
    assert "fails: p50>+10%: onnx-int8" in out
    assert err.startswith("error: p50>+10%: onnx-int8 in ")
    code, out, err = edgeformer_command("compare", *reports, "--fail-if", "p50>+30%", "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["points"][0]["rows"][1]["ratio"]["value"] == pytest.approx(1.2)


def test_markdown_shows_the_same_rows(reports: tuple[Path, Path], edgeformer_command: Any) -> None:
    """Every line of a table has as many cells as its header, and names are shown as they are."""
    for arguments in (reports, (bundle(), bundle())):
        code, out, _ = edgeformer_command("compare", *arguments, "--markdown")
        assert code == 0
        tables = [b.splitlines() for b in out.split("\n\n") if b.startswith("|")]
        assert len(tables) == 2
        for lines in tables:
            assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "numpy-int8" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["A"], "edgeformer compare BEFORE AFTER"),
        ([], "edgeformer compare BEFORE AFTER"),
        (["A", "BUNDLE"], "two of one kind"),
        (["A", "none.json"], "no file or folder"),
        (["A", "B", "--measure"], "only bundles can be run"),
        (["A", "B", "--engine", "numpy"], "only bundles can be run"),
        (["A", "B", "--fail-if", "p50>10%"], "needs a sign"),
        (["BUNDLE", "BUNDLE", "--tokens", "5"], "--measure"),
        (["BUNDLE", "BUNDLE", "--fail-if", "p50>+5%"], "add --measure"),
        (["BUNDLE", "BUNDLE", "--measure", "--tokens", "49"], "above 48"),
        (["BUNDLE", "BUNDLE", "--measure", "--starts", "5"], "x>=6"),
        (["BUNDLE", "BUNDLE", "--engine", "onnx"], "choose one of"),
    ],
)
def test_wrong_requests_exit_2(
    reports: tuple[Path, Path], edgeformer_command: Any, arguments: list[str], says: str
) -> None:
    names = {"A": str(reports[0]), "B": str(reports[1]), "BUNDLE": str(bundle())}
    arguments = [names.get(argument, argument) for argument in arguments]
    assert is_error(*edgeformer_command("compare", *arguments), exit_code=2, says=says)


def test_the_built_in_texts_are_the_default() -> None:
    assert compare_bundles([bundle(), bundle()]).agreements[0].texts == len(builtin_texts())
