"""One contender in a process of its own: JSON lines in, JSON lines out.

    python -m benchmarks.race.worker MODULE FOLDER THREADS
    python -m benchmarks.race.worker --prepare MODULE FOLDER

Commands, one a line, each answered by one line:

    {"command": "encode", "texts": [...]}            -> {"shape": [n, h], "float32": base64}
    {"command": "time", "inputs": [[...], ...], "warm": w}
        runs every input (a list of texts) in turn and leaves the first w out
                                                     -> {"ms": [...], "cpu_ms": [...]}
    {"command": "describe"}     -> {"peak_rss_bytes", "libraries", "pools", "python", "chosen"}

A failure is answered by {"error": text}. Whatever a library prints goes to the standard error, so
that it cannot be taken for an answer. It imports as little as it can: its own start is part of
every contender's cold start. Linux only.
"""

import base64
import ctypes
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

_LIBRARIES = {
    "ai_edge_litert": "ai-edge-litert",
    "ctranslate2": "ctranslate2",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tokenizers": "tokenizers",
    "torch": "torch",
    "transformers": "transformers",
}
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Prepare, or serve commands until the standard input ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a stopped process cannot notice
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if sys.argv[1] == "--prepare":
        importlib.import_module(sys.argv[2]).prepare(Path(sys.argv[3]))
        return
    name, folder, threads = sys.argv[1:]
    module = importlib.import_module(name)
    encode = module.open(Path(folder), int(threads))
    for line in sys.stdin:
        try:
            answer = _answer(module, encode, json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def _answer(module: Any, encode: Any, command: dict[str, Any]) -> dict[str, Any]:
    if command["command"] == "encode":
        vectors = encode(command["texts"])
        packed = base64.b64encode(vectors.astype("<f4").tobytes()).decode()
        return {"shape": vectors.shape, "float32": packed}
    if command["command"] == "time":
        return _time(encode, command["inputs"], command["warm"])
    if command["command"] == "describe":
        return _describe() | {"chosen": module.chosen(encode) if hasattr(module, "chosen") else ""}
    raise ValueError(f"no command {command['command']!r}")


def _time(encode: Any, inputs: list[list[str]], warm: int) -> dict[str, Any]:
    for texts in inputs[:warm]:
        encode(texts)
    wall, cpu = [], []
    for texts in inputs[warm:]:
        cpu_start, start = time.process_time(), time.perf_counter()
        encode(texts)
        wall.append((time.perf_counter() - start) * 1e3)
        cpu.append((time.process_time() - cpu_start) * 1e3)
    return {"ms": wall, "cpu_ms": cpu}


def _describe() -> dict[str, Any]:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    found = {"peak_rss_bytes": int(peak) * 1024, "libraries": _versions(), "pools": _pools()}
    return found | {"python": sys.version.split()[0]}


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for module, name in _LIBRARIES.items() if module in sys.modules}


def _pools() -> list[dict[str, Any]]:
    """BLAS and OpenMP libraries of this process; empty without threadpoolctl."""
    try:
        import threadpoolctl
    except ImportError:
        return []
    keys = ("internal_api", "version", "architecture", "num_threads")
    return [{k: i[k] for k in keys if k in i} for i in threadpoolctl.threadpool_info()]


if __name__ == "__main__":
    main()
