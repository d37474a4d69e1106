"""The race as Markdown. Every figure comes from the JSON; docs/race.md says how to read it."""

from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks import instruction_table
from benchmarks.instruction_figures import load_figures, selected
from benchmarks.peers import BASELINE, contender, lock_file
from benchmarks.race.goals import goals, ratio_text
from benchmarks.race.result import MIN_COSINE, RaceResult
from benchmarks.race.rounds import Row

# Same library, other people's file or options: (peer, ours).
_SAME_ENGINE = (
    ("litert_int8", "edgeformer_tflite"),
    ("optimum_int8", "edgeformer_onnx"),
    (BASELINE, "edgeformer_numpy"),
)

_BOARDS = ("cortex-a72", "cortex-a76")
_QUIET = 0.9  # CPUs that the baseline must have got, at any number of threads


def markdown(result: RaceResult) -> str:
    """The whole report."""
    parts = ["# The race: text in, embedding out", *_machine(result)]
    for threads in result.fields:
        parts += [f"## {threads} thread{'s' * (threads > 1)}", *_field(result, threads)]
    parts += ["## Where EdgeFormer stands", *_goals(result)]
    if result.inside:
        parts += ["## Where our time goes", *_inside(result)]
    parts += ["## Executed instructions on emulated boards", *_instructions()]
    parts += ["## Contenders", *_contenders(result)]
    return "\n".join(parts) + "\n"


def _machine(result: RaceResult) -> Iterator[str]:
    machine, before, after = result.machine, result.before, result.after
    yield (
        f"{machine['cpu_model']} ({machine['architecture']}: {', '.join(machine['isa'])}),"
        f" {machine['affinity_cpus']} CPUs, {machine['system']}, Python {machine['python']}."
    )
    loads = [state["load_1min"] for state in (before, after)]
    yield f"Load average before and after: {loads[0]} and {loads[1]}."
    settings = result.settings
    yield (
        f"{settings['rounds']} interleaved rounds, medians; ratios are paired within a round,"
        " in brackets their 95 % bootstrap interval over the rounds."
    )
    for workload in result.workloads.values():
        yield (
            f"- {workload['title']}: {workload['inputs']} inputs, {workload['tokens']:.1f} tokens"
            f" a text on average, {100 * workload['padding']:.0f} % padding in a rectangle"
        )
    yield ""


def _field(result: RaceResult, threads: int) -> Iterator[str]:
    rows = result.runners(threads)
    names = list(result.workloads)
    titles = [result.workloads[name]["title"] for name in names]
    share = result.cpus_used(BASELINE, threads) if BASELINE in rows else 1.0
    if share < _QUIET:
        what = "trust CPU times only" if threads == 1 else "these figures say little"
        yield f"**The machine was busy**: the baseline got {share:.2f} CPUs; {what}.\n"
    yield f"Speed against {contender(BASELINE).title} (higher is faster):\n"
    heads = ["contender", *titles, f"min cosine (texts below {MIN_COSINE})", "alone = batch"]
    yield from _head([*heads, "cold start ms", "MB", "peak MB"])
    for name, row in rows.items():
        speeds = [result.speedup(name, BASELINE, w, threads) for w in names]
        cells = [contender(name).title, *(ratio_text(s) if s else "" for s in speeds)]
        yield _line([*cells, *_quality(row), *_cold(row), f"{row.peak_rss_bytes / 1e6:.0f}"])
    if result.empty_process:
        milliseconds = median(result.empty_process["ms"])
        size = max(result.empty_process["rss_bytes"]) / 1e6
        yield (
            "\nA cold start runs from starting Python to the first embedding;"
            f" {milliseconds:.0f} ms and {size:.0f} MB of it are Python, NumPy and the process that"
            " measures. MB is the peak RSS then, peak MB the one after everything else."
        )
    yield "\nTime of a call, median and (fastest):\n"
    heads = [f"{t} ms" for t in titles]
    yield from _head(["contender", *heads, "batch texts/s", "CPUs used", "CPUs when idle"])
    for name, row in rows.items():
        times = {w: result.milliseconds(name, w, threads) for w in names}
        best = {w: result.fastest(name, w, threads) for w in names}
        rate = result.workloads["batch"]["texts"] / times["batch"] * 1e3
        used = result.cpus_used(name, threads)
        cells = [contender(name).title, *(f"{times[w]:.2f} ({best[w]:.2f})" for w in names)]
        yield _line([*cells, f"{rate:.0f}", f"{used:.2f}", f"{row.idle_cpu:.2f}"])
    yield "\nCPU time of a call, all threads together, against the baseline's (higher is less):\n"
    yield from _head(["contender", *titles])
    for name in rows:
        ratios = [result.speedup(name, BASELINE, w, threads, cpu=True) for w in names]
        yield _line([contender(name).title, *(ratio_text(r) if r else "" for r in ratios)])
    kind = "CPU time" if threads == 1 else "time"
    yield f"\nWhat the engine gives, and what EdgeFormer adds on the same one ({kind}):\n"
    yield from _shares(result, threads)
    for name, row in result.fields[threads].items():
        if row.failure:
            yield f"\n{contender(name).title} left the race: {row.failure}"
    yield ""


