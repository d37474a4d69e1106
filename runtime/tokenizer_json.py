"""Read the parts of a Hugging Face tokenizer.json that runtime/wordpiece.py implements.

A part we do not implement exactly raises UnsupportedPartError with its name, and the caller
turns to the `tokenizers` package; a part that is missing or of the wrong type raises
BundleError. Standard library only.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

from edgeformer.errors import BundleError
from edgeformer.runtime.normalizer import Normalizer, Step
from edgeformer.runtime.unicode_table import SPACE, properties
from edgeformer.runtime.wordpiece import AddedToken, PreTokenizer, WordPieceConfig

_T = TypeVar("_T")
_MAX_NESTING = 16  # of Sequence normalizers; a deeper file is hostile


class UnsupportedPartError(Exception):
    """A tokenizer that only the `tokenizers` package can run; says which part is to blame."""


@dataclass(frozen=True)
class Special:
    """Special tokens at one place of a template."""

    ids: tuple[int, ...]
    type_id: int


@dataclass(frozen=True)
class Segment:
    """The place of a text in a template: the first (0) or the second of a pair (1)."""

    index: int
    type_id: int


Template = tuple[Special | Segment, ...]


@dataclass(frozen=True)
class PostProcessing:
    """Where special tokens and texts go, and whether offsets lose the white space of a token."""

    single: Template
    pair: Template
    trim_offsets: bool = False
    add_prefix_space: bool = False

    def template(self, pair: bool) -> Template:
        """The template of one text or of a pair."""
        return self.pair if pair else self.single


def parse_wordpiece(spec: dict[str, Any]) -> WordPieceConfig:
    """The WordPiece tokenizer that ``spec``, a parsed tokenizer.json, describes.

    Raises:
        BundleError: a malformed part.
        UnsupportedPartError: a part that is not implemented here.
    """
    model = spec["model"]
    kind = model.get("type", "WordPiece" if "max_input_chars_per_word" in model else "untyped")
    if kind != "WordPiece":
        raise UnsupportedPartError(kind)
    vocab: dict[str, int] = _field(model, "vocab", dict, "model")
    if set(map(type, vocab.values())) != {int} or min(vocab.values()) < 0:
        raise BundleError("tokenizer.json: an id of model.vocab is not a whole number")
    unk_token = _field(model, "unk_token", str, "model")
    if unk_token not in vocab:
        raise BundleError(f"tokenizer.json: the vocabulary lacks its unknown token {unk_token!r}")
    steps = _parse_normalizer(spec.get("normalizer"))
    return WordPieceConfig(
        vocab=vocab,
        unk_token=unk_token,
        prefix=_field(model, "continuing_subword_prefix", str, "model"),
        max_input_chars_per_word=_field(model, "max_input_chars_per_word", int, "model"),
        steps=steps,
        pre_tokenizer=_parse_pre_tokenizer(spec.get("pre_tokenizer")),
        added_tokens=_parse_added_tokens(spec.get("added_tokens"), vocab, Normalizer(steps)),
    )


def parse_post_processor(spec: Any) -> PostProcessing:
    """The templates of a ``post_processor`` section.

    Raises:
        BundleError: a malformed section.
        UnsupportedPartError: a post processor that is not implemented here.
    """
    first, second = Segment(0, 0), Segment(1, 1)
    if spec is None:
        return PostProcessing((first,), (first, second))
    kind = _field(spec, "type", str, "post_processor")
    if kind == "TemplateProcessing":
        special = _field(spec, "special_tokens", dict, kind)
        single = tuple(_parse_piece(p, special) for p in _field(spec, "single", list, kind))
        pair = tuple(_parse_piece(p, special) for p in _field(spec, "pair", list, kind))
        for template, wanted in ((single, [0]), (pair, [0, 1])):
            if sorted(p.index for p in template if isinstance(p, Segment)) != wanted:
                raise UnsupportedPartError("a template that repeats or leaves out a text")
        return PostProcessing(single, pair)
    if kind not in ("BertProcessing", "RobertaProcessing"):
        raise UnsupportedPartError(f"post processor {kind}")
    cls, sep = (Special((_named_id(spec, name, kind),), 0) for name in ("cls", "sep"))
    if kind == "BertProcessing":
        return PostProcessing(
            (cls, first, sep), (cls, first, sep, second, Special(sep.ids, second.type_id))
        )
    return PostProcessing(
        (cls, first, sep),
        (cls, first, sep, sep, Segment(1, 0), sep),
        trim_offsets=_field(spec, "trim_offsets", bool, kind),
        add_prefix_space=_field(spec, "add_prefix_space", bool, kind),
    )


def pad_token_id(spec: dict[str, Any]) -> int | None:
    """The id that ``spec`` pads with: from its padding section, else from its special tokens."""
    padding = spec.get("padding")
    if isinstance(padding, dict):
        return _field(padding, "pad_id", int, "padding")
    for token in spec.get("added_tokens") or ():
        content = token.get("content") if isinstance(token, dict) else None
        # The file says "special" but not what for; a model's padding token is called so.
        if isinstance(content, str) and content.strip("[]<>|").lower() == "pad":
            return _field(token, "id", int, "added_tokens")
    return None


def _parse_normalizer(spec: Any, depth: int = 0) -> tuple[Step, ...]:
    if spec is None:
        return ()
    kind = _field(spec, "type", str, "normalizer")
    if kind == "Sequence":
        if depth == _MAX_NESTING:
            raise BundleError("tokenizer.json: normalizers are nested too deeply")
        parts = _field(spec, "normalizers", list, kind)
        return tuple(step for part in parts for step in _parse_normalizer(part, depth + 1))
    if kind == "BertNormalizer":
        lowercase = _field(spec, "lowercase", bool, kind)
        strip_accents = spec.get("strip_accents")
        strips = lowercase if strip_accents is None else _field(spec, "strip_accents", bool, kind)
        steps: list[Step] = ["clean"] if _field(spec, "clean_text", bool, kind) else []
        steps += ["chinese"] if _field(spec, "handle_chinese_chars", bool, kind) else []
        steps += ["nfd", "strip_nonspacing"] if strips else []
        return (*steps, "lower") if lowercase else tuple(steps)
    simple: dict[str, Step] = {"Lowercase": "lower", "NFD": "nfd", "StripAccents": "strip_marks"}
    if kind not in simple:
        raise UnsupportedPartError(f"normalizer {kind}")
    return (simple[kind],)


def _parse_pre_tokenizer(spec: Any) -> PreTokenizer:
    kind = "none" if spec is None else _field(spec, "type", str, "pre_tokenizer")
    known: dict[str, PreTokenizer] = {
        "BertPreTokenizer": "bert",
        "WhitespaceSplit": "whitespace_split",
        "Whitespace": "whitespace",
    }
    if kind not in known:
        raise UnsupportedPartError(f"pre-tokenizer {kind}")
    return known[kind]


def _parse_added_tokens(
    spec: Any, vocab: dict[str, int], normalizer: Normalizer
) -> tuple[AddedToken, ...]:
    if not isinstance(spec, list | None):
        raise BundleError("tokenizer.json: added_tokens is not a list")
    ids: dict[str, int] = {}
    tokens: list[AddedToken] = []
    first_letters = ""
    for item in spec or ():
        content = _field(item, "content", str, "added_tokens")
        names = ("single_word", "lstrip", "rstrip", "normalized")
        flags = {name: _field(item, name, bool, "added_tokens") for name in names}
        pattern = normalizer.fast(content) if flags["normalized"] else content
        if not pattern:
            raise UnsupportedPartError("an empty added token")
        if content in ids:
            raise UnsupportedPartError(f"added token {content!r} twice")
        first_letters += pattern[0]
        # Like `tokenizers`, which numbers unknown tokens itself and ignores the id in the file.
        free = max([len(vocab) - 1, *ids.values()]) + 1
        ids[content] = vocab.get(content, free)
        tokens.append(AddedToken(content, ids[content], **flags))
    takes = any(token.rstrip for token in tokens)  # asked first: properties unpacks its tables
    if takes and any(properties(ord(letter)) & SPACE for letter in first_letters):
        raise UnsupportedPartError("an added token that starts with a space another may take")
    return tuple(tokens)


def _parse_piece(piece: Any, special: dict[str, Any]) -> Special | Segment:
    where = "TemplateProcessing"
    if isinstance(piece, dict) and "Sequence" in piece:
        body = _field(piece, "Sequence", dict, where)
        index = {"A": 0, "B": 1}.get(_field(body, "id", str, where))
        if index is None:
            raise BundleError("tokenizer.json: a template may hold the sequences A and B only")
        return Segment(index, _field(body, "type_id", int, where))
    body = _field(piece, "SpecialToken", dict, where)
    token = _field(special, _field(body, "id", str, where), dict, f"{where}.special_tokens")
    ids = _field(token, "ids", list, where)
    if not all(type(id_) is int for id_ in ids):
        raise BundleError("tokenizer.json: an id of a special token is not a whole number")
    return Special(tuple(ids), _field(body, "type_id", int, where))


def _named_id(spec: dict[str, Any], name: str, where: str) -> int:
    """The id in a ``["[CLS]", 101]`` pair."""
    value = _field(spec, name, list, where)
    if len(value) != 2 or type(value[1]) is not int:
        raise BundleError(f'tokenizer.json: {where}.{name} is not ["token", id]')
    return int(value[1])


def _field(spec: Any, name: str, kind: type[_T], where: str) -> _T:
    value = spec.get(name) if isinstance(spec, dict) else None
    # bool is an int to Python, but not to a tokenizer.json.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BundleError(f"tokenizer.json: {where}.{name} is missing or not a {kind.__name__}")
    return value
