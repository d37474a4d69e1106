"""What a conversion is verified on, and what the bundle's self-test will ask on the device."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from edgeformer.converters.prepared import PreparedModel
from edgeformer.converters.verification import Reference, reference_answers
from edgeformer.errors import DataError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.golden import GoldenCase
from edgeformer.runtime.text import encode_texts
from edgeformer.runtime.tokenizer import Tokenizer

MAX_UNKNOWN_SHARE = 0.2
MAX_GOLDEN_CASES = 4
MAX_GOLDEN_VALUES = 20_000
MAX_GOLDEN_CLASSES = 128  # of a vocabulary's logits, evenly spaced
_STORED = ("input_ids", "token_type_ids")  # mask and positions of an unpadded text are defaults

# A share of equal answers is only as fine as the texts are many: of 200, two that change are 1 %.
MAX_VERIFICATION_TEXTS = 512
# Of every four texts one is for calibration, unless there are too few for two groups.
CALIBRATION_EVERY = 4
MAX_CALIBRATION_TEXTS = 128
MAX_RANGE_TEXTS = 32  # of these: where the outliers are, few texts tell
MIN_TEXTS_TO_SPLIT = 8

MAX_MASK_VALUES = 1 << 25  # float32 logits that are compared: masks times vocabulary

Text = tuple[str, str | None]
_T = TypeVar("_T")


def split_texts(texts: Sequence[Text]) -> tuple[tuple[Text, ...], tuple[Text, ...]]:
    """Texts to verify on, at most 512, and others to calibrate on, at most 128, evenly spaced.

    What the conversion learns and chooses from must not be what it is judged by. With fewer than
    8 different texts all serve for both.
    """
    different = tuple(dict.fromkeys(texts))
    if len(different) < MIN_TEXTS_TO_SPLIT:
        return different, different
    calibration = different[::CALIBRATION_EVERY]
    rest = tuple(t for i, t in enumerate(different) if i % CALIBRATION_EVERY)
    return _spread(rest, MAX_VERIFICATION_TEXTS), _spread(calibration, MAX_CALIBRATION_TEXTS)


def _spread(texts: tuple[_T, ...], most: int) -> tuple[_T, ...]:
    """At most ``most`` of the texts, evenly spaced."""
    count = min(most, len(texts))
    return tuple(texts[i * len(texts) // count] for i in range(count))


def text_lengths(
    prepared: PreparedModel, tokenizer: Tokenizer, texts: Sequence[Text]
) -> NDArray[np.intp]:
    """Tokens of each text, cut to the model's longest input."""
    return _tokenized(prepared, tokenizer, texts).lengths


def text_reference(
    prepared: PreparedModel, tokenizer: Tokenizer | None, texts: Sequence[Text]
) -> Reference:
    """PyTorch's answers to ``texts``, or to a plain module's examples.

    Raises:
        DataError: too many tokens are unknown to the vocabulary for the texts to prove anything.
        ModelError: the model itself answers NaN or infinity.
    """
    if tokenizer is None:
        return reference_answers(prepared, None)
    batch = _tokenized(prepared, tokenizer, texts)
    tokens = None
    if prepared.card.task == "fill-mask":
        batch, tokens = _masks_within(batch, tokenizer.token_id(prepared.card.mask_token), prepared)
    unknown = float(np.mean(batch.ids == tokenizer.unk_id)) if tokenizer.unk_id is not None else 0.0
    if unknown > MAX_UNKNOWN_SHARE:
        raise DataError(
            f"{unknown:.0%} of the verification texts' tokens are unknown to this vocabulary:"
            " they prove nothing about it",
            hint="pass texts of the model's own kind with --calibration FILE",
        )
    return reference_answers(prepared, batch, tokens)


def _masks_within(
    batch: RaggedBatch, mask_id: int | None, prepared: PreparedModel
) -> tuple[RaggedBatch, tuple[NDArray[np.intp], ...]]:
    """The texts with masks, as many as the logits of all masks leave memory for; and the masks'
    places in each."""
    rows = np.split(batch.ids, batch.offsets[1:-1])
    masks = [np.flatnonzero(ids == mask_id) for ids in rows]
    texts = tuple(i for i, places in enumerate(masks) if len(places))
    if not texts:
        raise DataError(
            "no verification text has a mask within the tokens that the model takes",
            hint="pass texts of the model's own kind with --calibration FILE",
        )
    most = MAX_MASK_VALUES // int(prepared.outputs[0].shape[-1])
    per_text = sum(len(masks[i]) for i in texts) / len(texts)
    texts = _spread(texts, max(1, int(most / per_text)))
    return batch.select(texts), tuple(masks[i] for i in texts)


def with_calibration(prepared: PreparedModel, calibration: Reference) -> PreparedModel:
    """``prepared`` with calibration texts, 32 at most, as further examples, from which the
    converters learn the ranges of activations. A plain module keeps its own examples."""
    if calibration.batch is None:
        return prepared
    examples = tuple(
        {k: torch.from_numpy(v) for k, v in text.items()}
        for text in _spread(calibration.inputs, MAX_RANGE_TEXTS)
    )
    return replace(prepared, examples=(*prepared.examples[:1], *examples))


def _tokenized(prepared: PreparedModel, tokenizer: Tokenizer, texts: Sequence[Text]) -> RaggedBatch:
    firsts = [text for text, _ in texts]
    seconds = [pair or "" for _, pair in texts] if any(pair for _, pair in texts) else None
    longest = prepared.card.max_length
    return encode_texts(tokenizer, firsts, seconds, longest, "truncate").batch


def _few(examples: tuple[dict[str, torch.Tensor], ...]) -> tuple[dict[str, torch.Tensor], ...]:
    """The first examples, at least one: images are large in JSON."""
    kept, values = 0, 0
    for example in examples:
        values += sum(tensor.numel() for tensor in example.values())
        if kept == 0 or values <= MAX_GOLDEN_VALUES:
            kept += 1
    return examples[:kept]


def golden_cases(
    prepared: PreparedModel, tokenizer: Tokenizer | None, texts: Sequence[Text]
) -> list[GoldenCase]:
    """The first few of ``texts`` (or the examples) with their answers.

    Shortest first, since loading runs the first one.
    """
    prepared = replace(prepared, examples=_few(prepared.examples))
    batch = _tokenized(prepared, tokenizer, texts[:MAX_GOLDEN_CASES]) if tokenizer else None
    reference = reference_answers(prepared, batch)
    pairs = any(pair for _, pair in texts[:MAX_GOLDEN_CASES])
    vocabulary = int(prepared.outputs[0].shape[-1]) if prepared.card.task == "fill-mask" else 0
    every = max(1, vocabulary // MAX_GOLDEN_CLASSES)
    cases = []
    for i, (inputs, outputs) in enumerate(zip(reference.inputs, reference.outputs, strict=True)):
        text, pair = ("", "") if batch is None else (texts[i][0], texts[i][1] or "")
        kept = {k: v for k, v in inputs.items() if batch is None or k in _STORED}
        cases.append(
            GoldenCase(
                text if pair or not pairs else "",  # its ids are those of a pair with nothing
                {k: v.tolist() for k, v in kept.items()},
                {k: (v[..., ::every] if every > 1 else v).tolist() for k, v in outputs.items()},
                pair,
                every,
            )
        )
    return sorted(cases, key=lambda case: len(str(case.inputs)))
