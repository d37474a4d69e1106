"""Text to token ids on the device, from a Hugging Face tokenizer.json.

    tokenizer = load_tokenizer(path.read_bytes())
    tokenizer.encode("a sentence")                               # [101, 1037, 6251, 102]
    tokenizer.encoding("a", "pair", max_length=128, offsets=True).offsets

WordPiece is ours (runtime/wordpiece.py, standard library only). Any other tokenizer, BPE and
Unigram above all, needs the Hugging Face `tokenizers` package. Every token id, template and
flag is read from the file; this module knows no special token by name.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from edgeformer.errors import BundleError, EngineError, InputError
from edgeformer.runtime.tokenizer_json import (
    PostProcessing,
    Segment,
    Template,
    UnsupportedPartError,
    pad_token_id,
    parse_post_processor,
    parse_wordpiece,
)
from edgeformer.runtime.unicode_table import SPACE, properties
from edgeformer.runtime.wordpiece import Token, WordPiece

_BYTE_LEVEL_SPACE = "Ġ"


@dataclass(frozen=True)
class Encoding:
    """One text, or one pair, as a model takes it.

    Attributes:
        ids: token ids, special tokens included.
        type_ids: segment id of each token.
        offsets: for each token the characters [start, end) of its own text, (0, 0) for a
            special token; ``None`` unless asked for.
        sequence_ids: for each token 0 (text), 1 (pair) or ``None`` (special); ``None`` as a
            whole unless offsets were asked for.
        word_ids: for each token the number of its word in its own text, or ``None`` (special);
            ``None`` as a whole unless offsets were asked for.
        num_truncated: tokens cut off to keep to ``max_length``.
    """

    ids: list[int]
    type_ids: list[int]
    offsets: list[tuple[int, int]] | None = None
    sequence_ids: list[int | None] | None = None
    word_ids: list[int | None] | None = None
    num_truncated: int = 0


class Tokenizer(Protocol):
    """What `load_tokenizer` returns. Safe to use from several threads.

    Attributes:
        vocab_size: number of tokens, added ones included.
        pad_id: id that fills up a batch; 0 where the file names none (padding is masked).
        unk_id: id of the unknown token; ``None`` where the vocabulary has none.
    """

    @property
    def vocab_size(self) -> int: ...  # noqa: D102
    @property
    def pad_id(self) -> int: ...  # noqa: D102
    @property
    def unk_id(self) -> int | None: ...  # noqa: D102

    def num_special_tokens(self, pair: bool = False) -> int:
        """How many tokens the template adds to one text, or to a pair."""
        ...

    def token_id(self, token: str) -> int | None:
        """Id of a token as the vocabulary spells it, special ones too; ``None`` if it has none."""
        ...

    def token(self, token_id: int) -> str:
        """A token as it reads alone, without the space before it; empty for an unknown id."""
        ...

    def append(self, text: str, token_id: int) -> str:
        """``text`` with a token behind it: joined on if the token continues a word."""
        ...

    def encode(self, text: str, pair: str | None = None) -> list[int]:
        """Token ids, special tokens included, never truncated.

        Raises:
            InputError: ``text`` or ``pair`` is not a string.
        """
        ...

    def encoding(
        self,
        text: str,
        pair: str | None = None,
        *,
        max_length: int | None = None,
        offsets: bool = False,
    ) -> Encoding:
        """Ids with type ids, and on request offsets, cut to ``max_length`` tokens.

        Tokens are cut from the end of the longer text first, until both are equally long.

        Raises:
            InputError: not a string, or ``max_length`` leaves no room for the special tokens.
        """
        ...


def load_tokenizer(data: bytes) -> Tokenizer:
    """Make a tokenizer from the bytes of a tokenizer.json; its truncation and padding are ignored.

    Raises:
        BundleError: not a tokenizer.json.
        EngineError: a tokenizer that needs the `tokenizers` package, which is not installed.
    """
    spec = _parse(data)
    try:
        return WordPieceTokenizer(spec)
    except UnsupportedPartError as unsupported:
        try:
            import tokenizers  # noqa: F401
        except ImportError:
            raise EngineError(
                f"this tokenizer ({unsupported}) needs the 'tokenizers' package",
                hint='pip install "edgeformer[text]"; '
                "without it the bundle still serves run(input_ids=...)",
            ) from None
    from edgeformer.runtime.hf_tokenizer import HfTokenizer  # needs the package just found

    return HfTokenizer(data, spec)


def strip_tokenizer(data: bytes) -> bytes:
    """The same tokenizer.json, compact, without truncation and padding.

    Raises:
        BundleError: not a tokenizer.json.
    """
    spec = _parse(data) | {"truncation": None, "padding": None}
    return json.dumps(spec, ensure_ascii=False, separators=(",", ":")).encode()


def _parse(data: bytes) -> dict[str, Any]:
    try:
        spec = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"tokenizer.json is not valid JSON: {error}") from None
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), dict):
        raise BundleError("tokenizer.json has no model: it is not a Hugging Face fast tokenizer")
    return spec


class WordPieceTokenizer:
    """A `Tokenizer` for WordPiece files, standard library only.

    Args:
        spec: the parsed tokenizer.json.

    Raises:
        BundleError: a malformed file.
        UnsupportedPartError: a file with a part that is not implemented here, named.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        config = parse_wordpiece(spec)
        self._post_processing = parse_post_processor(spec.get("post_processor"))
        self._model = WordPiece(config)
        self._vocab, self._prefix = config.vocab, config.prefix
        self._added = {t.content: t.id for t in config.added_tokens}
        self.vocab_size = len(config.vocab) + len(self._added.keys() - config.vocab.keys())
        self.pad_id = pad_token_id(spec) or 0
        self.unk_id: int | None = config.vocab[config.unk_token]

    def num_special_tokens(self, pair: bool = False) -> int:
        """How many tokens the template adds to one text, or to a pair."""
        template = self._post_processing.template(pair)
        return sum(len(part.ids) for part in template if not isinstance(part, Segment))

    @cached_property
    def _tokens(self) -> dict[int, str]:
        return {token_id: token for token, token_id in {**self._vocab, **self._added}.items()}

    def token_id(self, token: str) -> int | None:
        """Id of a token as the vocabulary spells it, special ones too; ``None`` if it has none."""
        return self._added.get(token, self._vocab.get(token))

    def token(self, token_id: int) -> str:
        """The vocabulary's spelling, ``##ly`` where a token continues a word."""
        return self._tokens.get(token_id, "")

    def append(self, text: str, token_id: int) -> str:
        """``text`` with a token behind it: joined on if the token continues a word."""
        return append_piece(text, self.token(token_id), self._prefix)

    def encode(self, text: str, pair: str | None = None) -> list[int]:
        """Token ids, special tokens included, never truncated."""
        check_texts(text, pair)
        segments = [self._model.ids(part) for part in (text, pair) if part is not None]
        ids: list[int] = []
        for part in self._post_processing.template(pair is not None):
            ids += segments[part.index] if isinstance(part, Segment) else part.ids
        return ids

    def encoding(
        self,
        text: str,
        pair: str | None = None,
        *,
        max_length: int | None = None,
        offsets: bool = False,
    ) -> Encoding:
        """Ids with type ids, and on request offsets, cut to ``max_length`` tokens."""
        check_texts(text, pair)
        room = room_for_tokens(max_length, self.num_special_tokens(pair is not None))
        texts = [part for part in (text, pair) if part is not None]
        template = self._post_processing.template(pair is not None)
        if not offsets:
            return _fill_ids(template, [self._model.ids(t) for t in texts], room)
        segments = [_traced(self._model.tokens(t), self._post_processing) for t in texts]
        lengths = [len(segment.ids) for segment in segments]
        kept = longest_first(lengths, room)
        segments = [segment.first(n) for segment, n in zip(segments, kept, strict=True)]
        return _fill(template, segments, sum(lengths) - sum(kept))


