"""The tables of a report, as text: what the terminal, Markdown and HTML all show.

Every figure is formatted here and nowhere else. A column is left out where it would say the same
in every row or nothing at all.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from edgeformer.report.layer_times import Profile, Roofline
from edgeformer.report.results import Result
from edgeformer.report.schema import Report

Column = tuple[str, Callable[[Result], str]]


@dataclass(frozen=True)
class Table:
    """Rows of text under headers; the first column is a name, the others are figures.

    Attributes:
        headers: one for each column.
        rows: each as long as ``headers``.
        marks: numbers of the rows whose figures are void.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marks: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Labelled:
    """A result with the name that tells it from all others shown beside it."""

    label: str
    result: Result


def labelled(reports: Sequence[Report]) -> list[Labelled]:
    """The measured results of all reports; the bundle's name only where it tells them apart."""
    names = report_names(reports)
    found = []
    for name, report in zip(names, reports, strict=True):
        for result in report.measured:
            label = f"{name}: {result.variant}" if len(reports) > 1 else result.variant
            found.append(Labelled(label, result))
    return found


def report_names(reports: Sequence[Report]) -> list[str]:
    """A name for each report: the bundle's, with what else tells it from the others."""
    for name in (_bundle_name, _profile_name, _machine_name):
        names = [name(report) for report in reports]
        if len(set(names)) == len(names):
            return names
    return [f"{_bundle_name(report)} #{n}" for n, report in enumerate(reports, 1)]


def _bundle_name(report: Report) -> str:
    return report.bundle.name


def _profile_name(report: Report) -> str:
    parts = (report.bundle.profile, report.bundle.recipe)
    return " ".join([report.bundle.name, *(f"({part})" for part in parts if part)])


def _machine_name(report: Report) -> str:
    return f"{report.bundle.name} on {report.machine.board or report.machine.cpu_model}"


def workload_columns(results: Iterable[Result]) -> list[Column]:
    """Threads, length and batch, each only where it differs between the results."""
    found = list(results)
    columns: list[Column] = []
    if len({result.threads for result in found}) > 1:
        columns.append(("threads", lambda r: str(r.threads)))
    if len({result.tokens for result in found}) > 1:
        columns.append(("tokens", lambda r: str(r.tokens)))
    if len({result.batch for result in found}) > 1:
        columns.append(("batch", lambda r: str(r.batch)))
    return columns


LATENCY: tuple[Column, ...] = (
    ("p50 ms", lambda r: number(r.p50_ms)),
    ("p90 ms", lambda r: number(r.p90_ms)),
    ("p95 ms", lambda r: number(r.p95_ms)),
    ("p99 ms", lambda r: number(r.p99_ms)),
    ("mean ms", lambda r: number(r.mean.mean)),
    ("95 % interval", lambda r: f"{number(r.mean.low)} to {number(r.mean.high)}"),
    ("runs", lambda r: str(len(r.samples_ms))),
    ("per second", lambda r: number(r.per_second)),
)
START: tuple[Column, ...] = (
    ("cold ms", lambda r: f"{r.cold_start_ms:.0f}"),
    ("import ms", lambda r: f"{r.import_ms:.0f}"),
    ("load ms", lambda r: f"{r.load_ms:.0f}"),
    ("first ms", lambda r: number(r.first_run_ms)),
)
STAGES: tuple[Column, ...] = (
    ("tokenize ms", lambda r: number(r.stages["tokenize"])),
    ("model ms", lambda r: number(r.stages["model"])),
    ("answer ms", lambda r: number(r.stages["answer"])),
)
MEMORY: tuple[Column, ...] = (
    ("file MB", lambda r: number(r.file_mb)),
    ("after first MB", lambda r: f"{r.cold_rss_mb:.0f}"),
    ("peak MB", lambda r: f"{r.peak_rss_mb:.0f}"),
    ("growth MB", lambda r: f"{r.growth_mb:+.1f}"),
)
TERMINAL: tuple[Column, ...] = (
    ("MB", lambda r: number(r.file_mb)),
    ("cold ms", lambda r: f"{r.cold_start_ms:.0f}"),
    ("load ms", lambda r: f"{r.load_ms:.0f}"),
    ("first ms", lambda r: f"{r.first_run_ms:.1f}"),
    ("p50 ms", lambda r: f"{r.p50_ms:.2f}"),
    ("p90 ms", lambda r: f"{r.p90_ms:.2f}"),
    ("p99 ms", lambda r: f"{r.p99_ms:.2f}"),
    ("runs", lambda r: str(len(r.samples_ms))),
    ("per second", lambda r: f"{r.per_second:.1f}"),
    ("peak MB", lambda r: f"{r.peak_rss_mb:.0f}"),
)


