"""Words that could stand in the place of others, for TinyBERT's augmentation (augmentation.py).

Jiao et al., "TinyBERT", arXiv 1909.10351, algorithm 1: a masked language model says which words are
likely in a place; where the word is several pieces to it, the nearest words of a table of vectors
take their turn. The paper's table is GloVe; ours is any token table, such as the teacher's own.
Candidates are words of letters that the tokenizer has as one token.
"""

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

from edgeformer.compression import tokenizer_spec
from edgeformer.compression.augmentation import Candidates
from edgeformer.compression.objectives import token_kinds
from edgeformer.errors import ModelError
from edgeformer.models.checkpoint import LoadedModel
from edgeformer.models.encoder import Encoder
from edgeformer.runtime.wordpiece import without_surrogates

# The logits of a masked language model are large: vocabulary x 4 bytes for each token.
_TOKENS_AT_ONCE = 1024


def nearest_candidates(table: torch.Tensor, tokenizer_json: bytes, count: int = 15) -> Candidates:
    """The words whose vectors point most in the direction of a word's own.

    A word of several pieces has the mean of their directions. The word itself is no candidate.

    Args:
        table: float (vocabulary, size), a vector for each token.
        tokenizer_json: contents of tokenizer.json.
        count: candidates of a word.

    Raises:
        ModelError: the tokenizer is broken, or does not tell the starts of words.
    """
    tokenizer, spec = tokenizer_spec.parse(tokenizer_json)
    word_ids = tokenizer_spec.whole_words(spec, tokenizer.get_vocab(with_added_tokens=True))
    names, unit = list(word_ids), F.normalize(table.detach().float().cpu(), dim=1)
    among = unit[list(word_ids.values())]
    known: dict[str, list[str]] = {}

    def nearest(word: str, pieces: list[int]) -> list[str]:
        best = (among @ unit[pieces].mean(0)).topk(min(count + 1, len(names))).indices.tolist()
        return [names[i] for i in best if names[i].lower() != word.lower()][:count]

    def candidates(words: Sequence[str], places: Sequence[int]) -> list[list[str]]:
        ids, pieces = _tokens_of_words(tokenizer, words)
        for place in places:
            word = words[place]
            if word not in known:
                own = [ids[i] for i in pieces[place]]
                known[word] = nearest(word, own) if own else []
        return [known[words[place]] for place in places]

    return candidates


def masked_lm_candidates(loaded: LoadedModel, count: int = 15) -> Candidates:
    """The likeliest words where one of a single token is masked; else the nearest of the model's
    own token table.

    Args:
        loaded: a masked language model (task ``fill-mask``).
        count: candidates of a word.

    Raises:
        ModelError: a model of another task, or one without a mask token.
    """
    encoder = getattr(loaded.module, "encoder", None)
    if loaded.task != "fill-mask" or not isinstance(encoder, Encoder):
        raise ModelError(
            f"{loaded.name} is no masked language model of EdgeFormer",
            hint="load one with task='fill-mask', or use nearest_candidates",
        )
    assert loaded.tokenizer_json is not None
    tokenizer, spec = tokenizer_spec.parse(loaded.tokenizer_json)
    word_ids = tokenizer_spec.whole_words(spec, tokenizer.get_vocab(with_added_tokens=True))
    names, rows = list(word_ids), list(word_ids.values())
    mask_id = token_kinds(loaded.tokenizer_json).mask_id
    otherwise = nearest_candidates(encoder.token_table, loaded.tokenizer_json, count)

    def candidates(words: Sequence[str], places: Sequence[int]) -> list[list[str]]:
        ids, pieces = _tokens_of_words(tokenizer, words)
        ids = ids[: loaded.max_length]
        single = [p for p in places if len(pieces[p]) == 1 and pieces[p][0] < len(ids)]
        rest = [p for p in places if p not in single]
        found = {p: list(near) for p, near in zip(rest, otherwise(words, rest), strict=True)}
        if single:
            logits = _masked_logits(loaded.module, ids, [pieces[p][0] for p in single], mask_id)
            best = logits[:, rows].topk(min(count, len(names))).indices.tolist()
            found |= {p: [names[i] for i in row] for p, row in zip(single, best, strict=True)}
        return [found[p] for p in places]

    return candidates


def _tokens_of_words(
    tokenizer: Tokenizer, words: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """Ids of a text, special tokens included, and for each word the places of its tokens."""
    texts = [without_surrogates(word) for word in words]
    ends = list(accumulate(len(text) + 1 for text in texts))
    encoding = tokenizer.encode(" ".join(texts))
    places: list[list[int]] = [[] for _ in words]
    for place, ((_, end), special) in enumerate(
        zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
    ):
        # The last character, since the first of a token may be the space before the word.
        if not special and end:
            places[bisect(ends, end - 1)].append(place)
    return encoding.ids, places


def _masked_logits(
    module: nn.Module, ids: list[int], places: list[int], mask_id: int
) -> torch.Tensor:
    """Float (places, vocabulary): what ``module`` says of each place when it alone is masked."""
    device = next(module.parameters()).device
    step = max(1, _TOKENS_AT_ONCE // len(ids))
    found = []
    with torch.inference_mode():
        for start in range(0, len(places), step):
            chosen = places[start : start + step]
            block = torch.tensor(ids, device=device).repeat(len(chosen), 1)
            block[range(len(chosen)), chosen] = mask_id
            logits = module(block, torch.ones_like(block))["logits"]
            found.append(logits[range(len(chosen)), chosen].float().cpu())
    return torch.cat(found)
