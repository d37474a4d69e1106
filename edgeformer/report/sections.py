"""The sections of report.html: each a pure function from reports to HTML, empty without data."""

from collections.abc import Sequence

from edgeformer.report import charts, tables
from edgeformer.report.blocks import beside, figure, many, table_html
from edgeformer.report.choices import AXES, along, reference, workload_text
from edgeformer.report.results import Result
from edgeformer.report.schema import Report
from edgeformer.report.svg import engine_class, escape
from edgeformer.report.tables import Labelled, labelled, number


def title(reports: Sequence[Report]) -> str:
    """The bundles' names."""
    return ", ".join(dict.fromkeys(report.bundle.name for report in reports)) or "report"


def heading(reports: Sequence[Report]) -> str:
    """Name, circumstances, and above all whether the figures are void."""
    parts = [f"<h1>{escape(title(reports))}</h1>"]
    for name, report in zip(tables.report_names(reports), reports, strict=True):
        parts.append(f'<p class="sub">{escape(_circumstances(name, report, len(reports) > 1))}</p>')
    if void := _named(reports, [report.void_reasons for report in reports]):
        parts.append(
            _banner(
                "void",
                "Void: do not quote these figures.",
                "Something else had the CPU while they were taken. Measure again on a quiet, cool"
                " machine.",
                void,
            )
        )
    if notes := _named(reports, [report.notes for report in reports]):
        parts.append(_banner("notes", "To know when reading this", "", notes))
    return "\n".join(parts)


def _circumstances(name: str, report: Report, several: bool) -> str:
    bundle, machine = report.bundle, report.machine
    facts = [name] if several else []
    facts += [bundle.task] if bundle.task else []
    facts += [f"{bundle.parameters / 1e6:.1f} M parameters"] if bundle.parameters else []
    facts += [f"converted for {bundle.profile}"] if bundle.profile else []
    facts += [f"recipe {bundle.recipe}"] if bundle.recipe else []
    facts += ["a tolerance was missed (--force)"] if bundle.forced else []
    where = ", ".join(part for part in (report.host, machine.board or machine.cpu_model) if part)
    facts.append(f"measured on {where}")
    when = report.start.time.replace("T", " ").replace("+00:00", " UTC")
    facts.append(when.replace("-", "\u2011"))  # a date stays on one line
    return " · ".join(facts)


def _named(reports: Sequence[Report], lists: Sequence[Sequence[str]]) -> list[str]:
    """The sentences of all reports, with the report's name where there are several."""
    if len(reports) == 1:
        return list(lists[0])
    pairs = zip(tables.report_names(reports), lists, strict=True)
    return [f"{name}: {item}" for name, items in pairs for item in items]


def _banner(css: str, head: str, text: str, items: Sequence[str]) -> str:
    listed = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f'<div class="banner {css}"><b>{escape(head)}</b>{escape(text)}<ul>{listed}</ul></div>'


def at_a_glance(reports: Sequence[Report]) -> str:
    """A card for each variant."""
    chosen = reference(labelled(reports))
    cards = [_card(row) for row in chosen]
    for name, report in zip(tables.report_names(reports), reports, strict=True):
        lost = {r.variant: r for r in report.results if not r.measured}
        of = f"{name}: " if len(reports) > 1 else ""
        cards += [_lost_card(of + result.variant, result) for result in lost.values()]
    if not cards:
        return ""
    what = workload_text([row.result for row in chosen])
    hint = f"One call, text to answer: {what}." if what else "One call, text to answer."
    return (
        f'<h2>At a glance</h2><p class="hint">{escape(hint)}</p>'
        f'<div class="cards">{"".join(cards)}</div>'
    )


def _card(row: Labelled) -> str:
    result = row.result
    facts = [
        ("90 % within", f"{number(result.p90_ms)} ms"),
        ("a second", number(result.per_second)),
        ("cold start", f"{result.cold_start_ms:.0f} ms"),
        ("peak memory", f"{result.peak_rss_mb:.0f} MB"),
        ("file", f"{number(result.file_mb)} MB"),
        ("threads", str(result.threads)),
    ]
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    void = " (void)" if result.void_reasons else ""
    return (
        f'<div class="card {engine_class(result.engine)}">'
        f'<div class="name">{escape(row.label)}{void}</div>'
        f'<div class="big">{escape(number(result.p50_ms))} <small>ms median</small></div>'
        f"<dl>{listed}</dl></div>"
    )


def _lost_card(name: str, result: Result) -> str:
    return (
        f'<div class="card lost {engine_class(result.engine)}">'
        f'<div class="name">{escape(name)}</div>'
        f'<div class="big">{escape(result.state)}</div>'
        f'<p class="hint">{escape(result.error)}<br>{escape(result.hint)}</p></div>'
    )