def result_table(rows: Sequence[Labelled], columns: Sequence[Column]) -> Table:
    """One row for each result, with the columns that tell them apart first."""
    shown = [*workload_columns(row.result for row in rows), *columns]
    return Table(
        headers=("variant", *(header for header, _ in shown)),
        rows=tuple((row.label, *(cell(row.result) for _, cell in shown)) for row in rows),
        marks=frozenset(i for i, row in enumerate(rows) if row.result.void_reasons),
    )


def staged(rows: Sequence[Labelled]) -> list[Labelled]:
    """Those whose stages were timed."""
    return [row for row in rows if row.result.tokenize_ms]


def accuracy_table(reports: Sequence[Report]) -> Table:
    """What evaluations found, of all reports."""
    rows = []
    for name, report in zip(report_names(reports), reports, strict=True):
        for found in report.accuracy:
            label = f"{name}: {found.variant}" if len(reports) > 1 else found.variant
            known = found.low is not None and found.high is not None
            interval = f"{found.low:.4f} to {found.high:.4f}" if known else "-"
            row = (label, found.dataset, found.metric, f"{found.value:.4f}", interval)
            rows.append((*row, str(found.examples)))
    return Table(
        ("variant", "dataset", "metric", "value", "95 % interval", "examples"), tuple(rows)
    )


def fidelity_table(rows: Sequence[Labelled]) -> Table:
    """How near the variants' answers are to PyTorch's; each variant once."""
    found = {row.label: row.result.fidelity for row in rows if row.result.fidelity}
    return Table(
        ("variant", "inputs", "max abs", "min cosine", "mean cosine", "top-1"),
        tuple(
            (
                label,
                str(item.inputs),
                f"{item.max_abs:.1e}",
                f"{item.min_cosine:.5f}",
                f"{item.mean_cosine:.5f}",
                "-" if item.top1 is None else f"{item.top1:.2%}",
            )
            for label, item in found.items()
        ),
    )


def profile_name(profile: Profile, profiles: Sequence[Profile]) -> str:
    """The variant, and what else tells this profile from the others."""
    name = profile.variant
    for field, unit in (("threads", "thread"), ("tokens", "token"), ("batch", "text")):
        if len({getattr(other, field) for other in profiles}) > 1:
            name += f", {count(getattr(profile, field), unit)}"
    return name + (" (void)" if profile.void_reasons else "")


def count(number: int, unit: str) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{number} {unit}{'' if number == 1 else 's'}"


def layer_table(profile: Profile) -> Table:
    """Time of each layer and operation, and what is not attributed to any."""
    operations = operations_of(profile)
    layers = list(dict.fromkeys(row.layer for row in profile.rows))
    times = {(row.layer, row.operation): row.time_ms for row in profile.rows}
    whole = profile.whole_ms or 1.0
    digits = 3 if whole < 10 else 2 if whole < 100 else 1
    rows = []
    for layer in layers:
        total = sum(times.get((layer, operation), 0.0) for operation in operations)
        cells = [times.get((layer, operation)) for operation in operations]
        parts = ["-" if value is None else f"{value:.{digits}f}" for value in cells]
        rows.append((layer, f"{total:.{digits}f}", f"{total / whole:.1%}", *parts))
    rest = profile.not_attributed_ms
    blank = ("-",) * len(operations)
    rows.append(("not attributed", f"{rest:.{digits}f}", f"{rest / whole:.1%}", *blank))
    rows.append(("whole call", f"{profile.whole_ms:.{digits}f}", "100.0%", *blank))
    return Table(("layer", "ms", "share", *operations), tuple(rows))


