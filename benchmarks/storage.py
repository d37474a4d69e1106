"""What the forms of a NumPy plan's weights cost: accuracy, file, memory, load time, answer time.

    python -m benchmarks.storage accuracy
    python -m benchmarks.storage bundles [FOLDER] [--runs N]

``accuracy`` rounds the embedded default model (all-MiniLM-L6-v2) to AdaptivFloat and to absmax
integers of 4 to 8 bits and compares 100 held-out embeddings with those of float32. ``bundles``
converts it for `rpi4` once for each form, dense and pruned by magnitude, into FOLDER if one is
named (what is there already is kept), and measures each in fresh processes on one thread, files in
the page cache.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cold_start import _cpu
from benchmarks.held_out import held_out_texts
from edgeformer.converters.adaptivfloat import adaptivfloat, encode
from edgeformer.converters.conversion import ConversionSettings, convert_prepared
from edgeformer.converters.plan.graph import Graph
from edgeformer.converters.plan.lower import Lowered, lower
from edgeformer.converters.plan.write import write_plan
from edgeformer.converters.prepared import PreparedModel
from edgeformer.converters.stages import Stages
from edgeformer.data import builtin_texts
from edgeformer.device_profiles.profile import Storage, load_profile
from edgeformer.pipeline import default_model, prepare_checkpoint
from edgeformer.runtime.engines.numpy_engine import open_engine
from edgeformer.runtime.manifest import Program, Variant
from edgeformer.runtime.operations import OPS
from edgeformer.runtime.text import encode_texts
from edgeformer.runtime.tokenizer import load_tokenizer

TEXTS = 100
EMBEDDING_ZEROS, ENCODER_ZEROS = 0.6, 0.8
_SMALL = 1 << 18  # values of a table that gets eight bits, as in converters/plan/write.py

Floats = NDArray[np.float32]
Rounding = Callable[[Floats, int | None, int], Floats]  # weight, axis of its ranges, bits


def absmax(weight: Floats, axis: int | None, bits: int) -> Floats:
    """The nearest of 2^bits - 1 evenly spaced levels from -max|w| to max|w|."""
    over = None if axis is None else 1 - axis
    top = (1 << (bits - 1)) - 1
    step = np.abs(weight).max(axis=over, keepdims=True) / top
    return np.rint(weight / np.where(step > 0, step, 1)) * step


def adaptive(exponent_bits: int) -> Rounding:
    """Rounding to AdaptivFloat codes with that many exponent bits."""

    def rounded(weight: Floats, axis: int | None, bits: int) -> Floats:
        kind = adaptivfloat(f"adaptivfloat{bits}e{exponent_bits}")
        codes, tops = encode(weight, kind, axis)
        shape = {None: (1, 1), 0: (-1, 1), 1: (1, -1)}[axis]
        return np.ldexp(kind.values[codes], tops.astype(np.int32).reshape(shape))

    return rounded


def with_weights(graph: Graph, rounding: Rounding, bits: int, per_channel: bool) -> Graph:
    """The graph with every table and matrix rounded; small tables to eight bits."""
    constants = dict(graph.constants)
    for node in graph.nodes:
        spec = OPS[node.op]
        name = node.inputs[spec.quantized] if spec.quantized >= 0 else None
        if name is not None and name in graph.constants:
            weight = graph.constants[name]
            small = node.op == "embedding" and weight.size <= _SMALL
            axis = spec.scale_axis if per_channel else None
            constants[name] = rounding(weight, axis, 8 if small else bits).astype(np.float32)
    return replace(graph, constants=constants)


def accuracy() -> None:
    """Print cosines for each kind of rounding."""
    profile = load_profile("rpi4")
    prepared, _ = prepare_checkpoint(default_model(), None, None, profile)
    assert prepared.tokenizer_json is not None
    lowered = lower(prepared)
    tokenizer = load_tokenizer(prepared.tokenizer_json)
    texts = held_out_texts(count=TEXTS)
    batch = encode_texts(tokenizer, texts, None, prepared.card.max_length, "truncate").batch
    exact = _embeddings(prepared, lowered, lowered.graph, batch)
    kinds = {"absmax": absmax, "e = 2": adaptive(2), "e = 3": adaptive(3), "e = 4": adaptive(4)}
    print(f"mean / lowest cosine over {len(texts)} held-out texts")
    print("| bits | ranges |", " | ".join(kinds), "|")
    print("|---|---|" + "---|" * len(kinds))
    for bits in (8, 7, 6, 5, 4):
        for per_channel in (True, False):
            cells = []
            for name, rounding in kinds.items():
                if name.startswith("e") and int(name[-1]) > bits - 1:
                    cells.append("-")
                    continue
                graph = with_weights(lowered.graph, rounding, bits, per_channel)
                near = (_embeddings(prepared, lowered, graph, batch) * exact).sum(1)
                cells.append(f"{near.mean():.4f} / {near.min():.4f}")
            ranges = "channel" if per_channel else "tensor"
            print(f"| {bits} | {ranges} |", " | ".join(cells), "|", flush=True)


def _embeddings(prepared: PreparedModel, lowered: Lowered, graph: Graph, batch: Any) -> Floats:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.plan"
        write_plan(path, {"main": (lowered.layout, graph)}, "fp32")
        program = Program("model.plan", "main", (), prepared.inputs, prepared.outputs)
        variant = Variant("numpy-fp32", "numpy", "fp32", lowered.layout, "", "", {"main": program})
        bundle: Any = SimpleNamespace(map=lambda name: memoryview(path.read_bytes()))
        engine = open_engine(bundle, variant, 1)
        answer = engine.encode(batch)["embedding"]
        engine.close()
    return answer


def forms() -> Iterator[tuple[str, str, Storage, bool]]:
    """Name, precision, storage, and whether the model is pruned."""
    for name, pruned in (("", False), ("pruned ", True)):
        yield f"{name}fp32", "fp32", Storage("int8", "channel", "int8", "never"), pruned
        yield f"{name}int8", "int8", Storage("int8", "channel", "int8", "never"), pruned
        if pruned:
            yield "pruned int8 + bitmask", "int8", Storage("int8", "channel", "int8", "auto"), True
        for weights in ("adaptivfloat8e3", "adaptivfloat7e3"):
            for decoded in ("int8", "fp32"):
                storage = Storage(weights, "channel", decoded, "auto")
                yield f"{name}{weights} to {decoded}", "int8", storage, pruned


def make_bundles(folder: Path) -> dict[str, Path]:
    """Each form's bundle, converted unless it is there."""
    profile, made = load_profile("rpi4"), {}
    models: dict[bool, PreparedModel] = {}
    for name, precision, storage, pruned in forms():
        path = made[name] = folder / f"{name.replace(' ', '-')}.edge"
        if path.exists():
            continue
        if pruned not in models:
            models[pruned], _ = prepare_checkpoint(default_model(), None, None, profile)
            if pruned:
                _prune(models[True])
        settings = ConversionSettings(
            profile=replace(profile, storage=storage),
            output=path,
            engines=("numpy",),
            precisions=(precision,),
            texts=builtin_texts(),
            golden=builtin_texts(),
            force=True,
        )
        convert_prepared(models[pruned], settings, Stages())
        print(f"# {path}", file=sys.stderr)
    return made


