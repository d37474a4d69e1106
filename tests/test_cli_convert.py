"""`edgeformer convert` as a user runs it: what it prints, refuses and leaves behind."""

import json
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import edgeformer.pipeline
from edgeformer.errors import ToleranceError
from edgeformer.runtime import load
from edgeformer.runtime.bundle import open_bundle
from tests.command_line import Edgeformer, is_error, process_result, start
from tests.tiny_bundles import checkpoint, texts_file


@pytest.fixture
def edgeformer_command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Edgeformer:
    return Edgeformer(capfd, monkeypatch)


def convert_arguments(output: Path, *more: object) -> list[object]:
    fixed = ["--profile", "x86", "--engines", "numpy", "--calibration", texts_file()]
    return ["convert", checkpoint("embedding"), *fixed, "-o", output, *more]


def test_convert_prints_parity_and_refuses_to_overwrite(tmp_path: Path) -> None:
    output = tmp_path / "tiny.edge"
    process = start(*convert_arguments(output, "--precision", "fp32,int8"))
    out, err = process.communicate()
    assert process.returncode == 0, err
    rows = [line.split() for line in out.splitlines()]
    for variant in load(output).manifest.variants:
        row = next(row for row in rows if row[:1] == [variant.id])
        assert variant.parity is not None
        assert row[2:5] == [
            f"{variant.parity.max_abs:.1e}",
            f"{variant.parity.min_cosine:.5f}",
            f"{variant.parity.mean_cosine:.5f}",
        ]
    assert f"next: edgeformer benchmark {output}" in err
    assert "verify numpy-int8" in out  # the stages with their seconds
    assert "verify numpy-int8" not in err  # no progress: stderr is no terminal
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    process = start(*convert_arguments(output))
    assert is_error(*process_result(process), exit_code=2, says="--force")
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.edge"]


def test_convert_json_and_progress(edgeformer_command: Edgeformer, tmp_path: Path) -> None:
    output = tmp_path / "tiny.zip"
    code, out, err = edgeformer_command(*convert_arguments(output, "--zip", "--json", "--progress"))
    assert code == 0, err
    report = json.loads(out)
    with open_bundle(output) as opened:
        assert report["manifest"] == json.loads(json.dumps(asdict(opened.manifest)))
    assert report["peak_rss_mb"] > 0
    names = [stage["name"] for stage in report["stages"]]
    lines = [line for line in err.splitlines() if line.endswith(" s")]
    assert [line[:40].strip() for line in lines] == names


def test_a_missed_tolerance_exits_3_and_writes_nothing(
    edgeformer_command: Edgeformer, tmp_path: Path
) -> None:
    profile = tmp_path / "strict.toml"
    profile.write_text('extends = "x86"\n[tolerance]\nint8_min_cosine = 0.9999999\n')
    output = tmp_path / "tiny.edge"
    arguments = convert_arguments(output, "--profile", profile)
    assert is_error(*edgeformer_command(*arguments), exit_code=3, says="is below 0.9999999")
    assert [path.name for path in tmp_path.iterdir()] == ["strict.toml"]
    code, out, err = edgeformer_command(*arguments, "--force")
    assert code == 0, err
    assert " NO" in out
    code, out, _ = edgeformer_command("inspect", output)
    assert (code, "FORCED" in out) == (0, True)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_conversion_leaves_nothing(
    tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    process = start(*convert_arguments(tmp_path / "tiny.edge", "--progress"))
    assert process.stderr is not None
    seen = ""
    while "convert to numpy" not in seen:
        read = process.stderr.read(1)
        assert read, seen
        seen += read
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, out) == (exit_code, "")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_convert_passes_every_option_on(
    edgeformer_command: Edgeformer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}

    def fake(model: Any, **options: Any) -> Any:
        seen.update(options, model=model)
        raise ToleranceError("too far", hint="look")

    monkeypatch.setattr(edgeformer.pipeline, "convert", fake)
    options = "--profile rpi4 --engines onnx,numpy,onnx --precision fp32 --task embedding"
    options += f" --max-length 9 --calibration c.txt --golden g.txt --zip --force -o {tmp_path}/o"
    options += " --exits e.tsv --max-drop 1.5 --exit-criterion patience --exit-predictor"
    options += " --exit-layers 2,4"
    result = edgeformer_command("convert", *options.split())
    assert is_error(*result, exit_code=3, says="too far")
    del seen["progress"]
    assert seen == {
        "model": None,
        "profile": "rpi4",
        "output": tmp_path / "o",
        "engines": ("onnx", "numpy"),
        "precisions": ("fp32",),
        "task": "embedding",
        "max_length": 9,
        "calibration": "c.txt",
        "golden": "g.txt",
        "zip_file": True,
        "force": True,
        "exits": "e.tsv",
        "max_drop": 1.5,
        "exit_criterion": "patience",
        "exit_predictor": True,
        "exit_layers": (2, 4),
    }