@dataclass(frozen=True)
class _Segment:
    """The tokens of one text."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    words: list[int]

    def first(self, count: int) -> "_Segment":
        return _Segment(self.ids[:count], self.offsets[:count], self.words[:count])


def _traced(tokens: list[Token], post_processing: PostProcessing) -> _Segment:
    offsets = [(token.start, token.end) for token in tokens]
    if post_processing.trim_offsets:
        prefix = post_processing.add_prefix_space
        offsets = [_trimmed(index, token, prefix) for index, token in enumerate(tokens)]
    return _Segment([token.id for token in tokens], offsets, [token.word for token in tokens])


def _fill(template: Template, segments: list[_Segment], cut: int) -> Encoding:
    """Put each segment in its place in the template."""
    ids: list[int] = []
    type_ids: list[int] = []
    spans: list[tuple[int, int]] = []
    sequences: list[int | None] = []
    words: list[int | None] = []
    for part in template:
        if isinstance(part, Segment):
            segment = segments[part.index]
            ids += segment.ids
            spans += segment.offsets
            words += segment.words
            sequences += [part.index] * len(segment.ids)
        else:
            ids += part.ids
            spans += [(0, 0)] * len(part.ids)
            words += [None] * len(part.ids)
            sequences += [None] * len(part.ids)
        type_ids += [part.type_id] * (len(ids) - len(type_ids))
    return Encoding(ids, type_ids, spans, sequences, words, cut)


def _fill_ids(template: Template, segments: list[list[int]], room: int | None) -> Encoding:
    """The same of ids alone, which must fit in ``room``: what every call to a model needs."""
    lengths = [len(segment) for segment in segments]
    kept = longest_first(lengths, room)
    texts = [segment[:n] for segment, n in zip(segments, kept, strict=True)]
    ids: list[int] = []
    type_ids: list[int] = []
    for part in template:
        placed = texts[part.index] if isinstance(part, Segment) else part.ids
        ids += placed
        type_ids += [part.type_id] * len(placed)
    return Encoding(ids, type_ids, num_truncated=sum(lengths) - sum(kept))


def append_piece(text: str, piece: str, prefix: str) -> str:
    """``text`` and a piece of WordPiece: without the space between where ``prefix`` says so."""
    if prefix and piece.startswith(prefix) and len(piece) > len(prefix):
        return text.rstrip() + piece.removeprefix(prefix)
    return text + piece


def check_texts(text: object, pair: object) -> None:
    """Raise InputError unless ``text`` is a string and ``pair`` a string or ``None``."""
    for value in (text, "" if pair is None else pair):
        if not isinstance(value, str):
            raise InputError(f"a text must be a str, not {type(value).__name__}")


def room_for_tokens(max_length: int | None, num_special: int) -> int | None:
    """How many tokens of text fit beside the special ones; ``None`` without a limit."""
    if max_length is None:
        return None
    if max_length < num_special:
        raise InputError(
            f"max_length={max_length} is shorter than the {num_special} special tokens",
            hint=f"use max_length={num_special + 1} or more",
        )
    return max_length - num_special


def longest_first(lengths: list[int], room: int | None) -> list[int]:
    """How many tokens of each segment to keep so that they fit in ``room`` together.

    The rule is that of `tokenizers`: the longer one is cut down to the shorter one's length,
    then both share the room, and the one that was not shorter gets the odd token.
    """
    if room is None or sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [room]
    shorter, longer = sorted(lengths)
    if shorter + max(shorter, room - shorter) > room:
        shorter, longer = room // 2, room - room // 2
    else:
        longer = max(shorter, room - shorter)
    return [longer, shorter] if lengths[0] > lengths[1] else [shorter, longer]


def _trimmed(index: int, token: Token, prefix: bool) -> tuple[int, int]:
    """Take white space at the ends of a token out of its offsets, as RobertaProcessing does."""
    start, end = token.start, token.end
    leading, trailing = _count_spaces(token.name), _count_spaces(reversed(token.name))
    if leading == 1 and prefix and (index == 0 or start == 0):
        leading = 0
    start = min(start + leading, end)
    if end >= trailing:
        end = max(end - trailing, start)
    return start, end


def _count_spaces(letters: Iterable[str]) -> int:
    count = 0
    for letter in letters:
        if letter != _BYTE_LEVEL_SPACE and not properties(ord(letter)) & SPACE:
            break
        count += 1
    return count
