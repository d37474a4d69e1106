"""What a user would lose: right answers from the tflite engine, or a clear word when it cannot."""

import importlib.metadata
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("litert_torch", reason="needs edgeformer[convert-tflite]")

from edgeformer.errors import BundleError, EngineError, InputError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.engines import tflite_session
from edgeformer.runtime.engines.tflite_engine import TfliteEngine, open_engine
from edgeformer.runtime.engines.tflite_output import captured_output
from edgeformer.runtime.engines.tflite_session import known_bad
from tests.tflite_models import (
    CLASSES,
    HIDDEN,
    VOCABULARY,
    Converted,
    FakeBundle,
    cosines,
    mixer,
    random_texts,
    tokens_two_buckets,
    torch_answers,
)

PRECISIONS = ("fp32", "int8")


def opened(converted: Converted, precision: str, folder: Path | None = None) -> TfliteEngine:
    bundle: Any = FakeBundle(converted.files, folder)
    return open_engine(bundle, converted.variants[precision], 1)


@pytest.fixture(scope="module")
def engines() -> dict[str, TfliteEngine]:
    return {precision: opened(tokens_two_buckets(), precision) for precision in PRECISIONS}


def tolerance(reference: NDArray[np.float32]) -> float:
    return 1e-5 * max(1.0, float(np.abs(reference).max()))


def test_fp32_answers_are_pytorchs(engines: dict[str, TfliteEngine]) -> None:
    batch = random_texts(5, 32, 1, 8, 9, 20)
    reference = torch_answers(tokens_two_buckets().prepared, batch)
    answer = engines["fp32"].encode(batch)
    assert answer["embedding"].shape == (6, HIDDEN)
    assert answer["logits"].shape == (5 + 32 + 1 + 8 + 9 + 20, CLASSES)
    for name, expected in reference.items():
        assert answer[name].dtype == np.float32
        assert np.abs(answer[name] - expected).max() <= tolerance(expected)


def test_int8_answers_are_near(engines: dict[str, TfliteEngine]) -> None:
    batch = random_texts(*range(1, 33))
    reference = torch_answers(tokens_two_buckets().prepared, batch)
    answer = engines["int8"].encode(batch)
    assert cosines(answer["embedding"], reference["embedding"]).min() > 0.99
    assert np.abs(answer["embedding"] - reference["embedding"]).max() > 1e-5  # it is quantized


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_answer_does_not_depend_on_the_bucket(
    engines: dict[str, TfliteEngine], precision: str
) -> None:
    converted = tokens_two_buckets()
    variant = converted.variants[precision]
    program = replace(variant.programs["main"], buckets=(32,))
    only_large = replace(variant, programs={"main": program})
    bundle: Any = FakeBundle(converted.files)
    batch = random_texts(1, 3, 8)
    small = engines[precision].encode(batch)
    large = open_engine(bundle, only_large, 1).encode(batch)
    for name in ("embedding", "logits"):
        assert cosines(small[name], large[name]).min() >= 0.9999
        assert small[name].shape == large[name].shape


@pytest.mark.parametrize("precision", PRECISIONS)
def test_run_takes_padded_arrays_of_any_batch(
    engines: dict[str, TfliteEngine], precision: str
) -> None:
    batch = random_texts(4, 11, 7)
    arrays = {name: a.astype(np.int16) for name, a in batch.padded(13).items()}
    answer = engines[precision].run("main", arrays)
    assert answer["embedding"].shape == (3, HIDDEN)
    assert answer["logits"].shape == (3, 13, CLASSES)
    alone = engines[precision].encode(batch)
    assert cosines(answer["embedding"], alone["embedding"]).min() >= 0.9999
    real = answer["logits"][batch.padded(13)["attention_mask"] == 1]
    assert cosines(real, alone["logits"]).min() >= 0.9999


def test_run_makes_absent_inputs(engines: dict[str, TfliteEngine]) -> None:
    ids = random_texts(6).ids[None]
    zeros = RaggedBatch(ids[0], np.zeros(6, np.int32), np.array([0, 6]))
    answer = engines["fp32"].run("main", {"input_ids": ids})
    np.testing.assert_array_equal(answer["embedding"], engines["fp32"].encode(zeros)["embedding"])


