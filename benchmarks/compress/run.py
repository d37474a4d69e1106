"""One run: compress, ask PyTorch the test, convert, ask the chosen engine the test, write it down.

    python -m benchmarks.compress.run JOB.json

A process of its own for each run, so that its memory is its own and a crash stops no other run.
What was done before is not done again: an interrupted training goes on.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.compress.data import Files
from benchmarks.compress.result import Gate, Result, Stage, write_result
from edgeformer.compressing.compress import STATE_FILE, compress
from edgeformer.compression.measuring import flops, size_of
from edgeformer.compression.recipe import recipe_data
from edgeformer.compression.recipe_file import load_recipe
from edgeformer.evaluation.evaluate import evaluate
from edgeformer.machine import describe_machine
from edgeformer.models.checkpoint import load_checkpoint
from edgeformer.pipeline import convert
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.manifest_json import manifest_digest

ENGINES = ("tflite", "onnx", "numpy")  # in the order of the x86 profiles
MAX_TOKENS = 128
_SECONDS_BETWEEN_LINES = 30.0


@dataclass(frozen=True)
class Job:
    """What is to be run.

    Attributes:
        files: the data.
        folder: of this run; it keeps the model and the bundle.
        run: name of the recipe, or of the control.
        recipe: the recipe's file or name.
        seed, scale: of the training.
        model: the teacher, or what is fine-tuned to become one.
        teacher: whose tokens are counted; None for the model that is made.
        converted: convert it, and ask the int8 variant too.
        bf16: multiply matrices in bfloat16 while training.
        results: where the JSON goes.
    """

    files: Files
    folder: Path
    run: str
    recipe: str
    seed: int
    scale: float
    model: Path
    teacher: Path | None
    converted: bool
    bf16: bool
    results: Path


def write_job(job: Job) -> Path:
    """The job as a file in its folder."""
    job.folder.mkdir(parents=True, exist_ok=True)
    path = job.folder / "job.json"
    path.write_text(json.dumps(asdict(job), default=str, indent=1), encoding="utf-8")
    return path


def read_job(path: Path) -> Job:
    """What ``write_job`` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    files = {name: Path(value) for name, value in data.pop("files").items()}
    files["name"] = files["name"].name
    for name in ("folder", "model", "teacher", "results"):
        data[name] = None if data[name] is None else Path(data[name])
    return Job(files=Files(**files), **data)


def run(job: Job) -> Path:
    """Do it, and return the path of the result."""
    model = job.folder / "model"
    if not (model / "compression.json").exists():
        _train(job, model)
    recipe = load_recipe(job.recipe)
    made = json.loads((model / "compression.json").read_text(encoding="utf-8"))
    _tell(f"{job.run}: PyTorch reads the test")
    asked = _ask(model, job.files.test, "auto", job.folder / "pytorch.jsonl")
    int8: dict[str, Any] = {}
    if job.converted:
        int8 = _converted(job, model, asked)
    size = size_of(load_checkpoint(model).module)
    tokens = mean_tokens(job.teacher or model, job.files.test)
    result = Result(
        run=job.run,
        title=recipe.title,
        paper=recipe.paper,
        deviations=recipe.deviations,
        settings=plain(recipe_data(recipe)),
        digest=recipe.digest,
        data=job.files.name,
        seed=job.seed,
        scale=job.scale,
        controls={},
        stages=tuple(Stage(s["name"], s["steps"], s["seconds"]) for s in made["stages"]),
        cpu_minutes=_cpu_seconds(job) / 60,
        peak_memory_mb=made["peak_memory_mb"],
        choices_accuracy=made["student"]["value"],
        parameters=size.parameters,
        nonzero=size.nonzero,
        layers=size.layers,
        heads=size.heads,
        neurons=size.neurons,
        hidden=size.hidden,
        vocabulary=size.vocabulary,
        mflops=flops(load_checkpoint(model).module, tokens) / 1e6,
        tokens=tokens,
        right=_right(asked),
        machine=machine(job.bf16),
        **int8,
    )
    return write_result(result, job.results)


def _train(job: Job, model: Path) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    state = model.with_name("model.training") / STATE_FILE
    resume = state.exists()
    before = _cpu_seconds(job) if resume else 0.0
    began, last = time.process_time(), 0.0

    def progress(step: Any) -> None:
        nonlocal last
        if time.monotonic() - last > _SECONDS_BETWEEN_LINES or step.step == step.steps:
            last = time.monotonic()
            seconds = before + time.process_time() - began
            (job.folder / "cpu_seconds").write_text(f"{seconds:.1f}", encoding="ascii")
            _tell(f"{job.run}: {step.stage}, {step.step} of {step.steps}, loss {step.loss:.4f}")

    compress(
        job.model,
        recipe=job.recipe,
        train=job.files.train,
        evaluate=job.files.choices,
        output=model,
        seed=job.seed,
        scale=job.scale,
        bf16=job.bf16,
        device="cpu",
        save_seconds=_SECONDS_BETWEEN_LINES,
        resume=resume,
        progress=progress,
    )


