"""The parts of a tokenizer.json that name tokens or their ids, and how to cut them to fewer.

Four kinds of model are known: WordPiece and WordLevel look pieces up; BPE merges them, in the order
of a list; Unigram takes the likeliest segmentation. The file is taken as `tokenizers` writes it.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers

from edgeformer.errors import ModelError

Spec = dict[str, Any]


def parse(tokenizer_json: bytes) -> tuple[Tokenizer, Spec]:
    """The tokenizer, without truncation, and its file.

    Raises:
        ModelError: not a tokenizer.json.
    """
    try:
        tokenizer = Tokenizer.from_str(tokenizer_json.decode())
    except Exception as error:  # the package raises plain Exception
        raise ModelError(f"the tokenizer is broken: {error}") from None
    spec: Spec = json.loads(tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, spec


def required_ids(spec: Spec, vocab: Mapping[str, int]) -> set[int]:
    """Ids that no vocabulary of this tokenizer can do without.

    Those of added, special, unknown and padding tokens; the bytes of a model that falls back to
    them; and a Unigram's least likely piece, from which it reckons the cost of an unknown one: were
    that cost less than before, a text could be likelier with an unknown piece in it than without.

    Raises:
        ModelError: a part that is not known here, or an id that the vocabulary lacks.
    """
    required: set[int] = set()

    def note(id_: int) -> int:
        required.add(id_)
        return id_

    _map_ids(spec, note)
    model = spec["model"]
    required.update(unknown_ids(spec, vocab))
    tokens = []
    if _is_byte_level(spec):
        tokens += pre_tokenizers.ByteLevel.alphabet()
    if model.get("byte_fallback"):
        tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    if model["type"] == "Unigram" and model["vocab"]:
        tokens.append(min(model["vocab"], key=lambda entry: float(entry[1]))[0])
    required |= {vocab[token] for token in tokens if token in vocab}
    missing = required.difference(vocab.values())
    if missing:
        raise ModelError(f"the tokenizer names the ids {sorted(missing)}, which no token has")
    return required


def unknown_ids(spec: Spec, vocab: Mapping[str, int]) -> list[int]:
    """The id of the unknown token, if the model has one."""
    model = spec["model"]
    ids = (model.get("unk_id"), vocab.get(model.get("unk_token") or ""))
    return [id_ for id_ in ids if id_ is not None]


def word_start(spec: Spec) -> str:
    """The character, in place of a space, that a word's first piece starts with; empty if none."""
    if _is_byte_level(spec):
        return "Ġ"
    found = [part.get("replacement") for part in _parts(spec.get("pre_tokenizer"), "pretokenizers")]
    return next(filter(None, found), "")


def ordinary_tokens(spec: Spec, vocab: Mapping[str, int]) -> torch.Tensor:
    """Bool (vocabulary,): which tokens are neither special nor the unknown one."""
    ordinary = torch.zeros(max(vocab.values()) + 1, dtype=torch.bool)
    ordinary[list(vocab.values())] = True
    special = [token["id"] for token in spec["added_tokens"] if token["special"]]
    ordinary[special + unknown_ids(spec, vocab)] = False
    return ordinary


def continuing_tokens(spec: Spec, vocab: Mapping[str, int]) -> torch.Tensor | None:
    """Bool (vocabulary,): which tokens continue a word; None where their names do not say it."""
    prefix = spec["model"].get("continuing_subword_prefix")
    start = word_start(spec)
    if not prefix and not start and spec["model"]["type"] != "WordLevel":
        return None
    continues = torch.zeros(max(vocab.values()) + 1, dtype=torch.bool)
    added = {token["content"] for token in spec["added_tokens"]}
    for token, id_ in vocab.items():
        if token not in added:
            continues[id_] = token.startswith(prefix) if prefix else not token.startswith(start)
    return continues


def whole_words(spec: Spec, vocab: Mapping[str, int]) -> dict[str, int]:
    """The ids of the words of letters that are one token, by what they are in a text.

    Raises:
        ModelError: the names of the tokens do not say where a word starts.
    """
    continues = continuing_tokens(spec, vocab)
    if continues is None:
        raise ModelError("the pieces of this tokenizer do not tell where a word starts")
    fits = ordinary_tokens(spec, vocab) & ~continues
    start, byte_level = word_start(spec), decoders.ByteLevel()
    words = {}
    for token, id_ in sorted(vocab.items(), key=lambda item: item[1]):
        word = byte_level.decode([token]).strip() if _is_byte_level(spec) else token
        word = word.removeprefix(start)
        if fits[id_] and word.isalpha():
            words[word] = id_
    return words


