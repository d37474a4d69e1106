"""What a conversion proves for each task, in what memory; and bundles made earlier are read."""

import json
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from edgeformer.converters import cases, verification
from edgeformer.converters.cases import golden_cases, text_reference
from edgeformer.converters.comparing import nearness
from edgeformer.converters.task_texts import MAX_MASKS, task_texts, with_masks
from edgeformer.converters.verification import judge
from edgeformer.device_profiles.profile import load_profile
from edgeformer.doctor import TINY_BUNDLE
from edgeformer.errors import BundleError, DataError, EngineError
from edgeformer.pipeline import prepare_checkpoint
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.golden import (
    GoldenCase,
    check_golden,
    dump_golden,
    parse_golden,
)
from edgeformer.runtime.manifest import ImageInput, ModelCard, Port
from edgeformer.runtime.manifest_json import digest, dump_manifest, manifest_digest, parse_manifest
from edgeformer.runtime.tokenizer import load_tokenizer
from tests.bundles import FILES, PARITY, manifest, variant
from tests.command_line import ROOT
from tests.tiny_bundles import bundle, checkpoint
from tests.tiny_models import TEXTS

MASKS = ModelCard("tiny", "bert", "fill-mask", mask_token="[MASK]")
ANSWERS = ModelCard("tiny", "bert", "question-answering", labels=("start", "end"))


