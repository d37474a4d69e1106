"""Each rewrite of the ONNX graph on a graph small enough to compute by hand."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import erf

from edgeformer.converters.onnx_passes.clean import clean
from edgeformer.converters.onnx_passes.editing import linears
from edgeformer.converters.onnx_passes.fuse_attention import fuse_attention
from edgeformer.converters.onnx_passes.half_precision import convert_half
from edgeformer.converters.onnx_passes.quantize_linears import (
    model_saturating_pairs,
    quantize_linears,
    quantize_weight,
    saturating_pairs,
)
from edgeformer.converters.onnx_passes.quantize_tables import quantize_rows, quantize_tables
from edgeformer.converters.onnx_passes.quantize_texts import quantize_texts
from edgeformer.converters.onnx_passes.smooth_inputs import smooth_inputs, smoothing_scale
from edgeformer.converters.onnx_passes.without_padding import assume_no_padding
from edgeformer.runtime.engines.onnx_session import open_session
from edgeformer.runtime.manifest import Port

Array = NDArray[Any]
K, N = 24, 20


def graph(body: str, inputs: str = "float[b, 24] x", rank: int = 2, **arrays: Array) -> ir.Model:
    """A model of opset 20 from ONNX text, with ``arrays`` as initializers; its output is y."""
    head = '<ir_version: 9, opset_import: ["" : 20]>'
    shape = ", ".join("pqr"[:rank])
    model = ir.from_onnx_text(
        f"{head} main ({inputs}) => (float[{shape}] y) {{ {body} }}",
        initializers=[ir.tensor(array, name=name) for name, array in arrays.items()],
    )
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.type = ir.TensorType(value.const_value.dtype)
        value.shape = ir.Shape(value.const_value.shape)
    return model


def answer(model: ir.Model, **inputs: Array) -> Array:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    session = open_session(proto.SerializeToString(), 1, "", "tiny")
    result: Array = session.run(None, inputs)[0]
    return result


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def normal(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def per_row(x: Array) -> Array:
    """Symmetric per-row int8 of x, and back: what the graph should do, in numpy."""
    scale = np.abs(x).max(axis=-1, keepdims=True) / 127
    return np.rint(x / scale) * scale


def test_a_matmul_equals_the_numpy_emulation() -> None:
    x, w, b = normal(0, 7, K) * 3, normal(1, K, N), normal(2, N)
    model = graph("m = MatMul(x, w) y = Add(m, b)", w=w, b=b)
    assert quantize_linears(model, reduce_range=False) == 1
    quantized, scale = quantize_weight(w, reduce_range=False)
    expected = per_row(x.astype(np.float64)) @ (quantized * scale.astype(np.float64)) + b
    np.testing.assert_allclose(answer(model, x=x), expected, atol=2e-5)
    assert np.abs(expected - (x @ w + b)).max() > 1e-3  # it was rounded at all


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_is_quantized_too(transposed: int) -> None:
    x, w, b = normal(0, 5, K), normal(1, K, N), normal(2, N)
    body = f"y = Gemm<transB={transposed}>(x, w, b)"
    model = graph(body, w=np.ascontiguousarray(w.T) if transposed else w, b=b)
    assert quantize_linears(model, reduce_range=False) == 1
    np.testing.assert_allclose(answer(model, x=x), x @ w + b, atol=0.15)
    assert "Gemm" not in ops(model)


def test_a_scaled_gemm_stays() -> None:
    model = graph("y = Gemm<alpha=0.5>(x, w)", w=normal(1, K, N))
    assert quantize_linears(model, reduce_range=False) == 0


def test_a_weight_behind_a_transpose_is_found() -> None:
    x, w = normal(0, 5, K), normal(1, K, N)
    model = graph("t = Transpose<perm=[1, 0]>(w) y = MatMul(x, t)", w=np.ascontiguousarray(w.T))
    assert quantize_linears(model, reduce_range=False) == 1
    np.testing.assert_allclose(answer(model, x=x), x @ w, atol=0.15)


def test_a_small_head_stays_exact() -> None:
    x, w = normal(0, 5, K), normal(1, K, 3)
    model = graph("y = MatMul(x, w)", w=w)
    assert quantize_linears(model, reduce_range=False) == 0
    np.testing.assert_allclose(answer(model, x=x), x @ w, atol=1e-5)


def test_a_row_of_zeros_answers_the_bias() -> None:
    model = graph("m = MatMul(x, w) y = Add(m, b)", w=normal(1, K, N), b=normal(2, N))
    quantize_linears(model, reduce_range=False)
    np.testing.assert_array_equal(answer(model, x=np.zeros((2, K), np.float32))[1], normal(2, N))


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-3, 1e4), st.integers(1, 6))
def test_a_row_does_not_feel_its_neighbours(size: float, rows: int) -> None:
    model = graph("y = MatMul(x, w)", w=normal(1, K, N))
    quantize_linears(model, reduce_range=False)
    one = normal(0, 1, K)
    others = normal(3, rows, K) * np.float32(size)
    np.testing.assert_array_equal(
        answer(model, x=one)[0], answer(model, x=np.concatenate([others, one]))[-1]
    )


def test_layers_of_one_input_share_its_quantized_copy() -> None:
    model = graph(
        "a = MatMul(x, w) c = MatMul(x, v) y = Add(a, c)", w=normal(1, K, N), v=normal(2, K, N)
    )
    assert quantize_linears(model, reduce_range=False) == 2
    assert ops(model).count("QuantizeLinear") == 1


@pytest.mark.parametrize("bias", [True, False])
def test_after_a_gelu_all_256_levels_are_used(bias: bool) -> None:
    x, w, b = normal(0, 50, K), normal(1, K, N), normal(2, N) * bias
    body = "g = Gelu(x) m = MatMul(g, w) y = Add(m, b)" if bias else "g = Gelu(x) y = MatMul(g, w)"
    model = graph(body, w=w, **({"b": b} if bias else {}))
    quantize_linears(model, reduce_range=False)
    g = x * 0.5 * (1 + erf(x / np.sqrt(2)))
    quantized, scale = quantize_weight(w, reduce_range=False)
    exact = g @ (quantized * scale) + b
    got = np.abs(answer(model, x=x) - exact).mean()
    symmetric = np.abs(per_row(g) @ (quantized * scale) + b - exact).mean()
    assert got < 0.7 * symmetric
    assert ops(model).count("Add") == 2  # the shift up; the shift back, inside the bias


def test_after_a_relu_all_256_levels_are_used() -> None:
    x, w = normal(0, 50, K), normal(1, K, N)
    model = graph("g = Relu(x) y = MatMul(g, w)", w=w)
    quantize_linears(model, reduce_range=False)
    g = np.maximum(x, 0)
    quantized, scale = quantize_weight(w, reduce_range=False)
    exact = g @ (quantized * scale)
    got = np.abs(answer(model, x=x) - exact).mean()
    assert got < 0.7 * np.abs(per_row(g) @ (quantized * scale) - exact).mean()


WEIGHTS = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed))


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.sampled_from(["normal", "uniform", "heavy", "equal"]), st.integers(2, 40))
def test_reduced_weights_cannot_saturate(rng: Any, kind: str, rows: int) -> None:
    weight = {
        "normal": rng.standard_normal((rows, 8)),
        "uniform": rng.uniform(-1, 1, (rows, 8)),
        "heavy": rng.standard_t(2, (rows, 8)),
        "equal": np.ones((rows, 8)),
    }[kind].astype(np.float32)
    reduced, scale = quantize_weight(weight, reduce_range=True)
    assert saturating_pairs(reduced) == 0
    assert np.abs(reduced).max(axis=0).min() >= 63  # no more range is given up than a bit
    assert np.abs(reduced * scale - weight).max() <= scale.max() * 0.5001
    # what such an instruction computes for the worst input, pair by pair
    for sign in (1, -1):
        worst = np.where(np.sign(reduced) == sign, 255, 0) * reduced.astype(np.int64)
        assert np.abs(worst[:-1] + worst[1:]).max() <= 32767


def test_full_weights_can_saturate_and_the_check_sees_it() -> None:
    weight, _ = quantize_weight(normal(0, 256, 32), reduce_range=False)
    assert saturating_pairs(weight) > 0
    assert saturating_pairs(np.array([[64], [64]], np.int8)) == 0
    assert saturating_pairs(np.array([[64], [65]], np.int8)) == 1
    assert saturating_pairs(np.array([[-64], [-65]], np.int8)) == 1
    assert saturating_pairs(np.array([[127], [-128]], np.int8)) == 0


def test_the_proof_reads_the_file_itself() -> None:
    for reduce_range in (True, False):
        model = graph("y = MatMul(x, w)", w=np.abs(normal(1, K, N)) + 1)
        quantize_linears(model, reduce_range)
        loaded = ir.from_proto(ir.to_proto(model))
        assert (model_saturating_pairs(loaded) == 0) == reduce_range


NORM = "n = LayerNormalization(x, gamma, beta)"


def outlier_norm(seed: int = 0) -> dict[str, Array]:
    gamma = np.ones(K, np.float32)
    gamma[5] = 40
    return {"gamma": gamma, "beta": normal(seed, K) * 0.1}


def test_smoothing_keeps_the_answers_and_lowers_the_rounding() -> None:
    x, w, v = normal(0, 60, K), normal(1, K, N), normal(2, K, N)
    body = f"{NORM} a = MatMul(n, w) c = MatMul(n, v) y = Sub(a, c)"

    def make() -> ir.Model:
        return graph(body, w=w, v=v, **outlier_norm())

    exact = answer(make(), x=x)
    centred = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    names = outlier_norm()
    ranges = {"n": np.abs(centred * names["gamma"] + names["beta"]).max(0)}
    smoothed = make()
    smooth_inputs(smoothed, ranges)
    assert ops(smoothed).count("Mul") == 1  # both layers read one smoothed input
    np.testing.assert_allclose(answer(smoothed, x=x), exact, atol=2e-4)
    plain = make()
    quantize_linears(plain, reduce_range=False)
    quantize_linears(smoothed, reduce_range=False)
    assert ops(smoothed).count("QuantizeLinear") == 1
    before = np.abs(answer(plain, x=x) - exact).mean()
    assert np.abs(answer(smoothed, x=x) - exact).mean() < 0.5 * before


def test_a_weight_used_twice_is_smoothed_once() -> None:
    x, w = normal(0, 6, K), normal(1, K, K)
    arrays = outlier_norm() | {"gamma2": normal(4, K)}
    body = f"{NORM} a = MatMul(n, w) p = LayerNormalization(a, gamma2, beta) y = MatMul(p, w)"
    exact = answer(graph(body, w=w, **arrays), x=x)
    model = graph(body, w=w, **arrays)
    smooth_inputs(model, {"n": np.full(K, 9, np.float32), "p": np.arange(1, K + 1, dtype="f")})
    np.testing.assert_allclose(answer(model, x=x), exact, rtol=1e-3, atol=1e-3)
    held = {id(linear.node.inputs[1]) for linear in linears(model)}
    assert len(held) == 1


def test_only_measured_inputs_of_a_normalization_are_smoothed() -> None:
    ranges = {"x": np.ones(K, np.float32), "g": np.ones(K, np.float32)}
    for body, arrays in (
        ("y = MatMul(x, w)", {}),
        ("g = Gelu(x) y = MatMul(g, w)", {}),
        (f"{NORM} y = MatMul(n, w)", outlier_norm()),
    ):
        model = graph(body, w=normal(1, K, N), **arrays)
        before = ops(model)
        smooth_inputs(model, ranges)
        assert ops(model) == before


def test_the_smoothing_scale_follows_its_equation() -> None:
    activations, weights = np.float32([1, 100, 0]), np.float32([1, 4, 1])
    scale = smoothing_scale(activations, weights, alpha=0.5)
    assert scale[1] / scale[0] == pytest.approx((100 / 4) ** 0.5)
    assert scale[2] / scale[0] == pytest.approx(0.1**0.5)  # taken as a thousandth of 100
    assert np.prod(scale) == pytest.approx(1, rel=1e-5)


def test_a_large_table_is_int8_per_row_and_a_small_one_exact() -> None:
    table, small = normal(0, 40, 16), normal(1, 4, 16)
    table[3] *= 1000
    ids = np.array([[3, 7, 7]], np.int64)
    body = "a = Gather(table, ids) c = Gather(small, zero) y = Add(a, c)"
    arrays = {"table": table, "small": small, "zero": np.array([[0, 1, 2]], np.int64)}
    model = graph(body, "int64[b, s] ids", 3, **arrays)
    assert quantize_tables(model, min_values=100) == 1
    rows, scale = quantize_rows(table)
    expected = (rows * scale)[ids] + small[arrays["zero"]]
    np.testing.assert_allclose(answer(model, ids=ids), expected, rtol=1e-6)
    error = np.abs(expected - small[arrays["zero"]] - table[ids]).max(axis=(0, 2))
    assert error[0] > 100 * error[1] > 0  # the loud row costs the others nothing
    names = set(model.graph.initializers)
    assert "table.int8" in names and "small" in names


def test_a_table_of_two_lookups_is_stored_once() -> None:
    body = "a = Gather(table, ids) c = Gather(table, ids) y = Add(a, c)"
    model = graph(body, "int64[b, s] ids", 3, table=normal(0, 40, 16))
    assert quantize_tables(model, min_values=100) == 2
    assert [n for n in model.graph.initializers if "int8" in n] == ["table.int8"]


def test_half_precision_keeps_outputs_float32_and_sums_exact() -> None:
    x, w = normal(0, 3, K) * 100, normal(1, K, N)
    axes = np.array([-1], np.int64)
    body = "m = MatMul(x, w) s = Mul(m, m) t = ReduceSum(s, axes) y = Sqrt(t)"
    model = graph(body, w=w, axes=axes)
    convert_half(model)
    got = answer(model, x=x)
    assert got.dtype == np.float32
    expected = np.sqrt(np.square(x @ w).sum(-1, keepdims=True))
    assert np.square(expected).min() > 65504  # beyond float16, so the sum must not be in it
    np.testing.assert_allclose(got, expected, rtol=5e-3)
    for node in model.graph:  # the CPU computes float16 in float32, so the graph itself counts
        if node.op_type in ("MatMul", "Mul", "ReduceSum", "Sqrt"):
            assert node.inputs[0] is not None
            half = node.inputs[0].dtype == ir.DataType.FLOAT16
            assert half == (node.op_type == "MatMul"), node.op_type
    types = {n: v.dtype for n, v in model.graph.initializers.items()}
    assert types["w.half"] == ir.DataType.FLOAT16
    assert types["axes"] == ir.DataType.INT64


def test_half_precision_clips_masks_to_its_range() -> None:
    mask = np.zeros((1, K), np.float32)
    mask[0, 3:] = np.finfo(np.float32).min
    model = graph("m = Add(x, mask) y = Softmax<axis=-1>(m)", mask=mask)
    convert_half(model)
    got = answer(model, x=normal(0, 2, K))
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(got[:, 3:], 0)


def test_half_precision_of_an_integer_graph_changes_nothing() -> None:
    body = "s = Shape(x) d = Div(s, s) f = Cast<to=1>(d) y = Identity(f)"
    model = graph(body, rank=1)
    convert_half(model)
    np.testing.assert_array_equal(answer(model, x=normal(0, 2, K)), [1, 1])


def test_clean_leaves_names_of_ports_and_nothing_of_the_machine() -> None:
    model = graph("y0 = MatMul(x, answer) y = Relu(y0)", answer=normal(1, K, N))
    node = model.graph[0]
    node.metadata_props["stack_trace"] = node.doc_string = "/home/someone/secret.py"
    node.outputs[0].metadata_props["from"] = model.graph.doc_string = "/home/someone"
    model.graph.initializers["answer"].const_value.metadata_props["at"] = "/home"  # type: ignore
    model.metadata_props["tool"] = "/home"
    inputs = (Port("tokens", "float32", ("batch", K)),)
    outputs = (Port("answer", "float32", ("batch", N)),)
    clean(model, inputs, outputs)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    data = proto.SerializeToString()
    assert b"/home" not in data
    session = open_session(data, 1, "", "tiny")
    assert [i.name for i in session.get_inputs()] == ["tokens"]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("answer", ["batch", N])]


def test_clean_separates_an_output_given_twice() -> None:
    model = graph("y = Relu(x)")
    model.graph.outputs.append(model.graph.outputs[0])
    port = Port("x", "float32", ("batch", K))
    clean(model, (port,), (Port("a", "float32", port.shape), Port("b", "float32", port.shape)))
    session = open_session(ir.to_proto(model).SerializeToString(), 1, "", "tiny")
    one, two = session.run(["a", "b"], {"x": normal(0, 2, K)})
    np.testing.assert_array_equal(one, two)


def test_a_text_range_is_one_for_all_its_rows_and_takes_the_bias_in() -> None:
    x, w, b = normal(0, 7, K) * 3, normal(1, K, N), normal(2, N)
    model = graph("m = MatMul(x, w) y = Add(m, b)", w=w, b=b)
    assert quantize_texts(model, reduce_range=False) == 1
    assert ops(model) == ["DynamicQuantizeMatMul"]
    quantized, weight_scale = quantize_weight(w, reduce_range=False)
    low, high = min(x.min(), 0), max(x.max(), 0)
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    rounded = (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale
    expected = rounded.astype(np.float64) @ (quantized * weight_scale.astype(np.float64)) + b
    np.testing.assert_allclose(answer(model, x=x), expected, atol=1e-4)
    assert np.abs(expected - (x @ w + b)).max() > 1e-3


def test_what_an_activation_gives_keeps_a_range_for_each_row() -> None:
    model = graph("a = Gelu(x) m = MatMul(a, w) y = Add(m, b)", w=normal(1, K, N), b=normal(2, N))
    assert quantize_texts(model, reduce_range=False) == 0
    assert quantize_linears(model, reduce_range=False) == 1
    assert "MatMulInteger" in ops(model)


def test_layers_that_follow_each_other_directly_are_all_quantized_by_text() -> None:
    w = normal(1, K, K)
    model = graph("a = MatMul(x, w) y = MatMul(a, v)", w=w, v=normal(2, K, K))
    x = normal(0, 5, K)
    assert quantize_texts(model, reduce_range=False) == 2
    exact = x @ w @ normal(2, K, K)
    np.testing.assert_allclose(answer(model, x=x), exact, atol=0.03 * np.abs(exact).max())


ATTENTION = """
    q1 = MatMul(x, wq) k1 = MatMul(x, wk) v1 = MatMul(x, wv)
    q2 = Reshape(q1, split) k2 = Reshape(k1, split) v2 = Reshape(v1, split)
    q3 = Transpose<perm=[0, 2, 1, 3]>(q2) k3 = Transpose<perm=[0, 2, 1, 3]>(k2)
    v3 = Transpose<perm=[0, 2, 1, 3]>(v2)
    q4 = Mul(q3, factor) k4 = Transpose<perm=[0, 1, 3, 2]>(k3)
    s = MatMul(q4, k4) {mask} p = Softmax<axis=-1>({masked}) c = MatMul(p, v3)
    t = Transpose<perm=[0, 2, 1, 3]>(c) y = Reshape(t, join)
