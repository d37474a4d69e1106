"""Masks: tokens and scores are those of transformers' pipeline, and texts are put together."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from benchmarks.classifier import tiny_bert
from edgeformer.errors import InputError, ModelError
from edgeformer.models.tokenizer_file import find_mask_token
from edgeformer.pipeline import convert
from edgeformer.runtime import Fill, load
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.golden import parse_golden
from edgeformer.runtime.tasks import filling
from edgeformer.runtime.tokenizer import load_tokenizer
from tests.command_line import ROOT
from tests.tiny_bundles import bundle, checkpoint, texts_file
from tests.tiny_models import tiny_tokenizer_json

PROFILE = 'extends = "rpi4"\n[length]\nmax_tokens = 32\nbucket_tokens = [32]\n'
TASK = "fill-mask"
ONE, TWO = "The film was very [MASK], not boring!", "a [MASK] film and [MASK]"
REAL_TEXTS = (
    "Paris is the [MASK] of France.",
    "She poured the [MASK] into a cup and drank it.",
    "The [MASK] barked at the [MASK] all night.",
)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model for every engine in fp32."""
    folder = tmp_path_factory.mktemp("fill")
    (folder / "tiny.toml").write_text(PROFILE)
    return convert(
        checkpoint(TASK),
        profile=str(folder / "tiny.toml"),
        output=folder / "mlm.edge",
        precisions=("fp32",),
        calibration=texts_file(),
    ).path


