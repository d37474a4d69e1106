"""WordPiece, exact and fast: text to token ids, equal to HF `tokenizers` on every code point.

The order of work is that of `tokenizers`: added tokens that match the text as written are cut
out; what stands between them is normalised; added tokens that match normalised text are cut
out; the rest is split into words, and each word is matched greedily from the left, longest
piece first (Wu et al. 2016, section 4.1; Devlin et al. 2019, section 3).

`WordPiece.ids` takes short cuts (regular expressions for ASCII, one table look-up per other
character, a cache of words); `WordPiece.tokens` does the same work step by step and gives
offsets. Standard library only, nothing that differs between Python versions, thread-safe.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Literal, NamedTuple

from edgeformer.runtime.normalizer import CharacterTable, MovableMarkError, Normalizer, Span, Step
from edgeformer.runtime.unicode_table import PUNCTUATION, SPACE, WORD, properties

PreTokenizer = Literal["bert", "whitespace_split", "whitespace"]

_ASCII_WORDS: dict[PreTokenizer, str] = {
    "bert": r"[!-/:-@\[-`{-~]|[^\t-\r !-/:-@\[-`{-~]+",
    "whitespace_split": r"[^\t-\r ]+",
    "whitespace": r"[0-9A-Z_a-z]+|[^\t-\r 0-9A-Z_a-z]+",
}
_CACHE_LIMIT = 1 << 14  # words


class Token(NamedTuple):
    """One token: its id, its characters [start, end) in the original text, and its name.

    ``word`` counts the words of the text from 0; an added token is a word of its own.
    """

    id: int
    start: int
    end: int
    name: str
    word: int


@dataclass(frozen=True)
class AddedToken:
    """A token cut out of the text before words are split; the flags are those of `tokenizers`."""

    content: str
    id: int
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


@dataclass(frozen=True)
class WordPieceConfig:
    """Everything a WordPiece tokenizer is made of, but its template of special tokens."""

    vocab: Mapping[str, int]
    unk_token: str
    prefix: str = "##"
    max_input_chars_per_word: int = 100
    steps: Sequence[Step] = ()
    pre_tokenizer: PreTokenizer = "bert"
    added_tokens: Sequence[AddedToken] = ()


class WordPiece:
    """A WordPiece tokenizer without its template.

    Args:
        config: the parts. ``config.vocab`` must hold ``config.unk_token``, and no added token
            may normalise to nothing.
    """

    def __init__(self, config: WordPieceConfig) -> None:
        self._config = config
        self._unk_id = config.vocab[config.unk_token]
        self._longest = max(map(len, config.vocab))
        self._normalizer = Normalizer(config.steps)
        added = config.added_tokens
        self._raw = _AddedTokens({t.content: t for t in added if not t.normalized})
        normalized: dict[str, AddedToken] = {}
        for token in added:
            if token.normalized:
                normalized.setdefault(self._normalizer.fast(token.content), token)
        self._normalized = _AddedTokens(normalized)
        self._ascii_words = re.compile(_ASCII_WORDS[config.pre_tokenizer]).findall
        self._split_table = CharacterTable(self._spread)
        self._word_ids = _WordCache(self._cut, config.max_input_chars_per_word)

    def ids(self, text: str) -> list[int]:
        """Token ids of ``text``, without special tokens. Lone surrogates count as U+FFFD."""
        ascii_only = text.isascii()
        if not ascii_only:
            text = without_surrogates(text)
        if self._raw.may_match(text) or self._normalized.may_match_any(self._normalizer.fast, text):
            return [token.id for token in self._trace(text)]
        if ascii_only:
            words = self._ascii_words(self._normalizer.ascii(text))
        elif self._config.pre_tokenizer == "whitespace":
            return [token.id for token in self._trace(text)]
        else:
            try:
                words = text.translate(self._split_table).split(" ")
            except MovableMarkError:
                return [token.id for token in self._trace(text)]
        return list(chain.from_iterable(map(self._word_ids.__getitem__, words)))

    def tokens(self, text: str) -> list[Token]:
        """Tokens of ``text`` with character offsets into it, without special tokens."""
        return list(self._trace(without_surrogates(text)))

    def _trace(self, text: str) -> Iterator[Token]:
        words = count()
        for start, end, added in self._raw.split(text):
            if added is not None:
                yield Token(added.id, start, end, text[start:end], next(words))
            else:
                yield from self._trace_segment(text[start:end], start, words)

    def _trace_segment(self, segment: str, offset: int, words: "count[int]") -> Iterator[Token]:
        aligned = self._normalizer.aligned(segment, offset)
        text = "".join(char for char, _ in aligned)
        spans = [span for _, span in aligned]
        for start, end, added in self._normalized.split(text):
            if added is not None:
                first, last = spans[start][0], spans[end - 1][1]
                yield Token(added.id, first, last, text[start:end], next(words))
                continue
            for begin, stop in _word_spans(text, start, end, self._config.pre_tokenizer):
                yield from self._word_tokens(text[begin:stop], spans[begin:stop], next(words))

    def _cut(self, word: str) -> tuple[list[int], list[int]]:
        """Ids of the pieces of one normalised word, and where in the word each piece ends."""
        vocab, size = self._config.vocab, len(word)
        if size > self._config.max_input_chars_per_word:
            return [self._unk_id], [size]
        ids: list[int] = []
        ends: list[int] = []
        start, prefix = 0, ""
        while start < size:
            end = min(size, start + self._longest)
            id_ = vocab.get(prefix + word[start:end])
            while id_ is None:
                end -= 1
                if end == start:
                    return [self._unk_id], [size]
                id_ = vocab.get(prefix + word[start:end])
            ids.append(id_)
            ends.append(end)
            start, prefix = end, self._config.prefix
        return ids, ends

    def _word_tokens(self, word: str, spans: Sequence[Span], number: int) -> Iterator[Token]:
        """Tokens of one normalised word whose characters stand for ``spans`` of the text."""
        start, prefix = 0, ""
        for id_, end in zip(*self._cut(word), strict=True):
            whole = start == 0 and end == len(word)
            unknown = whole and id_ == self._unk_id
            name = self._config.unk_token if unknown else prefix + word[start:end]
            yield Token(id_, spans[start][0], spans[end - 1][1], name, number)
            start, prefix = end, self._config.prefix

    def _spread(self, code: int) -> str:
        """A code point normalised, with spaces where it ends or starts a word."""
        spread = ""
        for char in self._normalizer.character(code):
            bits = properties(ord(char))
            if bits & SPACE:
                spread += " "
            elif bits & PUNCTUATION and self._config.pre_tokenizer == "bert":
                spread += f" {char} "
            else:
                spread += char
        return spread


class _WordCache(dict[str, tuple[int, ...]]):
    """Ids of the words met so far; emptied when full, and never holding an overlong word."""

    def __init__(
        self, cut: Callable[[str], tuple[list[int], list[int]]], longest_word: int
    ) -> None:
        super().__init__()
        self._cut = cut
        self._longest_word = longest_word

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(self._cut(word)[0])
        if len(word) <= self._longest_word:
            if len(self) >= _CACHE_LIMIT:
                self.clear()
            self[word] = ids
        return ids


class _AddedTokens:
    """Finds added tokens in a text: leftmost first, then longest."""

    def __init__(self, by_content: Mapping[str, AddedToken]) -> None:
        self._by_content = dict(by_content)
        contents = sorted(self._by_content, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, contents))) if contents else None
        self._first_letters = {content[0] for content in contents}

    def may_match(self, text: str) -> bool:
        """Whether ``split`` could find anything: a cheap test for the usual text without any."""
        if not any(letter in text for letter in self._first_letters):
            return False
        return self._pattern is not None and self._pattern.search(text) is not None

    def may_match_any(self, normalize: Callable[[str], str], text: str) -> bool:
        """Like ``may_match`` for the normalised text, which is made only when there is need."""
        return self._pattern is not None and self.may_match(normalize(text))

    def split(self, text: str) -> Iterator[tuple[int, int, AddedToken | None]]:
        """Cut ``text`` into added tokens and what stands between them, nothing left out."""
        position = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            token, (start, end) = self._by_content[match[0]], match.span()
            if token.single_word and (_is(WORD, text, start - 1) or _is(WORD, text, end)):
                continue
            while token.lstrip and start > position and _is(SPACE, text, start - 1):
                start -= 1
            while token.rstrip and _is(SPACE, text, end):
                end += 1
            if position < start:
                yield position, start, None
            yield start, end, token
            position = end
        if position < len(text):
            yield position, len(text), None


def _is(bit: int, text: str, index: int) -> bool:
    return 0 <= index < len(text) and bool(properties(ord(text[index])) & bit)


def _word_spans(text: str, start: int, end: int, kind: PreTokenizer) -> Iterator[tuple[int, int]]:
    """Where the words of ``text[start:end]`` lie."""
    first, previous = start, 0
    for index in range(start, end):
        bits = properties(ord(text[index])) & (SPACE | _BOUNDARY_BITS[kind])
        alone = bits & (SPACE | PUNCTUATION)
        if alone or bits != previous:
            if first < index:
                yield first, index
            first = index + 1 if bits & SPACE else index
        previous = -1 if alone else bits
    if first < end:
        yield first, end


# A word ends where one of these bits changes, besides at white space.
_BOUNDARY_BITS: dict[PreTokenizer, int] = {
    "bert": PUNCTUATION,
    "whitespace_split": 0,
    "whitespace": WORD,
}
_SURROGATES = re.compile("[\ud800-\udfff]")


def without_surrogates(text: str) -> str:
    """Put U+FFFD in the place of each lone surrogate, which no UTF-8 text can hold."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)
