"""How a plan's file holds its weights: what is decoded is what was stored, only what is smaller is
stored so, and a file that lies about it is refused."""

import contextlib
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeformer.converters.adaptivfloat import adaptivfloat, encode
from edgeformer.converters.plan.storage import StoredForm, adaptivfloat_form, sparse_form, tiled
from edgeformer.converters.plan.write import quantize, write_plan
from edgeformer.converters.prepared import PreparedModel
from edgeformer.device_profiles.profile import Storage, load_profile
from edgeformer.errors import BundleError, EdgeFormerError, EngineError, InputError, UsageError
from edgeformer.runtime import stored
from edgeformer.runtime.adaptivfloat import AdaptivFloat
from edgeformer.runtime.engines.numpy_engine import open_engine
from edgeformer.runtime.kernels import embedding
from edgeformer.runtime.plan import MAGIC, parse_header, parse_plan
from edgeformer.runtime.stored import decode, parse_store
from tests.plan_models import (
    BertLayer,
    TinyBert,
    bundle_of,
    engine_for,
    example_arrays,
    lowered,
    save,
    token_prepared,
)

PLAIN = Storage("int8", "channel", "int8", "auto")


def weights(rows: int = 90, columns: int = 70, zeros: float = 0.0, seed: int = 0) -> np.ndarray:
    """Normal columns of very different sizes, a share of them zero."""
    generator = np.random.default_rng(seed)
    array = generator.standard_normal((rows, columns)) * generator.lognormal(0, 1, columns)
    return np.where(generator.random(array.shape) < zeros, 0, array).astype(np.float32)