def test_nothing_in_nothing_out(engines: dict[str, TfliteEngine]) -> None:
    answer = engines["fp32"].encode(RaggedBatch.from_lists([], []))
    assert answer["embedding"].shape == (0, HIDDEN)
    assert answer["logits"].shape == (0, CLASSES)
    answer = engines["fp32"].run("main", {"input_ids": np.zeros((0, 3), np.int64)})
    assert answer["embedding"].shape == (0, HIDDEN)
    assert answer["logits"].shape == (0, 3, CLASSES)


def test_too_long_is_said(engines: dict[str, TfliteEngine]) -> None:
    with pytest.raises(InputError, match=r"33 tokens.*32"):
        engines["fp32"].encode(random_texts(3, 33))
    with pytest.raises(InputError, match=r"40 tokens.*32"):
        engines["fp32"].run("main", {"input_ids": np.ones((1, 40), np.int64)})


def test_an_id_beyond_the_vocabulary_is_named_and_the_engine_lives_on(
    engines: dict[str, TfliteEngine],
) -> None:
    for bad in (VOCABULARY, -3, VOCABULARY + 5):
        with pytest.raises(InputError, match=rf"an id is {bad}, outside .* 0 to {VOCABULARY - 1}"):
            engines["fp32"].run("main", {"input_ids": np.array([[1, bad]])})
    batch = random_texts(5)
    expected = torch_answers(tokens_two_buckets().prepared, batch)["embedding"]
    np.testing.assert_allclose(engines["fp32"].encode(batch)["embedding"], expected, atol=1e-5)


def test_unknown_program_and_input(engines: dict[str, TfliteEngine]) -> None:
    with pytest.raises(InputError, match="no program 'stage_2'"):
        engines["fp32"].run("stage_2", {})
    with pytest.raises(InputError, match="unknown input 'ids'"):
        engines["fp32"].run("main", {"ids": np.ones((1, 3))})


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_plain_module_runs_at_its_example_shapes(precision: str) -> None:
    engine = opened(mixer(), precision)
    for rows in (1, 3):
        inputs: dict[str, NDArray[Any]] = {
            "left": np.linspace(-1, 1, rows * 8, dtype=np.float64).reshape(rows, 8),
            "right": np.full((rows, 8), 0.25, np.float32),
        }
        with torch.inference_mode():
            tensors = {n: torch.from_numpy(a.astype(np.float32)) for n, a in inputs.items()}
            expected = mixer().prepared.module(**tensors)["mixed"].numpy()
        answer = engine.run("main", inputs)["mixed"]
        assert answer.shape == (rows, 8)
        error = np.abs(answer - expected).max()
        assert error <= (tolerance(expected) if precision == "fp32" else 0.05)


def test_other_shapes_of_a_plain_module_are_refused() -> None:
    engine = opened(mixer(), "fp32")
    two = np.ones((2, 8), np.float32)
    with pytest.raises(InputError, match=r"left \(1, 8\).*left \(3, 8\)"):
        engine.run("main", {"left": two, "right": two})
    with pytest.raises(InputError, match="takes no texts"):
        engine.encode(random_texts(3))


def test_threads_agree(engines: dict[str, TfliteEngine]) -> None:
    batch = random_texts(3, 30, 8, 17)
    expected = engines["int8"].encode(batch)["embedding"]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: engines["int8"].encode(batch)["embedding"], range(24)))
    for answer in answers:
        np.testing.assert_array_equal(answer, expected)


def test_answers_are_copies(engines: dict[str, TfliteEngine]) -> None:
    batch = random_texts(4)
    first = engines["fp32"].encode(batch)["embedding"]
    kept = first.copy()
    engines["fp32"].encode(random_texts(7, 4))
    np.testing.assert_array_equal(first, kept)


def test_folder_and_zip_answer_alike(engines: dict[str, TfliteEngine], tmp_path: Path) -> None:
    batch = random_texts(9)
    engine = opened(tokens_two_buckets(), "int8", tmp_path)
    np.testing.assert_array_equal(
        engine.encode(batch)["embedding"], engines["int8"].encode(batch)["embedding"]
    )


def test_a_closed_engine_says_so() -> None:
    engine = opened(mixer(), "fp32")
    engine.close()
    engine.close()
    x = np.ones((1, 8), np.float32)
    with pytest.raises(EngineError, match="closed"):
        engine.run("main", {"left": x, "right": x})