"""


def attention_graph(masked: bool) -> ir.Model:
    body = ATTENTION.format(
        mask="s2 = Add(s, mask)" if masked else "", masked="s2" if masked else "s"
    )
    inputs = "float[b, n, 24] x" + (", float[b, 1, 1, n] mask" if masked else "")
    weights = {name: normal(i, K, K) * 0.3 for i, name in enumerate(("wq", "wk", "wv"))}
    return graph(
        body,
        inputs,
        rank=3,
        split=np.array([0, 0, 4, 6], np.int64),
        join=np.array([0, 0, 24], np.int64),
        factor=np.array(0.41, np.float32),
        **weights,
    )


@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_answers_the_same(masked: bool) -> None:
    inputs = {"x": normal(5, 3, 7, K)}
    if masked:
        inputs["mask"] = np.zeros((3, 1, 1, 7), np.float32)
        inputs["mask"][1, ..., 4:] = -10000
    expected = answer(attention_graph(masked), **inputs)
    model = attention_graph(masked)
    assert fuse_attention(model) == 1
    assert {"MultiHeadAttention", "MatMul"} <= set(ops(model))
    assert not {"Softmax", "Transpose", "Reshape"} & set(ops(model))
    np.testing.assert_allclose(answer(model, **inputs), expected, atol=2e-6)


def test_attention_whose_scores_something_else_reads_stays() -> None:
    model = attention_graph(masked=False)
    scores = next(n for n in model.graph if n.op_type == "Softmax").inputs[0]
    model.graph.append(ir.node("Identity", [scores]))
    assert fuse_attention(model) == 0


def masked_mean() -> ir.Model:
    """Mean of the rows that a mask keeps, after a sum that the mask keeps from padding."""
    return graph(
        """
        f = Cast<to=1>(mask) inverse = Sub(one, f) far = Mul(inverse, low)
        wide = Unsqueeze(far, last) x2 = Add(x, wide)
        weight = Unsqueeze(f, last) x3 = Mul(x2, weight)
        total = ReduceSum<keepdims=0>(x3, middle) count = ReduceSum<keepdims=1>(f, middle)
        y = Div(total, count)
        """,
        "float[b, n, 24] x, int64[b, n] mask, int64[b, n] ids",
        one=np.array(1, np.float32),
        low=np.array(-10000, np.float32),
        last=np.array([2], np.int64),
        middle=np.array([1], np.int64),
    )


def test_without_padding_the_mask_is_gone_and_the_answer_the_same() -> None:
    model = masked_mean()
    common.ShapeInferencePass()(model)
    _, mask, ids = model.graph.inputs
    assert assume_no_padding(model, mask, ids) == 2  # the sum and the product
    assert [value.name for value in model.graph.inputs] == ["x", "ids"]
    assert not {"Add", "Sub", "Mul"} & set(ops(model))
    x, ones = normal(0, 2, 5, K), np.ones((2, 5), np.int64)
    expected = answer(masked_mean(), x=x, mask=ones, ids=ones)
    np.testing.assert_allclose(answer(model, x=x, ids=ones), expected, atol=1e-6)


def test_a_mask_that_widens_what_it_is_added_to_is_not_dropped() -> None:
    model = graph(
        "f = Cast<to=1>(mask) z = Sub(f, one) y = Add(x, z)",
        "float[1, n] x, int64[b, n] mask, int64[b, n] ids",
        one=np.array(1, np.float32),
    )
    common.ShapeInferencePass()(model)
    _, mask, ids = model.graph.inputs
    assert assume_no_padding(model, mask, ids) == 0
    ones = np.ones((3, 4), np.int64)
    assert answer(model, x=normal(0, 1, 4), ids=ones).shape == (3, 4)
