"""The inside of a profile: one engine in this process, first without a profiler, then with.

``edgeformer.profiling.profiles`` starts it. What is timed is the engine's call: token ids to
outputs, padding and batching included; tokenizing and the building of answers are not the
engine's.
"""

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgeformer.benchmarking.worker import golden_inputs, timed_ms, warm_up
from edgeformer.errors import EngineError
from edgeformer.isolation import serve

if TYPE_CHECKING:
    from edgeformer.profiling.steps import Call, Profiled
    from edgeformer.runtime.bundle import Bundle
    from edgeformer.runtime.engine import Engine
    from edgeformer.runtime.manifest import Variant

PLAIN_CALLS = 40


def profile(request: dict[str, Any]) -> dict[str, Any]:
    """In the worker: the figures of ``report.layer_times.Profile``."""
    from edgeformer.profiling.layers import roll_up
    from edgeformer.profiling.steps import PROFILED_CALLS, usual
    from edgeformer.runtime.bundle import open_bundle
    from edgeformer.runtime.threads import available_threads

    with open_bundle(request["path"]) as bundle:
        variant = bundle.manifest.variant(request["variant"])
        threads = available_threads(request["threads"] or bundle.manifest.threads)
        call = _make_call(bundle, variant, request)
        with _opened(bundle, variant, threads) as engine:
            warm_up(lambda: call(engine))
            whole_ms = usual([timed_ms(lambda: call(engine)) for _ in range(PLAIN_CALLS)])
            answer = call(engine)
        profiler = importlib.import_module(_PROFILERS[variant.engine])
        found: Profiled = profiler.profile(bundle, variant, threads, call, answer)
    return {
        "threads": threads,
        "source": found.source,
        "runs": PROFILED_CALLS,
        "whole_ms": whole_ms,
        "profiled_ms": found.profiled_ms,
        "clock_ms": found.clock_ms,
        "note": found.note,
        "rows": [asdict(row) for row in roll_up(found.steps)],
    }


@contextlib.contextmanager
def _opened(bundle: "Bundle", variant: "Variant", threads: int) -> "Iterator[Engine]":
    from edgeformer.runtime.engine import open_engine

    engine = open_engine(bundle, variant, threads)
    try:
        yield engine
    finally:
        engine.close()


def _make_call(bundle: "Bundle", variant: "Variant", request: dict[str, Any]) -> "Call":
    """The engine's part of what the benchmark times."""
    from edgeformer.benchmarking.workload import question_and_context
    from edgeformer.errors import EdgeFormerError
    from edgeformer.runtime.loading import load_bundle_tokenizer
    from edgeformer.runtime.text import encode_texts

    manifest, workload = bundle.manifest, request["workload"]
    if workload["kind"] == "arrays":
        inputs = golden_inputs(request["path"], variant.programs["main"].inputs)
        return lambda engine: engine.run("main", inputs)
    bundle.check([manifest.tokenizer])
    tokenizer = load_bundle_tokenizer(bundle)
    if tokenizer is None or isinstance(tokenizer, EdgeFormerError):
        raise EngineError("the bundle cannot tokenize here")
    texts, pair = list(workload["texts"]), None
    if manifest.model.task == "question-answering":
        texts, pair = map(list, zip(*map(question_and_context, texts), strict=True))
    longest = manifest.model.max_length
    batch = encode_texts(tokenizer, texts, pair, longest, "truncate").batch
    return lambda engine: engine.encode(batch)


_PROFILERS = {
    "onnx": "edgeformer.profiling.onnx_profile",
    "tflite": "edgeformer.profiling.litert_profile",
    "numpy": "edgeformer.profiling.plan_profile",
}

if __name__ == "__main__":
    serve(profile)
