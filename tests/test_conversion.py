"""From a checkpoint or a module to a bundle that answers: whole, verified, or not at all."""

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from edgeformer.converters import conversion, verification
from edgeformer.converters.conversion_text import failure_hint
from edgeformer.converters.verification import judge
from edgeformer.device_profiles.profile import load_profile
from edgeformer.errors import (
    DataError,
    EdgeFormerError,
    EngineError,
    ModelError,
    ToleranceError,
    UsageError,
)
from edgeformer.pipeline import convert
from edgeformer.runtime import load
from edgeformer.runtime.bundle import open_bundle
from tests.tiny_models import TEXTS, tiny_bert_folder

PROFILE = 'extends = "rpi4"\n[length]\nmax_tokens = 32\nbucket_tokens = [32]\n'
FAST: Any = {"engines": ("onnx", "numpy"), "precisions": ("fp32",)}


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("profile") / "tiny.toml"
    path.write_text(PROFILE)
    return str(path)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("model") / "tiny", "classification")


@pytest.fixture(scope="module")
def bundle(classifier: Path, profile: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier on every engine in fp32."""
    output = tmp_path_factory.mktemp("bundle") / "tiny.edge"
    return convert(classifier, profile=profile, output=output, precisions=("fp32",)).path


def _logits(folder: Path, text: str, pair: str | None = None) -> np.ndarray:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        inputs = tokenizer(
            text,
            pair,
            return_tensors="pt",
            truncation=True,
            max_length=32,
            return_token_type_ids=True,
        )
        return model(**inputs).logits[0].numpy()


@pytest.mark.parametrize("engine", ["onnx", "tflite", "numpy"])
def test_classify_equals_transformers(bundle: Path, classifier: Path, engine: str) -> None:
    with load(bundle, engine=engine) as model:
        for text, pair in [(TEXTS[0], None), (TEXTS[1], TEXTS[2]), ("", None)]:
            labels = model.classify(text, pair, top_k=None)
            expected = torch.tensor(_logits(classifier, text, pair)).softmax(0)
            scores = {label.name: label.score for label in labels}
            wanted = {f"class {i}": float(p) for i, p in enumerate(expected)}
            assert scores == pytest.approx(wanted, abs=1e-5)
        both = model.classify(list(TEXTS[:2]), list(TEXTS[2:4]))
        assert [type(labels) for labels in both] == [list, list]
        assert model.classify([]) == []


@pytest.mark.parametrize("engine", ["onnx", "numpy"])
def test_tag_equals_transformers_pipeline(profile: str, tmp_path: Path, engine: str) -> None:
    folder = tiny_bert_folder(tmp_path / "tagger", "token-classification")
    output = tmp_path / "tagger.edge"
    convert(folder, profile=profile, output=output, engines=(engine,), precisions=("fp32",))
    oracle = transformers.pipeline(
        "token-classification", model=str(folder), aggregation_strategy="first"
    )
    with load(output) as model:
        for text in TEXTS:
            expected = [(g["entity_group"], g["start"], g["end"]) for g in oracle(text)]
            found = model.tag(text)
            assert [(s.label, s.start, s.end) for s in found] == expected
            assert all(s.text == text[s.start : s.end] for s in found)
        windows = model.tag(" ".join(TEXTS * 6), on_long="window")
        assert windows[-1].end > 500


def test_auto_names_what_it_skipped(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeformer.runtime import loading

    def missing(name: str) -> EngineError | None:
        return EngineError("not here", hint="pip install it") if name == "tflite" else None

    monkeypatch.setattr(loading, "missing_engine", missing)
    with load(bundle) as model:
        assert model.variant.id == "onnx-fp32"
        assert model.skipped == (("tflite-fp32", "not here\n  -> pip install it"),)
    with pytest.raises(EngineError, match="pip install it"):
        load(bundle, engine="tflite")


def test_wrong_answers_are_refused_at_load(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeformer.runtime.engines import numpy_engine

    right = numpy_engine.NumpyEngine.run
    monkeypatch.setattr(
        numpy_engine.NumpyEngine,
        "run",
        lambda *args: {k: v[:, ::-1] for k, v in right(*args).items()},
    )
    with pytest.raises(EngineError, match="is wrong here"):
        load(bundle, engine="numpy")


def test_no_engine_lists_every_reason(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeformer.runtime import loading

    monkeypatch.setattr(loading, "missing_engine", lambda name: EngineError(f"no {name}"))
    with pytest.raises(EngineError, match=r"no tflite(.|\n)*no onnx(.|\n)*no numpy(.|\n)*doctor"):
        load(bundle)


def test_zip_answers_like_the_folder(classifier: Path, profile: str, tmp_path: Path) -> None:
    for name, zip_file in (("a.edge", False), ("b.edge.zip", True)):
        convert(classifier, profile=profile, output=tmp_path / name, zip_file=zip_file, **FAST)
    for engine in FAST["engines"]:
        with load(tmp_path / "a.edge", engine) as a, load(tmp_path / "b.edge.zip", engine) as b:
            assert a.classify(TEXTS[0], top_k=None) == b.classify(TEXTS[0], top_k=None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.edge", "b.edge.zip"]


def test_bad_calls_say_what_to_call(bundle: Path) -> None:
    with load(bundle, engine="numpy") as model:
        for call, message in [
            (lambda: model.embed("x"), "classify"),
            (lambda: model.classify(3), "not int"),
            (lambda: model.classify(["a", None]), "text 1 is NoneType"),
            (lambda: model.classify("a", on_long="crop"), "truncate, window, error"),
            (lambda: model.classify(["a"], ["b", "c"]), "1 texts but 2"),
            (lambda: model.classify("word " * 99, on_long="error"), "tokens"),
            (lambda: model.run(ids=[[1]]), "unknown input"),
            (lambda: model.run(), "input_ids"),
            (lambda: model.run(input_ids=[[0.5]]), "dtype"),
            (lambda: model.run(input_ids=[1]), "shape"),
            (lambda: model.run("second", input_ids=[[1]]), "no program"),
        ]:
            with pytest.raises(EdgeFormerError, match=message):
                call()


class Mixer(nn.Module):
    """A plain module without mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.norm, self.second = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.norm(self.first(x))))


