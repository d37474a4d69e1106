"""``Model.tag``: labelled spans of a text."""

from edgeformer.runtime.answers import Span, Word, group_words, probabilities, spans
from edgeformer.runtime.calls import Call


def tag_texts(call: Call, texts: list[str], on_long: str) -> list[list[Span]]:
    """The spans of each text; the words of its windows follow each other."""
    words = tag_words(call, texts, on_long)
    return [spans(text, group) for text, group in zip(texts, words, strict=True)]


def tag_words(call: Call, texts: list[str], on_long: str) -> list[list[Word]]:
    """The words of each text as the tokenizer cuts them, each with its best label. Words that did
    not fit are absent."""
    names = call.card.labels
    found: list[list[Word]] = []
    for rows, logits in call.encode(texts, None, on_long, "logits", offsets=True):
        scores = probabilities(logits, "single_label")
        words: list[list[Word]] = [[] for _ in range(rows.texts)]
        bounds = rows.batch.offsets
        for i, owner in enumerate(rows.owners):
            part = scores[bounds[i] : bounds[i + 1]]
            words[owner] += group_words(part, names, rows.char_offsets[i], rows.word_ids[i])
        found += words
    return found
