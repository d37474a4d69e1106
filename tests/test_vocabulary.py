"""A smaller vocabulary: texts of kept tokens are tokenised and answered as before, and no character
becomes unknown. The oracle is HF `tokenizers` on the old file and on the new one."""

import json
import string
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from edgeformer.compression import tokenizer_spec
from edgeformer.compression.batching import batch_settings, every_example, tokenize
from edgeformer.compression.examples import without_labels
from edgeformer.compression.vocabulary import prune_vocabulary, slim_vocabulary, used_tokens
from edgeformer.data import builtin_texts
from edgeformer.errors import ModelError
from edgeformer.models.build import HeadConfig, make_model
from edgeformer.models.checkpoint import LoadedModel, load_checkpoint
from edgeformer.models.saving import save_checkpoint
from edgeformer.runtime.tokenizer import load_tokenizer
from tests.tiny_models import (
    randomise,
    tiny_bert_folder,
    tiny_family_folder,
    tiny_tokenizer_json,
)
from tests.tokenizer_oracle import minilm_json, tiny, with_added

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CORPUS = [text for text, _ in builtin_texts() if len(text) < 200]


def _template(tokenizer: Tokenizer) -> Tokenizer:
    cls, sep = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    return tokenizer


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=SPECIALS, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _template(tokenizer)


