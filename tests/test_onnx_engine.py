"""The onnx engine: batches, refusals, and what it leaves on the machine."""

import importlib.metadata
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeformer.converters.prepared import PreparedModel
from edgeformer.errors import BundleError, EngineError, InputError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.engines import onnx_session
from edgeformer.runtime.engines.onnx_engine import OnnxEngine, max_waste, open_engine
from edgeformer.runtime.grouping import length_groups
from edgeformer.runtime.manifest import Port, Program, Variant
from tests.onnx_models import WORDS, export, folder_bundle, plain_module, tiny_bert, token_inputs

Exported = tuple[Path, dict[str, Variant], PreparedModel]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder, prepared = tmp_path_factory.mktemp("embedder"), tiny_bert()
    return folder, export(prepared, folder, ("fp32", "int8")), prepared


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder, prepared = tmp_path_factory.mktemp("tagger"), tiny_bert("tokens")
    return folder, export(prepared, folder, ("fp32",)), prepared


def opened(exported: Exported, precision: str = "fp32", threads: int = 1) -> OnnxEngine:
    return open_engine(folder_bundle(exported[0]), exported[1][precision], threads)


def texts(lengths: list[int], seed: int = 0) -> RaggedBatch:
    rng = np.random.default_rng(seed)
    return RaggedBatch.from_lists(
        [rng.integers(0, WORDS, n).tolist() for n in lengths],
        [rng.integers(0, 2, n).tolist() for n in lengths],
    )


def one_by_one(prepared: PreparedModel, batch: RaggedBatch, name: str) -> list[np.ndarray]:
    rows = []
    for i in range(len(batch)):
        one = batch.select([i])
        inputs = one.padded(int(one.lengths[0]))
        inputs["position_ids"] = np.arange(int(one.lengths[0]))[None]
        with torch.inference_mode():
            answer = prepared.module(**{k: torch.from_numpy(v) for k, v in inputs.items()})
        rows.append(answer[name].numpy()[0])
    return rows


LENGTHS = [3, 17, 4, 1, 60, 18, 3, 19, 33, 2]


def test_encode_keeps_the_order_of_the_texts(embedder: Exported) -> None:
    batch = texts(LENGTHS)
    got = opened(embedder).encode(batch)["embedding"]
    expected = np.stack(one_by_one(embedder[2], batch, "embedding"))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_encode_gives_one_row_per_token_without_padding(tagger: Exported) -> None:
    batch = texts(LENGTHS)
    got = opened(tagger).encode(batch)["logits"]
    expected = np.concatenate(one_by_one(tagger[2], batch, "logits"))
    assert got.shape == (sum(LENGTHS), 3)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_text_alone_equals_the_text_in_a_batch(embedder: Exported, precision: str) -> None:
    engine, batch = opened(embedder, precision), texts(LENGTHS * 5)
    together = engine.encode(batch)["embedding"]
    for i in range(len(LENGTHS)):
        alone = engine.encode(batch.select([i]))["embedding"][0]
        assert float(alone @ together[i]) >= 0.9999


def test_no_texts_give_no_rows(embedder: Exported, tagger: Exported) -> None:
    none = texts([])
    assert opened(embedder).encode(none)["embedding"].shape == (0, 32)
    assert opened(tagger).encode(none)["logits"].shape == (0, 3)


def test_texts_without_mask_are_never_padded(embedder: Exported) -> None:
    variants = embedder[1]
    main = variants["fp32"].programs["main"]
    seen = []

    class Unmasked(OnnxEngine):
        def run(self, program: str, inputs: object) -> dict[str, np.ndarray]:
            arrays = dict(inputs)  # type: ignore[call-overload]
            seen.append(arrays["input_ids"].shape)
            return {"embedding": np.zeros((len(arrays["input_ids"]), 32), np.float32)}

    ports = tuple(port for port in main.inputs if port.name != "attention_mask")
    variant = replace(variants["fp32"], programs={"main": replace(main, inputs=ports)})
    Unmasked(variant, 1, {}).encode(texts([5, 6, 5, 7]))
    assert sorted(seen) == [(1, 6), (1, 7), (2, 5)]


