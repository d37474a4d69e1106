"""The wheel: everything in it, numpy and click beside it, and it runs on every Python promised."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.test_house import FOLDERS, ROOT
from tests.tiny_bundles import bundle
from tests.wheels import build_wheel

pytestmark = pytest.mark.slow

VERSIONS = ("3.11", "3.12", "3.13")
PROOF = """
import sys
from edgeformer.runtime import load
with load(sys.argv[1]) as model:
    print(model.variant.id, model.embed("a film").shape)
heavy = {"torch", "onnx", "transformers", "tokenizers"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what is committed or would be, in isolation."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_wheel_holds_every_module_once(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    expected = set()
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            below = path.relative_to(ROOT / folder)
            if folder == "edgeformer" and below.parts[0] in FOLDERS:
                continue
            expected.add(f"{package.replace('.', '/')}/{below.as_posix()}")
    assert {name for name in names if name.endswith(".py")} == expected
    assert len(names) == len(set(names))
    for data in ("device_profiles/rpi4.toml", "calibration_texts.txt", "doctor_models/tiny.zip"):
        assert f"edgeformer/{data}" in names
    assert "edgeformer/py.typed" in names


def _interpreter(version: str) -> str | None:
    """A Python of that version that starts."""
    for name in (sys.executable, f"python{version}"):
        code = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"
        try:
            done = subprocess.run([name, "-c", code], capture_output=True, text=True)
        except OSError:
            continue
        if done.stdout.split()[:1] == [version]:
            return done.stdout.split()[1]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = sorted(pyenv.glob(f"{version}.*/bin/python"))
    return str(found[-1]) if found else None


@pytest.mark.parametrize("version", VERSIONS)
def test_bare_install_answers_with_numpy_and_click_only(
    version: str, wheel: Path, tmp_path: Path
) -> None:
    python = _interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    subprocess.run([python, "-m", "venv", str(tmp_path / "venv")], check=True)
    inside = str(tmp_path / "venv" / "bin" / "python")
    pip = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, str(wheel)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"numpy and click cannot be installed here: {done.stderr[-200:]}")
    listed = subprocess.run(
        [inside, "-m", "pip", "list", "--format", "freeze"], capture_output=True, text=True
    ).stdout
    packages = {line.split("==")[0] for line in listed.split()}
    assert packages - {"pip", "setuptools"} == {"edgeformer", "numpy", "click"}
    path = bundle("embedding")
    answer = subprocess.run(
        [inside, "-c", PROOF, str(path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("numpy-")
    doctor = subprocess.run(
        [inside, "-m", "edgeformer", "doctor"], capture_output=True, text=True, cwd=tmp_path
    )
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert "edgeformer[tflite]" in doctor.stdout
