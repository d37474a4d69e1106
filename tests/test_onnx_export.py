"""What a converted ONNX file answers, against the PyTorch module it was made from."""

import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgeformer.converters.onnx_export import export_onnx, random_texts
from edgeformer.converters.onnx_passes.quantize_linears import model_saturating_pairs
from edgeformer.converters.prepared import PreparedModel
from edgeformer.converters.tracing import trace_inputs
from edgeformer.device_profiles.profile import load_profile
from edgeformer.errors import InputError, ModelError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.engines.onnx_engine import OnnxEngine, open_engine
from edgeformer.runtime.manifest import ModelCard, Port, Variant
from tests.onnx_models import (
    HIDDEN,
    WORDS,
    export,
    folder_bundle,
    plain_module,
    seeded,
    tiny_bert,
    token_inputs,
)
from tests.tiny_models import tiny_model

Array = NDArray[Any]
PRECISIONS = ("fp32", "int8", "fp16")


def opened(folder: Path, variant: Variant) -> OnnxEngine:
    return open_engine(folder_bundle(folder), replace(variant, provider=""), threads=1)


def reference(prepared: PreparedModel, inputs: dict[str, torch.Tensor]) -> dict[str, Array]:
    with torch.inference_mode():
        return {name: value.numpy() for name, value in prepared.module(**inputs).items()}


def lowest_cosine(a: Array, b: Array) -> float:
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def padded_inputs() -> dict[str, torch.Tensor]:
    inputs = token_inputs(3, 17, seed=1)
    inputs["attention_mask"][1, 9:] = 0
    inputs["attention_mask"][2, 1:] = 0
    return inputs


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Variant]]:
    folder = tmp_path_factory.mktemp("bert")
    return folder, export(tiny_bert(), folder, PRECISIONS, "cuda")


