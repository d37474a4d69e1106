"""Rewritten texts and a teacher's answers: what a student is trained on beyond its own data."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import scipy.stats
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import homogeneity_score
from torch import nn

from edgeformer.compression.augmentation import (
    Rewriter,
    TangSettings,
    augmented,
    replacing_rewriter,
    tang_rewriter,
)
from edgeformer.compression.batching import batch_settings, tokenize
from edgeformer.compression.candidates import masked_lm_candidates, nearest_candidates
from edgeformer.compression.examples import Example, read_examples, without_labels
from edgeformer.compression.pseudo_labels import pseudo_labelled, teacher_outputs
from edgeformer.compression.word_classes import learn_word_classes, word_spans
from edgeformer.errors import ModelError, UsageError
from edgeformer.models.checkpoint import LoadedModel, load_checkpoint
from tests.test_vocabulary import _file
from tests.tiny_models import (
    FAMILY_SIZES,
    TEXTS,
    randomise,
    save_folder,
    tiny_bert_folder,
    tiny_family_folder,
    tiny_tokenizer_json,
    tiny_vocabulary,
)

MASK = "[MASK]"


def _assert_share(hits: int, total: int, probability: float) -> None:
    low, high = scipy.stats.binom.interval(1 - 1e-6, total, probability)
    assert low <= hits <= high, (hits, total, probability)


def _rewritten(rewriter: Rewriter, text: str, copies: int, seed: int = 0) -> list[str]:
    return [row.text for row in augmented([Example(text)], rewriter, copies, seed)][1:]


# ---- what holds for every rewriter


def _shout(words: Sequence[str], places: Sequence[int]) -> list[list[str]]:
    return [[words[place].upper(), words[place] * 2] for place in places]


texts = st.lists(
    st.one_of(
        st.sampled_from(["film", "a-b", "don't", " ", "  ", ".", "«é»", "\n"]), st.text(max_size=3)
    ),
    max_size=12,
).map("".join)


@given(text=texts, pair=st.one_of(st.none(), texts), seed=st.integers(0, 100))
def test_copies_are_new_seeded_and_keep_the_label(text: str, pair: str | None, seed: int) -> None:
    rewriter = replacing_rewriter(_shout, 0.5)
    example = Example(text, pair, "good")
    found = list(augmented([example], rewriter, copies=6, seed=seed))
    assert found[0] is example
    assert len(found) <= 7
    assert len({(row.text, row.pair) for row in found}) == len(found)
    assert {row.label for row in found} == {"good"}
    assert {row.pair is None for row in found} == {pair is None}
    assert list(augmented([example], rewriter, copies=6, seed=seed)) == found
    others = [Example("something else"), example]
    assert list(augmented(others, rewriter, 6, seed))[-1] not in (None, others[0])


@given(text=texts)
def test_what_stands_between_words_stays(text: str) -> None:
    """A tokenizer that minds spaces must see a rewritten text spaced as the source was."""
    spans = word_spans(text)
    assert "".join(text[s:e] for s, e in spans) == "".join(text.split())
    rewriter = replacing_rewriter(lambda words, places: [["X"]] * len(places), 1.0)
    for new in _rewritten(rewriter, text, 1):
        expected = list(text)
        for start, end in spans:
            if text[start:end].isalpha():
                expected[start:end] = ["X"] + [""] * (end - start - 1)
        assert new == "".join(expected).strip()


def test_an_example_becomes_the_same_whatever_comes_before() -> None:
    """So that augmentation can be resumed, and shared by processes."""
    rewriter = replacing_rewriter(_shout, 0.5)
    rows = [Example(f"film number {n} is a film") for n in "abc"]
    whole = list(augmented(rows, rewriter, 4, seed=3))
    changed = list(augmented([Example("x"), *rows[1:]], rewriter, 4, seed=3))
    assert whole[-5:] == changed[-5:]
    other = list(augmented(rows, rewriter, 4, seed=4))
    assert whole != other


def test_nothing_is_made_before_it_is_asked_for() -> None:
    """A masked language model behind the candidates takes long; thirty copies are many."""
    asked: list[str] = []

    def slow(words: Sequence[str], places: Sequence[int]) -> list[list[str]]:
        asked.extend(words)
        return _shout(words, places)

    rows = augmented((Example(text) for text in "ab"), replacing_rewriter(slow, 1.0), 5, 0)
    assert not asked
    assert next(rows).text == "a"
    assert not asked
    assert next(rows).text in ("A", "aa")
    assert asked == ["a"]


def test_one_text_of_a_pair_changes_or_both() -> None:
    rewriter = replacing_rewriter(lambda words, places: [["X"]] * len(places), 1.0)
    rows = [Example("a", "b")] * 900
    first = [row for row in augmented(rows, rewriter, 1, 0) if "X" in (row.text, row.pair)]
    counts = Counter((row.text, row.pair) for row in first)
    assert set(counts) == {("X", "b"), ("a", "X"), ("X", "X")}
    for number in counts.values():
        _assert_share(number, 900, 1 / 3)


# ---- Tang et al.


def test_tang_masks_and_swaps_as_often_as_the_paper_says() -> None:
    vocabulary = [f"w{i}" for i in range(400)]
    classes = learn_word_classes([" ".join(vocabulary)], seed=0, count=1)
    text = " ".join(vocabulary)
    rewriter = tang_rewriter(TangSettings(ngram=0.0), MASK, classes)
    copies = [new.split() for new in _rewritten(rewriter, text, 25)]
    total = sum(map(len, copies))
    assert total == 25 * 400
    masked = sum(words.count(MASK) for words in copies)
    changed = sum(a != b for words in copies for a, b in zip(words, vocabulary, strict=True))
    _assert_share(masked, total, 0.1)
    _assert_share(changed - masked, total, 0.1 * 399 / 400)


def test_tang_cuts_out_parts_as_often_as_the_paper_says() -> None:
    words = [f"w{i}" for i in range(50)]
    rewriter = tang_rewriter(TangSettings(mask=0.0, swap=0.0), MASK, None)
    rows = [Example(" ".join(words))] * 3000
    made = [row.text.split() for row in augmented(rows, rewriter, 1, 0) if row is not rows[0]]
    _assert_share(len(made), 3000, 0.25)
    lengths = Counter(map(len, made))
    assert set(lengths) == {1, 2, 3, 4, 5}
    assert scipy.stats.chisquare(list(lengths.values())).pvalue > 1e-6
    starts = {int(part[0][1:]) for part in made}
    assert {0, 49} <= starts
    for part in made:
        first = int(part[0][1:])
        assert part == words[first : first + len(part)]


def test_tang_never_leaves_masks_alone() -> None:
    """There is nothing to label in them, and a teacher would label them all the same."""
    rewriter = tang_rewriter(TangSettings(mask=0.9, swap=0.0, ngram=1.0), MASK, None)
    made = _rewritten(rewriter, "one two three four", 400)
    assert made
    assert all(set(text.split()) != {MASK} for text in made)


def test_an_unknown_word_is_not_swapped() -> None:
    classes = learn_word_classes(["a b"], seed=0)
    assert classes.another("never seen", random.Random(0)) == "never seen"
    assert learn_word_classes([], seed=0).another("a", random.Random(0)) == "a"


GRAMMAR = {
    "determiner": ["the", "a", "this", "every", "no"],
    "adjective": ["red", "old", "sad", "warm", "slow", "tiny", "loud", "odd"],
    "noun": ["station", "nation", "question", "lotion", "motion", "caption", "auction"],
    "verb": ["jumped", "walked", "talked", "laughed", "baked", "smiled", "called"],
}


def _sentences(count: int) -> list[str]:
    chance = random.Random(0)
    order = ("determiner", "adjective", "noun", "verb", "determiner", "noun")
    return [
        " ".join(chance.choice(GRAMMAR[kind]) for kind in order if chance.random() < 0.9)
        for _ in range(count)
    ]


def test_word_classes_are_parts_of_speech_where_these_decide_the_order() -> None:
    """scikit-learn's homogeneity is 1 where no class mixes two parts of speech."""
    texts_ = [*_sentences(400), "the fraction snored"]
    classes = learn_word_classes(texts_, seed=0, count=8)
    truth = {word: kind for kind, words in GRAMMAR.items() for word in words}
    found = [classes.class_of[word] for word in truth]
    assert homogeneity_score(list(truth.values()), found) > 0.99
    # Seen once, so its ending decides.
    noun = classes.class_of["fraction"]
    assert set(classes.words[noun]) <= {*GRAMMAR["noun"], "fraction"}
    again = learn_word_classes(texts_, seed=0, count=8)
    assert again == classes


