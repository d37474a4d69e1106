"""Our tokenizer against HF `tokenizers`: a difference here is a wrong answer on the device."""

import sys
import threading
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfOracle
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgeformer.errors import BundleError, EngineError, InputError
from edgeformer.runtime.hf_tokenizer import HfTokenizer
from edgeformer.runtime.tokenizer import (
    Tokenizer,
    WordPieceTokenizer,
    load_tokenizer,
    strip_tokenizer,
)
from tests.tokenizer_oracle import (
    NEIGHBOURS,
    Spec,
    added,
    assert_same,
    bert_normalizer,
    both,
    dump,
    minilm_json,
    oracle,
    texts,
    tiny,
    with_added,
)

ROBERTA = {
    "type": "RobertaProcessing",
    "sep": ["[SEP]", 3],
    "cls": ["[CLS]", 2],
    "trim_offsets": True,
    "add_prefix_space": False,
}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "two", "type_id": 1}},
        {"Sequence": {"id": "A", "type_id": 2}},
    ],
    "pair": [
        {"Sequence": {"id": "B", "type_id": 3}},
        {"SpecialToken": {"id": "two", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 1}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
    ],
    "special_tokens": {
        "two": {"id": "two", "ids": [2, 4], "tokens": ["[CLS]", "[MASK]"]},
        "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
    },
}
SEQUENCE = {
    "type": "Sequence",
    "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}, {"type": "StripAccents"}],
}
ADDED = [
    added("<x>", 0, special=True),
    added("<l>", 0, lstrip=True),
    added("<r>", 0, rstrip=True),
    added("word", 0, single_word=True),
    added("Normal", 0, normalized=True),
    added("résumé", 0, normalized=True, single_word=True),
    added("Ab", 0, normalized=True, lstrip=True, rstrip=True),
]
KINDS: dict[str, Spec] = {
    "uncased": tiny(),
    "cased": tiny(normalizer=bert_normalizer(lowercase=False)),
    "keeps accents": tiny(normalizer=bert_normalizer(strip_accents=False)),
    "strips only": tiny(
        normalizer=bert_normalizer(clean_text=False, strip_accents=True, lowercase=False)
    ),
    "lowers only": tiny(
        normalizer=bert_normalizer(
            clean_text=False, handle_chinese_chars=False, strip_accents=False
        )
    ),
    "no normalizer": tiny(normalizer=None, post_processor=None),
    "mpnet": with_added(tiny(post_processor=ROBERTA), added("<mask>", 0, lstrip=True)),
    "prefix space": with_added(tiny(post_processor={**ROBERTA, "add_prefix_space": True}), *ADDED),
    "cased prefix space": with_added(
        tiny(
            normalizer=bert_normalizer(lowercase=False),
            post_processor={**ROBERTA, "add_prefix_space": True},
        ),
        *ADDED,
    ),
    "one begins another": with_added(
        tiny(),
        added("Ab", 0, normalized=True, rstrip=True),
        added("abc", 0, normalized=True),
        added("<xyz>", 0),
        added("<x", 0),
    ),
    "template": with_added(tiny(post_processor=TEMPLATE), *ADDED),
    "added to cased": with_added(tiny(normalizer=bert_normalizer(lowercase=False)), *ADDED),
    "sequence": with_added(
        tiny(normalizer=SEQUENCE, pre_tokenizer={"type": "WhitespaceSplit"}), *ADDED
    ),
    "nfd": with_added(
        tiny(normalizer={"type": "NFD"}, pre_tokenizer={"type": "Whitespace"}), *ADDED
    ),
}


@pytest.fixture(scope="module")
def minilm() -> tuple[Tokenizer, HfOracle]:
    data = minilm_json()
    return load_tokenizer(data), oracle(data)


@settings(max_examples=300, deadline=None)
@given(text=texts, pair=st.none() | texts, max_length=st.none() | st.integers(3, 20))
def test_minilm_any_text_and_pair(
    minilm: tuple[Tokenizer, HfOracle], text: str, pair: str | None, max_length: int | None
) -> None:
    assert_same(*minilm, text, pair, max_length)


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_tokenizers(kind: str) -> None:
    ours, theirs = both(KINDS[kind])
    assert isinstance(ours, WordPieceTokenizer)
    assert ours.vocab_size == theirs.get_vocab_size()
    assert ours.unk_id == theirs.token_to_id("[UNK]")
    for pair in (False, True):
        assert ours.num_special_tokens(pair) == theirs.num_special_tokens_to_add(pair)

    for pair_of_parts in product(NEIGHBOURS, repeat=2):
        assert_same(ours, theirs, "".join(pair_of_parts))

    @settings(max_examples=100, deadline=None)
    @given(text=texts, pair=st.none() | texts, max_length=st.none() | st.integers(4, 12))
    def check(text: str, pair: str | None, max_length: int | None) -> None:
        assert_same(ours, theirs, text, pair, max_length)

    check()


flags = st.fixed_dictionaries(
    dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized", "special"], st.booleans())
)


