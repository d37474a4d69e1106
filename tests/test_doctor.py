"""The doctor believes no engine that it has not seen answer, and names what to do."""

import configparser
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edgeformer.doctor
from edgeformer.cli.text import doctor_text
from edgeformer.converters.bundle_writer import file_records, write_manifest
from edgeformer.doctor import (
    PROVEN,
    TINY_BUNDLE,
    Diagnosis,
    EngineCheck,
    ExtraCheck,
    VariantCheck,
    advise,
    check_engine,
    check_extra,
    diagnose,
)
from edgeformer.errors import EngineError
from edgeformer.machine import describe_machine, read_state
from edgeformer.runtime.blas import BlasInfo
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.engine import ENGINES, missing_engine

ROOT = Path(__file__).parent.parent
OPENBLAS = BlasInfo("openblas", "0.3", "/lib/libopenblas.so.0", 4, False, True)
KILLER = "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"


def fake_package(folder: Path, name: str, source: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(source)


def needs(engine: str) -> None:
    if missing_engine(engine):
        pytest.skip(f"{engine} is not installed")


def test_the_tiny_bundle_is_small_and_tries_every_engine_in_both_precisions() -> None:
    with open_bundle(TINY_BUNDLE) as bundle:
        ids = {variant.id for variant in bundle.manifest.variants}
        bundle.check(bundle.manifest.files)
    assert ids == {f"{engine}-{precision}" for engine in ENGINES for precision in ("fp32", "int8")}
    assert TINY_BUNDLE.stat().st_size < 256 * 1024


@pytest.mark.parametrize("engine", list(ENGINES))
def test_every_installed_engine_works_here(engine: str) -> None:
    needs(engine)
    tried: list[str] = []
    check = check_engine(engine, 64, tried.append)
    assert check.state == "works", check
    assert {v.precision for v in check.variants} == {"fp32", "int8"}
    assert tried == [f"{engine}-{v.precision}" for v in check.variants]
    assert check.packages


def test_an_engine_that_dies_of_an_illegal_instruction_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(tmp_path, "onnxruntime", KILLER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = check_engine("onnx", 64)
    assert check.state == "fails"
    assert all("SIGILL" in variant.failure for variant in check.variants)
    assert check_engine("numpy", 64).state == "works"


def test_the_command_reports_a_dead_engine_and_exits_1(tmp_path: Path) -> None:
    fake_package(tmp_path, "onnxruntime", KILLER)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "edgeformer", "doctor"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "onnx     fails" in done.stdout
    assert "SIGILL" in done.stdout
    assert re.search(r"^numpy    works", done.stdout, re.MULTILINE)
    assert done.stderr.startswith("error: installed, but not usable: onnx\n  -> ")


def test_an_engine_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(tmp_path, "onnxruntime", "raise ImportError('libfoo.so.1: cannot open')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = check_engine("onnx", 64)
    assert check.state == "fails"
    assert "libfoo.so.1" in check.variants[0].failure
    assert "edgeformer[onnx]" in check.variants[0].hint


def test_a_version_known_to_be_bad_is_refused_without_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime 1.21.0 on ARM: metadata of that version before the real one, ARM by name."""
    fake_package(tmp_path, "onnxruntime", KILLER)
    info = tmp_path / "onnxruntime-1.21.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime\nVersion: 1.21.0\n")
    (tmp_path / "sitecustomize.py").write_text(
        "import platform\nplatform.machine = lambda: 'aarch64'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = check_engine("onnx", 64)
    assert check.state == "fails"
    for variant in check.variants:
        assert "1.21.0 is refused" in variant.failure
        assert "pip install" in variant.hint


def test_wrong_answers_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bundle with golden outputs of another model: every engine must be caught."""
    with open_bundle(TINY_BUNDLE) as bundle:
        manifest = bundle.manifest
        for name in manifest.files:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(bundle.read(name))
    golden = json.loads((tmp_path / "golden.json").read_text())
    rows = golden["cases"][0]["outputs"]["output"][0]
    golden["cases"][0]["outputs"]["output"][0] = rows[1:] + rows[:1]
    (tmp_path / "golden.json").write_text(json.dumps(golden))
    write_manifest(tmp_path, replace(manifest, files=file_records(tmp_path)))
    answer = edgeformer.doctor._answer
    monkeypatch.setattr(edgeformer.doctor, "TINY_BUNDLE", tmp_path)
    with pytest.raises(EngineError, match="wrong here"):
        answer({"variant": "numpy-fp32"})
    monkeypatch.undo()
    assert answer({"variant": "numpy-fp32"}) == {"cases": 1}


@pytest.mark.parametrize(
    ("engine", "bits", "hint"),
    [
        ("onnx", 64, 'pip install "edgeformer[onnx]"'),
        ("tflite", 64, 'pip install "edgeformer[tflite]"'),
        ("onnx", 32, "64-bit system"),
        ("tflite", 32, 'pip install "edgeformer[tflite]"'),
    ],
)
def test_a_missing_engine_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, engine: str, bits: int, hint: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check = check_engine(engine, bits)
    assert check.state == "not installed"
    assert hint in check.hint


@pytest.fixture(scope="module")
def diagnosis() -> Diagnosis:
    return diagnose()


def test_a_diagnosis_is_plain_data_and_a_page(diagnosis: Diagnosis) -> None:
    data = json.loads(json.dumps(diagnosis.as_dict()))
    assert data["healthy"] is True
    assert data["schema_version"] == 1
    page = doctor_text(diagnosis)
    for fact in (diagnosis.numpy, diagnosis.blas.name, diagnosis.machine.cpu_model, "[convert]"):
        assert fact in page


def _check(engine: str, state: str) -> EngineCheck:
    return EngineCheck(engine, (), state, (), "")


@pytest.mark.parametrize(
    ("states", "healthy"),
    [
        (("works", "not installed", "not installed"), True),
        (("works", "works", "fails"), False),
        (("not installed", "not installed", "not installed"), False),
    ],
)
def test_health_is_one_engine_that_works_and_none_that_fails(
    monkeypatch: pytest.MonkeyPatch, states: tuple[str, ...], healthy: bool
) -> None:
    found = dict(zip(ENGINES, states, strict=True))
    monkeypatch.setattr(
        edgeformer.doctor, "check_engine", lambda name, *more: _check(name, found[name])
    )
    assert diagnose().healthy is healthy


def advice(monkeypatch: pytest.MonkeyPatch, *, coretype: str = "", **changes: Any) -> str:
    """All advice for a faultless Raspberry Pi, but for ``changes`` of machine, state or blas."""
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    if coretype:
        monkeypatch.setenv("OPENBLAS_CORETYPE", coretype)
    machine = replace(describe_machine(), bits=64, architecture="aarch64")
    parts: dict[str, Any] = {"blas": OPENBLAS, "machine": machine, "engines": ()}
    parts["state"] = replace(read_state(), throttling=())
    for name, value in changes.items():
        parts[name] = replace(parts[name], **value) if isinstance(value, dict) else value
    found = advise(parts["machine"], parts["state"], parts["blas"], parts["engines"])
    return "\n".join(f"{a.message} -> {a.hint}" for a in found)


def test_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert advice(monkeypatch) == ""
    reference = BlasInfo("reference", "", "/usr/lib/libblas.so.3", 0, True, False)
    assert "-> sudo apt install libopenblas0" in advice(monkeypatch, blas=reference)
    unknown = BlasInfo("unknown", "", "", 0, False, False)
    assert "OMP_NUM_THREADS" in advice(monkeypatch, blas=unknown)
    assert "-> unset OPENBLAS_CORETYPE" in advice(monkeypatch, coretype="Haswell")
    assert "64-bit system" in advice(monkeypatch, machine={"bits": 32})
    assert advice(monkeypatch, machine={"bits": 32, "architecture": "armv7l"}) == ""
    assert "power supply" in advice(monkeypatch, state={"throttling": ("under-voltage",)})
    assert advice(monkeypatch, state={"throttling": ("under-voltage earlier",)}) == ""
    two = ("onnxruntime 1.32.0", "onnxruntime-gpu 1.32.0")
    both = (EngineCheck("onnx", two, "works", (), ""),)
    assert "share one import name" in advice(monkeypatch, engines=both)


def test_advice_and_failures_are_on_the_page(diagnosis: Diagnosis) -> None:
    variant = VariantCheck("int8", "died with signal SIGILL", "pip install another")
    broken = EngineCheck("onnx", ("onnxruntime 9",), "fails", (variant,), "")
    extra = ExtraCheck(
        "convert", {"torch": "2.13.0+cpu", "onnx": "1.0"}, {"torch": "2.13.0", "onnx": "1.23.2"}
    )
    found = replace(diagnosis, engines=(broken,), extras=(extra,))
    found = replace(
        found, advice=advise(found.machine, found.state, replace(OPENBLAS, is_reference=True))
    )
    page = doctor_text(found)
    assert "int8: died with signal SIGILL\n  -> pip install another" in page
    assert "onnx 1.0 (proven: 1.23.2)" in page
    assert "torch" not in page.split("[convert]")[1]
    assert "-> sudo apt install libopenblas0" in page


def test_a_missing_converter_names_the_extra(
    diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edgeformer.doctor, "installed_version", lambda name: "")
    extra = check_extra("convert-tflite")
    assert not extra.complete
    page = doctor_text(replace(diagnosis, engines=(), extras=(extra,)))
    assert '-> pip install "edgeformer[convert-tflite]"' in page


def test_proven_versions_are_those_of_the_lock_files_and_of_the_extras() -> None:
    pins = {}
    for name in ("requirements.lock", "requirements-torch.lock"):
        for line in (ROOT / name).read_text().splitlines():
            if "==" in line:
                package, version = line.split("==")
                pins[_normal(package)] = version
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for extra, versions in PROVEN.items():
        listed = setup["options.extras_require"][extra].split("\n")
        names = {_normal(re.split(r"[<>=!;]", line)[0]) for line in listed if line}
        assert set(versions) == names
        assert versions == {name: pins[name] for name in names}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