def test_plain_module_on_every_engine(profile: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Mixer(), torch.randn(3, 6)
    report = convert(
        module,
        example_inputs={"x": x},
        profile=profile,
        output=tmp_path / "m.edge",
        precisions=("fp32", "int8"),
    )
    assert len(report.manifest.variants) == 6
    expected = module(x).detach().numpy()
    for variant in report.manifest.variants:
        with load(report.path, engine=variant.id) as model:
            answer = model.run(x=x.numpy())["output"]
            limit = 1e-5 if variant.precision == "fp32" else 0.1
            np.testing.assert_allclose(answer, expected, atol=limit)
            with pytest.raises(EdgeFormerError, match="module"):
                model.embed("text")


def test_missed_tolerance_writes_nothing(
    classifier: Path, profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = verification.open_engine

    def spoiled(*args: Any) -> Any:
        engine = right(*args)
        encode = engine.encode
        engine.encode = lambda batch: {k: v + 0.01 for k, v in encode(batch).items()}
        return engine

    monkeypatch.setattr(verification, "open_engine", spoiled)
    with pytest.raises(ToleranceError, match="max abs") as caught:
        convert(classifier, profile=profile, output=tmp_path / "x.edge", **FAST)
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []
    report = convert(classifier, profile=profile, output=tmp_path / "x.edge", force=True, **FAST)
    assert report.manifest.forced
    assert any("forced" in notice for notice in report.notices)


def test_a_share_of_few_texts_asks_for_more_of_them(bundle: Path) -> None:
    """Two of 93 undecided texts refuse a bundle; a user must learn that 93 are few."""
    with open_bundle(bundle) as opened:
        variants = opened.manifest.variants
    tolerance = load_profile("rpi4").tolerance

    def hint(texts: int, **measured: float) -> str:
        parity = replace(variants[0].parity, texts=texts, **measured)
        judged = judge(parity, "int8", tolerance)
        return failure_hint([replace(variants[0], precision="int8", parity=judged), *variants[1:]])

    near = {"min_cosine": 0.9999, "mean_cosine": 0.9999}
    assert "more texts of the model's own kind" in hint(93, top1=91 / 93, **near)
    assert "more texts" not in hint(500, top1=0.98, **near)
    assert "more texts" not in hint(93, top1=1.0, min_cosine=0.9, mean_cosine=0.9)
    assert hint(93, top1=0.9, **near).startswith("try --precision fp32, or only what passed")


def test_full_disk_leaves_nothing(
    classifier: Path, profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(conversion, "write_manifest", full)
    with pytest.raises(EdgeFormerError, match="no space left"):
        convert(classifier, profile=profile, output=tmp_path / "x.edge", **FAST)
    assert list(tmp_path.iterdir()) == []


def test_output_exists(classifier: Path, profile: str, tmp_path: Path) -> None:
    (tmp_path / "x.edge").mkdir()
    (tmp_path / "x.edge" / "notes").touch()
    with pytest.raises(UsageError, match="--force"):
        convert(classifier, profile=profile, output=tmp_path / "x.edge")


def test_unknown_vocabulary_asks_for_calibration(
    classifier: Path, profile: str, tmp_path: Path
) -> None:
    (tmp_path / "greek.txt").write_text("αβγ δεζ ηθι\n" * 3)
    with pytest.raises(DataError, match="--calibration"):
        convert(
            classifier,
            profile=profile,
            output=tmp_path / "x.edge",
            calibration=tmp_path / "greek.txt",
            **FAST,
        )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"profile": "rpi44"}, UsageError, "rpi4"),
        ({"engines": ("tensorrt",)}, UsageError, "onnx, tflite, numpy"),
        ({"precisions": ("int4",)}, UsageError, "int4"),
        ({"engines": ("numpy",), "precisions": ("fp16",)}, UsageError, "fp16"),
        ({"max_length": 1}, UsageError, "outside"),
        ({"max_length": 4000}, UsageError, "outside"),
        ({"example_inputs": {"x": torch.zeros(1)}}, UsageError, "nn.Module"),
        ({"calibration": "none.txt"}, UsageError, "no file"),
        ({"profile": "cuda", "engines": ("tflite",)}, UsageError, "bucket"),
    ],
)
def test_wrong_options(
    classifier: Path, profile: str, tmp_path: Path, options: Any, error: Any, message: str
) -> None:
    settings = {"profile": profile, "output": tmp_path / "x.edge", **FAST} | options
    with pytest.raises(error, match=message):
        convert(classifier, **settings)
    assert list(tmp_path.iterdir()) == []