@pytest.mark.parametrize("in_folder", [True, False])
@pytest.mark.parametrize("damage", ["empty", "noise", "head", "tail", "text"])
def test_a_damaged_file_is_one_clear_error(damage: str, in_folder: bool, tmp_path: Path) -> None:
    converted = tokens_two_buckets()
    (name,) = {p.file for p in converted.variants["int8"].programs.values()}
    good = converted.files[name]
    bad = {
        "empty": b"",
        "noise": np.random.default_rng(0).bytes(5000),
        "head": good[:1000],
        "tail": good[: len(good) // 2],
        "text": b"version https://git-lfs.github.com/spec/v1\n",
    }[damage]
    broken = replace(converted, files={**converted.files, name: bad})
    with pytest.raises(BundleError, match=f"{name} is not a TFLite model"):
        opened(broken, "int8", tmp_path if in_folder else None)


def test_a_file_without_the_entries_of_the_manifest_is_refused() -> None:
    converted = tokens_two_buckets()
    variant = converted.variants["fp32"]
    main = variant.programs["main"]
    for wrong in (
        replace(main, buckets=(8, 16, 32)),
        replace(main, entry="other_{length}"),
        replace(main, entry="other_{example}", buckets=()),
        replace(main, inputs=main.inputs[1:]),
    ):
        bundle: Any = FakeBundle(converted.files)
        with pytest.raises(BundleError, match="does not have the entries"):
            open_engine(bundle, replace(variant, programs={"main": wrong}), 1)


def pretend(monkeypatch: pytest.MonkeyPatch, numpy_version: str, **installed: str) -> None:
    def version(name: str) -> str:
        if name.replace("-", "_") in installed:
            return installed[name.replace("-", "_")]
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(np, "__version__", numpy_version)


def test_nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "2.1.0")
    with pytest.raises(EngineError, match="no TFLite runtime") as error:
        opened(mixer(), "fp32")
    assert 'pip install "edgeformer[tflite]"' in error.value.hint


def test_old_runtime_under_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "2.1.0", tflite_runtime="2.14.0")
    with pytest.raises(EngineError, match=r"tflite-runtime 2\.14\.0 is refused.*numpy 2"):
        opened(mixer(), "fp32")


def test_old_runtime_gives_wrong_int8_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "1.26.4", tflite_runtime="2.14.0")
    with pytest.raises(EngineError, match="wrong answers"):
        opened(mixer(), "int8")
    assert tflite_session.usable_package("fp32") == "tflite_runtime"


def test_litert_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "2.1.0", tflite_runtime="2.14.0", ai_edge_litert="2.3.0")
    assert tflite_session.usable_package("int8") == "ai_edge_litert"
    assert known_bad("ai-edge-litert", "2.3.0", "2.1.0", "int8") == ""


def test_a_runtime_that_does_not_import_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(EngineError, match="installed but cannot be imported"):
        opened(mixer(), "fp32")


SILENT = """
import sys
from pathlib import Path
import numpy as np
from edgeformer.runtime.engines.tflite_session import open_session
session = open_session(Path(sys.argv[1]), 1, "int8", "model.tflite")
x = np.ones((1, 8), np.float32)
session.run("main_0", {"left": x, "right": x})
session.run("main_1", {"left": np.ones((3, 8)), "right": np.ones((3, 8))})
session.close()
assert "torch" not in sys.modules
print("done")
"""


def test_the_native_library_is_kept_quiet(tmp_path: Path) -> None:
    FakeBundle(mixer().files, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SILENT, str(tmp_path / "tflite-int8/model.tflite")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_captured_output_gives_everything_back(capfd: pytest.CaptureFixture[str]) -> None:
    import logging
    import os

    with captured_output() as log, captured_output() as inner:
        os.write(2, b"\x1b[31mnative\x1b[0m\n\n")
        sys.stdout.write("python\n")
        handler = logging.StreamHandler()
    assert set(inner.tail().splitlines()) == {"native", "python"}
    assert inner.tail(1) in ("native", "python")
    assert log.text == ""
    assert capfd.readouterr() == ("", "")
    handler.emit(logging.LogRecord("n", 30, "p", 1, "later", None, None))
    os.write(1, b"out\n")
    assert capfd.readouterr() == ("out\n", "later\n")
