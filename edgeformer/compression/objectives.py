"""What a language model without labels is trained on: words to guess, and the order of sentences.

    kinds = token_kinds(loaded.tokenizer_json)
    inputs, labels = mask_tokens(batch["input_ids"], batch["attention_mask"], kinds,
                                 MaskingSettings(whole_words=True), generator)
    logits = model(input_ids=inputs, ...)["logits"]
    loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

Devlin et al., "BERT", arXiv 1810.04805, section 3.1 and appendix A.1; whole words as in its later
release; units of several words as in ERNIE (Sun et al., arXiv 1904.09223, section 3.2).
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from edgeformer.compression import tokenizer_spec
from edgeformer.compression.examples import Example, Examples
from edgeformer.errors import ModelError, UsageError

IGNORED = -100
"""Label of a token that is not to be guessed; what PyTorch's cross entropy leaves out."""
SENTENCE_ORDERS = ("in_order", "swapped")


@dataclass(frozen=True)
class TokenKinds:
    """What masking needs to know of each token.

    Attributes:
        mask_id: id of the token that hides others.
        ordinary: bool (vocabulary,): may be guessed, and may stand for another; not so special
            tokens and the unknown one.
        continues: bool (vocabulary,): a piece that continues a word; None where the tokenizer's
            pieces do not say it.
    """

    mask_id: int
    ordinary: torch.Tensor
    continues: torch.Tensor | None


@dataclass(frozen=True)
class MaskingSettings:
    """How many tokens are to be guessed, and what stands in their place.

    Attributes:
        rate: probability of a unit (a token, a word, a span) to be guessed.
        masked: share of the guessed tokens that the mask token hides.
        swapped: share of them in whose place a random token stands; the rest stay visible.
        whole_words: guess all pieces of a word or none.

    Raises:
        UsageError: numbers that are no probabilities.
    """

    rate: float = 0.15
    masked: float = 0.8
    swapped: float = 0.1
    whole_words: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.rate <= 1 and min(self.masked, self.swapped) >= 0):
            raise UsageError(f"masking needs probabilities: {self}")
        if self.masked + self.swapped > 1 + 1e-9:
            raise UsageError(f"{self.masked} masked and {self.swapped} swapped are more than all")


def token_kinds(tokenizer_json: bytes, mask_token: str | None = None) -> TokenKinds:
    """The kinds of a tokenizer's tokens.

    Args:
        tokenizer_json: contents of tokenizer.json.
        mask_token: its mask token; None finds it by its name, [MASK] or <mask>.

    Raises:
        ModelError: the tokenizer is broken or has no mask token.
    """
    tokenizer, spec = tokenizer_spec.parse(tokenizer_json)
    names = [token["content"] for token in spec["added_tokens"] if token["special"]]
    if mask_token is None:
        mask_token = next((name for name in names if name.strip("[]<>|").lower() == "mask"), None)
    mask_id = None if mask_token is None else tokenizer.token_to_id(mask_token)
    if mask_id is None:
        raise ModelError(
            f"the tokenizer has no mask token {mask_token or ''!r} among {', '.join(names)}",
            hint="a language model is trained with one, such as [MASK]",
        )
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    ordinary = tokenizer_spec.ordinary_tokens(spec, vocab)
    return TokenKinds(mask_id, ordinary, tokenizer_spec.continuing_tokens(spec, vocab))