# --- texts ------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["a", "film", "x,y"]), max_size=60))
def test_texts_get_a_mask_for_every_seven_words(words: list[str]) -> None:
    text = " ".join(words)
    masked = with_masks(text, "[MASK]").split(" ")
    count = masked.count("[MASK]")
    assert count == min(MAX_MASKS, max(1, -(-len(words) // 7)))
    assert len(masked) == max(1, len(words))
    for before, after in zip(words or [""], masked, strict=True):
        assert after in (before, "[MASK]")
    assert with_masks(" ".join(masked), "[MASK]").split(" ") == masked


def test_texts_without_a_context_get_the_next_text() -> None:
    assert task_texts([("a?", None), ("b?", "c"), ("d", None)], ANSWERS) == (
        ("a?", "b?"),
        ("b?", "c"),
        ("d", "a?"),
    )
    assert task_texts([("a", None)], replace(ANSWERS, task="embedding")) == (("a", None),)


# --- measures ---------------------------------------------------------------------------------


def noisy(shape: tuple[int, ...], noise: float, count: int = 3) -> list[tuple[Any, Any]]:
    generator = np.random.default_rng(0)
    wanted = [generator.standard_normal(shape).astype(np.float32) for _ in range(count)]
    return [(w + noise * generator.standard_normal(shape).astype(np.float32), w) for w in wanted]


def test_masks_are_compared_as_softmax_sees_them() -> None:
    pairs = noisy((1, 2, 500), 0.3)
    near = nearness("fill-mask", pairs)
    rows = [(a, w) for answer, wanted in pairs for a, w in zip(answer[0], wanted[0], strict=True)]
    expected = [scipy.stats.pearsonr(a, w).statistic for a, w in rows]
    assert near.cosines == pytest.approx(expected, abs=1e-5)
    shifted = [(answer + 100.0, wanted) for answer, wanted in pairs]
    assert nearness("fill-mask", shifted).cosines == pytest.approx(expected, abs=1e-3)
    best = [(int(a.argmax()), int(w.argmax()), set(np.argsort(-a)[:5].tolist())) for a, w in rows]
    assert near.top1 == np.mean([a == w for a, w, _ in best])
    assert near.top5 == np.mean([w in five for _, w, five in best])
    assert near.top1 < near.top5 or near.top1 == 1.0


def test_answers_are_compared_by_where_they_start_and_end() -> None:
    wanted = np.zeros((1, 6, 2), np.float32)
    wanted[0, 2, 0] = wanted[0, 4, 1] = 5.0
    moved = np.array(wanted)
    moved[0, 5, 1] = 9.0  # another end; and start below end at every token, which means nothing
    assert nearness("question-answering", [(wanted, wanted)]).top1 == 1.0
    assert nearness("question-answering", [(moved, wanted)]).top1 == 0.5
    assert nearness("question-answering", [(wanted - 1, wanted)]).top1 == 1.0


def test_a_mask_is_judged_by_its_five_best() -> None:
    tolerance = load_profile("rpi4").tolerance
    close = replace(PARITY, top1=0.9, top5=1.0)
    assert judge(close, "int8", tolerance).passed
    judged = judge(replace(close, top5=0.98), "int8", tolerance)
    assert judged.failures == (f"top-5 0.9800 over {PARITY.texts} texts is below 0.99",)
    assert not judge(replace(close, top5=None), "int8", tolerance).passed


# --- references within memory -----------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared() -> Any:
    return prepare_checkpoint(checkpoint("fill-mask"), None, None, load_profile("x86"))[0]


def test_only_masks_count_and_only_as_many_as_fit(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(prepared.tokenizer_json)
    texts = task_texts([(text, None) for text in TEXTS], prepared.card)
    reference = text_reference(prepared, tokenizer, texts)
    mask = tokenizer.token_id("[MASK]")
    assert reference.tokens is not None and reference.batch is not None
    for i, (inputs, outputs) in enumerate(zip(reference.inputs, reference.outputs, strict=True)):
        places = np.flatnonzero(inputs["input_ids"][0] == mask)
        assert places.tolist() == reference.tokens[i].tolist() != []
        assert outputs["logits"].shape[:2] == (1, len(places))
    vocabulary = reference.outputs[0]["logits"].shape[-1]
    monkeypatch.setattr(cases, "MAX_MASK_VALUES", 2 * vocabulary)
    few = text_reference(prepared, tokenizer, texts)
    assert 1 <= len(few.outputs) < len(reference.outputs)
    with pytest.raises(DataError, match="no verification text has a mask") as caught:
        text_reference(prepared, tokenizer, [("the film", None)])
    assert "--calibration" in caught.value.hint


def test_a_wrong_engine_is_found_at_masks(prepared: Any) -> None:
    tokenizer = load_tokenizer(prepared.tokenizer_json)
    texts = task_texts([(text, None) for text in TEXTS], prepared.card)
    reference = text_reference(prepared, tokenizer, texts)
    tolerance = load_profile("x86").tolerance
    with open_bundle(bundle("fill-mask", ("fp32",))) as opened:
        chosen = opened.manifest.variants[0]
        engine = verification.open_to_verify(opened, chosen)
        right = engine.encode
        assert verification.verify(engine, chosen, reference, tolerance, "fill-mask").passed

        def spoiled(batch: RaggedBatch) -> Any:
            answers = right(batch)
            wrong = np.array(answers["logits"])
            wrong[batch.ids == tokenizer.token_id("[MASK]")] += 0.01
            return {"logits": wrong}

        engine.encode = spoiled  # type: ignore[method-assign]
        parity = verification.verify(engine, chosen, reference, tolerance, "fill-mask")
        engine.close()
    assert not parity.passed
    assert parity.max_abs == pytest.approx(0.01, rel=0.01)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 40))
def test_mixed_batches_hold_every_text_once_within_the_limit(lengths: list[int], most: int) -> None:
    ids = [[i] * length for i, length in enumerate(lengths)]
    batch = RaggedBatch.from_lists(ids, ids)
    size = verification.MAX_ANSWER_VALUES // most
    port = Port("logits", "float32", ("batch", "sequence", size))
    parts = list(verification._mixed_batches(batch, [port]))
    seen = np.concatenate([part.ids for _, part in parts])
    assert seen.tolist() == batch.ids.tolist()
    for first, part in parts:
        assert int(part.ids[0]) == first
        assert len(part) == 1 or len(part.ids) <= most + most // 8 + 1


# --- self-tests -------------------------------------------------------------------------------


def test_the_self_test_of_a_vocabulary_stores_some_of_its_values(prepared: Any) -> None:
    tokenizer = load_tokenizer(prepared.tokenizer_json)
    texts = task_texts([(TEXTS[0], None)], prepared.card)
    (whole,) = golden_cases(prepared, tokenizer, texts)
    assert whole.every == 1  # of so small a vocabulary all
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "MAX_GOLDEN_CLASSES", 20)
        (case,) = golden_cases(prepared, tokenizer, texts)
    assert case.every > 1
    stored = np.array(case.outputs["logits"])
    np.testing.assert_array_equal(stored, np.array(whole.outputs["logits"])[..., :: case.every])
    assert parse_golden(dump_golden([case])) == (case,)
    with open_bundle(bundle("fill-mask", ("fp32",))) as opened:
        chosen = opened.manifest.variants[0]
        engine = verification.open_to_verify(opened, chosen)
        check_golden(engine, chosen, tokenizer, [case], 48)
        wrong = replace(case, outputs={"logits": (stored[..., ::-1]).tolist()})
        with pytest.raises(EngineError, match="is wrong here"):
            check_golden(engine, chosen, tokenizer, [wrong], 48)
        engine.close()


def test_the_self_test_of_a_question_reads_its_context() -> None:
    with open_bundle(bundle("question-answering")) as opened:
        found = parse_golden(opened.read(opened.manifest.golden))
        tokenizer = load_tokenizer(opened.read(opened.manifest.tokenizer))
        chosen = opened.manifest.variants[0]
        engine = verification.open_to_verify(opened, chosen)
        assert all(case.text and case.pair for case in found)
        check_golden(engine, chosen, tokenizer, found, 48)
        other = [replace(case, pair="another context") for case in found]
        with pytest.raises(EngineError, match="tokenizer reads"):
            check_golden(engine, chosen, tokenizer, other, 48)
        engine.close()


def test_a_case_without_new_fields_is_written_as_before() -> None:
    case = GoldenCase("a", {"input_ids": [[1]]}, {"logits": [[0.5]]})
    assert set(json.loads(dump_golden([case]))["cases"][0]) == {"text", "inputs", "outputs"}


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2", None])
def test_hostile_steps_are_refused(every: Any) -> None:
    case = {"text": "", "inputs": {}, "outputs": {}, "every": every}
    with pytest.raises(BundleError, match="n-th value"):
        parse_golden(json.dumps({"cases": [case]}).encode())


# --- manifests --------------------------------------------------------------------------------

IMAGE = ImageInput((14,), "bicubic", (12, 12), 1 / 255, (0.5,) * 3, (0.25,) * 3)


def image_manifest(image: ImageInput | None = IMAGE, channels: int = 3) -> Any:
    one = variant()
    port = Port("pixel_values", "float32", ("batch", channels, 12, 12))
    main = replace(one.programs["main"], inputs=(port,))
    whole = manifest(FILES, replace(one, programs={"main": main}))
    return replace(whole, model=replace(whole.model, image=image, max_length=0))


def test_new_fields_read_back() -> None:
    for whole in (image_manifest(), image_manifest(None)):
        assert parse_manifest(dump_manifest(whole)) == whole
    plain = manifest(FILES)
    masks = replace(plain.model, task="fill-mask", mask_token="<mask>")
    near = replace(variant(), parity=replace(PARITY, top5=0.75))
    whole = replace(plain, model=masks, variants=(near,))
    assert parse_manifest(dump_manifest(whole)) == whole
    assert whole.takes_images is False
    assert image_manifest().takes_images is True


def test_a_manifest_without_new_fields_is_written_as_before() -> None:
    """Bundles made earlier keep their digest, so that a tuned table still belongs to them."""
    data = json.loads(dump_manifest(manifest(FILES)))
    assert not {"mask_token", "image"} & set(data["model"])
    assert "top5" not in data["variants"][0]["parity"]
    with zipfile.ZipFile(TINY_BUNDLE) as archive:  # made before there were images and masks
        written = archive.read("manifest.json")
    assert manifest_digest(parse_manifest(written)) == json.loads(written)["digest"]


@pytest.mark.parametrize(
    "changes",
    [
        {"resize": (1, 2, 3)},
        {"resize": (0,)},
        {"resize": (1 << 20, 12)},
        {"crop": (12,)},
        {"resample": "nearest"},
        {"scale": float("inf")},
        {"mean": (0.5,)},
        {"std": (0.5, 0.0, 0.5)},
        {"std": (0.5,) * 4, "mean": (0.5,) * 4},
    ],
)
def test_image_settings_no_image_can_have_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        parse_manifest(dump_manifest(image_manifest(replace(IMAGE, **changes))))


@pytest.mark.parametrize("shape", [(), ("batch",), ("batch", 0), ("batch", "sequence")])
def test_an_answer_has_a_known_size(shape: tuple[int | str, ...]) -> None:
    one = variant()
    main = replace(one.programs["main"], outputs=(Port("embedding", "float32", shape),))
    whole = manifest(FILES, replace(one, programs={"main": main}))
    with pytest.raises(BundleError, match="no number of values"):
        parse_manifest(dump_manifest(whole))
    module = replace(whole, model=replace(whole.model, task="module"))
    assert parse_manifest(dump_manifest(module)) == module


def test_settings_must_go_with_their_task() -> None:
    plain = manifest(FILES)
    for card in (
        replace(plain.model, mask_token="[MASK]"),
        replace(plain.model, task="fill-mask"),
        replace(plain.model, image=IMAGE),  # of texts
    ):
        with pytest.raises(BundleError, match="goes with"):
            parse_manifest(dump_manifest(replace(plain, model=card)))
    data = asdict(image_manifest())
    data["model"]["image"]["crop"] = "12"
    data["digest"] = digest(data)
    with pytest.raises(BundleError, match="wrong type"):
        parse_manifest(json.dumps(data).encode())


# --- what a start costs -----------------------------------------------------------------------


def test_a_cold_start_imports_only_the_verb_that_is_called() -> None:
    """Importing a module takes milliseconds on a small board."""
    code = f"""
import sys
from edgeformer.runtime import load
with load({str(bundle("embedding"))!r}) as model:
    before = set(sys.modules)
    model.embed("a film")
names = {{name for name in sys.modules if name.startswith("edgeformer.runtime")}}
assert "edgeformer.runtime.tasks.embedding" not in before
assert {{n for n in names if ".tasks." in n}} == {{"edgeformer.runtime.tasks.embedding"}}, names
assert "edgeformer.runtime.answers" not in names
from edgeformer.runtime import Answer, Fill, Label, Span
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_package_names_its_results() -> None:
    import edgeformer.runtime

    for name in edgeformer.runtime.__all__:
        assert getattr(edgeformer.runtime, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = edgeformer.runtime.Nothing
