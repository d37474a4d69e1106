"""What EdgeFormer sets out to reach on x86-64 with VNNI, measured or said to be missing.

Every line is computed from the race's result; none is tuned to be met. A ratio meets its goal if
its whole interval does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.peers import AUTO, BASELINE, STOCK_LITERT, contender
from benchmarks.race.result import RaceResult
from benchmarks.race.statistics import Ratio

SINGLES = ("short", "medium", "long")
_INT8_PEERS = ("openvino_int8", "ctranslate2_int8", "optimum_int8")


@dataclass(frozen=True)
class Goal:
    """One line: what is wanted, what was measured, and the verdict.

    ``by_cpu`` is the same ratio of CPU times where one thread runs: less disturbed by other work.
    ``verdict`` is ``yes``, ``no``, ``not measured``, or ``unclear`` where an interval holds both,
    or wall and CPU time disagree.
    """

    what: str
    wanted: str
    measured: str
    verdict: str
    by_cpu: str = ""


def goals(result: RaceResult) -> list[Goal]:
    """All of them, in the order of the report."""
    found: list[Goal] = []
    for threads in result.fields:
        found += _auto(result, threads)
        found += _onnx(result, threads)
    if 1 in result.fields:
        found += _numpy(result)
        found += _sizes(result)
    for threads in result.fields:
        found += _accuracy(result, threads)
    if 1 in result.inside:
        found += _overhead(result)
    return found


def _auto(result: RaceResult, threads: int) -> Iterator[Goal]:
    for workload in (*SINGLES, "batch"):
        peer = result.best_peer(workload, threads)
        yield _faster(result, AUTO, peer, workload, threads, 1.5)
    for workload in (*SINGLES, "batch"):
        least = 1.2 if workload in ("medium", "batch") else 0.95
        yield _faster(result, AUTO, STOCK_LITERT, workload, threads, least)


def _onnx(result: RaceResult, threads: int) -> Iterator[Goal]:
    for workload in SINGLES:
        peer = result.best_peer(workload, threads, _INT8_PEERS)
        yield _faster(result, "edgeformer_onnx", peer, workload, threads, 1.15)


def _numpy(result: RaceResult) -> Iterator[Goal]:
    for workload, least in (("short", 1.0), ("medium", 1 / 1.1), ("long", 1 / 1.1), ("batch", 2.0)):
        yield _faster(result, "edgeformer_numpy", BASELINE, workload, 1, least)


def _sizes(result: RaceResult) -> Iterator[Goal]:
    rows = result.runners(1)
    if "edgeformer_numpy" in rows:
        row = rows["edgeformer_numpy"]
        rss = max(row.cold_rss_bytes) / 1e6
        yield _least("numpy engine, cold start", "ms", median(row.cold_ms), 110)
        yield _least("numpy engine, cold start", "MB peak RSS", rss, 45)
    if AUTO in rows:
        peak = rows[AUTO].peak_rss_bytes / 1e6
        yield _least("auto, all lengths used", "MB peak RSS", peak, 100)


def _accuracy(result: RaceResult, threads: int) -> Iterator[Goal]:
    for name, row in result.runners(threads).items():
        if contender(name).ours and row.cosines:
            what = f"{contender(name).title}, {_threads(threads)}"
            low, batch = min(row.cosines), min(row.batch_cosines)
            yield Goal(f"{what}: min cosine", ">= 0.99", f"{low:.4f}", _yes(low >= 0.99))
            yield Goal(
                f"{what}: alone and in a batch", ">= 0.9999", f"{batch:.5f}", _yes(batch >= 0.9999)
            )


def _overhead(result: RaceResult) -> Iterator[Goal]:
    inside = result.inside[1]
    for engine, lengths in inside["engines"].items():
        for length, parts in lengths.items():
            around = parts["around_us"]
            yield _least(f"Python around the {engine} engine, {length} tokens", "us", around, 60)
            if length == "128":
                share = 100 * around / parts["embed_us"]
                yield _least(f"Python around the {engine} engine, {length} tokens", "%", share, 3)
    tokens = inside["tokenizers"]
    for state in ("new_words", "known_words"):
        ratio = tokens["hf_us"][state] / tokens["ours_us"][state]
        yield Goal(
            f"tokenizer against HF tokenizers, {state.replace('_', ' ')}",
            ">= 1.5x",
            f"{ratio:.2f}x",
            _yes(ratio >= 1.5),
        )


def _faster(
    result: RaceResult, name: str, peer: str | None, workload: str, threads: int, least: float
) -> Goal:
    ratio = peer and result.speedup(name, peer, workload, threads)
    whom = contender(peer).title if peer else "the fastest accurate peer"
    title = result.workloads[workload]["title"]
    what = f"{contender(name).title} against {whom}: {title}, {_threads(threads)}"
    wanted = f">= {least:.2f}x"
    if not ratio:
        return Goal(what, wanted, "", "not measured")
    cpu = result.speedup(name, peer, workload, threads, cpu=True) if peer and threads == 1 else None
    by_cpu = ratio_text(cpu) if cpu else ""
    ratios = [ratio, cpu] if cpu else [ratio]
    return Goal(what, wanted, ratio_text(ratio), _verdict(ratios, least), by_cpu)


def _verdict(ratios: Sequence[Ratio], least: float) -> str:
    if all(ratio.low >= least for ratio in ratios):
        return "yes"
    return "no" if all(ratio.high < least for ratio in ratios) else "unclear"


def _yes(met: bool) -> str:
    return "yes" if met else "no"


def _least(what: str, unit: str, measured: float, most: float) -> Goal:
    return Goal(what, f"<= {most:g} {unit}", f"{measured:.1f} {unit}", _yes(measured <= most))


def ratio_text(ratio: Ratio) -> str:
    """``1.23x (1.19-1.28)``."""
    return f"{ratio.median:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})"


def _threads(count: int) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"