def _quality(row: Row) -> Iterator[str]:
    below = sum(1 for c in row.cosines if c < MIN_COSINE)
    yield f"{min(row.cosines):.4f} ({below})" if row.cosines else ""
    yield f"{min(row.batch_cosines):.5f}"


def _cold(row: Row) -> Iterator[str]:
    if not row.cold_ms:
        yield from ("", "")
        return
    yield f"{median(row.cold_ms):.0f}"
    yield f"{max(row.cold_rss_bytes) / 1e6:.0f}"


def _shares(result: RaceResult, threads: int) -> Iterator[str]:
    yield from _head(["workload", "pair", "peer against baseline", "ours against peer", "together"])
    for workload, about in result.workloads.items():
        for peer, ours in _SAME_ENGINE:
            steps = [(peer, BASELINE), (ours, peer), (ours, BASELINE)]
            cpu = threads == 1
            ratios = [result.speedup(a, b, workload, threads, cpu) for a, b in steps]
            pair = f"{contender(peer).title} / {contender(ours).title}"
            cells = [ratio_text(r) if r else "" for r in ratios]
            yield _line([about["title"], pair, *cells])


def _goals(result: RaceResult) -> Iterator[str]:
    yield from _head(["goal", "wanted", "measured", "by CPU time", "met"])
    for goal in goals(result):
        verdict = f"**{goal.verdict}**" if goal.verdict == "no" else goal.verdict
        yield _line([goal.what, goal.wanted, goal.measured, goal.by_cpu, verdict])
    yield ""


def _inside(result: RaceResult) -> Iterator[str]:
    for threads, inside in result.inside.items():
        kind = "CPU microseconds" if threads == 1 else "Microseconds"
        yield f"{kind} of a call, median, {threads} thread{'s' * (threads > 1)}:\n"
        yield from _head(["engine", "tokens", "embed", "tokenizer", "bare engine", "Python around"])
        for engine, lengths in inside["engines"].items():
            for length, us in lengths.items():
                keys = ("embed_us", "tokenizer_us", "bare_us", "around_us")
                yield _line([engine, length, *(f"{us[key]:.0f}" for key in keys)])
        yield "\nShare of the NumPy engine's kernels:\n"
        yield from _head(["tokens", "kernels, share of the run"])
        for length, shares in inside["numpy_kernels"].items():
            named = ", ".join(f"{k} {100 * v:.1f} %" for k, v in shares.items() if v >= 0.005)
            yield _line([length, named])
        yield ""


def _instructions() -> Iterator[str]:
    """The committed counts of a Raspberry Pi 4's CPU and a 5's: work, and never time."""
    figures = load_figures()
    boards = [name for name in figures.boards if name.startswith(_BOARDS)]
    yield "Counted, not timed, and not in this race (docs/instructions.md).\n"
    yield instruction_table.markdown(selected(figures, boards))


def _contenders(result: RaceResult) -> Iterator[str]:
    heads = ["contender", "engine", "pinned in", "libraries", "BLAS and thread pools"]
    yield from _head([*heads, "chosen by itself"])
    first = next(iter(result.fields.values()), {})
    for name, row in first.items():
        chosen = contender(name)
        libraries = ", ".join(f"{k} {v}" for k, v in row.about.get("libraries", {}).items())
        pools = ", ".join(
            " ".join(str(pool[k]) for k in ("internal_api", "version", "architecture") if k in pool)
            for pool in row.about.get("pools", [])
        )
        lock = lock_file(chosen.environment).name
        picked = row.about.get("chosen", "")
        yield _line([chosen.title, chosen.engine, lock, libraries, pools, picked])
    for name, reason in result.missing.items():
        yield f"\nNot in the race: {contender(name).title}: {reason}"


def _head(cells: Sequence[str]) -> Iterator[str]:
    yield _line(cells)
    yield "|" + "---|" * len(cells)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in cells) + " |"
