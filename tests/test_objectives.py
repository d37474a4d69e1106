"""Masking for language models: the right share of the right tokens, and nothing special guessed.
Shares are held against the binomial distribution of their probability."""

import json
from functools import cache

import pytest
import scipy.stats
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from edgeformer.compression.objectives import (
    IGNORED,
    SENTENCE_ORDERS,
    MaskingSettings,
    TokenKinds,
    mask_tokens,
    sentence_order_pairs,
    token_kinds,
)
from edgeformer.errors import ModelError, UsageError
from tests.test_vocabulary import _file, _open
from tests.tiny_models import tiny_tokenizer_json, tiny_vocabulary
from tests.tokenizer_oracle import minilm_json

WORDS = ["the", "tokenization", "of", "3.14", "don't", "Überwald", "x₂", "中文", "a", "[SEP]"]
WHOLE = MaskingSettings(whole_words=True)


@cache
def _minilm() -> tuple[Tokenizer, TokenKinds]:
    return _open(minilm_json()), token_kinds(minilm_json())


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _assert_share(hits: int, total: int, probability: float) -> None:
    """Within what a binomial distribution leaves with a probability of 1 - 1e-6."""
    low, high = scipy.stats.binom.interval(1 - 1e-6, total, probability)
    assert low <= hits <= high, (hits, total, probability)