def single_pieces(spec: Spec, characters: Iterable[str]) -> set[str]:
    """What each character is called where it stands alone, and where it is a piece of a word."""
    model = spec["model"]
    prefix = model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""
    forms = {(before, after) for before in ("", prefix) for after in ("", suffix)}
    return {f"{before}{c}{after}" for c in characters for before, after in forms}


def needed_tokens(spec: Spec, kept: set[str]) -> set[str]:
    """Further tokens without which ``kept`` would not come out of a text as they did.

    WordPiece takes the longest piece that there is, Unigram (Kudo, arXiv 1804.10959, section 3.2)
    the likeliest segmentation: both find the same one among fewer. BPE (Sennrich et al., arXiv
    1508.07909, algorithm 1) reaches a token through its parts.

    Raises:
        ModelError: a kind of model that is not known here.
    """
    model = spec["model"]
    if model["type"] in ("WordPiece", "WordLevel", "Unigram"):
        return set()
    if model["type"] != "BPE":
        raise ModelError(f"the vocabulary of a {model['type']} tokenizer cannot be cut")
    parts: dict[str, set[str]] = {}
    for left, right in model["merges"]:
        parts.setdefault(_merged(model, left, right), set()).update((left, right))
    needed: set[str] = set()
    waiting = list(kept)
    while waiting:
        new = parts.get(waiting.pop(), set()) - needed
        needed |= new
        waiting += new
    return needed


def cut(spec: Spec, vocab: Mapping[str, int], new_ids: Mapping[int, int]) -> None:
    """Leave only the tokens whose old ids ``new_ids`` has, under their new ids, in place.

    Raises:
        ModelError: a post-processor that is not known here.
    """
    model = spec["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [entry for id_, entry in enumerate(model["vocab"]) if id_ in new_ids]
    else:
        model["vocab"] = {t: new_ids[id_] for t, id_ in model["vocab"].items() if id_ in new_ids}
    if model["type"] == "BPE":
        model["merges"] = [
            merge
            for merge in model["merges"]
            if all(vocab[t] in new_ids for t in (*merge, _merged(model, *merge)))
        ]
    _map_ids(spec, new_ids.__getitem__)


def _merged(model: Spec, left: str, right: str) -> str:
    """The token of a merge: a piece inside a word drops its prefix when it joins."""
    return left + right.removeprefix(model.get("continuing_subword_prefix") or "")


def _is_byte_level(spec: Spec) -> bool:
    """True if texts become the 256 characters that stand for bytes."""
    steps = _parts(spec.get("pre_tokenizer"), "pretokenizers")
    steps += _parts(spec.get("normalizer"), "normalizers")
    return any(step["type"] == "ByteLevel" for step in steps)


def _parts(section: Spec | None, name: str) -> list[Spec]:
    """The steps of a section, which may be a sequence of others, listed under ``name``."""
    if not section:
        return []
    if section["type"] != "Sequence":
        return [section]
    return [step for part in section[name] for step in _parts(part, name)]


def _map_ids(spec: Spec, change: Callable[[int], int]) -> None:
    """Put ``change(id)`` in the place of every id outside the vocabulary itself."""
    for token in spec["added_tokens"]:
        token["id"] = change(token["id"])
    if spec.get("padding"):
        spec["padding"]["pad_id"] = change(spec["padding"]["pad_id"])
    if spec["model"].get("unk_id") is not None:
        spec["model"]["unk_id"] = change(spec["model"]["unk_id"])
    for part in _parts(spec.get("post_processor"), "processors"):
        _map_template(part, change)


def _map_template(part: Spec, change: Callable[[int], int]) -> None:
    kind = part["type"]
    if kind == "TemplateProcessing":
        for token in part["special_tokens"].values():
            token["ids"] = [change(id_) for id_ in token["ids"]]
    elif kind in ("BertProcessing", "RobertaProcessing"):
        for name in ("sep", "cls"):
            part[name] = [part[name][0], change(part[name][1])]
    elif kind != "ByteLevel":
        raise ModelError(f"the post-processor {kind} may name ids, and cannot be cut")
