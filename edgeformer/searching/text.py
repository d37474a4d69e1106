"""What a search says: its table, a sentence for the manifest, why nothing fits. Pure functions."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgeformer.cli.text import table
from edgeformer.report.tables import count
from edgeformer.searching.trials import Budget, Trial, nearest

if TYPE_CHECKING:
    from edgeformer.searching.search import SearchReport

USE_EXITS = '; to be used with its exits: exit="auto", on the command line --exit auto'


def search_text(report: "SearchReport") -> str:
    """What was tried, in order, and what was taken."""
    lines = [_title(report), ""]
    made = [i for i, trial in enumerate(report.trials) if trial.works]
    if made:
        lines.append(table(_headers(report), [_row(report, i) for i in made]))
        lines.append("* no other is as fast with a smaller drop")
    for trial in report.trials:
        if not trial.works:
            lines.append(f"{trial.candidate.name}: {trial.problem}")
    lines.append("")
    if report.chosen is not None:
        lines.append(f"taken: {sentence(report)}")
    lines.append(f"{report.seconds:.0f} s")
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join(lines)


def page_text(report: "SearchReport") -> str:
    """The section of the bundle's README.md."""
    headers = _headers(report)
    made = [_row(report, i) for i, trial in enumerate(report.trials) if trial.works]
    rows = [headers, tuple("---" for _ in headers), *made]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    notes = "".join(f"\n- {note}" for note in report.notes)
    return f"\n## How it was chosen\n\n{sentence(report)}\n\n{lines}\n{notes}\n"


def sentence(report: "SearchReport") -> str:
    """Why the bundle is the one that was taken."""
    assert report.chosen is not None
    trial = report.trials[report.chosen]
    among = f"of {count(len(report.trials), 'candidate')}"
    if report.budget.max_latency_ms is None:
        rank = f"the fastest {among}"
    elif report.budget.max_drop is None and report.metric:
        rank = f"the most accurate {among}"
    else:
        rank = "the first candidate"
    return (
        f"{trial.candidate.name}, {rank} within {budget_text(report.budget)}:"
        f" {figures_text(report, trial)}{USE_EXITS if trial.candidate.exits else ''}"
    )


def budget_text(budget: Budget) -> str:
    """The limits, as they were asked for."""
    parts = []
    if budget.max_drop is not None:
        parts.append(f"--max-drop {budget.max_drop:g}")
    if budget.max_latency_ms is not None:
        parts.append(f"--max-latency-ms {budget.max_latency_ms:g}")
    return " and ".join(parts)


def figures_text(report: "SearchReport", trial: Trial) -> str:
    """What a trial costs, in words."""
    parts = []
    if trial.drop is not None:
        parts.append(f"{report.metric} {trial.metric:.4f}, a drop of {trial.drop:.2f} points")
    length = f" at {report.tokens} tokens" if report.tokens else ""
    time = f"p50 {trial.p50_ms:.2f} ms{length}"
    if trial.mean_time:
        time = f"mean {trial.p50_ms:.2f} ms of a text with exits"
    parts.append(f"{time} on {report.machine}")
    return ", ".join(parts)


def failure_text(report: "SearchReport") -> str:
    """That nothing fits, and how near the best came."""
    place = nearest(report.trials, report.budget)
    tried = f"none of {count(len(report.trials), 'candidate')} is within"
    tried += f" {budget_text(report.budget)}"
    if place is None:
        return tried
    trial = report.trials[place]
    return (
        f"{tried}; no bundle was written\n"
        f"  the nearest is {trial.candidate.name}: {figures_text(report, trial)}"
    )


def exits_text(trials: Sequence[Trial]) -> Iterator[str]:
    """Of each trial whose texts left early: how, and which time its time is."""
    for trial in trials:
        if trial.candidate.exits and trial.works:
            yield f"{trial.candidate.name}: {trial.note}"


def untried_exits_text(trials: Sequence[Trial]) -> Iterator[str]:
    """Why no texts left early, in a search that went through everything."""
    if not any(trial.candidate.exits for trial in trials):
        yield "exits were not tried: nothing that can have them holds the drop"


def _title(report: "SearchReport") -> str:
    length = f"{report.tokens} tokens" if report.tokens else "the benchmark's own length"
    title = f"for {report.profile}, within {budget_text(report.budget)}; p50 of {length} on"
    title += f" {report.machine}"
    if report.metric:
        title += f"\noriginal: {report.metric} {report.original:.4f} on {report.rows} rows"
        title += f" of {report.data}"
    return title


def _headers(report: "SearchReport") -> tuple[str, ...]:
    judged = (report.metric, "drop", "95 % interval", "p") if report.metric else ()
    return ("candidate", "engine", "MB", *judged, "p50 ms", "within budget", "best")


def _row(report: "SearchReport", place: int) -> tuple[str, ...]:
    trial, budget = report.trials[place], report.budget
    judged: tuple[str, ...] = ()
    if report.metric:
        judged = (_number(trial.metric, 4), _number(trial.drop, 2), _interval(trial), _p(trial))
    missed = [
        name
        for name, held in (
            ("drop", budget.holds_drop(trial)),
            ("time", budget.holds_latency(trial)),
        )
        if not held
    ]
    return (
        trial.candidate.what,
        trial.candidate.engine,
        f"{trial.size_mb:.1f}",
        *judged,
        f"{_number(trial.p50_ms, 2)}{' (mean)' if trial.mean_time else ''}"
        f"{' (void)' if trial.void else ''}",
        f"no: {', '.join(missed)}" if missed else "yes",
        "*" if place in report.front else "",
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(trial: Trial) -> str:
    interval = trial.interval
    return "-" if interval is None else f"{interval.low:.2f} to {interval.high:.2f}"


def _p(trial: Trial) -> str:
    return "-" if trial.p_value is None else f"{trial.p_value:.3f}"