def test_module_without_examples(profile: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="example_inputs"):
        convert(Mixer(), profile=profile, output=tmp_path / "x.edge")


def test_missing_extra_is_named(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"edgeformer\[convert\]"):
        convert(Mixer(), profile=profile, output=tmp_path / "x.edge")


def test_missing_default_model_is_named(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeformer.pipeline.DEFAULT_MODEL", "no_such_package")
    with pytest.raises(ModelError, match=r"edgeformer\[demo\]"):
        convert(None, profile=profile, output=tmp_path / "x.edge", **FAST)


def test_cuda_profile_is_verified_here_but_needs_its_provider(
    classifier: Path, tmp_path: Path
) -> None:
    report = convert(classifier, profile="cuda", output=tmp_path / "x.edge")
    assert [v.id for v in report.manifest.variants] == ["onnx-fp16", "numpy-fp32"]
    with load(report.path) as model:
        assert model.variant.id == "numpy-fp32"
        assert "CUDAExecutionProvider" in dict(model.skipped)["onnx-fp16"]


def test_golden_file_of_the_users(classifier: Path, profile: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a lovely film\n")
    convert(
        classifier,
        profile=profile,
        output=tmp_path / "x.edge",
        golden=tmp_path / "mine.txt",
        **FAST,
    )
    assert b"a lovely film" in (tmp_path / "x.edge" / "golden.json").read_bytes()


def test_threads_are_capped_by_the_profile(bundle: Path) -> None:
    with load(bundle, engine="numpy", threads=1) as model:
        assert model.threads == 1
    with pytest.raises(UsageError, match="at least 1"):
        load(bundle, threads=0)


def test_tolerances_are_the_profiles() -> None:
    tolerance = load_profile("rpi4").tolerance
    assert (tolerance.int8_min_cosine, tolerance.int8_mean_cosine) == (0.98, 0.99)
    assert tolerance.top1 == 0.99
