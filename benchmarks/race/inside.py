"""Where the time of one of our calls goes: tokenizer, engine, and the Python around them.

    python -m benchmarks.race.inside ENGINE BUNDLE THREADS        texts by workload on stdin, JSON

prints JSON. The library's own entry (``InferenceSession.run``, LiteRT's signature runner, the NumPy
engine's program) and the tokenizer are timed from inside ``Model.embed``; what is left is ours.
Times are CPU times of the calling thread, which other work on the machine hardly changes; only
where an engine has threads of its own, the whole call and the engine are wall time.
Each engine gets a process of its own, as in the race. ENGINE ``tokenizers`` compares ours with HF
``tokenizers``, each text by itself.
"""

import importlib
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.common import MAX_TOKENS
from benchmarks.race.environments import ROOT, ContenderError, clean_environment, last_words

ENGINES = ("onnx", "tflite", "numpy")
_BARE = {  # where each engine hands over: module, class, method
    "onnx": ("onnxruntime", "InferenceSession", "run"),
    "tflite": ("ai_edge_litert.interpreter", "SignatureRunner", "__call__"),
    "numpy": ("edgeformer.runtime.execution", "BoundProgram", "run"),
}
_WARM, _CALLS = 10, 200
_SECONDS = 10.0  # of one workload; on a busy machine thread pools can crawl
_TOKENIZER_PASSES = 5


def inside(bundle: Path, threads: int, texts: dict[str, list[str]]) -> dict[str, Any]:
    """Figures of all engines and of the tokenizer, in microseconds.

    Raises:
        ContenderError: a process failed.
    """
    found: dict[str, Any] = {"engines": {}}
    for engine in ENGINES:
        answer = _process(engine, bundle, threads, texts)
        found["engines"][engine] = answer["parts"]
        if engine == "numpy":
            found["numpy_kernels"] = answer["kernels"]
    found["tokenizers"] = _process("tokenizers", bundle, threads, texts)
    return found