def _prune(prepared: PreparedModel) -> None:
    """The smallest weights of each matrix become zero: for sizes, the answers are poor."""
    for model in {id(m): m for m in (prepared.module, prepared.original) if m}.values():
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                table = name.endswith("word_embeddings.weight") or "tokens" in name
                if parameter.ndim == 2 and parameter.numel() > _SMALL // 2:
                    share = EMBEDDING_ZEROS if table else ENCODER_ZEROS
                    size = parameter.abs().flatten()
                    parameter *= parameter.abs() > size.kthvalue(round(share * len(size))).values


_RUN = """
import json, time
from edgeformer.runtime import load
start = time.perf_counter()
model = load({bundle!r}, threads=1)
loaded = time.perf_counter()
text = "The quick brown fox jumps over the lazy dog."
model.embed(text)
after = {{line.split(":")[0]: int(line.split()[1]) * 1024 for line in open("/proc/self/status")
         if line.startswith(("VmRSS", "RssAnon", "VmHWM"))}}
times = []
for _ in range(30):
    begin = time.perf_counter()
    model.embed(text)
    times.append(time.perf_counter() - begin)
print(json.dumps({{"load": loaded - start, "answer": sorted(times)[15], **after}}))
"""


def bundles(folder: Path, runs: int) -> None:
    """Convert and measure."""
    folder.mkdir(parents=True, exist_ok=True)
    made = make_bundles(folder)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    print(f"{_cpu()}, one thread, median of {runs} processes")
    print("| form | file MB | load ms | RSS MB | of it anonymous | peak | ms a sentence | cosine |")
    print("|---|---|---|---|---|---|---|---|")
    for name, path in made.items():
        found = []
        for _ in range(runs + 1):  # the first reads the file into the page cache
            code = _RUN.format(bundle=str(path))
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment, check=True, capture_output=True
            )
            found.append(json.loads(done.stdout))
        middle = {key: statistics.median(run[key] for run in found[1:]) for key in found[0]}
        manifest = json.loads((path / "manifest.json").read_text())
        (plan,) = [r["size"] for n, r in manifest["files"].items() if n.endswith(".plan")]
        cells = [f"{plan / 1e6:.1f}", f"{middle['load'] * 1e3:.0f}"]
        cells += [f"{middle[key] / 1e6:.0f}" for key in ("VmRSS", "RssAnon", "VmHWM")]
        cells += [f"{middle['answer'] * 1e3:.1f}"]
        cells += [f"{manifest['variants'][0]['parity']['mean_cosine']:.4f}"]
        print(f"| {name} |", " | ".join(cells), "|", flush=True)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("accuracy", "bundles"))
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    if args.what == "accuracy":
        accuracy()
    elif args.folder is None:
        with tempfile.TemporaryDirectory() as folder:
            bundles(Path(folder), args.runs)
    else:
        bundles(args.folder, args.runs)


if __name__ == "__main__":
    main()