def load_form(
    form: StoredForm, dtype: str, shape: tuple[int, ...], axis: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """What a reader makes of it: the header through its checks, the bytes through ``decode``."""
    data = form.to_bytes()
    store = parse_store(json.loads(json.dumps(form.header())), dtype, shape, axis, "t")
    assert store == form.store
    assert store.size_bytes(int(np.prod(shape))) == len(data)
    return decode(store, dtype, shape, axis, memoryview(data), "t")


# --- forms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adaptivfloat8e3", "adaptivfloat7e2", "adaptivfloat5e3"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("zeros", [0.0, 0.7])
def test_adaptivfloat_is_decoded_to_what_it_stores(
    name: str, per_channel: bool, zeros: float
) -> None:
    kind, array = adaptivfloat(name), weights(zeros=zeros)
    codes, tops = encode(array, kind, 1 if per_channel else None)
    expected = np.ldexp(kind.values[codes], tops.astype(np.int32))
    form = adaptivfloat_form(array, kind, 1, per_channel=per_channel, sparse=True)
    assert form.store.nonzeros is not None or not zeros
    got, none = load_form(form, "float32", array.shape, 1)
    assert none is None
    assert got.dtype == np.float32 and (got == expected).all()

    levels, scale = load_form(form, "int8", array.shape, 1)
    wanted, scales = quantize(expected, 1)
    assert scale is not None
    np.testing.assert_allclose(scale, scales, rtol=1e-6)
    assert np.abs(levels.astype(int) - wanted).max() <= 1  # a half step may round either way
    assert (levels != wanted).mean() < 0.01


@pytest.mark.parametrize("name", ["adaptivfloat8e3", "adaptivfloat5e3"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("zeros", [0.0, 0.7])
def test_rows_of_a_table_are_looked_up_in_its_codes(
    name: str, per_channel: bool, zeros: float
) -> None:
    kind, array = adaptivfloat(name), weights(zeros=zeros).T.copy()
    codes, tops = encode(array, kind, 0 if per_channel else None)
    expected = np.ldexp(kind.values[codes], tops.astype(np.int32)[:, None])
    form = adaptivfloat_form(array, kind, 0, per_channel=per_channel, sparse=True)
    table, scale = load_form(form, "codes", array.shape, 0)
    assert table.dtype == np.uint8 and scale is not None
    ids = np.array([[3, 0, 3], [69, 1, 2]])
    out = np.full((2, 3, 90), np.nan, np.float32)
    embedding(table, ids, out, scale=scale, values=kind.values)
    assert (out == expected[ids]).all()
    with pytest.raises(InputError, match="70 rows"):
        embedding(table, ids + 1, out, scale=scale, values=kind.values)


def test_tiles_are_decoded_as_columns_are() -> None:
    kind, array = AdaptivFloat(6, 3), weights(40, 64, 0.5)
    form = {
        width: adaptivfloat_form(array, kind, 1, per_channel=True, sparse=True, tile_width=width)
        for width in (0, 16)
    }
    flat, scale = load_form(form[0], "int8", (40, 64), 1)
    tiles, same = load_form(form[16], "int8", (4, 40, 16), 1)
    assert (tiles == tiled(flat, 16)).all()
    assert scale is not None and same is not None and (scale == same).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (300, 301)])
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_a_bitmask_keeps_every_value(size: tuple[int, int], dtype: str) -> None:
    array = weights(*size, zeros=0.8)
    array = quantize(array, 1)[0] if dtype == "int8" else array
    array[:, 0] = 0
    form = sparse_form(array)
    if size == (1, 9):  # 9 bits are 2 bytes, and parts lie 64 bytes apart
        assert form is None
        return
    if form is not None:
        assert (load_form(form, dtype, size, 1)[0] == array).all()


def test_only_what_is_clearly_smaller_gets_a_bitmask() -> None:
    """An eighth of int8 is what the bitmask takes: with a fifth of zeros it saves too little for a
    tensor that is then no longer mapped."""
    for zeros, worth in ((0.2, False), (0.25, True)):
        assert (sparse_form(quantize(weights(300, 300, zeros), 1)[0]) is not None) == worth
    for zeros, worth in ((0.12, False), (0.14, True)):
        assert (sparse_form(weights(300, 300, zeros)) is not None) == worth
    for zeros, worth in ((0.1, False), (0.14, True)):  # codes are decoded anyway
        array = weights(300, 300, zeros)
        form = adaptivfloat_form(array, AdaptivFloat(8, 3), 1, per_channel=True, sparse=True)
        assert (form.store.nonzeros is not None) == worth


# --- files -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pruned() -> PreparedModel:
    """A token model whose matrices are 70 % zeros."""
    module = TinyBert("mean", [BertLayer()])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter *= torch.rand(parameter.shape, generator=generator) >= 0.7
    return token_prepared(module)


def write(
    prepared: PreparedModel,
    folder: Path,
    storage: Storage | None,
    precision: str = "int8",
    width: int = 0,
) -> Any:
    """The engine of a file with this storage, and its size."""
    result = lowered(prepared)
    variant = save(prepared, folder, precision, result)  # describes the file that replaces it
    programs = {"main": (result.layout, result.graph)}
    write_plan(folder / "model.plan", programs, precision, width, storage)
    engine = open_engine(bundle_of(folder), variant, 1)
    return SimpleNamespace(
        variant=variant, engine=engine, size=(folder / "model.plan").stat().st_size
    )


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_bitmask_changes_no_answer(pruned: PreparedModel, precision: str, tmp_path: Path) -> None:
    inputs = example_arrays(pruned)
    dense = write(pruned, tmp_path, Storage("int8", "channel", "int8", "never"), precision)
    sparse = write(pruned, tmp_path, PLAIN, precision)
    answers = [made.engine.run("main", inputs)["answer"] for made in (dense, sparse)]
    assert (answers[0] == answers[1]).all()
    assert sparse.size < dense.size - 1000


@pytest.mark.parametrize("decoded", ["int8", "fp32"])
@pytest.mark.parametrize("ranges", ["tensor", "channel"])
@pytest.mark.parametrize("width", [0, 8])
def test_a_plan_in_adaptivfloat_answers_nearly_the_same(
    pruned: PreparedModel, decoded: str, ranges: str, width: int, tmp_path: Path
) -> None:
    inputs = example_arrays(pruned)
    exact = engine_for(pruned, tmp_path).run("main", inputs)["answer"]
    storage = Storage("adaptivfloat8e3", ranges, decoded, "auto")
    made = write(pruned, tmp_path, storage, width=width)
    answer = made.engine.run("main", inputs)["answer"]
    assert (answer * exact).sum(1).min() > 0.99
    assert not (answer == exact).all()
    tensors = parse_plan(memoryview((tmp_path / "model.plan").read_bytes())).tensors
    assert any(t.array.dtype == np.int8 for t in tensors) == (decoded == "int8")
    assert sum(t.values is not None for t in tensors) == 3  # words, places, types: codes
    assert any(t.array.ndim == 3 for t in tensors) == (decoded == "int8" and width == 8)


def test_fewer_bits_are_fewer_bytes(pruned: PreparedModel, tmp_path: Path) -> None:
    sizes = []
    for bits in range(4, 9):
        storage = Storage(f"adaptivfloat{bits}e2", "channel", "fp32", "never")
        sizes.append(write(pruned, tmp_path, storage).size)
    layers = pruned.module.get_submodule("layers").named_parameters()
    values = sum(parameter.numel() for _, parameter in layers if parameter.ndim == 2)
    for smaller, larger in pairwise(sizes):
        assert larger - smaller == pytest.approx(values / 8, rel=0.1)


def test_fp32_stays_exact_whatever_the_profile_says_of_weights(
    pruned: PreparedModel, tmp_path: Path
) -> None:
    inputs = example_arrays(pruned)
    exact = engine_for(pruned, tmp_path).run("main", inputs)["answer"]
    storage = Storage("adaptivfloat4e2", "tensor", "int8", "auto")
    assert (
        write(pruned, tmp_path, storage, "fp32").engine.run("main", inputs)["answer"] == exact
    ).all()


def test_tied_layers_are_stored_once_in_every_form(tmp_path: Path) -> None:
    layer = BertLayer()
    for storage in (PLAIN, Storage("adaptivfloat8e3", "channel", "int8", "auto")):
        counts = [
            (len(parse_plan(memoryview((tmp_path / "model.plan").read_bytes())).tensors), made.size)
            for layers in ([layer], [layer] * 3)
            for made in [write(token_prepared(TinyBert("mean", layers)), tmp_path, storage)]
        ]
        assert counts[0][0] == counts[1][0]
        assert counts[1][1] < 1.5 * counts[0][1]  # only the steps are more


def test_writing_twice_gives_the_same_bytes(pruned: PreparedModel, tmp_path: Path) -> None:
    storage = Storage("adaptivfloat6e3", "channel", "int8", "auto")
    files = []
    for _ in range(2):
        write(pruned, tmp_path, storage)
        files.append((tmp_path / "model.plan").read_bytes())
    assert files[0] == files[1]


# --- hostile files ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(pruned: PreparedModel, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A valid file with AdaptivFloat and bitmasks, taken apart."""
    folder = tmp_path_factory.mktemp("stored")
    storage = Storage("adaptivfloat6e3", "channel", "int8", "auto")
    variant = write(pruned, folder, storage).variant
    data = (folder / "model.plan").read_bytes()
    length = int.from_bytes(data[8:16], "little")
    header = json.loads(data[16 : 16 + length])
    start = (16 + length + 63) // 64 * 64
    stored_ones = [k for k, t in enumerate(header["tensors"]) if "store" in t]
    masked = [k for k in stored_ones if header["tensors"][k]["store"]["nonzeros"] is not None]
    return SimpleNamespace(
        data=data,
        header=header,
        body=data[start:],
        variant=variant,
        inputs=example_arrays(pruned),
        stored=stored_ones,
        masked=masked,
    )


def packed(header: Any, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    head = MAGIC + len(text).to_bytes(8, "little") + text
    return head + bytes(-len(head) % 64) + body


def attempt(good: SimpleNamespace, data: bytes) -> None:
    bundle: Any = SimpleNamespace(map=lambda name: memoryview(data))
    open_engine(bundle, good.variant, 1).run("main", good.inputs)


def change_store(**changes: Any) -> Callable[[Any, Any], None]:
    return lambda tensor, header: tensor["store"].update(changes)


def change_tensor(**changes: Any) -> Callable[[Any, Any], None]:
    return lambda tensor, header: tensor.update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_store(nonzeros=1), "does not count 1 values"),
        (change_store(nonzeros=10**6), "whole number"),
        (change_store(nonzeros=-1), "whole number"),
        (change_store(nonzeros=True), "whole number"),
        (change_store(bits=9), "whole number"),
        (change_store(bits=3), "whole number"),
        (change_store(bits=4, exponent_bits=4), "AdaptivFloat"),
        (change_store(exponent_bits=6), "whole number"),
        (change_store(exponent_bits=0), "not known"),
        (change_store(ranges=2), "one range, or one for each"),
        (change_store(ranges=10**9), "whole number"),
        (change_store(extra=1), "must say of its store"),
        (change_tensor(store=None), "must say of its store"),
        (change_tensor(scale=0), "int8 must have a scale"),
        (change_tensor(dtype="int64"), "AdaptivFloat"),
        (change_tensor(dtype="codes"), "AdaptivFloat"),
        (change_tensor(dtype="codes", axis=0), "one range, or|cannot take"),
        (change_tensor(dtype="bool"), "AdaptivFloat"),
        (change_tensor(shape=[10**9, 10**9]), "one range, or one for each|outside|too large"),
        (change_tensor(shape=[0, 8]), "empty"),
        (change_tensor(shape=[1 << 39, 1 << 39]), "too large|one range"),
        (lambda t, _: t.update(shape=[int(np.prod(t["shape"]))]), "AdaptivFloat"),
        (change_tensor(offset=64 * 10**6), "whole number"),
        (change_tensor(axis=2), "whole number"),
    ],
)  # fmt: skip
def test_headers_that_lie_are_refused(
    good: SimpleNamespace, change: Callable[[Any, Any], None], message: str
) -> None:
    header = json.loads(json.dumps(good.header))
    matrix = next(k for k in good.masked if header["tensors"][k]["dtype"] == "int8")
    change(header["tensors"][matrix], header)
    with pytest.raises(BundleError, match=message):
        attempt(good, packed(header, good.body))