def _random_batch(rows: int = 200, length: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids from the whole tiny vocabulary, special ones too, with padding of many lengths."""
    ids = torch.randint(len(tiny_vocabulary()), (rows, length), generator=_generator(9))
    lengths = torch.randint(1, length + 1, (rows, 1), generator=_generator(8))
    return ids, (torch.arange(length) < lengths).long()


@pytest.mark.parametrize("options", [MaskingSettings(), MaskingSettings(0.4, 0.5, 0.3)])
def test_shares_are_those_that_were_asked_for(options: MaskingSettings) -> None:
    ids, mask = _random_batch()
    kinds = token_kinds(tiny_tokenizer_json())
    inputs, labels = mask_tokens(ids, mask, kinds, options, _generator())
    allowed = kinds.ordinary[ids] & mask.bool()
    chosen = labels != IGNORED
    count = int(chosen.sum())
    _assert_share(count, int(allowed.sum()), options.rate)
    _assert_share(int((inputs[chosen] == kinds.mask_id).sum()), count, options.masked)
    vocabulary = int(kinds.ordinary.sum())
    swapped = (inputs != ids) & (inputs != kinds.mask_id)
    _assert_share(int(swapped.sum()), count, options.swapped * (1 - 1 / vocabulary))
    observed = torch.bincount(inputs[swapped], minlength=len(kinds.ordinary))[kinds.ordinary]
    assert scipy.stats.chisquare(observed.numpy()).pvalue > 1e-6  # every token as often


@given(seed=st.integers(0, 10**6), rate=st.floats(0.01, 1.0), whole=st.booleans())
@settings(deadline=None, max_examples=50)
def test_what_holds_for_every_draw(seed: int, rate: float, whole: bool) -> None:
    ids, mask = _random_batch(rows=4, length=12)
    kinds = token_kinds(tiny_tokenizer_json())
    options = MaskingSettings(rate, whole_words=whole)
    before = ids.clone()
    inputs, labels = mask_tokens(ids, mask, kinds, options, _generator(seed))
    chosen = labels != IGNORED
    assert torch.equal(ids, before)
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(inputs[~chosen], ids[~chosen])
    assert chosen.any()
    assert not (chosen & ~(kinds.ordinary[ids] & mask.bool())).any()
    changed = chosen & (inputs != ids)
    assert (kinds.ordinary[inputs] | (inputs == kinds.mask_id))[changed].all()
    again = mask_tokens(ids, mask, kinds, options, _generator(seed))
    assert torch.equal(again[0], inputs)
    assert torch.equal(again[1], labels)


def test_special_tokens_are_those_of_transformers() -> None:
    """[UNK] is no word to guess either."""
    _, kinds = _minilm()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=_open(minilm_json()),
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    )
    assert set((~kinds.ordinary).nonzero().flatten().tolist()) == set(tokenizer.all_special_ids)
    assert kinds.mask_id == tokenizer.mask_token_id


def test_nothing_to_guess_and_one_thing_to_guess() -> None:
    kinds = token_kinds(tiny_tokenizer_json())
    ids = torch.tensor([[2, 3], [2, 3]])
    inputs, labels = mask_tokens(ids, torch.ones(2, 2), kinds, MaskingSettings(), _generator())
    assert torch.equal(inputs, ids)
    assert (labels == IGNORED).all()
    ids = torch.tensor([[2, 7, 3]])
    for seed in range(20):  # a batch without any label has no loss
        _, labels = mask_tokens(ids, torch.ones(1, 3), kinds, MaskingSettings(), _generator(seed))
        assert labels.tolist() == [[IGNORED, 7, IGNORED]]


# ---- words and spans


def _units(chosen_by_seed: list[torch.Tensor]) -> list[tuple[bool, ...]]:
    """For each token whether it was guessed, draw by draw: equal for tokens of one unit."""
    return [tuple(bool(draw[i]) for draw in chosen_by_seed) for i in range(len(chosen_by_seed[0]))]


def _draws(
    ids: list[int], kinds: TokenKinds, options: MaskingSettings, spans: torch.Tensor | None = None
) -> list[tuple[bool, ...]]:
    tensor, mask = torch.tensor([ids]), torch.ones(1, len(ids))
    labels = [
        mask_tokens(tensor, mask, kinds, options, _generator(seed), spans)[1][0]
        for seed in range(64)
    ]
    return _units([draw != IGNORED for draw in labels])


@given(words=st.lists(st.sampled_from(WORDS)))
@settings(deadline=None, max_examples=40)
def test_words_are_guessed_whole_as_tokenizers_counts_them(words: list[str]) -> None:
    """64 draws at one half tell any two words apart: by chance 2**-64 of the time."""
    tokenizer, kinds = _minilm()
    encoding = tokenizer.encode(" ".join(words))
    patterns = _draws(encoding.ids, kinds, MaskingSettings(0.5, whole_words=True))
    ordinary = [
        (pattern, word)
        for pattern, word, id_ in zip(patterns, encoding.word_ids, encoding.ids, strict=True)
        if kinds.ordinary[id_]
    ]
    groups = {word: {p for p, w in ordinary if w == word} for _, word in ordinary}
    assert all(len(found) == 1 for found in groups.values())
    assert len(set().union(*groups.values())) == len(groups)


@pytest.mark.parametrize("kind", ["byte bpe", "unigram"])
def test_words_of_other_tokenizers_are_what_spaces_part(kind: str) -> None:
    file = json.loads(_file(kind))
    tokenizer = Tokenizer.from_str(json.dumps(file))
    tokenizer.add_special_tokens(["<mask>"])
    kinds = token_kinds(tokenizer.to_str().encode(), "<mask>")
    text = "temperature readings, slowly understandable"
    encoding = tokenizer.encode(text, add_special_tokens=False)
    patterns = _draws(encoding.ids, kinds, MaskingSettings(0.5, whole_words=True))
    words = [text[:end].strip().count(" ") for _, end in encoding.offsets]
    assert len(encoding.ids) > 4
    for pattern, word in zip(patterns, words, strict=True):
        assert [p == pattern for p in patterns] == [w == word for w in words]


def test_a_piece_after_anything_but_a_word_starts_one() -> None:
    """After a special token, and at the start of a text that follows another in the batch."""
    kinds = token_kinds(tiny_tokenizer_json())
    piece = tiny_vocabulary()["##ly"]
    ids = torch.tensor([[5, piece, 3, piece], [piece, piece, 3, piece]])
    draws = [
        mask_tokens(
            ids, torch.ones(2, 4), kinds, MaskingSettings(0.5, whole_words=True), _generator(seed)
        )
        for seed in range(64)
    ]
    patterns = _units([(labels != IGNORED).flatten() for _, labels in draws])
    assert patterns[0] == patterns[1]
    assert patterns[4] == patterns[5]
    assert len({patterns[i] for i in (0, 3, 4, 7)}) == 4


def test_unknown_and_added_tokens_are_known_as_such() -> None:
    """A tokenizer need not list its unknown token as special; an added token is a word."""
    tokenizer = Tokenizer(models.Unigram([("oops", 0.0), ("▁a", -1.0), ("b", -1.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.add_tokens(["<name>"])
    kinds = token_kinds(tokenizer.to_str().encode())
    assert kinds.ordinary.tolist() == [False, True, True, False, True]
    assert kinds.continues is not None
    assert kinds.continues.tolist() == [True, False, True, False, False]


def test_the_share_of_whole_words_is_that_of_words() -> None:
    tokenizer, kinds = _minilm()
    ids = torch.tensor([tokenizer.encode("tokenization of a thing").ids] * 2000)
    _, labels = mask_tokens(ids, torch.ones_like(ids), kinds, WHOLE, _generator())
    for place in (1, 3, 4, 5):
        _assert_share(int((labels[:, place] != IGNORED).sum()), 2000, 0.15)


def test_spans_are_guessed_whole() -> None:
    """Phrases and names, over words and beside special tokens; what lies outside stays apart."""
    kinds = token_kinds(tiny_tokenizer_json())
    ids = [2, 5, 6, 7, 8, 9, 10, 3]
    spans = torch.tensor([[0, 1, 4], [0, 5, 8]])
    patterns = _draws(ids, kinds, MaskingSettings(0.5), spans)
    assert patterns[1] == patterns[2] == patterns[3]
    assert patterns[5] == patterns[6]
    assert len({patterns[1], patterns[4], patterns[5]}) == 3
    assert not any(patterns[0] + patterns[7])


def test_a_span_that_leaves_nothing_of_a_word_leaves_no_empty_draw() -> None:
    """Else the one token that a batch must have could fall on a word that is no more."""
    kinds = token_kinds(tiny_tokenizer_json())
    ids, spans = torch.tensor([[2, 5, 6, 3]]), torch.tensor([[0, 1, 3]])
    for seed in range(20):
        options = MaskingSettings(1e-9)
        _, labels = mask_tokens(ids, torch.ones(1, 4), kinds, options, _generator(seed), spans)
        assert labels.tolist() == [[IGNORED, 5, 6, IGNORED]]


@pytest.mark.parametrize("span", [[1, 0, 1], [0, 2, 2], [0, 1, 5], [0, -1, 2]])
def test_spans_outside_the_batch(span: list[int]) -> None:
    ids = torch.tensor([[2, 5, 6, 3]])
    kinds = token_kinds(tiny_tokenizer_json())
    with pytest.raises(UsageError, match="not in a batch"):
        mask_tokens(
            ids, torch.ones(1, 4), kinds, MaskingSettings(), _generator(), torch.tensor([span])
        )


def test_what_cannot_be_masked() -> None:
    with pytest.raises(ModelError, match="no mask token"):
        token_kinds(tiny_tokenizer_json(), "<hide>")
    with pytest.raises(ModelError, match="no mask token"):
        token_kinds(tiny_tokenizer_json().replace(b"[MASK]", b"[HIDE]"))
    spec = json.loads(tiny_tokenizer_json())
    spec["model"]["continuing_subword_prefix"] = ""
    kinds = token_kinds(json.dumps(spec).encode())
    with pytest.raises(ModelError, match="where a word starts"):
        mask_tokens(torch.tensor([[5]]), torch.ones(1, 1), kinds, WHOLE, _generator())


@pytest.mark.parametrize("numbers", [(0.0,), (1.5,), (0.1, 0.9, 0.2), (0.1, -0.1, 0.2)])
def test_settings_that_are_no_probabilities(numbers: tuple[float, ...]) -> None:
    with pytest.raises(UsageError):
        MaskingSettings(*numbers)


# ---- sentence order


@given(
    lengths=st.lists(st.integers(0, 7), max_size=5),
    seed=st.integers(0, 100),
)
def test_pairs_are_neighbours_of_one_document(lengths: list[int], seed: int) -> None:
    documents = [[f"{d}.{i}" for i in range(length)] for d, length in enumerate(lengths)]
    examples = sentence_order_pairs(documents, seed)
    assert examples.labels == SENTENCE_ORDERS
    used = []
    for row, target in zip(examples.rows, examples.targets, strict=True):
        texts = (row.text, row.pair)
        before, after = texts[::-1] if target else texts
        assert before is not None
        assert after is not None
        document, place = before.split(".")
        assert after == f"{document}.{int(place) + 1}"
        used += texts
    assert len(set(used)) == len(used)
    assert len(examples.rows) >= sum((length - 1) // 2 for length in lengths if length)
    assert sentence_order_pairs(documents, seed) == examples


def test_half_of_the_pairs_are_swapped() -> None:
    examples = sentence_order_pairs([["a", "b"]] * 4000, seed=0)
    _assert_share(sum(examples.targets), 4000, 0.5)
    starts = {sentence_order_pairs([["a", "b", "c"]], s).rows[0] for s in range(50)}
    assert len(starts) == 4  # both neighbourhoods, both orders