def test_absent_inputs_take_their_defaults(embedder: Exported) -> None:
    ids = token_inputs(2, 5)["input_ids"].numpy()
    engine = opened(embedder)
    short = engine.run("main", {"input_ids": ids.astype(np.int32)})["embedding"]
    full = {
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
        "position_ids": np.tile(np.arange(5), (2, 1)),
    }
    np.testing.assert_array_equal(
        short, engine.run("main", {"input_ids": ids, **full})["embedding"]
    )


def test_answers_are_the_same_each_time_and_from_each_thread(embedder: Exported) -> None:
    engine, batch = opened(embedder, "int8", threads=2), texts(LENGTHS)
    first = engine.encode(batch)["embedding"]
    with ThreadPoolExecutor(4) as pool:
        for again in pool.map(lambda _: engine.encode(batch)["embedding"], range(8)):
            np.testing.assert_array_equal(again, first)


def test_a_zipped_bundle_is_read_from_bytes(embedder: Exported) -> None:
    folder, variants, _ = embedder
    zipped = open_engine(folder_bundle(folder, zipped=True), variants["fp32"], 1)
    batch = texts([4, 5])
    np.testing.assert_array_equal(
        zipped.encode(batch)["embedding"], opened(embedder).encode(batch)["embedding"]
    )


def test_wrong_calls_are_input_errors(embedder: Exported) -> None:
    engine = opened(embedder)
    with pytest.raises(InputError, match="no program 'other'"):
        engine.run("other", {})
    with pytest.raises(InputError, match="missing"):
        engine.run("main", {})
    with pytest.raises(InputError, match="cannot run these inputs") as caught:
        engine.run("main", {"input_ids": np.full((1, 3), WORDS)})
    assert "\n" not in caught.value.message


def test_a_closed_engine_says_so(embedder: Exported) -> None:
    engine = opened(embedder)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.encode(texts([3]))