def test_another_word_comes_as_often_as_it_occurs() -> None:
    classes = learn_word_classes(["x " * 30 + "y " * 10], seed=0, count=1)
    chance = random.Random(0)
    drawn = [classes.another("y", chance) for _ in range(2000)]
    _assert_share(drawn.count("x"), 2000, 0.75)


@pytest.mark.parametrize("numbers", [(0.6, 0.6), (-0.1,), (0.1, 0.1, 1.5), (0.1, 0.1, 0.1, 0)])
def test_settings_that_are_no_probabilities(numbers: tuple[float, ...]) -> None:
    with pytest.raises(UsageError):
        TangSettings(*numbers)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        replacing_rewriter(_shout, 1.5)


# ---- TinyBERT


def test_words_are_replaced_as_often_as_the_paper_says() -> None:
    words = ["film"] * 500 + ["the"] * 500 + ["3", "."] * 10
    rewriter = replacing_rewriter(
        lambda words, places: [["A", "B"]] * len(places), 0.4, fixed={"the"}
    )
    made = [text.split() for text in _rewritten(rewriter, " ".join(words), 20)]
    replaced = [sum(word in ("A", "B") for word in new[:500]) for new in made]
    _assert_share(sum(replaced), 20 * 500, 0.4)
    _assert_share(sum(new.count("A") for new in made), sum(replaced), 0.5)
    assert all(new[500:] == words[500:] for new in made)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, nn.Module]:
    """A tiny BERT with its output layer, loaded by us and as transformers has it."""
    sizes = {"vocab_size": len(tiny_vocabulary()), **FAMILY_SIZES["bert"]}
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).eval()
    randomise(theirs, 0)
    folder = save_folder(theirs, tmp_path_factory.mktemp("mlm") / "model")
    return load_checkpoint(folder, task="fill-mask"), theirs


