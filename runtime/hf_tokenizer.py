"""A `Tokenizer` over the Hugging Face `tokenizers` package, for BPE, Unigram and rare parts.

The only module of the runtime that imports `tokenizers`; it is itself imported only when a
tokenizer.json needs it and the package is there.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import tokenizers

from edgeformer.errors import BundleError
from edgeformer.runtime.tokenizer import (
    Encoding,
    append_piece,
    check_texts,
    longest_first,
    room_for_tokens,
)
from edgeformer.runtime.tokenizer_json import pad_token_id
from edgeformer.runtime.wordpiece import without_surrogates

_T = TypeVar("_T")


class HfTokenizer:
    """Runs any tokenizer.json.

    Args:
        data: the file.
        spec: the same, parsed.

    Raises:
        BundleError: `tokenizers` cannot read the file.
    """

    def __init__(self, data: bytes, spec: dict[str, Any]) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(data.decode())
        except Exception as error:  # the package raises nothing more exact
            raise BundleError(f"tokenizer.json cannot be read by 'tokenizers': {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        self.pad_id = pad_token_id(spec) or 0
        model = spec["model"]
        unk_id = model.get("unk_id")
        if unk_id is None and isinstance(model.get("unk_token"), str):
            unk_id = self._tokenizer.token_to_id(model["unk_token"])
        self.unk_id: int | None = unk_id
        self._prefix = model.get("continuing_subword_prefix")
        self._joins_pieces = model.get("type") == "WordPiece" and isinstance(self._prefix, str)

    def num_special_tokens(self, pair: bool = False) -> int:
        """How many tokens the template adds to one text, or to a pair."""
        return int(self._tokenizer.num_special_tokens_to_add(pair))

    def token_id(self, token: str) -> int | None:
        """Id of a token as the vocabulary spells it, special ones too; ``None`` if it has none."""
        token_id: int | None = self._tokenizer.token_to_id(token)
        return token_id

    def token(self, token_id: int) -> str:
        """A token as it reads alone, without the space before it; empty for an unknown id."""
        return self._decode([token_id]).strip(" ")

    def append(self, text: str, token_id: int) -> str:
        """``text`` with a token behind it: joined on if the token continues a word."""
        if self._joins_pieces:
            return append_piece(text, self.token(token_id), self._prefix)
        # A decoder may drop the space before the first token, never that before the second.
        alone, twice = self._decode([token_id]), self._decode([token_id] * 2)
        piece = twice.removeprefix(alone)
        return text + (piece.lstrip(" ") if not text or text[-1].isspace() else piece)

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def encode(self, text: str, pair: str | None = None) -> list[int]:
        """Token ids, special tokens included, never truncated."""
        return list(self._run(text, pair).ids)

    def encoding(
        self,
        text: str,
        pair: str | None = None,
        *,
        max_length: int | None = None,
        offsets: bool = False,
    ) -> Encoding:
        """Ids with type ids, and on request offsets, cut to ``max_length`` tokens."""
        full = self._run(text, pair)
        sequence_ids = full.sequence_ids
        lengths = [sequence_ids.count(index) for index in range(1 if pair is None else 2)]
        room = room_for_tokens(max_length, self.num_special_tokens(pair is not None))
        left = longest_first(lengths, room)
        cut = sum(lengths) - sum(left)
        kept: list[int] = []
        # Cutting here, not in `tokenizers`, whose truncation is a setting shared by all threads.
        for position, index in enumerate(sequence_ids):
            if index is not None:
                left = [n - (i == index) for i, n in enumerate(left)]
            if index is None or left[index] >= 0:
                kept.append(position)
        return Encoding(
            _pick(full.ids, kept),
            _pick(full.type_ids, kept),
            _pick(full.offsets, kept) if offsets else None,
            _pick(sequence_ids, kept) if offsets else None,
            _pick(full.word_ids, kept) if offsets else None,
            cut,
        )

    def _run(self, text: str, pair: str | None) -> tokenizers.Encoding:
        check_texts(text, pair)
        second = None if pair is None else without_surrogates(pair)
        return self._tokenizer.encode(without_surrogates(text), second)


def _pick(items: Sequence[_T], positions: list[int]) -> list[_T]:
    return [items[position] for position in positions]
