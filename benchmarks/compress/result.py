"""What one run of the benchmark found: plain data, one JSON file for each recipe and seed."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEACHER = "finetune"
TIMES = "times.json"
THROUGHPUT = "throughput.json"


@dataclass(frozen=True)
class Gate:
    """One engine's int8 variant in the conversion's proof.

    Attributes:
        bytes: of the variant's model files.
        top1: share of calibration texts with PyTorch's answer.
        min_cosine, batch_cosine: as the manifest has them.
        note: of the variant; names what stayed in float32.
    """

    bytes: int
    top1: float
    min_cosine: float
    batch_cosine: float
    note: str


@dataclass(frozen=True)
class Stage:
    """A stage that was carried out: its steps, and seconds of the clock."""

    name: str
    steps: int
    seconds: float


@dataclass(frozen=True)
class Result:
    """One recipe, or one control, with one seed.

    Attributes:
        run: name of the recipe; of a control, of its run.
        title, paper, deviations: of the recipe.
        settings: the recipe with its defaults written out.
        digest: of what decides the result.
        data: name of the data set.
        seed, scale: of the run.
        controls: run of each control, by its kind.
        stages: what was trained.
        cpu_minutes: processor time of training alone; 0 where it is not known.
        peak_memory_mb: of training, in MB (1e6 bytes).
        choices_accuracy: of PyTorch on the texts for choices.
        parameters, nonzero: values, and those that are not zero.
        layers, heads, neurons, hidden, vocabulary: of the student.
        mflops: of a text of ``tokens`` tokens, in millions.
        tokens: the mean of the test texts, special tokens included, of the teacher's tokenizer.
        right: for each text of the test a 1 where PyTorch is right, else a 0.
        int8_right: the same of the chosen int8 variant; empty where nothing was converted.
        agreement: share of test texts on which both give the same answer.
        chosen: id of that variant.
        profile: device profile of the conversion.
        bundle: digest of its manifest.
        gates: by variant.
        failure: why the conversion without ``force`` is refused; empty where it is not.
        machine: CPU, libraries and their versions, BLAS.
    """

    run: str
    title: str
    paper: str
    deviations: tuple[str, ...]
    settings: dict[str, Any]
    digest: str
    data: str
    seed: int
    scale: float
    controls: dict[str, str]
    stages: tuple[Stage, ...]
    cpu_minutes: float
    peak_memory_mb: float
    choices_accuracy: float
    parameters: int
    nonzero: int
    layers: int
    heads: tuple[int, ...]
    neurons: tuple[int, ...]
    hidden: int
    vocabulary: int
    mflops: float
    tokens: int
    right: str
    int8_right: str = ""
    agreement: float = 0.0
    chosen: str = ""
    profile: str = ""
    bundle: str = ""
    gates: dict[str, Gate] = field(default_factory=dict)
    failure: str = ""
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its file, without the suffix."""
        return f"{self.run}-{self.seed}"

    @property
    def is_control(self) -> bool:
        """True for a run that another recipe is compared with."""
        return self.run.startswith("control-")

    @property
    def minutes(self) -> float:
        """Of the clock, all stages together."""
        return sum(stage.seconds for stage in self.stages) / 60


def flags(right: str) -> NDArray[np.float64]:
    """1 and 0 for each text."""
    return np.array([float(c) for c in right])


def write_result(result: Result, folder: Path) -> Path:
    """The whole file, or none."""
    path = folder / f"{result.name}.json"
    write_json(asdict(result), path)
    return path


def write_json(data: Mapping[str, Any], path: Path) -> None:
    """The whole file, or none."""
    write_text(json.dumps(data, indent=1) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """The whole file, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def read_result(path: Path) -> Result:
    """What ``write_result`` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    data["stages"] = tuple(Stage(**stage) for stage in data["stages"])
    data["gates"] = {name: Gate(**gate) for name, gate in data["gates"].items()}
    for name in ("deviations", "heads", "neurons"):
        data[name] = tuple(data[name])
    return Result(**data)


def read_results(folder: Path) -> list[Result]:
    """All of a folder, in order of their names."""
    others = (TIMES, THROUGHPUT)
    paths = sorted(path for path in folder.glob("*.json") if path.name not in others)
    return [read_result(path) for path in paths]