def test_a_bitmask_that_counts_more_than_there_are_is_refused(good: SimpleNamespace) -> None:
    record = parse_header(memoryview(good.data))[0][good.masked[0]]
    assert record.store is not None
    mask = record.offset + 64 * -(-record.store.ranges // 64)
    for byte in (0xFF, 0x00):
        body = bytearray(good.body)
        assert body[mask] != byte
        body[mask] = byte
        with pytest.raises(BundleError, match="bitmask that does not count"):
            attempt(good, packed(good.header, bytes(body)))


def test_a_range_outside_of_float32_is_refused(good: SimpleNamespace) -> None:
    body = bytearray(good.body)
    body[good.header["tensors"][good.stored[0]]["offset"]] = 0x80  # -128
    with pytest.raises(BundleError, match="outside of float32"):
        attempt(good, packed(good.header, bytes(body)))


def test_codes_without_a_store_are_refused(good: SimpleNamespace) -> None:
    header = json.loads(json.dumps(good.header))
    table = next(t for t in header["tensors"] if t["dtype"] == "codes")
    del table["store"]
    with pytest.raises(BundleError, match="'codes', which is not known"):
        attempt(good, packed(header, good.body))


def test_one_part_cannot_be_decoded_without_bound(good: SimpleNamespace) -> None:
    """A thousand tensors in the same bytes would ask for a thousand times the memory."""
    header = json.loads(json.dumps(good.header))
    header["tensors"] += [header["tensors"][good.masked[0]]] * 1000
    with pytest.raises(BundleError, match="more bytes than the file"):
        attempt(good, packed(header, good.body))


HOSTILE = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.integers(-(2**70), 2**70), st.floats(),
    st.sampled_from(["int8", "float32", "channel"]), st.just([]), st.just({}), st.just([9, 9]),
)  # fmt: skip
FUZZ = settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)


