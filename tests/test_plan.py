"""Lowering and the plan file: folds keep answers, the packing proof, and hostile headers."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from edgeformer.converters.numpy_export import export_numpy
from edgeformer.converters.plan import activations, norms, projections
from edgeformer.converters.plan.buffers import assign_slots
from edgeformer.converters.plan.graph import Graph, Node, ValueType, is_view
from edgeformer.converters.plan.lower import Pass, lower
from edgeformer.converters.plan.write import quantize, write_plan
from edgeformer.device_profiles.profile import load_profile
from edgeformer.errors import BundleError, EdgeFormerError, ModelError
from edgeformer.runtime.engines.numpy_engine import open_engine
from edgeformer.runtime.plan import MAGIC, evaluate_size, parse_plan
from tests.plan_models import (
    HIDDEN,
    BertLayer,
    SpelledOutLayer,
    TinyBert,
    assert_close,
    bundle_of,
    engine_for,
    example_arrays,
    lowered,
    plain_prepared,
    reference,
    save,
    tiny,
    token_prepared,
)


def operations(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


# --- folds -----------------------------------------------------------------------------------


FOLDS: list[tuple[Pass, Callable[[Graph], bool]]] = [
    (projections.scale, lambda g: all(n.attributes["scale"] == 1.0 for n in attention(g))),
    (projections.key_bias, lambda g: all(maker(g, n.inputs[1]).inputs[2] is None
                                         for n in attention(g))),
    (projections.value_bias, lambda g: all(maker(g, n.inputs[2]).inputs[2] is None
                                           for n in attention(g))),
    (projections.merge, lambda g: operations(g).count("slice") == 6),
    (activations.fuse, lambda g: "activate" not in operations(g)),
    (norms.residuals, lambda g: sum(n.op == "layer_norm" and n.inputs[1] is not None
                                    for n in g.nodes) == 5),
]  # fmt: skip


def attention(graph: Graph) -> list[Any]:
    return [n for n in graph.nodes if n.op.startswith("attention")]


def maker(graph: Graph, name: str | None) -> Any:
    return graph.makers()[str(name)]


@pytest.mark.parametrize(("fold", "happened"), FOLDS, ids=lambda f: getattr(f, "__name__", ""))
def test_a_fold_happens_and_keeps_the_answer(
    fold: Pass, happened: Callable[[Graph], bool], tmp_path: Path
) -> None:
    prepared = tiny("mean")
    assert not happened(lowered(prepared, ()).graph)
    assert happened(lowered(prepared, (fold,)).graph)
    inputs = example_arrays(prepared)
    before = engine_for(prepared, tmp_path, folds=()).run("main", inputs)["answer"]
    after = engine_for(prepared, tmp_path, folds=(fold,)).run("main", inputs)["answer"]
    assert np.abs(before - after).max() <= 1e-6
    assert_close(before, reference(prepared, inputs)["answer"])


class SharedProjections(BertLayer):
    """q, k and v are also used outside attention: no fold may touch their layers."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        extra = self.q(x) + self.k(x) + self.v(x)
        batch, sequence, hidden = x.shape
        q, k, v = (
            y.view(batch, sequence, self.heads, -1).transpose(1, 2)
            for y in (self.q(x), self.k(x), self.v(x))
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.norm1(y.transpose(1, 2).reshape(batch, sequence, hidden) + extra)


class OneProjection(nn.Module):
    """One projection is q, k and v at once, and the attention's result is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.o = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, sequence, hidden = x.shape
        h = self.p(x).view(batch, sequence, 4, -1).transpose(1, 2)
        y = F.scaled_dot_product_attention(h, h, h, attn_mask=mask)
        y = y.transpose(1, 2).reshape(batch, sequence, hidden)
        return self.o(y) + y


@pytest.mark.parametrize("layer", [SharedProjections, OneProjection])
def test_folds_leave_shared_layers_alone(layer: type[nn.Module], tmp_path: Path) -> None:
    prepared = token_prepared(TinyBert("mean", [layer()]))
    inputs = example_arrays(prepared)
    answer = engine_for(prepared, tmp_path).run("main", inputs)["answer"]
    assert_close(answer, reference(prepared, inputs)["answer"])


@pytest.mark.parametrize(
    ("spelling", "name"), [("gelu_new", "gelu_tanh"), ("erf", "gelu"), ("silu", "silu")]
)
def test_spelled_out_activations_are_recognised_by_value(
    spelling: str, name: str, tmp_path: Path
) -> None:
    prepared = token_prepared(TinyBert("mean", [BertLayer(activation=spelling)]))
    graph = lowered(prepared).graph
    assert name in [n.attributes["activation"] for n in graph.nodes if n.op == "linear"]
    inputs = example_arrays(prepared)
    answer = engine_for(prepared, tmp_path).run("main", inputs)["answer"]
    assert_close(answer, reference(prepared, inputs)["answer"])


class NearGelu(nn.Module):
    """Two things that look like GELU: the sigmoid form, and one gated by another layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.gate = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.up(x)
        gated = y * 0.5 * (1 + torch.erf(self.gate(x) / 1.41421356))
        return {"y": y * torch.sigmoid(1.702 * y), "gated": gated}


def test_what_only_resembles_gelu_is_left_alone(tmp_path: Path) -> None:
    prepared = plain_prepared(NearGelu(), x=torch.randn(3, 4))
    graph = lowered(prepared).graph
    assert {n.attributes["fn"] for n in graph.nodes if n.op == "activate"} == {"sigmoid", "erf"}
    inputs = example_arrays(prepared)
    answer = engine_for(prepared, tmp_path).run("main", inputs)
    for name, expected in reference(prepared, inputs).items():
        assert_close(answer[name], expected)


def test_spelled_out_attention_is_found(tmp_path: Path) -> None:
    prepared = token_prepared(TinyBert("mean", [SpelledOutLayer(), SpelledOutLayer()]))
    result = lowered(prepared)
    assert result.layout == "packed"
    assert operations(result.graph).count("attention_packed") == 2
    inputs = example_arrays(prepared)
    answer = engine_for(prepared, tmp_path).run("main", inputs)["answer"]
    assert_close(answer, reference(prepared, inputs)["answer"])


def test_a_whole_layer_is_six_steps() -> None:
    """The point of all folds: one layer of BERT is attention, four linears and two norms."""
    ops = [op for op in operations(lowered(tiny("cls")).graph) if op != "slice"]
    layer = ["linear", "attention_packed", "linear", "layer_norm", "linear", "linear", "layer_norm"]
    start = ops.index("linear")
    assert ops[start : start + 14] == layer * 2


# --- the packing proof -----------------------------------------------------------------------


@pytest.mark.parametrize("head", ["mean", "cls", "tokens", "filled"])
def test_bert_like_models_are_packable(head: str) -> None:
    result = lowered(tiny(head))
    assert (result.layout, result.note) == ("packed", "")
    assert "attention_mask" not in result.graph.inputs


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("roll", "slice may mix tokens"),
        ("last", "select picks a token other than the first"),
        ("plain mean", "reduce takes the mean over the sequence"),
        ("plain sum", "reduce takes the sum over the sequence, padding included"),
        ("scaled sum", "reduce takes the sum over the sequence, padding included"),
        ("filled with ones", "reduce takes the sum over the sequence, padding included"),
    ],
)
def test_models_that_mix_rows_stay_dense_and_say_why(head: str, reason: str) -> None:
    result = lowered(tiny(head))
    assert result.layout == "dense"
    assert reason in result.note
    assert "plan_models.py:" in result.note