def operations_of(profile: Profile) -> list[str]:
    """The operations of a profile, the most expensive first."""
    totals: dict[str, float] = {}
    for row in profile.rows:
        totals[row.operation] = totals.get(row.operation, 0.0) + row.time_ms
    return sorted(totals, key=lambda operation: -totals[operation])


def operation_table(profile: Profile, roofline: Roofline | None) -> Table:
    """Time, arithmetic and traffic of each operation over all layers, against the roofline."""
    headers = ["operation", "ms", "share", "steps", "MFLOP", "MB moved", "GFLOP/s", "GB/s"]
    if roofline:
        headers.append("of roofline")
    rows = []
    for operation in operations_of(profile):
        members = [row for row in profile.rows if row.operation == operation]
        time_ms = sum(row.time_ms for row in members)
        flops = sum(row.flops for row in members)
        moved = sum(row.bytes_moved for row in members)
        per_ms = 1 / time_ms if time_ms > 0 else 0.0
        row = [operation, number(time_ms), f"{time_ms / (profile.whole_ms or 1.0):.1%}"]
        row += [str(sum(item.steps for item in members)), number(flops / 1e6), number(moved / 1e6)]
        row += [number(flops * per_ms / 1e6) if flops else "-", number(moved * per_ms / 1e6)]
        if roofline:
            row.append(f"{sum(roofline.floor_ms(item) for item in members) * per_ms:.0%}")
        rows.append(tuple(row))
    return Table(tuple(headers), tuple(rows))


def roofline_of(report: Report, threads: int) -> Roofline | None:
    """The roofline of that number of threads, if it was measured."""
    return next((found for found in report.roofline if found.threads == threads), None)


def machine_table(report: Report) -> Table:
    """What the machine is, and its state before and after."""
    machine = report.machine
    quota = "none" if machine.cgroup_cpus is None else f"{machine.cgroup_cpus:g} CPUs"
    rows = [
        ("host", report.host),
        ("board", machine.board),
        ("CPU", f"{machine.cpu_model} ({machine.architecture}, {machine.bits}-bit Python)"),
        ("emulated by", machine.emulator),
        ("features", " ".join(machine.isa)),
        ("CPUs", f"{machine.affinity_cpus} of {machine.cpus}, numbers {machine.affinity or '?'}"),
        ("CPU quota", quota),
        ("turbo", {None: "", True: "on", False: "off"}[machine.turbo]),
        ("memory", f"{machine.memory_mb} MB"),
        ("memory limit", f"{machine.cgroup_memory_mb} MB" if machine.cgroup_memory_mb else ""),
        ("system", ", ".join(part for part in (machine.system, machine.libc) if part)),
        ("Python", machine.python),
        ("BLAS", machine.blas),
        *((name, version) for name, version in report.versions.items()),
        *((name, value) for name, value in report.environment.items()),
    ]
    return Table(("", "machine"), tuple(row for row in rows if row[1]))


def state_table(report: Report) -> Table:
    """The machine's state before and after."""
    pairs = [
        ("time", report.start.time, report.end.time),
        ("governor", report.start.governor, report.end.governor),
        ("MHz", report.start.frequency_mhz, report.end.frequency_mhz),
        ("of MHz", report.start.max_frequency_mhz, report.end.max_frequency_mhz),
        ("degrees C", report.start.temperature_c, report.end.temperature_c),
        ("throttling", _throttling(report.start.throttling), _throttling(report.end.throttling)),
        ("load, 1 min", report.start.load_1min, report.end.load_1min),
        ("available MB", report.start.available_memory_mb, report.end.available_memory_mb),
    ]
    rows = [(name, *(_state(value) for value in values)) for name, *values in pairs]
    return Table(("", "at the start", "at the end"), tuple(rows))


def _throttling(flags: tuple[str, ...] | None) -> str | None:
    return None if flags is None else ", ".join(flags) or "none"


def _state(value: object) -> str:
    if value is None or value == "":
        return "unknown"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def number(value: float) -> str:
    """Three significant digits at least, and none that mean nothing: 0.0123, 1.23, 12.3, 123."""
    value = value or 0.0  # no minus before a zero
    size = abs(value)
    if size >= 99.95:
        return f"{value:.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    if size >= 0.0995 or size == 0:
        return f"{value:.2f}"
    return f"{value:.4f}" if size >= 0.00095 else f"{value:.1e}"
