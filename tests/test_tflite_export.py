"""What a user would lose: a .tflite file that is wrong, too large, noisy to make, or half made."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("litert_torch", reason="needs edgeformer[convert-tflite]")

from ai_edge_litert import schema_py_generated as schema

from edgeformer.converters import tflite_export
from edgeformer.converters.tflite_export import bucket_lengths, export_tflite
from edgeformer.converters.tflite_sharing import share_scales
from edgeformer.converters.tflite_smoothing import smoothed
from edgeformer.errors import EngineError, ModelError
from tests.tflite_models import (
    Bessel,
    Branch,
    mixer,
    mixer_model,
    plain_model,
    profile,
    token_model,
    tokens_one_bucket,
    tokens_two_buckets,
)

WEIGHT_BYTES = 4 * sum(p.numel() for p in token_model().module.parameters())


def signatures(content: bytes) -> dict[str, dict[str, tuple[list[int], Any]]]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    return {
        key: {
            name: (detail["shape"].tolist(), detail["dtype"])
            for name, detail in interpreter.get_signature_runner(key).get_input_details().items()
        }
        for key in interpreter.get_signature_list()
    }


def test_one_signature_per_bucket_with_int32_inputs_by_name() -> None:
    content = tokens_two_buckets().files["tflite-fp32/model.tflite"]
    names = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}
    found = signatures(content)
    assert set(found) == {"main_8", "main_32"}
    for length in (8, 32):
        assert found[f"main_{length}"] == {name: ([1, length], np.int32) for name in names}


def test_variant_describes_the_file() -> None:
    converted = tokens_two_buckets()
    variant = converted.variants["int8"]
    program = variant.programs["main"]
    assert (variant.id, variant.engine, variant.layout) == ("tflite-int8", "tflite", "buckets")
    assert variant.parity is None
    assert (program.file, program.entry) == ("tflite-int8/model.tflite", "main_{length}")
    assert program.buckets == (8, 32)
    assert program.inputs == converted.prepared.inputs
    assert program.outputs == converted.prepared.outputs
    assert set(converted.files) == {"tflite-fp32/model.tflite", "tflite-int8/model.tflite"}


@pytest.mark.parametrize(("precision", "share"), [("fp32", 1.0), ("int8", 0.25)])
def test_a_second_bucket_costs_almost_nothing(precision: str, share: float) -> None:
    file = f"tflite-{precision}/model.tflite"
    one, two = len(tokens_one_bucket().files[file]), len(tokens_two_buckets().files[file])
    assert one > share * WEIGHT_BYTES  # the weights are there
    assert two - one < 0.15 * share * WEIGHT_BYTES  # and only once


def test_int8_stores_the_word_table_and_the_linear_layers_as_int8() -> None:
    model = schema.ModelT.InitFromPackedBuf(
        tokens_two_buckets().files["tflite-int8/model.tflite"], 0
    )
    kinds = {
        tuple(tensor.shape): tensor.type
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.shape is not None
    }
    for shape in ((5000, 64), (128, 64), (64, 128), (192, 64)):
        assert kinds[shape] == schema.TensorType.INT8
    assert kinds[2, 64] == schema.TensorType.FLOAT32  # the token types are added to every token


def test_the_converter_keeps_the_smoothed_weights() -> None:
    """It must not move the normalisation's scale into them: that costs int8 accuracy."""
    converted = tokens_two_buckets()
    module: Any = converted.prepared.module
    with torch.no_grad(), smoothed(module, converted.prepared.examples):
        wanted = [layer.up.weight.numpy().copy() for layer in module.layers]
    assert not np.allclose(wanted[0], module.layers[0].up.weight.detach().numpy())
    model = schema.ModelT.InitFromPackedBuf(converted.files["tflite-fp32/model.tflite"], 0)
    found = [
        np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32).reshape(128, 64)
        for tensor in model.subgraphs[0].tensors
        if tensor.shape is not None and tensor.shape.tolist() == [128, 64]
    ]
    for weight in wanted:
        assert any(np.allclose(weight, other, rtol=1e-6) for other in found)


def test_shared_scales_leave_the_model_as_it_was() -> None:
    """Undo the sharing by packing naively: only the size may differ."""
    content = tokens_two_buckets().files["tflite-int8/model.tflite"]
    before = schema.ModelT.InitFromPackedBuf(content, 0)
    again = share_scales(content)
    after = schema.ModelT.InitFromPackedBuf(again, 0)
    assert len(again) == len(content)
    tables = [t.quantization.scale for g in before.subgraphs for t in g.tensors if t.quantization]
    words = [s for s in tables if s is not None and len(s) == 5000]
    assert len(words) == 2  # one for each bucket,
    assert words[0].ctypes.data == words[1].ctypes.data  # stored once
    for old, new in zip(before.buffers, after.buffers, strict=True):
        assert new.offset % 16 == 0
        a, b = content[old.offset :][: old.size], again[new.offset :][: new.size]
        assert a == b


