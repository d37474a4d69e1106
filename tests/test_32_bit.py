"""The NumPy engine where NumPy's index type has 32 bits, without such a machine.

A 32-bit NumPy refuses int64 in ``take``, ``repeat`` and ``reduceat``, and cuts it off silently in
``x[...]`` (both were measured on Debian's 1.24 for armhf). ``narrow`` gives the engine's modules a
NumPy that refuses the same; tests/arm runs the real one on emulated boards.
"""

import importlib.util
import json
import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeformer.device_profiles.profile import load_profile
from edgeformer.doctor import check_engine
from edgeformer.errors import BundleError, EngineError
from edgeformer.pipeline import prepare_checkpoint
from edgeformer.runtime import batch, bundle, execution, kernels
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.engines import numpy_engine
from edgeformer.runtime.execution import BoundProgram, Buffers
from edgeformer.runtime.plan import MAGIC, parse_plan
from tests.bundles import write_bundle
from tests.plan_models import engine_for, tiny
from tests.test_numpy_engine import batch_of
from tests.tiny_models import tiny_family_folder

NARROW = np.int32


class NarrowNumpy:
    """numpy, but with the index type of a 32-bit system and the refusals that come with it."""

    intp = NARROW

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def take(x: Any, index: Any, **keywords: Any) -> Any:
        return np.take(x, safe(index), **keywords)

    @staticmethod
    def repeat(x: Any, counts: Any) -> Any:
        return np.repeat(x, safe(counts))

    class add:
        """numpy.add with a strict ``reduceat``."""

        def __new__(cls, *arguments: Any, **keywords: Any) -> Any:
            return np.add(*arguments, **keywords)

        @staticmethod
        def reduceat(x: Any, index: Any, **keywords: Any) -> Any:
            return np.add.reduceat(x, safe(index), **keywords)


def safe(index: Any) -> Any:
    """As NumPy 1.24 does it: a safe cast, or a TypeError in these words."""
    array = np.asarray(index)
    if not np.can_cast(array.dtype, NARROW, "safe"):
        raise TypeError(f"Cannot cast array data from {array.dtype!r} to dtype('int32')")
    return array


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (batch, kernels, execution, numpy_engine):
        monkeypatch.setattr(module, "np", NarrowNumpy())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("layout", ["packed", "dense"])
@pytest.mark.parametrize("head", ["mean", "cls", "tokens"])
def test_token_models_answer_the_same(
    head: str, layout: str, precision: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    engine = engine_for(tiny(head), tmp_path, precision, packing=layout == "packed")
    texts = batch_of([5, 1, 17])
    inputs = texts.padded(17)
    expected = (engine.encode(texts)["answer"], engine.run("main", inputs)["answer"])
    request.getfixturevalue("narrow")
    texts = batch_of([5, 1, 17])
    assert texts.offsets.dtype == NARROW
    np.testing.assert_array_equal(engine.encode(texts)["answer"], expected[0])
    np.testing.assert_array_equal(engine.run("main", inputs)["answer"], expected[1])


def test_a_model_that_gathers_answers_the_same(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """DeBERTa's relative positions are looked up with indices that the plan computes."""
    folder = tiny_family_folder(tmp_path / "deberta", "deberta-v2")
    prepared, _ = prepare_checkpoint(folder, "embedding", None, load_profile("rpi4"))
    engine = engine_for(prepared, tmp_path)
    expected = engine.encode(batch_of([7, 3]))["embedding"]
    request.getfixturevalue("narrow")
    np.testing.assert_array_equal(engine.encode(batch_of([7, 3]))["embedding"], expected)


@pytest.mark.usefixtures("narrow")
def test_an_index_is_never_cut_off() -> None:
    """2**32 + 1 seen through 32 bits is 1: the wrong row, without an error."""
    x, out = np.arange(8, dtype=np.float32).reshape(4, 2), np.zeros((1, 2), np.float32)
    for index in (2**32 + 1, -(2**32)):
        far = np.array([index])
        for call in (
            lambda far=far: execution.KERNELS["take"](x, far, out, axis=0),
            lambda far=far: execution.KERNELS["gather"](x, far[:, None], out[:, :1], axis=0),
            lambda far=far: execution.KERNELS["index"](x, far, out),
        ):
            with pytest.raises(IndexError, match="larger than any array"):
                call()


def run_one(call: Any) -> None:
    BoundProgram({}, {}, ((call, "step 0 (take)"),), ("take",)).run()


def test_what_numpy_refuses_is_not_called_the_bundles_fault() -> None:
    def refuse() -> None:
        raise TypeError("Cannot cast array data")

    with pytest.raises(EngineError, match=rf"NumPy {np.__version__} \(64 bits\) refuses step 0"):
        run_one(refuse)


@pytest.mark.parametrize("error", [ValueError, IndexError, OverflowError])
def test_what_cannot_fit_is_the_plans_fault(error: type[Exception]) -> None:
    def fail() -> None:
        raise error("too large")

    with pytest.raises(BundleError, match=r"contradicts itself at step 0 \(take\): too large"):
        run_one(fail)


@pytest.mark.parametrize("error", [MemoryError, ValueError])
def test_too_little_memory_is_said(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """32-bit NumPy says ValueError for more bytes than it can count."""

    def refuse(*arguments: Any) -> None:
        raise error("Maximum allowed dimension exceeded")

    monkeypatch.setattr(execution, "np", SimpleNamespace(empty=refuse, uint8=np.uint8))
    with pytest.raises(EngineError, match="not enough memory for a buffer of 5 MB") as caught:
        Buffers().reserve(0, 5_000_000)
    assert "fewer or shorter texts" in caught.value.hint


@pytest.mark.parametrize("error", [OSError(12, "Cannot allocate memory"), OverflowError("int")])
def test_a_file_above_the_address_space_is_said(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise error

    with open_bundle(write_bundle(tmp_path)) as opened:
        fake = SimpleNamespace(mmap=refuse, ALLOCATIONGRANULARITY=4096, ACCESS_READ=1)
        monkeypatch.setattr(bundle, "mmap", fake)
        with pytest.raises(EngineError, match="cannot be mapped") as caught:
            opened.map("numpy-fp32/model.plan")
    assert "64-bit system" in caught.value.hint


def test_an_empty_tensor_with_axes_that_no_index_can_count() -> None:
    tensor = {"dtype": "float32", "shape": [0, 2**40, 2**40], "offset": 0, "scale": None, "axis": 0}
    header = json.dumps({"tensors": [tensor], "programs": {}}).encode()
    data = MAGIC + len(header).to_bytes(8, "little") + header + bytes(64)
    with pytest.raises(BundleError, match="tensor 0 has a shape that is too large"):
        parse_plan(memoryview(data))


@pytest.mark.parametrize(
    ("engine", "machine", "package"),
    [("onnx", "armv7l", False), ("tflite", "armv7l", True), ("tflite", "armv6l", False)],
)
def test_the_doctor_sends_nobody_to_a_package_that_is_not_built(
    engine: str, machine: str, package: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    check = check_engine(engine, 32)
    assert check.state == "not installed"
    assert ("pip install" in check.hint) is package and "numpy engine" in check.hint
