"""Fewer tokens: those that a task's texts use, and a tokenizer and a token table of only these.

    keep = used_tokens(loaded.tokenizer_json, examples.texts, min_count=1)
    small = slim_vocabulary(loaded, keep)            # a LoadedModel, ready to train, save, convert

The token table is most of a small model: 11.7 of all-MiniLM-L6-v2's 22.7 million parameters. A text
whose tokens are all kept gets the same tokens as before. Others are spelled in shorter pieces, and
single characters are kept so that no character which the texts or ASCII have becomes unknown.
tokenizer_spec.py knows the parts of a tokenizer.json; this module decides what stays.
"""

import json
import string
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import nn

from edgeformer.compression import tokenizer_spec
from edgeformer.compression.slimming import slim
from edgeformer.compression.units import encoder_of
from edgeformer.errors import ModelError
from edgeformer.models.checkpoint import LoadedModel
from edgeformer.runtime.wordpiece import without_surrogates

ASCII = "".join(c for c in string.printable if not c.isspace())
"""The characters that are kept in any case: those of any log file or address."""

_TEXTS_AT_ONCE = 4096


def used_tokens(
    tokenizer_json: bytes, texts: Iterable[str], min_count: int = 1, always: str = ASCII
) -> torch.Tensor:
    """Which tokens a vocabulary for ``texts`` needs.

    Args:
        tokenizer_json: contents of tokenizer.json.
        texts: the task's texts; taken one by one, so that they may be many.
        min_count: how often a token must occur in them.
        always: characters that are kept whether they occur or not, alone and as pieces of a word.

    Returns:
        bool (vocabulary,): True for a token that occurs, is special, or is a single character of
        ``always`` or of any token that occurs.

    Raises:
        ModelError: a tokenizer whose vocabulary cannot be cut.
    """
    tokenizer, spec = tokenizer_spec.parse(tokenizer_json)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    counts = torch.zeros(max(vocab.values()) + 1, dtype=torch.int64)
    for encodings in _encoded(tokenizer, texts):
        ids = torch.tensor([i for encoding in encodings for i in encoding.ids], dtype=torch.int64)
        counts += ids.bincount(minlength=len(counts))
    keep = counts >= min_count
    seen = [token for token, id_ in vocab.items() if counts[id_]]
    singles = tokenizer_spec.single_pieces(spec, set(always).union(*seen))
    keep[[vocab[piece] for piece in singles if piece in vocab]] = True
    keep[sorted(tokenizer_spec.required_ids(spec, vocab))] = True
    return keep


def prune_vocabulary(tokenizer_json: bytes, keep: torch.Tensor) -> tuple[bytes, torch.Tensor]:
    """The tokenizer with fewer tokens.

    Tokens that others need come along: special ones, and the parts from which a BPE merges a kept
    token. Then every text whose tokens are all kept, and known, has the same tokens as before.

    Args:
        tokenizer_json: contents of tokenizer.json: a WordPiece, WordLevel, BPE or Unigram model.
        keep: bool (vocabulary,) as of ``used_tokens``; rows of a model beyond the vocabulary are
            never kept.

    Returns:
        The new tokenizer.json, and int64 (kept,), ascending: the old id of each new one.

    Raises:
        ModelError: a tokenizer whose vocabulary cannot be cut, or a ``keep`` of the wrong length.
    """
    tokenizer, spec = tokenizer_spec.parse(tokenizer_json)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    if len(keep) <= max(vocab.values()):
        raise ModelError(
            f"{len(keep)} tokens are marked to be kept or not, and the vocabulary has ids up to"
            f" {max(vocab.values())}"
        )
    kept = {token for token, id_ in vocab.items() if keep[id_]}
    required = tokenizer_spec.required_ids(spec, vocab)
    kept |= {token for token, id_ in vocab.items() if id_ in required}
    kept |= tokenizer_spec.needed_tokens(spec, kept)
    old_ids = sorted(vocab[token] for token in kept)
    new_ids = {old: new for new, old in enumerate(old_ids)}
    tokenizer_spec.cut(spec, vocab, new_ids)
    data = json.dumps(spec, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    made = tokenizer_spec.parse(data)[0].get_vocab(with_added_tokens=True)
    if made != {token: new_ids[vocab[token]] for token in kept}:
        raise ModelError(
            "the tokenizer numbers its added tokens in an order of its own, and cannot be cut"
        )
    return data, torch.tensor(old_ids)


def slim_vocabulary(loaded: LoadedModel, keep: torch.Tensor) -> LoadedModel:
    """The model with the tokens of ``prune_vocabulary``: its tokenizer and its token table.

    Args:
        loaded: a model whose module is an Encoder and a head; it stays as it is.
        keep: bool (vocabulary,).

    Returns:
        The same model with copies of the kept rows, in the table and in the output of a masked
        language model.

    Raises:
        ModelError: not such a model, or one whose vocabulary cannot be cut.
    """
    config = encoder_of(loaded.module).config
    if loaded.tokenizer_json is None:
        raise ModelError(f"{loaded.name} reads images and has no vocabulary")
    keep = keep.clone()
    # RoBERTa and MPNet count positions from the padding id, which must stay where it is.
    keep[: config.position_start] = True
    tokenizer_json, kept = prune_vocabulary(loaded.tokenizer_json, keep)
    rows = torch.zeros(config.vocab_size, dtype=torch.bool)
    rows[kept] = True
    module = slim(loaded.module, {"tokens": (rows,)})
    removed = _num_parameters(loaded.module) - _num_parameters(module)
    return replace(
        loaded,
        module=module,
        tokenizer_json=tokenizer_json,
        tokenizer_settings=_renumbered(loaded.tokenizer_settings, kept),
        parameters=loaded.parameters - removed,
    )


def _encoded(tokenizer: Any, texts: Iterable[str]) -> Iterator[Any]:
    rest = iter(texts)
    while block := [without_surrogates(text) for text in islice(rest, _TEXTS_AT_ONCE)]:
        yield tokenizer.encode_batch(block, add_special_tokens=False)


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _renumbered(settings: dict[str, Any], kept: torch.Tensor) -> dict[str, Any]:
    """tokenizer_config.json may list the added tokens by their ids."""
    tokens = settings.get("added_tokens_decoder")
    if not isinstance(tokens, dict):
        return settings
    new_ids = {str(old): str(new) for new, old in enumerate(kept.tolist())}
    renumbered = {new_ids[old]: token for old, token in tokens.items() if old in new_ids}
    return {**settings, "added_tokens_decoder": renumbered}