def test_buckets_end_at_the_model_limit() -> None:
    def lengths(max_length: int, *buckets: int) -> tuple[int, ...]:
        return bucket_lengths(token_model(max_length), profile(*buckets))

    assert lengths(256, 16, 64, 256) == (16, 64, 256)
    assert lengths(200, 16, 64, 256) == (16, 64, 200)
    assert lengths(512, 16, 64, 256) == (16, 64, 256)
    assert lengths(10, 16, 64) == (10,)


def test_a_padded_module_of_the_users_own_ends_at_its_longest_example() -> None:
    model = token_model(max_length=0)
    longer = {name: torch.ones(1, 20, dtype=torch.int64) for name in model.examples[0]}
    assert bucket_lengths(replace(model, examples=(*model.examples, longer)), profile(8, 32)) == (
        8,
        20,
    )
    no_sequence = tuple(replace(port, shape=("batch", 8)) for port in model.inputs)
    assert bucket_lengths(replace(model, inputs=no_sequence), profile(8, 32)) == ()


def test_a_module_without_mask_gets_its_distinct_example_shapes() -> None:
    converted = mixer()
    found = signatures(converted.files["tflite-fp32/model.tflite"])
    assert found == {
        "main_0": {"left": ([1, 8], np.float32), "right": ([1, 8], np.float32)},
        "main_1": {"left": ([3, 8], np.float32), "right": ([3, 8], np.float32)},
    }
    variant = converted.variants["fp32"]
    assert variant.programs["main"].buckets == ()
    assert "example shapes" in variant.note


def test_an_operation_without_lowering_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = plain_model(Bessel().eval(), {"x": torch.ones(1, 4)})
    with pytest.raises(ModelError, match=r"aten\.special_bessel_j0") as error:
        export_tflite(model, ("fp32",), profile(8), tmp_path)
    assert "--engines onnx,numpy" in error.value.hint
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_branch_on_data_is_explained(tmp_path: Path) -> None:
    model = plain_model(Branch().eval(), {"x": torch.ones(1, 4)})
    with pytest.raises(ModelError, match="branches depend on its data"):
        export_tflite(model, ("fp32",), profile(8), tmp_path)


def test_an_unexplained_failure_shows_what_the_converter_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Loud(torch.nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
            if torch.compiler.is_exporting():
                os.write(2, b"native words\n")
                raise KeyError("strange")
            return {"mixed": left - right}

    model = replace(mixer_model(), module=Loud().eval())
    with pytest.raises(ModelError, match="strange"):
        export_tflite(model, ("fp32",), profile(8), tmp_path)
    assert "native words" in capfd.readouterr().err


@pytest.mark.parametrize("package", ["litert_torch", "ai_edge_quantizer.quantizer"])
def test_a_missing_package_names_the_extra(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package == "ai_edge_quantizer.quantizer":  # after the conversion: spare it
        content = tokens_two_buckets().files["tflite-fp32/model.tflite"]
        monkeypatch.setattr(tflite_export, "convert", lambda *_: content)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EngineError) as error:
        export_tflite(token_model(), ("int8",), profile(8), tmp_path)
    assert 'pip install "edgeformer[convert-tflite]"' in error.value.hint
    assert "--engines onnx,numpy" in error.value.hint


@pytest.mark.parametrize(("system", "machine"), [("darwin", "x86_64"), ("linux", "aarch64")])
def test_other_hosts_are_told(
    system: str, machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(EngineError, match="Linux x86-64 only"):
        export_tflite(token_model(), ("fp32",), profile(8), tmp_path)


def test_fp16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="fp16"):
        export_tflite(token_model(), ("fp16",), profile(8), tmp_path)


QUIET = """
import os, sys, tempfile
from pathlib import Path
import torch
from edgeformer.converters.tflite_export import export_tflite
from tests.tflite_models import mixer_model, profile
environment = dict(os.environ)
model, root = mixer_model(), Path(sys.argv[1])
export_tflite(model, ("fp32", "int8"), profile(8), root)
import logging
print(logging.root.handlers, {k for k in os.environ if environment.get(k) != os.environ[k]})
logging.getLogger("after").warning("logging still works")
"""


def test_a_conversion_is_silent_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """In a fresh process, where the libraries are imported for the first time."""
    folders = {name: tmp_path / name for name in ("HOME", "TMPDIR", "out")}
    for folder in folders.values():
        folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"}
    environment |= {name: str(folders[name]) for name in ("HOME", "TMPDIR")}
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", QUIET, str(folders["out"])],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[] set()\n"
    assert done.stderr == "logging still works\n"
    assert list(folders["HOME"].iterdir()) == list(folders["TMPDIR"].iterdir()) == []
    assert sorted(p.name for p in folders["out"].iterdir()) == ["tflite-fp32", "tflite-int8"]