@settings(max_examples=300, deadline=None)
@given(
    contents=st.lists(
        st.text("abÉ 中\u0323", min_size=1, max_size=3).filter(
            # A token that normalises to nothing makes `tokenizers` panic.
            lambda content: content[0] not in " \u0323"
        ),
        min_size=1,
        max_size=4,
        # Of two that normalise alike, `tokenizers` takes one or the other, by chance.
        unique_by=lambda content: normalizers.BertNormalizer().normalize_str(content),
    ),
    data=st.data(),
)
def test_added_tokens_with_any_flags(contents: list[str], data: st.DataObject) -> None:
    tokens = [added(content, 0, **data.draw(flags)) for content in contents]
    ours, theirs = both(with_added(tiny(), *tokens))
    # Where a stripped token may overlap the next one, `tokenizers` itself has to run.
    overlap = any(token["rstrip"] for token in tokens) and any("中" in c for c in contents)
    assert isinstance(ours, WordPieceTokenizer) or overlap
    for _ in range(4):
        assert_same(ours, theirs, data.draw(st.text("abAeéE 中\u0323\u0301\t", max_size=12)))


def test_of_two_added_tokens_that_normalize_alike_the_first_wins() -> None:
    tokens = [added("AB", 0, normalized=True), added("Ab", 0, normalized=True, special=True)]
    spec = with_added(tiny(), *tokens)
    assert load_tokenizer(dump(spec)).encode("ab")[1] == spec["added_tokens"][-2]["id"]


def test_known_ids_of_minilm(minilm: tuple[Tokenizer, HfOracle]) -> None:
    """Independent of the installed `tokenizers`: ids as published for bert-base-uncased."""
    ours = minilm[0]
    assert ours.encode("Hello, world!") == [101, 7592, 1010, 2088, 999, 102]
    assert ours.encode("") == [101, 102]
    assert ours.encode("", "") == [101, 102, 102]
    assert ours.encode("a [MASK] b") == [101, 1037, 103, 1038, 102]
    assert (ours.vocab_size, ours.pad_id, ours.unk_id) == (30522, 0, 100)


def test_spans_of_a_text_can_be_cut_out(minilm: tuple[Tokenizer, HfOracle]) -> None:
    text = "Zürich e\u0301té 中文!"
    encoding = minilm[0].encoding(text, offsets=True)
    assert encoding.offsets is not None
    spans = [text[a:b] for a, b in encoding.offsets]
    assert spans == ["", "Zürich", "e\u0301t", "é", "中", "文", "!", ""]
    assert encoding.word_ids == [None, 0, 1, 1, 2, 3, 4, None]


@settings(max_examples=50)
@given(text=texts, at=st.integers(0, 40), code=st.integers(0xD800, 0xDFFF))
def test_lone_surrogate_counts_as_replacement_character(text: str, at: int, code: int) -> None:
    for ours in (_tiny_ours("uncased"), _tiny_ours("lowers only"), _bpe()[0]):
        broken = ours.encoding(text[:at] + chr(code) + text[at:], offsets=True)
        assert broken == ours.encoding(text[:at] + "\ufffd" + text[at:], offsets=True)
        assert broken.ids == ours.encode(text[:at] + chr(code) + text[at:])


def test_long_and_hostile_texts_stay_cheap_and_exact() -> None:
    ours, theirs = both(KINDS["uncased"])
    for text in ("a" * 50_000, "中" * 20_000, "\u0323\u0301" * 10_000, "[" * 20_000):
        assert_same(ours, theirs, text)
    many = " ".join(f"{a}{b}{c}" for a in "abcdefghij" * 3 for b in "klmnopqrst" * 3 for c in "uvw")
    for _ in range(8):
        assert ours.encode(many) == theirs.encode(many).ids


def test_caches_are_bounded_and_refill() -> None:
    ours, theirs = both(KINDS["uncased"])
    assert isinstance(ours, WordPieceTokenizer)
    words = [
        f"{a}{b}{c}{d}"
        for a in "abcdefghijkl"
        for b in "mnopqrstuvwx"
        for c in "0123456789ab"
        for d in "cdefghijklmn"
    ]
    for start in range(0, len(words), 2000):
        line = " ".join(words[start : start + 2000])
        assert ours.encode(line) == theirs.encode(line).ids
    assert 0 < len(ours._model._word_ids) <= 1 << 14 < len(words)


def test_threads_agree(minilm: tuple[Tokenizer, HfOracle]) -> None:
    lines = [f"thread {i} é{chr(0x100 + i)} {chr(0x4E00 + i)}x" for i in range(400)]
    ours = load_tokenizer(minilm_json())
    expected = [minilm[1].encode(line).ids for line in lines]
    results: dict[int, list[list[int]]] = {}

    def work(number: int) -> None:
        results[number] = [ours.encode(line) for line in lines]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(results[n] == expected for n in range(4))


def _tiny_ours(kind: str) -> Tokenizer:
    return load_tokenizer(dump(KINDS[kind]))


