"""Cold start: a fresh process from `python` to the first embedding, checks included.

    python -m benchmarks.cold_start [BUNDLE] [--engine NAME ...] [--runs N] [--python PATH]

Each run is a new process that loads the bundle (hashes, golden self-test) and embeds one text; the
files are in the page cache. Also prints what an empty interpreter and `import numpy` cost, and the
peak resident set (VmHWM). ``--python`` names the interpreter of an environment where the wheel is
installed, as on a device (an editable install, like that of `make setup`, starts later). Without
BUNDLE it converts the embedded default for `rpi4` first.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# A kernel chosen by hand, and compiling every module at every start, are not what a user has.
_UNWANTED = ("OPENBLAS_", "PYTHONDONTWRITEBYTECODE")
_PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
_LOAD = """
from edgeformer.runtime import load
model = load({bundle!r}, engine={engine!r})
vector = model.embed("The quick brown fox jumps over the lazy dog.")
assert vector.ndim == 1
"""


def measure(python: str, code: str, runs: int) -> tuple[float, float]:
    """Median milliseconds of fresh processes running ``code``, and their largest VmHWM in MB."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_UNWANTED)}
    seconds, peaks = [], []
    for run in range(runs + 1):
        start = time.perf_counter()
        done = subprocess.run(
            [python, "-c", code + _PEAK],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        if run == 0:  # it may have compiled the modules to bytecode
            continue
        seconds.append(time.perf_counter() - start)
        peaks.append(int(done.stdout.split()[-1]) * 1024 / 1e6)
    return statistics.median(seconds) * 1e3, max(peaks)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--engine", action="append", choices=("numpy", "onnx", "tflite"))
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--python", default=sys.executable)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = args.bundle
        if bundle is None:
            from edgeformer.pipeline import convert

            bundle = convert(profile="rpi4", output=Path(folder) / "default.edge").path
        print(f"{_cpu()}, Python {platform.python_version()}, median of {args.runs} processes")
        print("| process | ms | peak RSS MB |")
        print("|---|---|---|")
        cases = {"python": "pass", "import numpy": "import numpy"}
        for engine in args.engine or ("numpy", "onnx", "tflite"):
            cases[f"first embedding, {engine}"] = _LOAD.format(bundle=str(bundle), engine=engine)
        for name, code in cases.items():
            milliseconds, peak = measure(args.python, code, args.runs)
            print(f"| {name} | {milliseconds:.0f} | {peak:.0f} |")
        print(_blas())


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.split(':')[1].strip()}, {len(os.sched_getaffinity(0))} CPUs"
    return platform.machine()


def _blas() -> str:
    import numpy  # noqa: F401
    import threadpoolctl

    return "BLAS: " + json.dumps(
        [
            {k: i[k] for k in ("internal_api", "version", "architecture", "num_threads") if k in i}
            for i in threadpoolctl.threadpool_info()
        ]
    )


if __name__ == "__main__":
    main()