def _converted(job: Job, model: Path, asked: Path) -> dict[str, Any]:
    """The fields of the result that say what the conversion gave."""
    bundle, profile = job.folder / "bundle.edge", profile_file(job.folder)
    _tell(f"{job.run}: converting")
    report = convert(
        model,
        profile=str(profile),
        output=bundle,
        engines=ENGINES,
        precisions=("int8",),
        calibration=job.files.calibration,
        force=True,  # what misses the proof is measured too, and the page says that it did
    )
    _tell(f"{job.run}: the chosen engine reads the test")
    answered = _ask(bundle, job.files.test, "auto", job.folder / "int8.jsonl")
    manifest = report.manifest
    gates, missed = {}, []
    for variant in manifest.variants:
        assert variant.parity is not None
        missed += [f"{variant.id}: {failure}" for failure in variant.parity.failures]
        sizes = [
            record.size
            for name, record in manifest.files.items()
            if name.startswith(f"{variant.id}/") and not name.endswith("sensitivity.json")
        ]
        parity = variant.parity
        gates[variant.id] = Gate(
            bytes=sum(sizes),
            top1=parity.top1 or 0.0,
            min_cosine=parity.min_cosine,
            batch_cosine=parity.batch_cosine or 0.0,
            note=variant.note,
        )
    pairs = list(zip(_answers(asked), _answers(answered), strict=True))
    with open_bundle(bundle) as opened:
        digest = manifest_digest(opened.manifest)
    return {
        "int8_right": _right(answered),
        "agreement": sum(a == b for a, b in pairs) / len(pairs),
        "chosen": _chosen(bundle),
        "profile": profile.stem,
        "bundle": digest,
        "gates": gates,
        "failure": "; ".join(missed),
    }


def profile_file(folder: Path) -> Path:
    """This CPU's profile, for texts of at most ``MAX_TOKENS`` tokens."""
    name = "x86-vnni" if "avx512_vnni" in describe_machine().isa else "x86"
    path = folder / f"{name}-{MAX_TOKENS}.toml"
    path.write_text(
        f'extends = "{name}"\n[runtime]\nthreads = 1\n[length]\nmax_tokens = {MAX_TOKENS}\n'
        "bucket_tokens = [16, 32, 64, 128]\n",
        encoding="utf-8",
    )
    return path


def _chosen(bundle: Path) -> str:
    from edgeformer.runtime import load

    with load(bundle) as model:
        return model.variant.id


def _ask(model: Path, test: Path, engine: str, answers: Path) -> Path:
    """The answers of a checkpoint or bundle to the test; read once for each result."""
    evaluate(model, test, engine=engine, threads=1, save_predictions=answers, force=True)
    return answers


def _answers(path: Path) -> list[str]:
    lines = path.read_text(encoding="ascii").splitlines()
    return [json.loads(line)["answer"] for line in lines]


def _right(path: Path) -> str:
    rows = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
    return "".join("1" if row["answer"] == row["truth"] else "0" for row in rows)


def mean_tokens(checkpoint: Path, table: Path) -> int:
    """The mean length of the texts of a table, special tokens included, cut at ``MAX_TOKENS``."""
    from benchmarks.compress.data import texts_of
    from edgeformer.runtime.tokenizer import load_tokenizer

    tokenizer = load_tokenizer((checkpoint / "tokenizer.json").read_bytes())
    lengths = [min(MAX_TOKENS, len(tokenizer.encode(text))) for text in texts_of(table)]
    return round(sum(lengths) / len(lengths))


def machine(bf16: bool) -> dict[str, Any]:
    """What computed it."""
    from importlib.metadata import version

    found = describe_machine()
    names = ("torch", "onnxruntime", "ai-edge-litert", "numpy", "transformers")
    return {
        "cpu": found.cpu_model,
        "isa": list(found.isa),
        "cpus": found.affinity_cpus,
        "system": found.system,
        "python": found.python,
        "blas": found.blas,
        "torch_products": "oneDNN, bfloat16" if bf16 else "oneDNN and MKL, float32",
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in names},
    }


def plain(value: Any) -> Any:
    """Tuples as lists, so that a result equals what is read back."""
    return json.loads(json.dumps(value))


def _cpu_seconds(job: Job) -> float:
    path = job.folder / "cpu_seconds"
    return float(path.read_text(encoding="ascii")) if path.exists() else 0.0


def _tell(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    print(run(read_job(Path(sys.argv[1]))))
