"""Texts as a task reads them: questions get a context, and masked language models get masks.

A conversion is verified on the kind of input that the device will see. Texts of the user that are
so already (pairs of question and context, texts with masks) stay as they are.
"""

from collections.abc import Sequence

from edgeformer.runtime.manifest import ModelCard

Text = tuple[str, str | None]

# One word of seven is masked, as in training (Devlin et al., arXiv 1810.04805: 15 %), and at most 4
# of a text: more texts tell more than more masks.
WORDS_PER_MASK = 7
MAX_MASKS = 4


def task_texts(texts: Sequence[Text], card: ModelCard) -> tuple[Text, ...]:
    """The texts for the task of ``card``, as many as there were."""
    if card.task == "question-answering":
        return with_contexts(texts)
    if card.task == "fill-mask":
        return tuple((with_masks(text, card.mask_token), None) for text, _ in texts)
    return tuple(texts)


def with_contexts(texts: Sequence[Text]) -> tuple[Text, ...]:
    """A text without a second one is asked of the text that follows it."""
    following = [*texts[1:], *texts[:1]]
    return tuple(
        (text, next_text if pair is None else pair)
        for (text, pair), (next_text, _) in zip(texts, following, strict=True)
    )


def with_masks(text: str, mask_token: str) -> str:
    """The text with evenly spaced words masked, at least one; as it is if it has a mask."""
    if mask_token in text:
        return text
    words = text.split(" ")
    masks = min(MAX_MASKS, -(-len(words) // WORDS_PER_MASK))
    for i in range(masks):
        words[(2 * i + 1) * len(words) // (2 * masks)] = mask_token
    return " ".join(words)