def test_candidates_are_those_of_transformers(
    language_model: tuple[LoadedModel, nn.Module],
) -> None:
    """A word of one piece: the likeliest words in its place, whatever else is in the vocabulary."""
    loaded, theirs = language_model
    words = ["the", "film", "was", "lovely", "good"]
    found = masked_lm_candidates(loaded, count=4)(words, [0, 1, 4])
    vocabulary = tiny_vocabulary()
    names = {id_: token for token, id_ in vocabulary.items()}
    allowed = [id_ for token, id_ in vocabulary.items() if token.isalpha()]
    ids = [vocabulary[t] for t in ["[CLS]", "the", "film", "was", "lovely", "good", "[SEP]"]]
    for place, words_found in zip((1, 2, 5), found, strict=True):
        masked = torch.tensor([ids])
        masked[0, place] = vocabulary[MASK]
        with torch.inference_mode():
            logits = theirs(input_ids=masked).logits[0, place]
        best = [allowed[i] for i in logits[allowed].topk(4).indices.tolist()]
        assert words_found == [names[i] for i in best]


def test_many_places_are_asked_about_one_after_the_other(
    language_model: tuple[LoadedModel, nn.Module],
) -> None:
    """Long texts are taken in blocks, and what lies behind the longest text has no candidates of
    the model."""
    loaded, _ = language_model
    words = ["the", "film", "was", "good"] * 8
    ask = masked_lm_candidates(loaded, count=3)
    places = list(range(len(words)))
    together = ask(words, places)
    assert together == [ask(words, [place])[0] for place in places]
    assert len(together) == 32
    longer = words * 3  # 96 words, and the model takes 48 tokens
    assert len(ask(longer, list(range(96)))) == 96


def test_a_word_of_several_pieces_has_its_nearest_neighbours(
    language_model: tuple[LoadedModel, nn.Module],
) -> None:
    loaded, theirs = language_model
    table = theirs.get_input_embeddings().weight.detach()
    vocabulary = tiny_vocabulary()
    pieces = table[[vocabulary["good"], vocabulary["##ly"]]]
    mean = torch.nn.functional.normalize(pieces, dim=1).mean(0)
    allowed = [token for token in vocabulary if token.isalpha()]
    cosines = torch.cosine_similarity(table[[vocabulary[t] for t in allowed]], mean[None])
    expected = [allowed[i] for i in cosines.topk(5).indices.tolist()]
    assert nearest_candidates(table, tiny_tokenizer_json(), 5)(["goodly"], [0]) == [expected]
    assert masked_lm_candidates(loaded, 5)(["the", "goodly"], [1]) == [expected]


def test_a_word_is_not_its_own_neighbour() -> None:
    table = torch.eye(len(tiny_vocabulary()))
    found = nearest_candidates(table, tiny_tokenizer_json(), 100)(["Film", "\u0301"], [0, 1])
    assert "film" not in found[0]
    assert "the" in found[0]
    assert "##ly" not in found[0]
    assert MASK not in found[0]
    assert found[1] == []  # nothing is left of it to compare


