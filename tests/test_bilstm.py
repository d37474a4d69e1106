"""The BiLSTM student: a user would lose right answers in any batch, or the saved model."""

import functools
import json
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeformer.errors import InputError, ModelError
from edgeformer.models.bilstm import BiLstmClassifier, BiLstmConfig
from edgeformer.models.build import HeadConfig, make_model
from edgeformer.models.checkpoint import load_checkpoint
from edgeformer.models.lstm import BidirectionalLstm, lstm
from edgeformer.models.own_folder import own_settings, read_own
from edgeformer.models.saving import save_checkpoint
from edgeformer.pipeline import convert
from edgeformer.runtime import load
from edgeformer.runtime.engines.onnx_engine import open_engine
from tests.bilstm_models import (
    CLASSES,
    CONFIG,
    DEEP,
    HEAD,
    bilstm_folder,
    classifier,
    loaded,
    padded,
    prepared,
)
from tests.onnx_models import export, folder_bundle
from tests.tiny_models import TEXTS, edit_config

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@settings(max_examples=30, deadline=None)
@given(LENGTHS, st.integers(0, 3), st.integers(0, 2**31))
def test_both_forms_are_torchs_lstm_text_by_text(
    lengths: list[int], padding: int, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = BidirectionalLstm(5, 4)
    mask = padded(lengths, max(lengths) + padding)["attention_mask"]
    x = torch.randn(*mask.shape, 5)
    with torch.no_grad():
        outputs, last = layer(x, mask)
        exported, exported_last = layer._by_direction(x, mask)
        for i, n in enumerate(lengths):
            expected, (state, _) = layer.lstm(x[i : i + 1, :n])
            wanted = torch.nn.functional.pad(expected[0], (0, 0, 0, mask.shape[1] - n))
            for states, end in ((outputs, last), (exported, exported_last)):
                torch.testing.assert_close(states[i], wanted, atol=1e-6, rtol=1e-5)
                torch.testing.assert_close(end[i], state.reshape(-1), atol=1e-6, rtol=1e-5)


def test_the_operation_keeps_to_the_rules_of_torch() -> None:
    layer = BidirectionalLstm(5, 4)
    weights = [p.detach() for name, p in layer.lstm.named_parameters() if "reverse" not in name]
    mask = padded([3, 2])["attention_mask"]
    inputs = (torch.randn(2, 3, 5), mask, *weights, True)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(lstm, inputs, test_utils=tests)


@settings(max_examples=30, deadline=None)
@given(LENGTHS, st.integers(0, 4), st.integers(0, 2**31))
def test_padding_and_batch_mates_make_no_difference(
    lengths: list[int], padding: int, seed: int
) -> None:
    module = classifier(DEEP)
    batch = padded(lengths, max(lengths) + padding, seed)
    with torch.no_grad():
        logits = module(**batch)["logits"]
        for i, n in enumerate(lengths):
            alone = {name: tensor[i : i + 1, :n] for name, tensor in batch.items()}
            torch.testing.assert_close(module(**alone)["logits"][0], logits[i], atol=1e-5, rtol=0)


def test_a_text_in_the_wrong_place_is_refused() -> None:
    module = classifier()
    ids = torch.zeros(2, 3, dtype=torch.int64)
    for mask in ([[1, 1, 0], [0, 1, 1]], [[1, 1, 1], [0, 0, 0]], [[1, 0, 1], [1, 1, 1]]):
        with pytest.raises(InputError, match="padded on the right"):
            module(ids, torch.tensor(mask))


def test_it_learns_and_every_parameter_gets_a_gradient() -> None:
    module = BiLstmClassifier(DEEP, CLASSES)
    module(**padded([5, 2, 4]))["logits"].square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def test_its_size_is_that_of_its_tables_gates_and_layers() -> None:
    """Gates of one direction: 4 * hidden * (inputs + hidden + two biases)."""
    module = make_model(replace(CONFIG, vocab_size=1000), HEAD)
    gates = 2 * 4 * 16 * (24 + 16 + 2)
    layers = (2 * 16 + 1) * 32 + (32 + 1) * CLASSES
    assert sum(p.numel() for p in module.parameters()) == 1000 * 24 + gates + layers


@pytest.mark.parametrize("config", [CONFIG, DEEP], ids=["plain", "deep"])
def test_a_saved_student_comes_back_bit_for_bit(config: BiLstmConfig, tmp_path: Path) -> None:
    student = loaded(tmp_path, config)
    saved = save_checkpoint(student, tmp_path / "saved")
    again = load_checkpoint(saved)
    ours, theirs = student.module.state_dict(), again.module.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for what in ("task", "family", "labels", "head", "input_names", "max_length", "tokenizer_json"):
        assert getattr(student, what) == getattr(again, what)
    batch = padded([5, 3])
    with torch.no_grad():  # its LSTM must use the weights that were loaded
        expected, answer = (m(**batch)["logits"] for m in (student.module, again.module))
        torch.testing.assert_close(answer, expected, atol=1e-6, rtol=1e-5)
    settings = json.loads((saved / "config.json").read_text())
    assert (settings["model_type"], settings["architecture"]) == ("edgeformer", "bilstm")


def test_its_family_does_not_depend_on_its_teacher(tmp_path: Path) -> None:
    student = replace(loaded(tmp_path), family="bert")
    assert load_checkpoint(save_checkpoint(student, tmp_path / "saved")).family == "bilstm"


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    folder = bilstm_folder(tmp_path / "student")
    with pytest.raises(ModelError, match="no head for embedding"):
        load_checkpoint(folder, task="embedding")
    with pytest.raises(ModelError, match="no head for fill-mask"):
        make_model(CONFIG, HeadConfig("fill-mask"))
    with pytest.raises(ModelError, match="activation 'mish'"):
        make_model(CONFIG, replace(HEAD, activation="mish"))
    with pytest.raises(ModelError, match="at least 1"):
        replace(CONFIG, num_layers=0)


def test_the_mark_in_config_json_decides(tmp_path: Path) -> None:
    settings: dict[str, Any] = json.loads(json.dumps(own_settings(DEEP, HEAD, "bilstm")))
    assert read_own(settings) == (DEEP, HEAD, "bilstm")
    with pytest.raises(ModelError, match="unknown settings of the encoder"):
        read_own({**settings, "architecture": "encoder"})
    folder = bilstm_folder(tmp_path / "student")
    edit_config(folder, architecture="rnn")
    with pytest.raises(ModelError, match="no architecture 'rnn'"):
        load_checkpoint(folder)


PROFILE = 'extends = "rpi4"\n[length]\nmax_tokens = 48\nbucket_tokens = [16, 48]\n'


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder, and its bundle of each precision for every engine."""
    path = tmp_path_factory.mktemp("bilstm")
    (path / "tiny.toml").write_text(PROFILE)
    made = {"folder": bilstm_folder(path / "student", DEEP)}
    for precision in ("fp32", "int8"):
        report = convert(
            made["folder"],
            profile=str(path / "tiny.toml"),
            output=path / f"{precision}.edge",
            engines=("onnx", "tflite", "numpy"),
            precisions=(precision,),
        )
        made[precision] = report.path
    return made


@pytest.mark.parametrize("engine", ["onnx", "tflite", "numpy"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_engine_answers_as_pytorch(
    bundles: dict[str, Path], engine: str, precision: str
) -> None:
    module = load_checkpoint(bundles["folder"]).module
    batch = padded([1, 9, 4, 30], 31)
    with torch.no_grad():
        expected = module(**batch)["logits"].numpy()
    with load(bundles[precision], engine=engine) as model:
        parity = model.variant.parity
        assert parity is not None
        assert parity.passed
        answer = model.run(**{name: tensor.numpy() for name, tensor in batch.items()})["logits"]
        if precision == "int8":
            cosine = np.sum(answer * expected) / np.linalg.norm(answer) / np.linalg.norm(expected)
            assert cosine >= 0.99
            assert np.abs(answer - expected).max() > 1e-4, "nothing was quantized"
            return
        assert np.abs(answer - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
        together = model.classify(list(TEXTS), top_k=CLASSES)
        for text, labels in zip(TEXTS, together, strict=True):
            ids = torch.tensor([model.tokenizer.encode(text)])
            with torch.no_grad():
                wanted = module(ids, torch.ones_like(ids))["logits"].softmax(1)[0]
            scores = {label.name: label.score for label in labels}
            assert [scores[f"class {i}"] for i in range(CLASSES)] == pytest.approx(
                wanted.tolist(), abs=1e-5
            )


def test_variants_say_what_became_of_the_lstm(bundles: dict[str, Path]) -> None:
    for precision in ("fp32", "int8"):
        manifest = load(bundles[precision], engine="numpy").manifest
        variants = {variant.engine: variant for variant in manifest.variants}
        layouts = {engine: variant.layout for engine, variant in variants.items()}
        assert layouts == {"onnx": "dense", "tflite": "dense", "numpy": "packed"}
        told = ["LSTM" in variants[engine].note for engine in ("onnx", "tflite", "numpy")]
        assert told == [precision == "int8"] * 2 + [False]


def test_onnx_has_one_lstm_for_each_direction_and_int8_weights(bundles: dict[str, Path]) -> None:
    files = {p: onnx.load(bundles[p] / f"onnx-{p}/model.onnx") for p in ("fp32", "int8")}
    for model in files.values():
        lstms = [node for node in model.graph.node if node.op_type == "LSTM"]
        directions = Counter(a.s for node in lstms for a in node.attribute if a.name == "direction")
        assert directions == {b"forward": 2, b"reverse": 2}
        assert not {"Loop", "Scan", "If"} & {node.op_type for node in model.graph.node}
        onnx.checker.check_model(model, full_check=True)
    large = [t.data_type for t in files["int8"].graph.initializer if np.prod(t.dims) >= 4 * 16 * 16]
    assert large.count(onnx.TensorProto.INT8) >= 8
    constants = {t.name for t in files["fp32"].graph.initializer}
    for node in files["fp32"].graph.node:
        if node.op_type == "LSTM":
            assert set(node.input[1:4]) <= constants, "weights are not computed in every call"


def test_onnx_runtime_widens_int8_weights_once(bundles: dict[str, Path], tmp_path: Path) -> None:
    """What the note says: Cast and Mul before an LSTM are gone when the file is loaded."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 3
    source = bundles["int8"] / "onnx-int8/model.onnx"
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    made = {o for node in onnx.load(tmp_path / "loaded.onnx").graph.node for o in node.output}
    nodes = [n for n in onnx.load(tmp_path / "loaded.onnx").graph.node if n.op_type == "LSTM"]
    assert len(nodes) == 4
    assert not {name for node in nodes for name in node.input[1:4]} & made


@functools.cache
def onnx_engines() -> tuple[torch.nn.Module, tuple[Any, Any]]:
    model = prepared(DEEP)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        variants = export(model, path, ("fp32", "fp16"))
        exact, half = (open_engine(folder_bundle(path), variants[p], 1) for p in ("fp32", "fp16"))
    return model.module, (exact, half)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(0, 2**31))
def test_float16_and_float32_agree_on_any_batch(lengths: list[int], seed: int) -> None:
    """float16 LSTM weights, and answers of the float32 file for batches of all shapes."""
    module, engines = onnx_engines()
    batch = padded(lengths, max(lengths) + seed % 3, seed)
    with torch.no_grad():
        expected = module(**batch)["logits"].numpy()
    arrays = {name: tensor.numpy() for name, tensor in batch.items()}
    for engine, tolerance in zip(engines, (1e-5, 2e-2), strict=True):
        answer = engine.run("main", arrays)["logits"]
        assert np.abs(answer - expected).max() <= tolerance * max(1.0, np.abs(expected).max())