def _bpe() -> tuple[Tokenizer, HfOracle]:
    trained = HfOracle(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trained.train_from_iterator(
        ["some text to merge, some more text"] * 3,
        trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>", "<pad>", "<unk>"]),
    )
    trained.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    data = trained.to_str().encode()
    return load_tokenizer(data), oracle(data)


def test_bpe_goes_through_the_tokenizers_package() -> None:
    ours, theirs = _bpe()
    assert isinstance(ours, HfTokenizer)
    assert (ours.pad_id, ours.unk_id) == (2, 3)
    assert ours.vocab_size == theirs.get_vocab_size()

    @settings(max_examples=100, deadline=None)
    @given(text=texts, pair=st.none() | texts, max_length=st.none() | st.integers(5, 20))
    def check(text: str, pair: str | None, max_length: int | None) -> None:
        assert_same(ours, theirs, text, pair, max_length)

    check()


def test_unknown_wordpiece_parts_go_through_the_tokenizers_package() -> None:
    for part in (
        {"normalizer": {"type": "NFKC"}},
        {"pre_tokenizer": {"type": "Digits", "individual_digits": True}},
        {"pre_tokenizer": None},
        {"post_processor": {"type": "Sequence", "processors": []}},
        {"added_tokens": [added("中", 0, normalized=True, lstrip=True, rstrip=True)]},
    ):
        ours, theirs = both(tiny(**part))
        assert isinstance(ours, HfTokenizer)
        assert_same(ours, theirs, "ﬁve 12 words 中中 a", max_length=5)


def test_without_the_package_bpe_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _bpe()[1].to_str().encode()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(EngineError, match=r"\(BPE\) needs the 'tokenizers' package") as caught:
        load_tokenizer(data)
    assert 'pip install "edgeformer[text]"' in caught.value.hint
    assert load_tokenizer(dump(KINDS["mpnet"])).encode("a") == [2, 5, 3]


def test_strip_tokenizer_removes_truncation_and_padding_only() -> None:
    data = minilm_json()
    stripped = strip_tokenizer(data)
    as_shipped = HfOracle.from_str(data.decode())
    theirs = HfOracle.from_str(stripped.decode())
    assert as_shipped.truncation and as_shipped.padding
    assert theirs.truncation is None
    assert theirs.padding is None
    assert theirs.to_str() == oracle(data).to_str()
    assert strip_tokenizer(stripped) == stripped
    assert load_tokenizer(stripped).encode("x " * 600) == theirs.encode("x " * 600).ids


def test_padding_id_is_read_from_the_file() -> None:
    padding = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 4, "pad_type_id": 0, "pad_token": "[MASK]"}
    assert load_tokenizer(dump(tiny(padding=padding))).pad_id == 4
    vocab = {"[UNK]": 0, "a": 1, "<pad>": 2}
    spec = tiny(added_tokens=[added("<pad>", 2, special=True)])
    spec["model"]["vocab"] = vocab
    assert load_tokenizer(dump(spec)).pad_id == 2


@pytest.mark.parametrize("bad", [b"bytes", None, 3, ["a"], {"text": "a"}])
def test_not_a_string(bad: Any) -> None:
    for ours in (_tiny_ours("uncased"), _bpe()[0]):
        with pytest.raises(InputError, match="must be a str"):
            ours.encode(bad)
        with pytest.raises(InputError, match="must be a str"):
            ours.encoding(bad)
        if bad is not None:
            with pytest.raises(InputError, match="must be a str"):
                ours.encode("a", bad)


def test_no_room_for_the_special_tokens() -> None:
    for ours in (_tiny_ours("uncased"), _bpe()[0]):
        with pytest.raises(InputError, match="max_length=1"):
            ours.encoding("a", max_length=1)
        assert ours.encoding("aa bb", max_length=2).num_truncated > 0


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"model": "\xff"}',
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "no model": b"{}",
    "no vocab": dump(tiny(model={"type": "WordPiece", "unk_token": "[UNK]"})),
    "unknown token missing": dump(tiny(model={**tiny()["model"], "unk_token": "<unk>"})),
    "text ids": dump(tiny(model={**tiny()["model"], "vocab": {"[UNK]": "0"}})),
    "negative id": dump(tiny(model={**tiny()["model"], "vocab": {"[UNK]": -1}})),
    "length not a number": dump(tiny(model={**tiny()["model"], "max_input_chars_per_word": "9"})),
    "normalizer": dump(tiny(normalizer={"type": "BertNormalizer"})),
    "nested normalizer": dump(tiny(normalizer={"type": "Sequence", "normalizers": [3]})),
    "added tokens": dump(tiny(added_tokens={})),
    "added token": dump(tiny(added_tokens=[{"content": "a"}])),
    "processor": dump(tiny(post_processor={"type": "BertProcessing", "cls": ["[CLS]"]})),
    "template": dump(tiny(post_processor={**TEMPLATE, "special_tokens": {}})),
    "third text": dump(
        tiny(post_processor={**TEMPLATE, "single": [{"Sequence": {"id": "C", "type_id": 0}}]})
    ),
    "unreadable BPE": b'{"model": {"type": "BPE", "vocab": 3}}',
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_file(what: str) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        load_tokenizer(MALFORMED[what])


def test_normalizer_type_is_named_where_it_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(EngineError, match="normalizer NFKC"):
        load_tokenizer(dump(tiny(normalizer={"type": "NFKC"})))
