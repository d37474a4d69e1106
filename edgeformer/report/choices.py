"""What a page shows of many results: which workload stands for all, and what makes a line.

A matrix has more results than a page has room for. Cards and bars show every variant at one
workload, the one that most variants were measured at; lines show what changes along one axis.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from edgeformer.report.layer_times import Profile
from edgeformer.report.results import Result
from edgeformer.report.schema import Report
from edgeformer.report.tables import Labelled, count, labelled, profile_name, report_names

Key = tuple[int, int, int]
_USUAL_TOKENS = 128
MAX_PROFILES = 8
MAX_LINES = 12


def workload(result: Result) -> Key:
    """(threads, tokens, batch)."""
    return result.threads, result.tokens, result.batch


def reference(rows: Sequence[Labelled]) -> list[Labelled]:
    """Every variant once, all at one workload where that can be.

    Of the workloads that most variants share, the one of one text, of about 128 tokens, on most
    threads.
    """
    if not rows:
        return []
    shared = Counter(workload(row.result) for row in rows)
    most = max(shared.values())

    def preference(key: Key) -> tuple[int, int, int]:
        threads, tokens, batch = key
        return batch, abs(tokens - _USUAL_TOKENS), -threads

    chosen = min((key for key, number in shared.items() if number == most), key=preference)
    found: dict[str, Labelled] = {}
    for row in sorted(rows, key=lambda row: workload(row.result) != chosen):
        found.setdefault(row.label, row)
    labels = list(dict.fromkeys(row.label for row in rows))
    return [found[label] for label in labels]


def workload_text(results: Sequence[Result]) -> str:
    """``128 tokens, 1 text a call, 2 threads``, what all of ``results`` have in common."""
    parts = []
    tokens, batches = {r.tokens for r in results}, {r.batch for r in results}
    threads = {r.threads for r in results}
    if len(tokens) == 1 and tokens != {0}:
        parts.append(f"{next(iter(tokens))} tokens")
    if len(batches) == 1:
        unit = "row" if tokens == {0} else "text"
        parts.append(f"{count(next(iter(batches)), unit)} a call")
    if len(threads) == 1:
        parts.append(count(next(iter(threads)), "thread"))
    return ", ".join(parts)


def along(
    rows: Sequence[Labelled], axis: Callable[[Result], int]
) -> list[tuple[str, list[Result]]]:
    """Lines along an axis: a name, and at least two results that differ only there."""
    others = [get for get in (_threads, _tokens, _batch) if get is not axis]
    groups: dict[tuple[str, tuple[int, ...]], list[Result]] = {}
    for row in rows:
        key = (row.label, tuple(get(row.result) for get in others))
        groups.setdefault(key, []).append(row.result)
    kept = {key: found for key, found in groups.items() if len({axis(r) for r in found}) > 1}
    varying = [k for k in range(len(others)) if len({key[1][k] for key in kept}) > 1]
    lines = []
    for (label, values), members in kept.items():
        extra = [count(values[k], _UNITS[others[k]]) for k in varying]
        lines.append((", ".join([label, *extra]), sorted(members, key=axis)))
    return lines[:MAX_LINES]


def _threads(result: Result) -> int:
    return result.threads


def _tokens(result: Result) -> int:
    return result.tokens


def _batch(result: Result) -> int:
    return result.batch


_UNITS: dict[Callable[[Result], int], str] = {
    _threads: "thread",
    _tokens: "token",
    _batch: "text",
}
AXES: tuple[tuple[str, Callable[[Result], int]], ...] = (
    ("tokens", _tokens),
    ("batch", _batch),
    ("threads", _threads),
)


def shown_profiles(reports: Sequence[Report]) -> list[tuple[str, Report, Profile]]:
    """The profiles to draw: those at the reference workload first, a few at most."""
    names = report_names(reports)
    shown = {workload(row.result) for row in reference(labelled(reports))}
    found = []
    for name, report in zip(names, reports, strict=True):
        for profile in report.profiles:
            label = profile_name(profile, report.profiles)
            label = f"{name}: {label}" if len(reports) > 1 else label
            found.append((label, report, profile))

    def elsewhere(item: tuple[str, Report, Profile]) -> bool:
        profile = item[2]
        return (profile.threads, profile.tokens, profile.batch) not in shown

    return sorted(found, key=elsewhere)[:MAX_PROFILES]