def check(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Fills of one text against the pipeline's, a list for each of several masks."""
    if isinstance(expected[0], list):
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            check(mine, theirs, tolerance)
        return
    assert [fill.token for fill in found] == [theirs["token_str"] for theirs in expected]
    scores = [theirs["score"] for theirs in expected]
    assert [fill.score for fill in found] == pytest.approx(scores, rel=tolerance * 100)


@pytest.mark.parametrize("engine", ["onnx", "tflite", "numpy"])
def test_fills_are_those_of_transformers(converted: Path, engine: str) -> None:
    oracle = transformers.pipeline(TASK, model=str(checkpoint(TASK)))
    with load(converted, engine=engine) as model:
        for text in (ONE, TWO, "[MASK]", "[MASK][MASK]"):
            check(model.fill_mask(text), oracle(text))
            check(model.fill_mask(text, top_k=2), oracle(text, top_k=2))
        one, two = model.fill_mask([ONE, TWO])
        check(one, oracle(ONE))
        check(two, oracle(TWO))
        assert model.fill_mask([]) == []


def test_each_mask_is_filled_in_the_text_as_it_was_written(converted: Path) -> None:
    with load(converted, engine="numpy") as model:
        everything = len(json.loads(tiny_tokenizer_json())["model"]["vocab"])
        fills = model.fill_mask(ONE, top_k=10**6)
        assert len(fills) == everything
        assert sum(fill.score for fill in fills) == pytest.approx(1.0)
        texts = {fill.token: fill.text for fill in fills}
        assert texts["lovely"] == "The film was very lovely, not boring!"
        assert texts["##ly"] == "The film was veryly, not boring!"  # it continues the word before
        first, second = model.fill_mask(TWO, top_k=10**6)
        assert "a good film and [MASK]" in [fill.text for fill in first]
        assert "a [MASK] film and good" in [fill.text for fill in second]


def test_windows_and_texts_that_do_not_fit(converted: Path) -> None:
    long = " ".join(["very good film"] * 20)
    with load(converted, engine="numpy") as model:
        with pytest.raises(InputError, match=r"text 1 has a \[MASK\] beyond the 32") as caught:
            model.fill_mask([ONE, f"a [MASK] {long} [MASK]"])
        assert "on_long='window'" in caught.value.hint
        both = model.fill_mask(f"a [MASK] {long} [MASK]", on_long="window")
        assert len(both) == 2
        assert both[1][0].text.startswith(f"a [MASK] {long}")
        assert model.last_call.windows == 2  # of three or more: those between hold no mask
        kept = model.fill_mask(f"a [MASK] {long}")
        assert isinstance(kept[0], Fill)
        assert model.last_call.truncated_texts == 1
        assert kept[0].text.endswith(long)
        with pytest.raises(InputError, match="tokens, the model takes 32"):
            model.fill_mask(f"a [MASK] {long}", on_long="error")


def test_large_vocabularies_run_a_few_texts_at_a_time(
    converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """512 texts of 512 tokens would be 32 GB of logits over BERT's vocabulary."""
    with load(converted, engine="numpy") as model:
        texts = [ONE, TWO, "[MASK] film", "boring [MASK]"] * 3
        whole = model.fill_mask(texts, top_k=3)
        size = model.variant.programs["main"].outputs[0].shape[-1]
        assert isinstance(size, int)
        monkeypatch.setattr(filling, "MAX_LOGITS", 16 * size)
        asked: list[int] = []
        right = model._dispatcher.encode

        def encode(batch: Any) -> Any:
            asked.append(len(batch.ids))
            return right(batch)

        monkeypatch.setattr(model._dispatcher, "encode", encode)
        parts = model.fill_mask(texts, top_k=3)
        assert len(asked) > 3
        assert max(asked) <= 16
        assert model.last_call.texts == len(texts)
    for mine, theirs in zip(parts, whole, strict=True):
        flat = [f for m in mine for f in (m if isinstance(m, list) else [m])]
        expected = [f for m in theirs for f in (m if isinstance(m, list) else [m])]
        assert [f.token for f in flat] == [f.token for f in expected]


def test_wrong_calls_say_what_to_do(converted: Path) -> None:
    with load(converted, engine="numpy") as model:
        with pytest.raises(InputError, match=r"text 0 has no \[MASK\]") as caught:
            model.fill_mask("no mask here")
        assert "write [MASK]" in caught.value.hint
        for call, message in [
            (lambda: model.fill_mask([ONE, ""]), "text 1 has no"),
            (lambda: model.fill_mask(ONE, top_k=0), "top_k must be at least 1"),
            (lambda: model.fill_mask(3), "not int"),  # type: ignore[call-overload]
            (lambda: model.answer("a", "b"), r"task is fill-mask, not question-answering"),
        ]:
            with pytest.raises(InputError, match=message):
                call()
    with load(bundle("embedding")) as other, pytest.raises(InputError, match="not fill-mask"):
        other.fill_mask(ONE)


def test_a_bundle_names_its_mask_and_its_self_test_has_one(converted: Path) -> None:
    with open_bundle(converted) as opened:
        assert opened.manifest.model.mask_token == "[MASK]"
        cases = parse_golden(opened.read(opened.manifest.golden))
    assert all("[MASK]" in case.text for case in cases)


def tokenizer_with(*specials: str) -> bytes:
    data = json.loads(tiny_tokenizer_json())
    tokens = [dict(data["added_tokens"][0], content=token) for token in specials]
    return json.dumps({**data, "added_tokens": tokens}).encode()


@pytest.mark.parametrize(
    ("specials", "named", "expected"),
    [
        (("[PAD]", "[MASK]"), None, "[MASK]"),
        (("<pad>", "<mask>"), None, "<mask>"),
        (("[PAD]", "<fill>"), "<fill>", "<fill>"),
        (("[MASK]", "<fill>"), {"content": "<fill>", "lstrip": True}, "<fill>"),
        (("[PAD]",), None, ""),
        (("[MASK]", "<mask>"), None, ""),
        (("[MASK]",), "<fill>", ""),
    ],
)
def test_the_mask_token_is_the_tokenizers(
    specials: tuple[str, ...], named: Any, expected: str
) -> None:
    settings = {} if named is None else {"mask_token": named}
    if expected:
        assert find_mask_token(tokenizer_with(*specials), settings) == expected
        return
    with pytest.raises(ModelError, match="no mask token") as caught:
        find_mask_token(tokenizer_with(*specials), settings)
    assert "--task embedding" in caught.value.hint


def byte_level() -> bytes:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*letters, "Ġf", "Ġfi", "lm"])}
    merges = [("Ġ", "f"), ("Ġf", "i"), ("l", "m")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str().encode()


def metaspace() -> bytes:
    pieces = [("<unk>", 0.0), ("▁fi", -1.0), ("lm", -2.0), ("▁", -3.0), ("a", -4.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer.to_str().encode()


@pytest.mark.parametrize(
    ("data", "token", "shown", "texts"),
    [
        (byte_level(), "Ġfi", "fi", {"a": "a fi", "a ": "a fi", "": "fi"}),
        (byte_level(), "lm", "lm", {"a": "alm", "a ": "a lm", "": "lm"}),
        (metaspace(), "▁fi", "fi", {"a": "a fi", "a ": "a fi", "": "fi"}),
        (metaspace(), "lm", "lm", {"a": "alm", "a ": "a lm", "": "lm"}),
        (tiny_tokenizer_json(), "film", "film", {"(": "(film", "a ": "a film", "": "film"}),
        (tiny_tokenizer_json(), "##ly", "##ly", {"a": "aly", "a ": "aly", "": "ly"}),
    ],
)
def test_tokens_are_put_behind_a_text(
    data: bytes, token: str, shown: str, texts: dict[str, str]
) -> None:
    """Spaces belong to tokens of BPE and Unigram, and to the text for WordPiece."""
    tokenizer = load_tokenizer(data)
    token_id = tokenizer.token_id(token)
    assert token_id is not None
    assert tokenizer.token(token_id) == shown
    assert {text: tokenizer.append(text, token_id) for text in texts} == texts
    assert tokenizer.token_id("no such token") is None
    assert tokenizer.token(10**6) == ""


def test_word_piece_knows_every_token_as_tokenizers_does() -> None:
    theirs = Tokenizer.from_str(tiny_tokenizer_json().decode())
    ours = load_tokenizer(tiny_tokenizer_json())
    for token, token_id in theirs.get_vocab(with_added_tokens=True).items():
        assert ours.token_id(token) == token_id
        assert ours.token(token_id) == token == theirs.id_to_token(token_id)


def check_real(folder: Path, **options: Any) -> None:
    """BERT-tiny with its 30,522 tokens: equal scores, and a self-test that stays small."""
    pytest.importorskip("cognition")
    report = convert(tiny_bert(), profile="rpi4", output=folder / "bert.edge", **options)
    assert (report.path / "golden.json").stat().st_size < 200_000
    oracle = transformers.pipeline(TASK, model=str(tiny_bert()))
    for variant in report.manifest.variants:
        assert variant.parity is not None and variant.parity.top1 is not None
        with load(report.path, engine=variant.id) as model:
            for text in REAL_TEXTS:
                if variant.precision == "fp32":
                    check(model.fill_mask(text), oracle(text))
            best = oracle(REAL_TEXTS[0])[0]["token_str"]
            assert best in [fill.token for fill in model.fill_mask(REAL_TEXTS[0])]


def test_a_real_masked_language_model(tmp_path: Path) -> None:
    few = tmp_path / "few.txt"
    few.write_text("\n".join(REAL_TEXTS))
    check_real(tmp_path, engines=("numpy",), precisions=("fp32",), calibration=few)
    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    shown = re.findall(r"^(\S+)\t(0\.\d+)\t(.*)$", page, re.MULTILINE)
    assert len(shown) == 3
    with load(tmp_path / "bert.edge") as model:
        fills = model.fill_mask(REAL_TEXTS[0], top_k=3)
    assert [(token, text) for token, _, text in shown] == [(f.token, f.text) for f in fills]
    scores = [fill.score for fill in fills]
    assert [float(score) for _, score, _ in shown] == pytest.approx(scores, abs=1e-4)


@pytest.mark.slow
def test_a_real_masked_language_model_on_every_engine(tmp_path: Path) -> None:
    check_real(tmp_path, precisions=("fp32", "int8"))