@pytest.mark.parametrize(("precision", "least"), [("fp16", 0.99999), ("int8", 0.999)])
def test_quantized_embeddings_point_the_same_way(
    bert_folder: tuple[Path, dict[str, Variant]], precision: str, least: float
) -> None:
    folder, variants = bert_folder
    inputs = padded_inputs()
    expected = reference(tiny_bert(), inputs)["embedding"]
    got = opened(folder, variants[precision]).run("main", inputs)["embedding"]
    assert got.dtype == np.float32
    assert least <= lowest_cosine(got, expected) < 1 + 1e-5
    assert np.abs(got - expected).max() > 1e-5  # it is not the float32 file


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 3), (4, 64)])
def test_fp32_equals_pytorch_at_any_batch_and_length(
    bert_folder: tuple[Path, dict[str, Variant]], shape: tuple[int, int]
) -> None:
    folder, variants = bert_folder
    inputs = token_inputs(*shape, seed=3)
    expected = reference(tiny_bert(), inputs)["embedding"]
    got = opened(folder, variants["fp32"]).run("main", inputs)["embedding"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_fp32_equals_pytorch_with_padding(bert_folder: tuple[Path, dict[str, Variant]]) -> None:
    folder, variants = bert_folder
    expected = reference(tiny_bert(), padded_inputs())["embedding"]
    got = opened(folder, variants["fp32"]).run("main", padded_inputs())["embedding"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_answer_does_not_depend_on_batch_or_padding(
    bert_folder: tuple[Path, dict[str, Variant]], precision: str
) -> None:
    folder, variants = bert_folder
    engine = opened(folder, variants[precision])
    inputs = padded_inputs()
    together = engine.run("main", inputs)["embedding"]
    for row, length in enumerate((17, 9, 1)):
        one = {name: value[row : row + 1, :length] for name, value in inputs.items()}
        alone = engine.run("main", one)["embedding"]
        assert lowest_cosine(alone, together[row : row + 1]) >= 0.9999


def test_variants_say_what_they_are(bert_folder: tuple[Path, dict[str, Variant]]) -> None:
    folder, variants = bert_folder
    assert [v.id for v in variants.values()] == ["onnx-fp32", "onnx-int8", "onnx-fp16"]
    assert {v.layout for v in variants.values()} == {"dense"}
    assert {v.parity for v in variants.values()} == {None}
    assert variants["fp16"].provider == "CUDAExecutionProvider"
    assert variants["fp32"].provider == variants["int8"].provider == ""
    assert "per row" in variants["int8"].note
    for variant in variants.values():
        assert (folder / variant.programs["main"].file).is_file()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_file_is_plain_onnx_with_the_names_of_the_ports(
    bert_folder: tuple[Path, dict[str, Variant]], precision: str
) -> None:
    folder, variants = bert_folder
    path = folder / variants[precision].programs["main"].file
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 10
    used = {"": 20} | ({"com.microsoft": 1} if precision == "fp16" else {})
    assert {o.domain: o.version for o in model.opset_import} == used
    dims = [
        (value.name, [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim])
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert dims == [
        ("input_ids", ["batch", "sequence"]),
        ("attention_mask", ["batch", "sequence"]),
        ("token_type_ids", ["batch", "sequence"]),
        ("position_ids", ["batch", "sequence"]),
        ("embedding", ["batch", HIDDEN]),
    ]
    assert [path.name for path in path.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_of_this_machine_is_in_the_file(
    bert_folder: tuple[Path, dict[str, Variant]], precision: str
) -> None:
    folder, variants = bert_folder
    data = (folder / variants[precision].programs["main"].file).read_bytes()
    for trace in (b".py", b"torch", str(Path.home()).encode() + b"/", str(Path.cwd()).encode()):
        assert trace not in data


def test_norms_and_gelus_are_single_ops(bert_folder: tuple[Path, dict[str, Variant]]) -> None:
    folder, variants = bert_folder
    model = ir.load(folder / variants["fp32"].programs["main"].file)
    ops = [node.op_type for node in model.graph]
    assert ops.count("LayerNormalization") == 5
    assert ops.count("Gelu") == 2
    assert ops.count("Softmax") == 2
    assert ops.count("Slice") == 0  # the exporter's own attention computes shapes by slicing


def test_exporting_is_quiet_and_gives_the_same_bytes_each_time(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a", "b"):
            export(tiny_bert("classes"), tmp_path / name, ("fp32", "int8"))
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable < logging.WARNING  # logging is left as it was
    for precision in ("fp32", "int8"):
        one, two = ((tmp_path / n / f"onnx-{precision}/model.onnx").read_bytes() for n in "ab")
        assert one == two


def test_reduced_range_is_proved_from_the_file(
    bert_folder: tuple[Path, dict[str, Variant]], tmp_path: Path
) -> None:
    folder, variants = bert_folder  # made for a device that needs no reduced range
    file = variants["int8"].programs["main"].file
    assert model_saturating_pairs(ir.load(folder / file)) > 0
    assert load_profile("x86").quantization.reduce_range
    export(tiny_bert(), tmp_path, ("int8",), "x86")
    assert model_saturating_pairs(ir.load(tmp_path / file)) == 0


def test_a_plain_module_of_float_inputs(tmp_path: Path) -> None:
    prepared = plain_module()
    variants = export(prepared, tmp_path, PRECISIONS)
    pixels = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = reference(prepared, {"pixels": pixels})
    for precision, least in (("fp32", 0.999999), ("fp16", 0.9999), ("int8", 0.999)):
        got = opened(tmp_path, variants[precision]).run("main", {"pixels": pixels})
        assert list(got) == ["scores", "hidden"]
        for name in got:
            assert got[name].shape == expected[name].shape
            assert lowest_cosine(got[name], expected[name]) > least


def test_a_module_of_fixed_shape(tmp_path: Path) -> None:
    prepared = PreparedModel(
        seeded(Named(nn.Linear(4, 16))),
        (Port("x", "float32", (1, 4)),),
        (Port("y", "float32", (1, 16)),),
        ({"x": torch.ones(1, 4)},),
        ModelCard("fixed", "module", "module"),
    )
    variant = export(prepared, tmp_path, ("fp32",))["fp32"]
    got = opened(tmp_path, variant).run("main", {"x": np.ones((1, 4))})["y"]
    expected = reference(prepared, {"x": torch.ones(1, 4)})["y"]
    np.testing.assert_allclose(got, expected, atol=1e-5)


class Named(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.inner(x)}


class Undecided(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x * 2 if bool(x.sum() > 0) else x}


def test_a_module_that_branches_on_values_is_refused_in_words(tmp_path: Path) -> None:
    prepared = PreparedModel(
        Undecided(),
        (Port("x", "float32", ("batch", 4)),),
        (Port("y", "float32", ("batch", 4)),),
        ({"x": torch.ones(1, 4)},),
        ModelCard("undecided", "module", "module"),
    )
    with pytest.raises(ModelError, match="undecided cannot be exported to ONNX") as caught:
        export_onnx(prepared, ("fp32",), load_profile("x86"), tmp_path)
    assert "--engines" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_file_above_two_gigabytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeformer.converters.onnx_export.MAX_BYTES", 1000)
    with pytest.raises(ModelError, match="holds 2 GB"):
        export_onnx(plain_module(), ("fp32",), load_profile("x86"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_traced_example_has_no_size_that_export_takes_for_a_constant() -> None:
    prepared = tiny_bert()
    for batch, length in ((1, 1), (1, 2), (2, 2), (3, 3), (1, 7)):
        shaped = replace(prepared, examples=(token_inputs(batch, length),))
        shapes = {tuple(value.shape) for value in trace_inputs(shaped).values()}
        assert len(shapes) == 1
        rows, columns = shapes.pop()
        assert rows > 1 and columns > 1 and rows != columns


def test_random_texts_fit_the_model() -> None:
    prepared = tiny_bert()
    texts = random_texts(prepared, WORDS)
    assert len(texts) == 8
    for text in texts:
        assert reference(prepared, text)["embedding"].shape == (1, HIDDEN)
    assert random_texts(prepared, 0) == []
    assert random_texts(plain_module(), 50) == []


class Pooled(nn.Module):
    """A transformers model of any family behind the names of the ports."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask[:, :, None].to(states.dtype)
        return {"embedding": (states * weight).sum(1) / weight.sum(1)}


@pytest.mark.parametrize("family", ["distilbert", "albert", "electra"])
def test_other_families_of_transformers(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    ids = torch.randint(5, 60, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    ports = tuple(Port(n, "int64", ("batch", "sequence")) for n in inputs)
    output = Port("embedding", "float32", ("batch", 32))
    card = ModelCard(family, family, "embedding", max_length=40)
    prepared = PreparedModel(Pooled(model).eval(), ports, (output,), (inputs,), card)
    variants = export(prepared, tmp_path, ("fp32", "int8"))
    expected = reference(prepared, inputs)["embedding"]
    exact = opened(tmp_path, variants["fp32"]).run("main", inputs)["embedding"]
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))
    rounded = opened(tmp_path, variants["int8"]).run("main", inputs)["embedding"]
    assert lowest_cosine(rounded, expected) > 0.99


def vnni_bert(tmp_path: Path, head: str) -> tuple[PreparedModel, Path, Variant]:
    prepared = tiny_bert(head)
    return prepared, tmp_path, export(prepared, tmp_path, ("int8",), "x86-vnni")["int8"]


@pytest.mark.parametrize("head", ["embedding", "classes", "tokens"])
def test_a_file_of_text_ranges_runs_each_text_alone(head: str, tmp_path: Path) -> None:
    prepared, folder, variant = vnni_bert(tmp_path, head)
    assert variant.layout == "single"
    model = onnx.load(folder / variant.programs["main"].file)
    assert "attention_mask" not in [value.name for value in model.graph.input]
    assert {"MultiHeadAttention", "DynamicQuantizeMatMul"} <= {n.op_type for n in model.graph.node}
    engine = opened(folder, variant)
    inputs = padded_inputs()
    (name,) = (port.name for port in prepared.outputs)
    together = engine.run("main", inputs)[name]
    expected = reference(prepared, inputs)[name]
    for row, length in enumerate((17, 9, 1)):
        one = {key: value[row : row + 1, :length] for key, value in inputs.items()}
        alone = engine.run("main", one)[name]
        mine = together[row : row + 1]
        if head == "tokens":
            assert not mine[:, length:].any()
            mine = mine[:, :length]
        np.testing.assert_array_equal(alone, mine)
        theirs = expected[row : row + 1, :length] if head == "tokens" else expected[row : row + 1]
        assert lowest_cosine(alone, theirs) > 0.98


def test_encode_and_run_of_single_texts_agree(tmp_path: Path) -> None:
    _, folder, variant = vnni_bert(tmp_path, "tokens")
    engine = opened(folder, variant)
    inputs = {name: value.numpy() for name, value in padded_inputs().items()}
    kept = inputs["attention_mask"] == 1
    batch = RaggedBatch.from_lists(
        [row[k].tolist() for row, k in zip(inputs["input_ids"], kept, strict=True)],
        [row[k].tolist() for row, k in zip(inputs["token_type_ids"], kept, strict=True)],
    )
    rows = engine.encode(batch)["logits"]
    np.testing.assert_array_equal(rows, engine.run("main", inputs)["logits"][kept])


@pytest.mark.parametrize(
    ("mask", "said"),
    [([[0, 1, 1]], "pad on the right"), ([[0, 0, 0]], "no token"), ([[2, 1, 1]], "must be 1")],
)
def test_masks_that_single_texts_cannot_have(
    mask: list[list[int]], said: str, tmp_path: Path
) -> None:
    _, folder, variant = vnni_bert(tmp_path, "embedding")
    with pytest.raises(InputError, match=said):
        opened(folder, variant).run("main", {"input_ids": [[3, 4, 5]], "attention_mask": mask})


def test_a_plain_module_has_a_range_for_each_row_whatever_the_profile(tmp_path: Path) -> None:
    assert load_profile("x86-vnni").quantization.onnx_ranges == "text"
    assert export(plain_module(), tmp_path, ("int8",), "x86-vnni")["int8"].layout == "dense"
