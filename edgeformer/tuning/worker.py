"""The inside of a tuning: one variant, or one table, timed in a process that does nothing else.

``edgeformer.tuning.tune`` starts it and asks: first to open, then for times, round after round. It
answers only when its threads have come to rest. NumPy and the standard library only.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edgeformer.isolation import rest, serve_each
from edgeformer.machine import peak_rss_mb
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.bundle import Bundle, open_bundle
from edgeformer.runtime.dispatch import Dispatcher
from edgeformer.runtime.golden import parse_golden
from edgeformer.runtime.loading import load_bundle_tokenizer, open_checked, open_dispatcher
from edgeformer.runtime.tuned import Choice

_calls: list[Callable[[], object]] = []


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """``{"open": ...}`` opens, once; ``{"time": [work, ...]}`` runs works and gives their ms."""
    if "open" in request:
        _calls.extend(_open(**request["open"]))
        return {"peak_rss_mb": peak_rss_mb()}
    times_ms = [_timed_ms(_calls[work]) for work in request["time"]]
    rest()
    return {"ms": times_ms, "peak_rss_mb": peak_rss_mb()}


def _open(
    path: str, variant: str, threads: int, table: str | None, works: list[list[list[int]] | None]
) -> list[Callable[[], object]]:
    """One call for each work: lists of token ids, or None for the bundle's first golden input.

    A single variant must pass every golden case; a table is opened as ``load`` would.
    """
    bundle = open_bundle(path)
    if table is not None:
        dispatcher = open_dispatcher(bundle, "auto", threads, table).dispatcher
    else:
        dispatcher = _one_variant(bundle, variant, threads)
    return [_call(bundle, dispatcher, ids) for ids in works]


def _one_variant(bundle: Bundle, name: str, threads: int) -> Dispatcher:
    manifest = bundle.manifest
    bundle.check([file for file in (manifest.golden, manifest.tokenizer) if file])
    cases = parse_golden(bundle.read(manifest.golden))
    tokenizer = load_bundle_tokenizer(bundle)
    engine = open_checked(bundle, manifest.variant(name), threads, tokenizer, cases)
    return Dispatcher(manifest.variants, Choice(name, threads), engine)


def _call(
    bundle: Bundle, dispatcher: Dispatcher, ids: list[list[int]] | None
) -> Callable[[], object]:
    if ids is not None:
        batch = RaggedBatch.from_lists(ids, [[0] * len(row) for row in ids])
        return lambda: dispatcher.encode(batch)
    case = parse_golden(bundle.read(bundle.manifest.golden))[0]
    ports = dispatcher.variant.programs["main"].inputs
    inputs = {
        p.name: np.asarray(case.inputs[p.name], p.dtype) for p in ports if p.name in case.inputs
    }
    return lambda: dispatcher.run("main", inputs)


def _timed_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    serve_each(answer)