class WeakMask(BertLayer):
    def attend(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return super().attend(x, mask / 1000)


class NoMask(BertLayer):
    def attend(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return super().attend(x, None)  # type: ignore[arg-type]


class InvertedMask(BertLayer):
    def attend(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return super().attend(x, -10000 - mask)


class TokenMask(BertLayer):
    def attend(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return super().attend(x, mask + x[:, None, None, :, 0])


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (WeakMask, "does not hide padding"),
        (InvertedMask, "does not hide padding"),
        (NoMask, "has no mask"),
        (TokenMask, "not made from attention_mask and positions alone"),
    ],
)
def test_attention_that_sees_padding_stays_dense(
    layer: type[nn.Module], reason: str, tmp_path: Path
) -> None:
    prepared = token_prepared(TinyBert("mean", [layer()]))
    result = lowered(prepared)
    assert result.layout == "dense"
    assert reason in result.note
    inputs = example_arrays(prepared)
    answer = engine_for(prepared, tmp_path).run("main", inputs)["answer"]
    assert_close(answer, reference(prepared, inputs)["answer"])


class RelativeBias(TinyBert):
    """Relative positions as a bias of attention, and absolute ones cut from a buffer."""

    def __init__(self) -> None:
        super().__init__("mean", [BertLayer(), SpelledOutLayer()])
        self.relative = nn.Embedding(9, 4)
        nn.init.normal_(self.relative.weight)
        self.register_buffer("order", torch.arange(24)[None] % 7)

    def forward(  # type: ignore[override]
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        length = input_ids.shape[1]
        x = self.norm(self.words(input_ids) + self.places(self.order[:, :length]))
        place = torch.arange(length)
        distance = (place[:, None] - place[None]).clamp(-4, 4) + 4
        bias = self.relative(distance).permute(2, 0, 1)[None]
        mask = bias + (1 - attention_mask.float())[:, None, None, :] * -10000
        for layer in self.layers:
            x = layer(x, mask)
        return {"answer": self.pool(x, attention_mask)}


def test_relative_positions_are_packable(tmp_path: Path) -> None:
    prepared = token_prepared(RelativeBias(), names=())
    engine = engine_for(prepared, tmp_path)
    assert lowered(prepared).layout == "packed"
    inputs = example_arrays(prepared)
    assert_close(engine.run("main", inputs)["answer"], reference(prepared, inputs)["answer"])


# --- dense graphs ----------------------------------------------------------------------------


class Potpourri(nn.Module):
    """One of nearly everything a module without tokens may do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6, bias=False)
        self.mix = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: torch.Tensor, n: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.down(F.silu(self.up(x))) + n.unsqueeze(-1)
        parts = y.split([2, 4], dim=-1)
        y = torch.cat([parts[1], parts[0], F.pad(x, (1, -1))], dim=-1)
        y = torch.roll(y, (1, -2), (1, 2)).repeat(1, 1, 2)
        first, second = y.chunk(2, dim=-1)
        y = torch.stack([first, second * 2], dim=1).flatten(2)
        z = torch.where(y > 0, y.clamp(-1, 2), torch.exp(y)) ** 2 + y.abs().sqrt()
        z = torch.log_softmax(z, dim=-1) - torch.cumsum(z, -1) / (1 + z.amax(-1, keepdim=True))
        low, _ = z.min(dim=1)
        product = torch.bmm(x, x.transpose(1, 2)) @ torch.einsum("ij,bkj->bki", self.mix, x)
        product = torch.addcmul(
            product,
            product,
            product.var(-1, keepdim=True) + product.std(-1, keepdim=True),
            value=0.5,
        )
        picked = torch.index_select(x, 1, torch.tensor([2, 0, 1, 1]))
        gathered = torch.gather(x, 2, (n % 6).abs().unsqueeze(-1))
        logic = ((n > 0) & (n < 3)) | ~(n == 2)
        return {
            "z": z,
            "low": low.mean(dim=(1,)) + low.sum(),
            "product": product,
            "picked": picked * torch.full_like(picked, 0.5) + torch.zeros(4, 1),
            "gathered": gathered.float() + logic.float().unsqueeze(-1),
            "norm": F.rms_norm(x, (6,)) + torch.linalg.vector_norm(x, dim=-1, keepdim=True),
        }


def test_a_module_of_everything(tmp_path: Path) -> None:
    torch.manual_seed(0)
    prepared = plain_prepared(Potpourri(), x=torch.randn(2, 4, 6), n=torch.randint(0, 5, (2, 4)))
    engine = engine_for(prepared, tmp_path)
    for batch in (1, 2, 5):
        inputs = {
            "x": np.random.default_rng(batch).standard_normal((batch, 4, 6)).astype(np.float32),
            "n": np.random.default_rng(batch).integers(0, 6, (batch, 4)),
        }
        expected = reference(prepared, inputs)
        for name, value in engine.run("main", inputs).items():
            assert_close(value, expected[name])


def test_torch_transformer_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": self.body(x)}

    prepared = plain_prepared(Wrapped(), x=torch.randn(3, 5, 16))
    engine = engine_for(prepared, tmp_path)
    inputs = {"x": np.random.default_rng(1).standard_normal((2, 5, 16)).astype(np.float32)}
    assert_close(engine.run("main", inputs)["y"], reference(prepared, inputs)["y"])


class Bad(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        ways: dict[str, Callable[[], torch.Tensor]] = {
            "unknown": lambda: torch.linalg.inv(x[:, :, :4]),
            "random": lambda: x + torch.rand(4),
            "dropout": lambda: F.dropout(x, 0.5, training=True),
            "reflect": lambda: F.pad(x, (1, 1), mode="reflect"),
            "double": lambda: x.double().float(),
            "causal": lambda: F.scaled_dot_product_attention(x, x, x, is_causal=True),
            "branch": lambda: x if x.sum() > 0 else -x,
            "fixed": lambda: x.reshape(2, -1),
        }
        return {"y": ways[self.what]()}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("unknown", "linalg_inv"),
        ("random", "aten.rand"),
        ("double", "float64"),
        ("dropout", "drops values at random|has no operation for"),
        ("reflect", "padding has no operation|has no operation for"),
        ("causal", "causal"),
        ("branch", "torch.export cannot trace"),
        ("fixed", "only works where batch of x is"),
    ],
)
def test_what_cannot_be_lowered_is_named(what: str, message: str) -> None:
    prepared = plain_prepared(Bad(what), x=torch.randn(2, 4, 4))
    with pytest.raises(ModelError, match=message) as error:
        lower(prepared)
    assert error.value.hint


# --- buffers and the file --------------------------------------------------------------------


def test_no_buffer_is_reused_while_it_is_needed() -> None:
    graph = lowered(tiny("tokens")).graph
    slots = assign_slots(graph)
    owner: dict[int, str] = {s: n for n, s in slots.items() if n in graph.inputs and s is not None}
    root = {name: name for name in graph.types}
    for node in graph.nodes:
        read = {slots[root[name]] for name in node.inputs if name in root}
        assert slots[node.output] is None or slots[node.output] not in read, node
        if is_view(node):
            root[node.output] = root.get(str(node.inputs[0]), str(node.inputs[0]))
        for name in node.inputs:
            if name in graph.types:
                slot = slots[root[name]]
                assert slot is not None and owner[slot] == root[name], node
        slot = slots[node.output]
        if slot is not None:
            owner[slot] = node.output
    values = sum(slot is not None for slot in slots.values())
    assert len({s for s in slots.values() if s is not None}) < values / 2


def test_a_view_keeps_its_buffer() -> None:
    """y is read through its view after z was made: z must not be written over y."""
    kind, flat = ValueType(("batch", 4), "float32"), ValueType((("*", "batch", 4),), "float32")
    nodes = (
        Node("unary", ("x",), "y", {"fn": "exp"}),
        Node("reshape", ("y",), "view", {}),
        Node("reshape", ("x",), "flat_x", {}),
        Node("unary", ("flat_x",), "z", {"fn": "abs"}),
        Node("binary", ("view", "z"), "sum", {"fn": "add"}),
    )
    types = {"x": kind, "y": kind, "view": flat, "flat_x": flat, "z": flat, "sum": flat}
    slots = assign_slots(Graph(("x",), {"out": "sum"}, nodes, types, {}, {"batch": 0}))
    assert len({slots["x"], slots["y"], slots["z"], slots["sum"]}) == 4


@pytest.mark.parametrize("axis", [0, 1])
def test_quantization_is_symmetric_and_within_half_a_step(axis: int) -> None:
    array = np.random.default_rng(0).standard_normal((20, 30)).astype(np.float32)
    array[3] = 0
    array[:, 4] = 0
    levels, scale = quantize(array, axis)
    wide = scale[:, None] if axis == 0 else scale
    assert scale.shape == (array.shape[axis],)
    assert levels.min() >= -127
    assert (np.abs(levels * wide - array) <= wide / 2 * (1 + 1e-5)).all()


def test_weights_used_many_times_are_stored_once(tmp_path: Path) -> None:
    layer = BertLayer()
    sizes = []
    for k, layers in enumerate(([layer], [layer] * 3)):
        folder = tmp_path / str(k)
        folder.mkdir()
        save(token_prepared(TinyBert("mean", layers)), folder)
        plan = parse_plan(memoryview((folder / "model.plan").read_bytes()))
        sizes.append(sum(tensor.array.nbytes for tensor in plan.tensors))
    assert sizes[0] == sizes[1]


def test_tensors_are_aligned_views_of_the_file(tmp_path: Path) -> None:
    save(tiny("mean"), tmp_path, "int8")
    data = np.frombuffer((tmp_path / "model.plan").read_bytes(), np.uint8)
    plan = parse_plan(memoryview(data))
    assert {str(t.array.dtype) for t in plan.tensors} >= {"int8", "float32"}
    for tensor in plan.tensors:
        if tensor.array.size > 1:
            offset = tensor.array.ctypes.data - data.ctypes.data
            assert offset % 64 == 0
            assert 0 <= offset < data.size
            assert not tensor.array.flags.writeable


def test_export_writes_each_precision(tmp_path: Path) -> None:
    prepared = tiny("mean")
    variants = export_numpy(prepared, ("fp32", "int8"), load_profile("rpi4"), tmp_path)
    assert [v.id for v in variants] == ["numpy-fp32", "numpy-int8"]
    sizes = [(tmp_path / v.programs["main"].file).stat().st_size for v in variants]
    assert sizes[1] < sizes[0]
    for variant in variants:
        assert variant.layout == "packed"
        engine = open_engine(bundle_of(tmp_path), variant, 1)
        inputs = example_arrays(prepared)
        got, want = engine.run("main", inputs)["answer"], reference(prepared, inputs)["answer"]
        assert (got * want).sum(1).min() >= 0.999
    with pytest.raises(ModelError, match="no fp16"):
        export_numpy(prepared, ("fp16",), load_profile("rpi4"), tmp_path)


# --- hostile files ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A valid plan, taken apart."""
    folder = tmp_path_factory.mktemp("plan")
    prepared = token_prepared(TinyBert("mean", [BertLayer()]))
    variant = save(prepared, folder, "int8")
    data = (folder / "model.plan").read_bytes()
    length = int.from_bytes(data[8:16], "little")
    header = json.loads(data[16 : 16 + length])
    return SimpleNamespace(
        data=data, length=length, header=header, variant=variant, inputs=example_arrays(prepared)
    )


def attempt(good: SimpleNamespace, data: bytes) -> None:
    """Open and run; anything but success or one of our errors fails the test."""
    bundle: Any = SimpleNamespace(map=lambda name: memoryview(data))
    try:
        engine = open_engine(bundle, good.variant, 1)
        engine.run("main", good.inputs)
    except EdgeFormerError:
        pass


def repacked(good: SimpleNamespace, header: Any) -> bytes:
    text = json.dumps(header).encode()
    start = (16 + good.length + 63) // 64 * 64
    padded = MAGIC + len(text).to_bytes(8, "little") + text
    return padded + bytes(-len(padded) % 64) + good.data[start:]


FUZZ = settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)


@FUZZ
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1,
                max_size=4))  # fmt: skip