def _byte_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<mask>"])
    tokenizer.add_tokens(["a thing added later"])
    cls, sep = ((token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>"))
    tokenizer.post_processor = processors.RobertaProcessing(sep, cls)
    return tokenizer


def _character_bpe() -> Tokenizer:
    """BPE with a prefix inside words and a suffix at their ends."""
    tokenizer = Tokenizer(
        models.BPE(unk_token="[UNK]", continuing_subword_prefix="@@", end_of_word_suffix="</w>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIALS,
        continuing_subword_prefix="@@",
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.Sequence(
        [processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)), processors.ByteLevel()]
    )
    return tokenizer


def _unigram(byte_fallback: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    bytes_ = [f"<0x{i:02X}>" for i in range(256)] if byte_fallback else []
    trainer = trainers.UnigramTrainer(
        vocab_size=400 + len(bytes_),
        special_tokens=SPECIALS + bytes_,
        unk_token="[UNK]",
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    spec = json.loads(_template(tokenizer).to_str())
    spec["model"]["byte_fallback"] = byte_fallback
    spec["added_tokens"] = [t for t in spec["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(spec))


def _wordlevel() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _template(tokenizer)


MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "wordpiece": _wordpiece,
    "byte bpe": _byte_bpe,
    "character bpe": _character_bpe,
    "unigram": _unigram,
    "unigram with bytes": lambda: _unigram(byte_fallback=True),
    "wordlevel": _wordlevel,
}
WORDS = sorted({word for text in CORPUS for word in text.split()})
texts_of_words = st.lists(
    st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=5)), max_size=8).map(" ".join),
    min_size=1,
    max_size=4,
)


@cache
def _file(kind: str) -> bytes:
    return MAKERS[kind]().to_str().encode()


def _open(data: bytes) -> Tokenizer:
    tokenizer = Tokenizer.from_str(data.decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """By their ids: a Unigram's encoding names an unknown token after the text it stands for."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return [tokenizer.id_to_token(id_) for id_ in ids]


@pytest.mark.parametrize("kind", MAKERS)
@given(kept=texts_of_words, other=st.text(max_size=12))
@settings(deadline=None, max_examples=40)
def test_the_texts_of_a_vocabulary_keep_their_tokens(
    kind: str, kept: list[str], other: str
) -> None:
    """Alone and as pairs, special tokens included; ids are those of the rows that move along."""
    old = _open(_file(kind))
    data, ids = prune_vocabulary(_file(kind), used_tokens(_file(kind), kept))
    new = _open(data)
    assert new.get_vocab_size() == len(ids) == len(set(ids.tolist()))
    unknown = {old.token_to_id("[UNK]")} - {None}
    for text in kept:
        before, after = old.encode(text, kept[0]), new.encode(text, kept[0])
        if kind == "wordpiece" and unknown & set(before.ids):
            continue  # a word that was unknown may be spelled now
        assert ids[after.ids].tolist() == before.ids
        assert after.type_ids == before.type_ids
        assert _pieces(new, text) == _pieces(old, text)
    assert set(_pieces(new, other)) <= set(old.get_vocab())


@pytest.mark.parametrize("kind", MAKERS)
@given(text=st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_any_choice_keeps_the_texts_made_of_it(kind: str, text: str, seed: int) -> None:
    """Whatever else is dropped around them: the promise of ``prune_vocabulary`` itself."""
    old = _open(_file(kind))
    size = old.get_vocab_size()
    keep = torch.rand(size, generator=torch.Generator().manual_seed(seed)) < 0.3
    before = _pieces(old, text)
    keep[[old.token_to_id(piece) for piece in before]] = True
    data, _ = prune_vocabulary(_file(kind), keep)
    if "[UNK]" not in before or kind != "wordpiece":
        assert _pieces(_open(data), text) == before


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "wordlevel"])
@given(text=st.text(alphabet=string.printable, max_size=30))
@settings(deadline=None, max_examples=30)
def test_no_ascii_text_becomes_unknown(kind: str, text: str) -> None:
    """A user types words that the training texts never had."""
    old = _open(_file(kind))
    data, _ = prune_vocabulary(_file(kind), used_tokens(_file(kind), ["the film"]))
    before, after = _pieces(old, text), _pieces(_open(data), text)
    assert after.count("[UNK]") <= before.count("[UNK]")


@given(text=st.text(max_size=20))
@settings(deadline=None, max_examples=60)
def test_models_of_bytes_lose_no_byte(text: str) -> None:
    """A byte without a token would vanish from the text without a trace."""
    for kind in ("byte bpe", "unigram with bytes"):
        old = _open(_file(kind))
        new = _open(prune_vocabulary(_file(kind), used_tokens(_file(kind), [], always=""))[0])
        assert _bytes(_pieces(new, text)) == _bytes(_pieces(old, text))


def _bytes(tokens: list[str]) -> bytes:
    """What tokens spell: a byte by its name, else its characters."""
    spelled = (
        bytes.fromhex(token[3:5]) if token.startswith("<0x") else token.encode() for token in tokens
    )
    return b"".join(spelled)


def test_an_unknown_piece_costs_a_unigram_as_much_as_before() -> None:
    """Without the unlikeliest piece, x as unknown and yzw (-24) would beat xy and zw (-26)."""
    pieces = [("[UNK]", 0.0), ("xy", -13.0), ("zw", -13.0), ("yzw", -1.0), ("never used", -30.0)]
    file = Tokenizer(models.Unigram(pieces, unk_id=0)).to_str().encode()
    keep = torch.tensor([True, True, True, True, False])
    assert _pieces(_open(file), "xyzw") == ["xy", "zw"]
    assert _pieces(_open(prune_vocabulary(file, keep)[0]), "xyzw") == ["xy", "zw"]


def test_min_count_drops_tokens_but_no_character() -> None:
    file = _file("wordpiece")
    texts = [*CORPUS, "Æther"]
    often, once = used_tokens(file, texts, min_count=3), used_tokens(file, texts)
    assert often.sum() < once.sum()
    assert not (often & ~once).any()
    new = _open(prune_vocabulary(file, often)[0])
    old = _open(file)
    for text in texts:
        assert _pieces(new, text).count("[UNK]") <= _pieces(old, text).count("[UNK]")


def test_the_real_vocabulary_prunes_exactly() -> None:
    """all-MiniLM-L6-v2's file, and our own tokenizer on it as the device has it."""
    file = minilm_json()
    old = _open(file)
    texts = [text for text, _ in builtin_texts()]
    keep = used_tokens(file, texts)
    assert len(keep) == 30522
    data, ids = prune_vocabulary(file, keep)
    new, ours = _open(data), load_tokenizer(data)
    assert len(ids) == int(keep.sum()) < 3000
    for text in texts:
        before = old.encode(text)
        assert ids[new.encode(text).ids].tolist() == before.ids
        assert ours.encode(text) == new.encode(text).ids
    words = [token for token in old.get_vocab() if token.isascii() and token.isalpha()]
    assert "[UNK]" not in _pieces(new, " ".join(words[::7]))
    spec = json.loads(data)
    names = {t["content"]: t["id"] for t in spec["added_tokens"]}
    assert names == {token: new.token_to_id(token) for token in SPECIALS}
    assert new.token_to_id("[PAD]") == 0
    assert spec["truncation"] is not None  # the file's own settings stay
    assert spec["padding"]["pad_id"] == 0


def test_padding_and_special_ids_move_in_every_part_of_the_file() -> None:
    tokenizer = Tokenizer.from_str(_file("wordpiece").decode())
    vocab = tokenizer.get_vocab()
    first = [token for token in sorted(vocab, key=vocab.__getitem__) if token not in SPECIALS]
    renumbered = {token: i for i, token in enumerate([*first, *SPECIALS])}
    spec = json.loads(_file("wordpiece"))
    spec["model"]["vocab"] = renumbered
    for token in spec["added_tokens"]:
        token["id"] = renumbered[token["content"]]
    for token in spec["post_processor"]["special_tokens"].values():
        token["ids"] = [renumbered[token["id"]]]
    spec["padding"] = {
        **{"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None},
        **{"pad_id": renumbered["[PAD]"], "pad_type_id": 0, "pad_token": "[PAD]"},
    }
    file = json.dumps(spec).encode()
    data, ids = prune_vocabulary(file, used_tokens(file, ["a film"]))
    new, old = Tokenizer.from_str(data.decode()), Tokenizer.from_str(file.decode())
    assert len(ids) < len(renumbered)
    for before, after in zip(
        old.encode_batch(["a", "a film"]), new.encode_batch(["a", "a film"]), strict=True
    ):
        assert after.tokens == before.tokens
        assert ids[after.ids].tolist() == before.ids


def test_added_tokens_outside_the_vocabulary_stay() -> None:
    spec = with_added(tiny(), {**tiny()["added_tokens"][0], "content": "<extra>", "special": False})
    file = json.dumps(spec).encode()
    data, ids = prune_vocabulary(file, used_tokens(file, ["word"], always=""))
    old, new = _open(file), _open(data)
    assert new.encode("word <extra>").tokens == old.encode("word <extra>").tokens
    assert new.token_to_id("<extra>") == len(ids) - 1


def test_a_choice_of_the_wrong_length_and_unknown_parts_are_refused() -> None:
    with pytest.raises(ModelError, match="3 tokens are marked"):
        prune_vocabulary(tiny_tokenizer_json(), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ModelError, match="broken"):
        used_tokens(b"{}", ["a"])
    with pytest.raises(ModelError, match="Other tokenizer cannot be cut"):
        tokenizer_spec.needed_tokens({"model": {"type": "Other"}}, set())
    spec = json.loads(tiny_tokenizer_json()) | {"post_processor": {"type": "Other"}}
    with pytest.raises(ModelError, match="post-processor Other"):
        tokenizer_spec.required_ids(spec, {})


# ---- the model


KEPT = ("The film was very good", "not a bad film")


def _answers(loaded: LoadedModel, texts: tuple[str, ...]) -> torch.Tensor:
    """The model's output for each text, in order, each alone."""
    assert loaded.tokenizer_json is not None
    tokenized = tokenize(without_labels((t, None) for t in texts), loaded.tokenizer_json, 32)
    with torch.inference_mode():
        found = [
            (int(rows[0]), next(iter(loaded.module(**batch).values()))[0])
            for rows, batch in every_example(tokenized, batch_settings(loaded, 1, 0))
        ]
    return torch.stack([answer.flatten()[:64] for _, answer in sorted(found, key=lambda f: f[0])])


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "electra", "mobilebert", "mpnet"])
def test_a_slimmed_model_answers_as_before(tmp_path: Path, family: str) -> None:
    """Saved and loaded, too; it has fewer parameters by exactly the dropped rows."""
    folder = tiny_family_folder(tmp_path / family, family, "classification")
    loaded = load_checkpoint(folder)
    assert loaded.tokenizer_json is not None
    keep = used_tokens(loaded.tokenizer_json, KEPT, always="")
    small = slim_vocabulary(loaded, keep)
    table = loaded.module.get_submodule("encoder.embeddings.tokens").weight
    new_table = small.module.get_submodule("encoder.embeddings.tokens").weight
    _, ids = prune_vocabulary(loaded.tokenizer_json, keep)
    assert isinstance(table, torch.Tensor)
    assert isinstance(new_table, torch.Tensor)
    assert len(new_table) < len(table)
    rows = [table[i] for i in ids.tolist()]
    assert all(any(torch.equal(row, other) for other in new_table) for row in rows)
    assert loaded.parameters - small.parameters == table.numel() - new_table.numel()
    torch.testing.assert_close(_answers(small, KEPT), _answers(loaded, KEPT), rtol=0, atol=1e-6)
    again = load_checkpoint(save_checkpoint(small, tmp_path / "small"))
    read = dict(again.module.named_parameters())
    assert all(torch.equal(read[name], p) for name, p in small.module.named_parameters())
    torch.testing.assert_close(_answers(again, KEPT), _answers(small, KEPT), rtol=0, atol=1e-6)
    assert again.parameters == small.parameters


def test_the_padding_id_stays_where_positions_are_counted_from_it(tmp_path: Path) -> None:
    """transformers takes a RoBERTa's tokens of id 1 for padding, whatever the tokenizer says."""
    folder = tiny_family_folder(tmp_path / "roberta", "roberta")
    text = (folder / "tokenizer.json").read_text()
    spec = json.loads(text)
    vocab = spec["model"]["vocab"]
    vocab["the"], vocab["[UNK]"] = vocab["[UNK]"], vocab["the"]
    spec["added_tokens"] = [
        {**token, "id": vocab[token["content"]]} for token in spec["added_tokens"]
    ]
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    loaded = load_checkpoint(folder)
    assert loaded.tokenizer_json is not None
    keep = used_tokens(loaded.tokenizer_json, ["a film"], always="")
    assert not keep[0]
    small = slim_vocabulary(loaded, keep)
    assert small.tokenizer_json is not None
    assert _open(small.tokenizer_json).token_to_id("[PAD]") == 1


def test_transformers_reads_the_slimmed_folder(tmp_path: Path) -> None:
    loaded = load_checkpoint(tiny_bert_folder(tmp_path / "bert", "classification"))
    assert loaded.tokenizer_json is not None
    small = slim_vocabulary(loaded, used_tokens(loaded.tokenizer_json, KEPT, always=""))
    folder = save_checkpoint(small, tmp_path / "small")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        theirs = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in KEPT]
    torch.testing.assert_close(_answers(loaded, KEPT), torch.stack(theirs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "mobilebert"])
def test_a_masked_language_model_gives_the_kept_logits(tmp_path: Path, family: str) -> None:
    loaded = load_checkpoint(tiny_family_folder(tmp_path / "folder", family))
    head = HeadConfig("fill-mask", activation="gelu", narrows=family != "mobilebert")
    config = loaded.module.encoder.config
    module = make_model(config, head).eval()  # type: ignore[arg-type]
    randomise(module, 0)
    loaded = LoadedModel(
        **{**vars(loaded), "module": module, "head": head, "task": "fill-mask", "pooling": ""}
    )
    assert loaded.tokenizer_json is not None
    small = slim_vocabulary(loaded, used_tokens(loaded.tokenizer_json, KEPT, always=""))
    assert small.tokenizer_json is not None
    _, ids = prune_vocabulary(
        loaded.tokenizer_json, used_tokens(loaded.tokenizer_json, KEPT, always="")
    )
    before = _open(loaded.tokenizer_json).encode(KEPT[0]).ids
    after = _open(small.tokenizer_json).encode(KEPT[0]).ids
    mask = torch.ones(1, len(before))
    with torch.inference_mode():
        expected = loaded.module(torch.tensor([before]), mask)["logits"][..., ids]
        logits = small.module(torch.tensor([after]), mask)["logits"]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_the_settings_of_the_tokenizer_follow_its_ids(tmp_path: Path) -> None:
    """transformers reads special tokens by their ids in tokenizer_config.json."""
    folder = tiny_bert_folder(tmp_path / "bert")
    path = folder / "tokenizer_config.json"
    settings_ = json.loads(path.read_text())
    extra = {"0": {"content": "[PAD]"}, "4": {"content": "[MASK]"}, "7": {"content": "film"}}
    path.write_text(json.dumps({**settings_, "added_tokens_decoder": extra}))
    loaded = load_checkpoint(folder)
    assert loaded.tokenizer_json is not None
    keep = used_tokens(loaded.tokenizer_json, ["film"], always="")
    decoder = slim_vocabulary(loaded, keep).tokenizer_settings["added_tokens_decoder"]
    assert decoder == {"0": {"content": "[PAD]"}, "4": {"content": "[MASK]"}, "5": extra["7"]}


def test_a_wrapped_model_has_no_table_to_cut(tmp_path: Path) -> None:
    loaded = load_checkpoint(tiny_family_folder(tmp_path / "modernbert", "modernbert"))
    assert loaded.tokenizer_json is not None
    with pytest.raises(ModelError, match="not built on EdgeFormer's Encoder"):
        slim_vocabulary(loaded, used_tokens(loaded.tokenizer_json, KEPT))