def _process(
    engine: str, bundle: Path, threads: int, texts: dict[str, list[str]]
) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.race.inside", engine, str(bundle), str(threads)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment(threads),
        input=json.dumps(texts),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ContenderError(f"{engine}: {last_words(done.stderr)}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class Clock:
    """Adds up the time spent in functions that it wraps: of the thread, and on the wall."""

    def __init__(self) -> None:
        self.thread: dict[str, float] = defaultdict(float)
        self.wall: dict[str, float] = defaultdict(float)

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Replace ``owner.method`` by one that also adds its time to ``name``."""
        function = getattr(owner, method)

        def timed(*args: Any, **named: Any) -> Any:
            cpu, wall = time.thread_time(), time.perf_counter()
            try:
                return function(*args, **named)
            finally:
                self.wall[name] += time.perf_counter() - wall
                self.thread[name] += time.thread_time() - cpu

        setattr(owner, method, timed)


def profile_engine(engine: str, bundle: Path, threads: int, texts: dict[str, list[str]]) -> Any:
    """``parts``: microseconds by workload; ``kernels`` for numpy: shares by workload."""
    from edgeformer.runtime import load

    with load(bundle, engine=engine, threads=threads) as model:
        clock = Clock()
        module, owner, method = _BARE[engine]
        clock.wrap(getattr(importlib.import_module(module), owner), method, "bare")
        clock.wrap(type(model.tokenizer), "encoding", "tokenizer")
        clock.wrap(model, "embed", "embed")
        parts = {name: _parts(model, found, clock, threads) for name, found in texts.items()}
        answer: dict[str, Any] = {"parts": parts}
        if engine == "numpy":
            answer["kernels"] = {n: _kernel_shares(model, found) for n, found in texts.items()}
        return answer


def _counted() -> Iterator[int]:
    """Numbers of the calls to make: ``_WARM``, then up to ``_CALLS`` within ``_SECONDS``."""
    limit = time.monotonic() + _SECONDS
    for k in range(_WARM + _CALLS):
        if k > _WARM and time.monotonic() > limit:
            return
        yield k


def _parts(model: Any, texts: Sequence[str], clock: Clock, threads: int) -> dict[str, float]:
    samples: dict[str, list[float]] = defaultdict(list)
    for k in _counted():
        clock.thread.clear()
        clock.wall.clear()
        model.embed(texts[k % len(texts)])
        if k < _WARM:
            continue
        cpu = clock.thread
        whole = cpu if threads == 1 else clock.wall
        samples["embed_us"].append(whole["embed"] * 1e6)
        samples["bare_us"].append(whole["bare"] * 1e6)
        samples["tokenizer_us"].append(cpu["tokenizer"] * 1e6)
        samples["around_us"].append((cpu["embed"] - cpu["bare"] - cpu["tokenizer"]) * 1e6)
    return {name: statistics.median(found) for name, found in samples.items()}


def _kernel_shares(model: Any, texts: Sequence[str]) -> dict[str, float]:
    """Share of each kernel, largest first; matrix products are told apart by their weights' shape.

    CPU time of the calling thread.
    """
    import numpy as np

    from edgeformer.runtime.execution import BoundProgram

    seconds: dict[str, float] = defaultdict(float)

    def run(program: Any) -> None:
        with np.errstate(all="ignore"):
            for call, name in program.calls:
                start = time.thread_time()
                call()
                seconds[_kernel_name(call, name)] += time.thread_time() - start

    before = BoundProgram.run
    setattr(BoundProgram, "run", run)  # noqa: B010 - a frozen dataclass, on purpose
    try:
        for k in _counted():
            if k == _WARM:
                seconds.clear()
            model.embed(texts[k % len(texts)])
    finally:
        setattr(BoundProgram, "run", before)  # noqa: B010
    total = sum(seconds.values())
    return {k: s / total for k, s in sorted(seconds.items(), key=lambda item: -item[1])}


def _kernel_name(call: Any, name: str) -> str:
    """``step 7 (linear)`` with a weight of 384 x 1536 -> ``linear 384x1536``."""
    kernel = name.split("(")[-1].rstrip(")")
    if kernel == "linear":
        return f"linear {'x'.join(map(str, call.args[1].shape))}"
    return kernel


def compare_tokenizers(bundle: Path, texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Microseconds a text, one thread: words that the tokenizer meets first, and again."""
    import tokenizers

    from edgeformer.runtime.bundle import open_bundle
    from edgeformer.runtime.tokenizer import load_tokenizer

    with open_bundle(bundle) as opened:
        source = opened.read(opened.manifest.tokenizer)
    theirs = tokenizers.Tokenizer.from_str(bytes(source).decode())
    theirs.enable_truncation(MAX_TOKENS)
    found: dict[str, dict[str, list[float]]] = {"ours_us": {}, "hf_us": {}}
    for side in found.values():
        side.update(new_words=[], known_words=[])
    for _ in range(_TOKENIZER_PASSES):
        ours = load_tokenizer(source)
        for state in ("new_words", "known_words"):
            passes: dict[str, Callable[[str], Any]] = {
                "ours_us": lambda text, t=ours: t.encoding(text, max_length=MAX_TOKENS).ids,  # type: ignore[misc]
                "hf_us": lambda text: theirs.encode(text).ids,
            }
            for side_name, encode in passes.items():
                start = time.process_time()
                for text in texts:
                    encode(text)
                each = (time.process_time() - start) / len(texts) * 1e6
                found[side_name][state].append(each)
    return {
        side: {state: statistics.median(each) for state, each in states.items()}
        for side, states in found.items()
    }


def main() -> None:
    """Measure one engine, or the tokenizers, and print JSON."""
    engine, bundle, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    texts: dict[str, list[str]] = json.load(sys.stdin)
    if engine == "tokenizers":
        answer: Any = compare_tokenizers(bundle, [t for found in texts.values() for t in found])
    else:
        answer = profile_engine(engine, bundle, threads, texts)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