def latency(reports: Sequence[Report]) -> str:
    """How the timed calls are distributed, and every result's figures."""
    rows = labelled(reports)
    if not rows:
        return ""
    chosen = reference(rows)
    drawn = [
        charts.distribution(
            charts.Sampled(row.label, engine_class(row.result.engine), row.result.samples_ms)
        )
        for row in chosen
    ]
    what = workload_text([row.result for row in chosen])
    return (
        "<h2>Latency</h2>"
        '<p class="hint">Every timed call after warm-up. Each variant has its own axis, from its'
        " fastest call to its slowest; lines and figures are p50, p90 and p99.</p>"
        f"{figure(many(drawn), what)}"
        f"{table_html(tables.result_table(rows, tables.LATENCY))}"
    )


def scaling(reports: Sequence[Report]) -> str:
    """Latency along length, batch and threads, where more than one was measured."""
    rows, figures = labelled(reports), []
    for name, axis in AXES:
        lines = along(rows, axis) if rows else []
        if not lines:
            continue
        per_text = name == "batch"
        series = [
            charts.Series(
                label,
                engine_class(members[0].engine),
                tuple(
                    (
                        float(axis(r)),
                        r.p50_ms / (r.batch if per_text else 1),
                        r.p90_ms / (r.batch if per_text else 1),
                    )
                    for r in members
                ),
            )
            for label, members in lines
        ]
        unit = "ms a text" if per_text else "ms a call"
        figures.append(figure(charts.lines(series, name, unit), f"Median against {name}"))
    if not figures:
        return ""
    return (
        "<h2>Against length, batch and threads</h2>"
        '<p class="hint">The whisker above a point reaches to the 90th percentile.</p>'
        f'<div class="pair">{"".join(figures)}</div>'
    )


def stages(reports: Sequence[Report]) -> str:
    """Text to ids, ids to outputs, outputs to answers."""
    rows = tables.staged(labelled(reports))
    if not rows:
        return ""
    css = {"tokenize": "part2", "model": "part3", "answer": "part4"}
    drawn = charts.bars(
        [
            charts.Bar(
                row.label,
                tuple((css[name], name, value) for name, value in row.result.stages.items()),
            )
            for row in reference(rows)
        ],
        "ms",
    )
    return (
        "<h2>From text to answer</h2>"
        '<p class="hint">Medians of the same calls. Pooling and the head are part of the'
        " model.</p>"
        f"{beside(figure(drawn, ''), table_html(tables.result_table(rows, tables.STAGES)))}"
    )


def start(reports: Sequence[Report]) -> str:
    """What happens before the first answer of a fresh process."""
    rows = labelled(reports)
    if not rows:
        return ""
    rows = reference(rows)
    drawn = charts.bars([_start_bar(row) for row in rows], "ms")
    return (
        "<h2>Cold start</h2>"
        '<p class="hint">From starting a process to its first answer; model files are in the disk'
        " cache.</p>"
        f"{beside(figure(drawn, ''), table_html(tables.result_table(rows, tables.START)))}"
    )


def _start_bar(row: Labelled) -> charts.Bar:
    result = row.result
    known = result.import_ms + result.load_ms + result.first_run_ms
    return charts.Bar(
        row.label,
        (
            ("part1", "Python", max(0.0, result.cold_start_ms - known)),
            ("part2", "import", result.import_ms),
            ("part3", "load and self-test", result.load_ms),
            ("part4", "first call", result.first_run_ms),
        ),
    )


def memory(reports: Sequence[Report]) -> str:
    """Resident memory of the process, and the files' size."""
    rows = labelled(reports)
    if not rows:
        return ""
    drawn = charts.bars(
        [
            charts.Bar(
                row.label, ((engine_class(row.result.engine), "peak", row.result.peak_rss_mb),)
            )
            for row in reference(rows)
        ],
        "MB",
    )
    return (
        "<h2>Memory</h2>"
        '<p class="hint">Largest resident memory of the process, Python included. Growth is from'
        " the first timed call to the last.</p>"
        f"{beside(figure(drawn, ''), table_html(tables.result_table(rows, tables.MEMORY)))}"
    )


def machine(reports: Sequence[Report]) -> str:
    """What was measured on, and its state before and after."""
    parts = ["<h2>Machine</h2>"]
    for name, report in zip(tables.report_names(reports), reports, strict=True):
        if len(reports) > 1:
            parts.append(f"<h3>{escape(name)}</h3>")
        facts = table_html(tables.machine_table(report), "facts", head=False)
        parts.append(beside(facts, table_html(tables.state_table(report))))
    return "".join(parts)


def footer(reports: Sequence[Report]) -> str:
    """What made this page, and where the figures are defined."""
    versions = ", ".join(
        dict.fromkeys(report.versions.get("edgeformer", "?") for report in reports)
    )
    schemas = ", ".join(dict.fromkeys(str(report.schema_version) for report in reports))
    text = (
        f"Measured by EdgeFormer {versions}; made from report.json, schema {schemas}, and from"
        " nothing else. docs/benchmark.md defines every figure. 1 MB is 1,000,000 bytes."
    )
    return f"<footer>{escape(text)}</footer>"
