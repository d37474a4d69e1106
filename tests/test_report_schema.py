"""report.json: what is written is read back, what is not a report is refused by name."""

import json
import math
import typing
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgeformer.errors import DataError
from edgeformer.report.schema import Report, dump_report, parse_report
from edgeformer.report.statistics import Interval, mean_interval, percentile
from tests.reports import full_report, small_report

DOCS = Path(__file__).parent.parent / "docs" / "report_schema.md"


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=50),
    st.sampled_from([0, 50, 90, 95, 99, 100]),
)
def test_percentiles_are_numpys(samples: list[float], percent: int) -> None:
    assert percentile(samples, percent) == pytest.approx(np.percentile(samples, percent))


def test_the_interval_of_a_mean_is_scipys_bootstrap() -> None:
    samples = np.random.default_rng(5).gamma(2.0, 3.0, 150).tolist()
    found = mean_interval(samples)
    oracle = stats.bootstrap(
        (samples,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = oracle.high - oracle.low
    assert found.mean == pytest.approx(np.mean(samples))
    assert found.low == pytest.approx(oracle.low, abs=0.06 * width)
    assert found.high == pytest.approx(oracle.high, abs=0.06 * width)
    assert mean_interval(samples) == found  # the same report every time it is read
    assert mean_interval([2.0]) == Interval(2.0, 2.0, 2.0)


@pytest.mark.parametrize("report", [small_report(), full_report()], ids=["small", "full"])
def test_a_report_is_read_back_as_it_was_written(report: Report) -> None:
    text = dump_report(report)
    assert parse_report(text) == report
    assert dump_report(parse_report(text)) == text


texts = st.text(max_size=20)


@settings(max_examples=60)
@given(
    texts,
    # No clock has a time below 1e-9 ms, and its texts per second would be infinitely many.
    st.lists(st.just(0.0) | st.floats(1e-9, 1e9), min_size=1, max_size=5),
    st.lists(texts, max_size=3),
    st.dictionaries(texts, texts, max_size=3),
)
def test_any_text_and_any_time_survives(
    name: str, samples: list[float], notes: list[str], versions: dict[str, str]
) -> None:
    times = tuple(samples)
    report = small_report(name)
    result = replace(report.results[0], variant=name, samples_ms=times, tokenize_ms=(), model_ms=())
    report = replace(
        report, results=(result,), notes=tuple(notes), void_reasons=tuple(notes), versions=versions
    )
    again = parse_report(dump_report(report))
    assert again == report
    assert again.void == bool(notes)


def test_derived_figures_stand_beside_the_samples() -> None:
    data = json.loads(dump_report(full_report()))
    row = data["results"][0]
    samples = row["samples_ms"]
    for percent in (50, 90, 95, 99):
        assert row[f"p{percent}_ms"] == pytest.approx(np.percentile(samples, percent))
    assert row["mean_low_ms"] < row["mean_ms"] == pytest.approx(np.mean(samples))
    assert row["per_second"] == pytest.approx(1000 * row["batch"] / np.mean(samples))
    assert row["growth_mb"] == pytest.approx(1.5)
    answers = np.subtract(np.subtract(samples, row["tokenize_ms"]), row["model_ms"])
    assert row["stages_ms"]["answer"] == pytest.approx(np.median(answers))
    profile = data["profiles"][0]
    attributed = sum(item["time_ms"] for item in profile["rows"])
    assert profile["not_attributed_ms"] == pytest.approx(profile["whole_ms"] - attributed)
    assert data["void"] is False


def test_rounds_are_told_apart_by_their_number_of_calls() -> None:
    result = replace(small_report().results[0], tokenize_ms=(), model_ms=())
    result = replace(result, samples_ms=(1.0, 3.0, 2.0, 2.2, 9.0, 2.1), round_calls=(3, 2, 1))
    assert result.round_p50_ms == pytest.approx((2.0, 5.6, 2.1))
    assert result.round_spread == pytest.approx(3.6 / 2.1)
    row = json.loads(dump_report(replace(small_report(), results=(result,))))["results"][0]
    assert row["round_p50_ms"] == pytest.approx([2.0, 5.6, 2.1])
    with pytest.raises(DataError, match="rounds of other calls"):
        parse_report(
            dump_report(replace(small_report(), results=(replace(result, round_calls=(3,)),)))
        )


def test_a_reader_passes_over_what_it_does_not_know_and_fills_in_what_is_absent() -> None:
    data = json.loads(dump_report(small_report()))
    for name in ("profiles", "roofline", "accuracy", "exits", "notes", "void", "environment"):
        del data[name]
    del data["results"][0]["fidelity"], data["machine"]["turbo"]
    data["energy_mj"] = data["results"][0]["energy_mj"] = [1, {"of": "tomorrow"}]
    again = parse_report(json.dumps(data))
    assert again.profiles == ()
    assert again.results[0].fidelity is None
    assert again.machine.turbo is None


def changed(path: str, value: Any) -> bytes:
    """The full report with one field replaced."""
    data = json.loads(dump_report(full_report()))
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = data
    for step in way:
        place = place[step]
    place[last] = value
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "schema_version"),
        (b'{"schema_version": true}', "schema_version"),
        (b'{"schema_version": 1}', "has schema 1, this EdgeFormer reads 2"),
        (b'{"schema_version": 3}', "has schema 3"),
        (b'{"schema_version": 2}', "missing"),
        (changed("results", {}), "report.results has the wrong type"),
        (changed("results.0.samples_ms.3", "4"), "samples_ms[3] has the wrong type"),
        (changed("results.0.samples_ms.3", math.nan), "a number is NaN"),
        (changed("results.0.samples_ms.3", math.inf), "a number is Infinity"),
        (changed("results.0.file_mb", 0).replace(b'"file_mb": 0', b'"file_mb": 1e999'), "1e999"),
        (changed("results.0.file_mb", 10**400), "too large"),
        (changed("results.0.samples_ms", []), "no samples"),
        (changed("results.0.samples_ms.3", -1.0), "negative"),
        (changed("results.0.batch", 0), "negative"),
        (changed("results.0.tokenize_ms", [1.0]), "stages of other calls"),
        (changed("results.0.tokenize_ms", []), "one stage without"),
        (changed("results.0.state", "excellent"), "'excellent'"),
        (changed("results.0.stable", 1), "stable has the wrong type"),
        (changed("exits.0.texts", [1]), "do not fit"),
        (changed("machine", None), "report.machine"),
    ],
)
def test_what_is_not_a_report_is_refused_with_the_reason(data: bytes, says: str) -> None:
    with pytest.raises(DataError, match=r"x\.json") as caught:
        parse_report(data, "x.json")
    assert says in caught.value.message
    assert caught.value.hint


def kinds_of(kind: Any) -> set[type]:
    """A record and all that it is made of."""
    if not is_dataclass(kind):
        return {found for part in typing.get_args(kind) for found in kinds_of(part)}
    hints = typing.get_type_hints(kind)
    parts = [kinds_of(hints[field.name]) for field in fields(kind)]
    return {kind, *(found for part in parts for found in part)}  # type: ignore[arg-type]


def test_every_field_is_documented() -> None:
    page = DOCS.read_text(encoding="utf-8")
    kinds = kinds_of(Report)
    assert len(kinds) > 12
    for kind in kinds:
        assert kind.__name__ in page
        for field in fields(kind):
            assert f"`{field.name}`" in page, f"{kind.__name__}.{field.name}"
    data = json.loads(dump_report(full_report()))
    for name in (*data, *data["results"][0], *data["profiles"][0], *data["exits"][1]):
        assert f"`{name}`" in page, name