@FUZZ
@given(st.integers(0, 10**6), st.sampled_from(("bits", "exponent_bits", "ranges", "nonzeros")),
       HOSTILE)  # fmt: skip
def test_any_other_value_in_a_store(
    good: SimpleNamespace, which: int, field: str, value: Any
) -> None:
    header = json.loads(json.dumps(good.header))
    tensor = header["tensors"][good.stored[which % len(good.stored)]]
    tensor["store"][field] = value
    with contextlib.suppress(EdgeFormerError):
        attempt(good, packed(header, good.body))


@FUZZ
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4))
def test_flipped_bytes_of_the_weights(
    good: SimpleNamespace, changes: list[tuple[float, int]]
) -> None:
    body = bytearray(good.body)
    for place, value in changes:
        body[int(place * len(body))] = value
    with contextlib.suppress(EdgeFormerError):
        attempt(good, packed(good.header, bytes(body)))


@pytest.mark.parametrize("length", [64, 1000, -1])
def test_a_cut_off_file_is_refused(good: SimpleNamespace, length: int) -> None:
    with pytest.raises(BundleError, match=r"outside the file|more bytes|whole number"):
        attempt(good, packed(good.header, good.body[:length]))


def test_too_little_memory_is_said(good: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **keywords: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(stored.np, "zeros", full)
    with pytest.raises(EngineError, match="not enough memory for tensor"):
        attempt(good, good.data)


# --- profiles --------------------------------------------------------------------------------


def test_built_in_profiles_map_int8() -> None:
    for name in ("rpi4", "rpi-zero-2w", "x86-vnni", "cuda"):
        assert load_profile(name).storage == PLAIN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('weights = "adaptivfloat3e2"', "storage.weights"),
        ('weights = "adaptivfloat8e8"', "storage.weights"),
        ('ranges = "row"', "storage.ranges"),
        ('decoded = "fp16"', "storage.decoded"),
        ("sparse = true", "storage.sparse"),
        ('sprase = "auto"', "sparse"),
    ],
)
def test_wrong_words_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(f'extends = "rpi4"\n[storage]\n{text}\n')
    with pytest.raises(UsageError, match=message):
        load_profile(str(tmp_path / "own.toml"))