@pytest.mark.parametrize("kind", ["byte bpe", "unigram"])
def test_candidates_of_other_tokenizers_are_plain_words(kind: str) -> None:
    file = _file(kind)
    table = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    (found,) = nearest_candidates(table, file, 30)(["understandable"], [0])
    assert len(found) == 30
    assert all(word.isalpha() for word in found)


def test_models_that_give_no_words(tmp_path: Path) -> None:
    loaded = load_checkpoint(tiny_bert_folder(tmp_path / "bert"))
    with pytest.raises(ModelError, match="no masked language model"):
        masked_lm_candidates(loaded)


# ---- what a teacher says


def _teacher(path: Path, family: str = "bert") -> LoadedModel:
    return load_checkpoint(tiny_family_folder(path / family, family, "classification"))


@pytest.mark.parametrize("family", ["bert", "albert", "distilbert"])
@pytest.mark.parametrize("layer", [0, 1, -1])
def test_outputs_are_those_of_transformers_in_the_order_of_the_texts(
    tmp_path: Path, family: str, layer: int
) -> None:
    """Batched by length and padded, yet row i is text i: its logits and its layer's states."""
    loaded = _teacher(tmp_path, family)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / family
    ).eval()
    assert loaded.tokenizer_json is not None
    tokenized = tokenize(without_labels((t, None) for t in TEXTS), loaded.tokenizer_json, 40)
    options = batch_settings(loaded, size=3, seed=0, rank=1, world=3)
    first = teacher_outputs(loaded.module, tokenized, options, layer=layer)
    mean = teacher_outputs(loaded.module, tokenized, options, layer=layer, pooling="mean")
    assert first.hidden is not None
    assert mean.hidden is not None
    for i in range(len(TEXTS)):
        ids = tokenized.ids[tokenized.starts[i] : tokenized.starts[i + 1]].long()[None]
        with torch.inference_mode():
            answer = theirs(input_ids=ids, output_hidden_states=True)
        states = answer.hidden_states[layer][0]
        torch.testing.assert_close(first.outputs[i], answer.logits[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(first.hidden[i], states[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mean.hidden[i], states.mean(0), rtol=1e-5, atol=1e-5)


def test_halves_take_half_the_memory(tmp_path: Path) -> None:
    loaded = _teacher(tmp_path)
    assert loaded.tokenizer_json is not None
    tokenized = tokenize(without_labels((t, None) for t in TEXTS), loaded.tokenizer_json, 40)
    options = batch_settings(loaded, 2, 0)
    whole = teacher_outputs(loaded.module, tokenized, options, layer=1)
    half = teacher_outputs(loaded.module, tokenized, options, layer=1, dtype=torch.bfloat16)
    assert half.hidden is not None
    assert half.outputs.dtype == half.hidden.dtype == torch.bfloat16
    torch.testing.assert_close(half.outputs.float(), whole.outputs, rtol=2**-8, atol=0)


def test_the_classes_of_the_teacher_become_labels() -> None:
    examples = without_labels((t, None) for t in TEXTS)
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0], [-1.0, -2.0, 0.0], [0.0, 0.1, 0.0]])
    labelled = pseudo_labelled(examples, logits, ["bad", "good", "neither"])
    assert labelled.targets == (1, 0, 2, 1)
    rows = [{"text": row.text, "label": row.label} for row in labelled.rows]
    assert read_examples(rows, labels=["bad", "good", "neither"]) == labelled


def test_what_a_teacher_cannot_be_asked(tmp_path: Path) -> None:
    loaded = _teacher(tmp_path)
    assert loaded.tokenizer_json is not None
    tokenized = tokenize(without_labels((t, None) for t in TEXTS), loaded.tokenizer_json, 40)
    options = batch_settings(loaded, 2, 0)
    for layer in (3, -4):
        with pytest.raises(UsageError, match="no layer"):
            teacher_outputs(loaded.module, tokenized, options, layer=layer)
    with pytest.raises(UsageError, match="no pooling"):
        teacher_outputs(loaded.module, tokenized, options, layer=1, pooling="max")
    tagger = load_checkpoint(tiny_bert_folder(tmp_path / "tagger", "token-classification"))
    with pytest.raises(UsageError, match="not for each token"):
        teacher_outputs(tagger.module, tokenized, options)
    nothing = tokenize(without_labels([]), loaded.tokenizer_json, 40)
    with pytest.raises(UsageError, match="no text"):
        teacher_outputs(loaded.module, nothing, replace(options, size=1))