def test_a_plain_module_takes_no_texts(tmp_path: Path) -> None:
    prepared = plain_module()
    variant = export(prepared, tmp_path, ("fp32",))["fp32"]
    engine = open_engine(folder_bundle(tmp_path), variant, 1)
    with pytest.raises(InputError, match="takes no texts"):
        engine.encode(texts([3]))


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "text"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_is_one_clear_error(
    embedder: Exported, tmp_path: Path, damage: str, zipped: bool
) -> None:
    folder, variants, _ = embedder
    file = variants["fp32"].programs["main"].file
    data = (folder / file).read_bytes()
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_bytes(
        {
            "empty": b"",
            "cut": data[: len(data) // 2],
            "noise": np.random.default_rng(0).bytes(1000),
            "text": b"version https://example.invalid\n",
        }[damage]
    )
    with pytest.raises((BundleError, EngineError)) as caught:
        open_engine(folder_bundle(tmp_path, zipped), variants["fp32"], 1)
    assert file in caught.value.message
    assert "\n" not in caught.value.message
    assert "ONNXRuntimeError" not in caught.value.message
    assert caught.value.hint


def test_a_file_of_other_ports_is_refused(embedder: Exported) -> None:
    folder, variants, _ = embedder
    main = variants["fp32"].programs["main"]
    for changed in (
        replace(main, inputs=(*main.inputs, Port("pixels", "float32", ("batch", 3)))),
        replace(main, outputs=(Port("logits", "float32", ("batch", 3)),)),
    ):
        variant = replace(variants["fp32"], programs={"main": changed})
        with pytest.raises(BundleError, match="does not have the inputs and outputs"):
            open_engine(folder_bundle(folder), variant, 1)


def test_a_missing_provider_is_an_error_and_no_fall_back(embedder: Exported) -> None:
    variant = replace(embedder[1]["fp32"], provider="TensorrtExecutionProvider")
    with pytest.raises(EngineError, match="no TensorrtExecutionProvider") as caught:
        open_engine(folder_bundle(embedder[0]), variant, 1)
    assert "edgeformer[cuda]" in caught.value.hint


def test_a_provider_that_does_not_start_is_an_error(
    embedder: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = onnx_session.import_onnxruntime()
    monkeypatch.setattr(
        library, "get_available_providers", lambda: ["CUDAExecutionProvider"], raising=True
    )
    real = library.InferenceSession
    monkeypatch.setattr(
        library,
        "InferenceSession",
        lambda source, options, providers: real(
            source, options, providers=["CPUExecutionProvider"]
        ),
    )
    variant = replace(embedder[1]["fp32"], provider="CUDAExecutionProvider")
    with pytest.raises(EngineError, match="could not start it"):
        open_engine(folder_bundle(embedder[0]), variant, 1)


def test_a_bad_version_is_refused_before_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda n: "1.21.0" if n == "onnxruntime" else real(n)
    )
    monkeypatch.setattr(onnx_session.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(
        onnx_session.importlib, "import_module", lambda name: pytest.fail(f"imported {name}")
    )
    with pytest.raises(EngineError, match="illegal instruction") as caught:
        onnx_session.import_onnxruntime()
    assert "1.21.0" in caught.value.message and caught.value.hint


def test_only_the_bad_version_on_the_bad_machine_is_refused() -> None:
    pi4, pi5 = ("asimd",), ("asimd", "asimddp", "asimdhp")
    assert onnx_session.known_bad("onnxruntime", "1.21.0", "aarch64", pi4)
    assert not onnx_session.known_bad("onnxruntime", "1.21.0", "aarch64", pi5)
    assert not onnx_session.known_bad("onnxruntime", "1.21.0", "x86_64", ())
    assert not onnx_session.known_bad("onnxruntime", "1.21.1", "aarch64", pi4)
    assert onnx_session.refused() == ""


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError) as caught:
        onnx_session.import_onnxruntime()
    assert "edgeformer[onnx]" in caught.value.hint


def test_nothing_is_written_to_the_home_directory(embedder: Exported, tmp_path: Path) -> None:
    folder, variants, _ = embedder
    script = (
        "import sys; from pathlib import Path;"
        "from edgeformer.runtime.engines.onnx_session import open_session;"
        "open_session(Path(sys.argv[1]), 1, '', 'model')"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / ".cache")}
    model = folder / variants["fp32"].programs["main"].file
    subprocess.run([sys.executable, "-c", script, str(model)], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []


@given(st.lists(st.integers(1, 512), max_size=80), st.floats(0, 0.5), st.integers(1, 40))
def test_groups_hold_each_text_once_and_waste_little(
    lengths: list[int], waste: float, most: int
) -> None:
    groups = length_groups(lengths, waste, most)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) <= most
        padded = max(lengths[i] for i in group) * len(group)
        assert padded - sum(lengths[i] for i in group) <= waste * padded


def test_texts_of_one_length_share_groups() -> None:
    assert [len(group) for group in length_groups([7] * 70)] == [32, 32, 6]


def test_a_program_of_an_unknown_file_is_a_bundle_error(embedder: Exported) -> None:
    main = embedder[1]["fp32"].programs["main"]
    missing = Program("onnx-fp32/other.onnx", "main", (), main.inputs, main.outputs)
    variant = replace(embedder[1]["fp32"], programs={"main": missing})
    with pytest.raises(BundleError, match=r"other\.onnx"):
        open_engine(folder_bundle(embedder[0]), variant, 1)


@pytest.mark.parametrize(
    ("precision", "machine", "pads"),
    [
        ("int8", "aarch64", False),
        ("int8", "x86_64", True),
        ("fp32", "aarch64", True),
    ],
)
def test_texts_are_not_padded_where_padding_could_change_an_answer(
    embedder: Exported, precision: str, machine: str, pads: bool
) -> None:
    variant = embedder[1][precision]
    assert (max_waste(variant, machine) > 0) is pads