def test_flipped_header_bytes(good: SimpleNamespace, changes: list[tuple[float, int]]) -> None:
    data = bytearray(good.data)
    for place, value in changes:
        data[int(place * (16 + good.length))] = value
    attempt(good, bytes(data))


HOSTILE = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.integers(-(2**70), 2**70), st.floats(),
    st.text(max_size=3), st.sampled_from(["batch", "tokens", "int8", "float32", "reshape", "add"]),
    st.just([]), st.just({}), st.just(["+", "batch", 1]), st.just(["//", 1, 0]), st.just([9, 9]),
)  # fmt: skip


def places(value: Any) -> list[list[Any]]:
    """Paths to everything inside a parsed JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[list[Any]] = []
    for key, item in items:
        found.append([key])
        if isinstance(item, (dict, list)):
            found += [[key, *rest] for rest in places(item)]
    return found


@FUZZ
@given(st.integers(0, 2**32), HOSTILE)
def test_changed_header_values(good: SimpleNamespace, where: int, value: Any) -> None:
    """Something else at any one place of the header."""
    header = json.loads(json.dumps(good.header))
    paths = places(header)
    *path, last = paths[where % len(paths)]
    at = header
    for key in path:
        at = at[key]
    at[last] = value
    attempt(good, repacked(good, header))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["tensors"][0].update(offset=64 * 10**6), "whole number"),
        (lambda h: h["tensors"][0].update(offset=3), "outside the file"),
        (lambda h: h["tensors"][0].update(shape=[10**9, 10**9]), "outside the file"),
        (lambda h: h["tensors"][0].update(dtype="object"), "not known"),
        (lambda h: h["programs"].pop("main"), "no program 'main'"),
        (lambda h: h["programs"]["main"]["steps"][0].update(op="eval"), "not known"),
        (lambda h: h["programs"]["main"]["steps"][0].update(attributes={"x": 1}), "exactly"),
        (lambda h: h["programs"]["main"]["steps"][0].update(output=0), "wrong output"),
        (lambda h: h["programs"]["main"]["steps"][3].update(inputs=[90, 90]), "operand|whole"),
        (lambda h: h["programs"]["main"]["steps"].pop(0), "before it is computed"),
        (lambda h: h["programs"]["main"]["values"][0].update(shape=["elsewhere"]), "whole number"),
        (lambda h: h["programs"]["main"]["outputs"].update(answer=2000), "whole number"),
        (lambda h: h["programs"]["main"].update(layout="sparse"), "not known"),
        (lambda h: h["programs"]["main"]["values"][-1].update(shape=[2**39]), "buffer|contradicts"),
    ],
)
def test_wrong_headers_are_refused(
    good: SimpleNamespace, change: Callable[[Any], Any], message: str
) -> None:
    header = json.loads(json.dumps(good.header))
    change(header)
    bundle: Any = SimpleNamespace(map=lambda name: memoryview(repacked(good, header)))
    with pytest.raises(BundleError, match=message):
        open_engine(bundle, good.variant, 1).run("main", good.inputs)


@pytest.mark.parametrize("length", [0, 7, 15, 16, 200, -1])
def test_truncated_files_are_refused(good: SimpleNamespace, length: int) -> None:
    with pytest.raises(BundleError, match=r"model\.plan"):
        parse_plan(memoryview(good.data[:length]))


def test_a_plan_with_other_ports_is_refused(good: SimpleNamespace) -> None:
    header = json.loads(json.dumps(good.header))
    header["programs"]["main"]["outputs"] = {"other": 0}
    bundle: Any = SimpleNamespace(map=lambda name: memoryview(repacked(good, header)))
    with pytest.raises(BundleError, match="manifest describes"):
        open_engine(bundle, good.variant, 1)


def test_converting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    prepared = tiny("mean")
    for name, result in (("a.plan", lowered(prepared)), ("b.plan", lower(prepared))):
        write_plan(tmp_path / name, {"main": (result.layout, result.graph)}, "int8")
    assert (tmp_path / "a.plan").read_bytes() == (tmp_path / "b.plan").read_bytes()


def test_sizes_follow_the_dimensions() -> None:
    sizes = {"batch": 3, "sequence": 7}
    assert evaluate_size(("+", ("*", "batch", 4), ("//", "sequence", 2)), sizes) == 15
    assert evaluate_size(("max", 1, ("%", "sequence", "batch")), sizes) == 1
    with pytest.raises(BundleError, match="zero"):
        evaluate_size(("//", 1, 0), sizes)


def test_tiled_weights_answer_the_same_and_what_does_not_divide_stays(tmp_path: Path) -> None:
    prepared = tiny("mean")
    result = lowered(prepared)
    inputs = example_arrays(prepared)
    answers = []
    for width in (0, 8):
        folder = tmp_path / str(width)
        folder.mkdir()
        program = {"main": (result.layout, result.graph)}
        write_plan(folder / "model.plan", program, "int8", tile_width=width)
        tensors = parse_plan(memoryview((folder / "model.plan").read_bytes())).tensors
        tiled = [t.array.shape for t in tensors if t.array.ndim == 3 and t.scale is not None]
        assert bool(tiled) == bool(width) and all(shape[2] == 8 for shape in tiled)
        variant = save(prepared, tmp_path, "int8", result)  # describes both files
        bundle: Any = SimpleNamespace(
            map=lambda _, f=folder: memoryview((f / "model.plan").read_bytes())
        )
        answers.append(open_engine(bundle, variant, 1).run("main", inputs)["answer"])
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)
