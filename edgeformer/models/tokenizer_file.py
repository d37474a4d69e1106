"""The tokenizer of a checkpoint folder as the bytes of a tokenizer.json.

Reads tokenizer.json, or makes one from the vocab.txt of an old BERT folder. Truncation and
padding are removed: how long a text may be is for the runtime to say.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeformer.errors import EngineError, ModelError
from edgeformer.models.model_folder import read_json, read_optional_json

# Families whose vocab.txt is read by BERT's own tokenizer, special tokens and all.
_BERT_VOCABULARY = ("bert", "distilbert", "electra", "mobilebert", "ernie", "convbert")


def read_tokenizer(folder: Path, family: str, vocab_size: int) -> tuple[bytes, tuple[str, ...]]:
    """tokenizer.json of the folder, truncation and padding removed, and notices.

    Args:
        folder: the checkpoint.
        family: model_type of its config.json.
        vocab_size: rows of the model's token table.

    Raises:
        ModelError: no tokenizer, a broken one, or one with more tokens than the model.
    """
    if (folder / "tokenizer.json").is_file():
        data = read_json(folder / "tokenizer.json")
    elif (folder / "vocab.txt").is_file() and family in _BERT_VOCABULARY:
        data = _from_vocabulary(folder)
    else:
        raise ModelError(
            f"tokenizer missing: {folder} has no tokenizer.json",
            hint="make it: AutoTokenizer.from_pretrained(MODEL).save_pretrained(folder)",
        )
    notices = _apply_case(data, folder)
    data["truncation"] = None
    data["padding"] = None
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    _check(text, folder, vocab_size)
    return text.encode("utf-8"), notices


def lowercases(tokenizer_json: bytes) -> bool:
    """True if the tokenizer lower-cases texts by itself."""
    normalizer = json.loads(tokenizer_json).get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    return any(step.get("type") == "Lowercase" or step.get("lowercase") for step in steps)


def find_mask_token(tokenizer_json: bytes, settings: Mapping[str, Any]) -> str:
    """The token that a masked language model fills, as texts spell it.

    tokenizer.json says which tokens are special and not what for: tokenizer_config.json names the
    mask; without it, it is the special token that is called so.

    Args:
        tokenizer_json: contents of tokenizer.json.
        settings: contents of tokenizer_config.json.

    Raises:
        ModelError: the tokenizer has no such token.
    """
    data = json.loads(tokenizer_json)
    contents = [token["content"] for token in data.get("added_tokens") or ()]
    named = settings.get("mask_token")
    named = named.get("content") if isinstance(named, dict) else named
    if named is None:
        called = [c for c in contents if c.strip("[]<>|").lower() == "mask"]
        named = called[0] if len(called) == 1 else None
    # Only a token that is cut out of the text before words are split can be written in it.
    if named not in contents:
        raise ModelError(
            "the tokenizer has no mask token" + (f" {named!r}" if named else ""),
            hint="name it in tokenizer_config.json (mask_token), or pass --task embedding",
        )
    return str(named)


def _apply_case(data: dict[str, Any], folder: Path) -> tuple[str, ...]:
    """Where tokenizer_config.json contradicts a BERT normaliser, transformers obeys the former."""
    normalizer = data.get("normalizer")
    wanted = read_optional_json(folder / "tokenizer_config.json").get("do_lower_case")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return ()
    if not isinstance(wanted, bool) or normalizer.get("lowercase") == wanted:
        return ()
    normalizer["lowercase"] = wanted
    return (
        f"tokenizer_config.json says do_lower_case={str(wanted).lower()} and tokenizer.json the"
        " opposite: the former is taken, as transformers does",
    )


def _from_vocabulary(folder: Path) -> dict[str, Any]:
    # transformers takes seconds to import, and only such old folders need it.
    from transformers import BertTokenizerFast

    tokenizer = BertTokenizerFast.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    data: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return data


def _check(text: str, folder: Path, vocab_size: int) -> None:
    try:
        import tokenizers
    except ImportError:
        raise EngineError(
            "checking tokenizer.json needs the package tokenizers",
            hint='pip install "edgeformer[convert]"',
        ) from None
    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the package raises plain Exception
        raise ModelError(
            f"the tokenizer of {folder} is broken: {error}", hint="copy the folder again"
        ) from None
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= vocab_size:
        raise ModelError(
            f"the tokenizer of {folder} gives ids up to {largest}, the model has {vocab_size}"
            " tokens",
            hint="tokenizer and weights do not belong together: copy both again",
        )