def mask_tokens(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    kinds: TokenKinds,
    settings: MaskingSettings,
    generator: torch.Generator,
    spans: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hide some tokens of a batch of texts.

    Args:
        input_ids: int64 (batch, sequence).
        attention_mask: integers (batch, sequence), 1 for a token and 0 for padding.
        kinds: of the tokenizer.
        settings: how many, and how.
        generator: of the choices, on the device of the ids.
        spans: int64 (spans, 3), each a row of the batch, its first token and the one after its
            last: phrases or names, guessed as a whole or not at all. Of two that overlap the later
            one keeps its tokens together.

    Returns:
        The ids with some of them hidden, and the labels, both int64 (batch, sequence): the id of a
        token that is to be guessed, ``IGNORED`` elsewhere. At least one token of the batch is
        guessed if any is ordinary.

    Raises:
        ModelError: whole words are asked for, and the tokenizer's pieces do not tell them.
        UsageError: a span that is not in the batch.
    """
    allowed = kinds.ordinary.to(input_ids.device)[input_ids] & attention_mask.bool()
    units = _word_units(input_ids, allowed, kinds) if settings.whole_words else _counted(allowed)
    if spans is not None:
        units = _with_spans(units, spans)
    chosen = torch.zeros_like(allowed)
    chosen[allowed] = _choose(units[allowed], settings.rate, generator)
    labels = input_ids.masked_fill(~chosen, IGNORED)
    rolls = torch.rand(input_ids.shape, generator=generator, device=input_ids.device)
    ordinary = kinds.ordinary.to(input_ids.device).nonzero().flatten()
    draws = torch.randint(
        len(ordinary), input_ids.shape, generator=generator, device=input_ids.device
    )
    hide = chosen & (rolls < settings.masked)
    swap = chosen & ~hide & (rolls < settings.masked + settings.swapped)
    inputs = torch.where(hide, kinds.mask_id, torch.where(swap, ordinary[draws], input_ids))
    return inputs, labels


def sentence_order_pairs(documents: Iterable[Sequence[str]], seed: int) -> Examples:
    """Neighbouring texts in their order or swapped, half of the time each.

    The task that takes the place of next sentence prediction in ALBERT (Lan et al., arXiv
    1909.11942, section 3.1): both texts are always of one document.

    Args:
        documents: sentences, or longer segments, of each document in order; one of a single
            sentence gives no pair.
        seed: of the order, and of where a document's first pair starts, so that other seeds also
            pair the other neighbours.

    Returns:
        Pairs with the labels of ``SENTENCE_ORDERS``.
    """
    chance = random.Random(seed)
    rows = []
    for sentences in documents:
        first = chance.randrange(2) if len(sentences) > 2 else 0
        for i in range(first, len(sentences) - 1, 2):
            before, after = sentences[i], sentences[i + 1]
            swapped = chance.random() < 0.5
            texts = (after, before) if swapped else (before, after)
            rows.append(Example(*texts, SENTENCE_ORDERS[swapped]))
    return Examples(tuple(rows), SENTENCE_ORDERS)


def _counted(starts: torch.Tensor) -> torch.Tensor:
    """Int64 (batch, sequence): how many units started so far, over the whole batch."""
    return starts.flatten().cumsum(0).reshape(starts.shape)


def _word_units(input_ids: torch.Tensor, allowed: torch.Tensor, kinds: TokenKinds) -> torch.Tensor:
    """A word starts where a piece does not continue one, and after anything that is no word."""
    if kinds.continues is None:
        raise ModelError(
            "the pieces of this tokenizer do not tell where a word starts",
            hint="mask single tokens, or give the words as spans",
        )
    continues = kinds.continues.to(input_ids.device)[input_ids]
    continues[:, 1:] &= allowed[:, :-1]
    continues[:, :1] = False
    return _counted(allowed & ~continues)


def _with_spans(units: torch.Tensor, spans: torch.Tensor) -> torch.Tensor:
    units = units.clone()
    free = int(units.max()) + 1
    for number, (row, first, end) in enumerate(spans.tolist()):
        if not (0 <= row < len(units) and 0 <= first < end <= units.shape[1]):
            raise UsageError(f"the span {(row, first, end)} is not in a batch of {units.shape}")
        units[row, first:end] = free + number
    return units


def _choose(units: torch.Tensor, rate: float, generator: torch.Generator) -> torch.Tensor:
    """Bool (tokens,), true for all tokens of the chosen units, one unit at least, by the number of
    each token's unit, int64 (tokens,)."""
    if not len(units):
        return units.bool()
    draws = torch.rand(int(units.max()) + 1, generator=generator, device=units.device)[units]
    return draws <= draws.min().clamp(min=rate)
