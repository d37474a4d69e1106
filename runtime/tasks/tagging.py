"""``Model.tag``: labelled spans of a text."""

from edgeformer.runtime.answers import Span, Word, group_words, probabilities, spans
from edgeformer.runtime.calls import Call


def tag_texts(call: Call, texts: list[str], on_long: str) -> list[list[Span]]:
    """The spans of each text; the words of its windows follow each other."""
    names = call.card.labels
    found: list[list[Span]] = []
    for rows, logits in call.encode(texts, None, on_long, "logits", offsets=True):
        scores = probabilities(logits, "single_label")
        words: list[list[Word]] = [[] for _ in range(rows.texts)]
        bounds = rows.batch.offsets
        for i, owner in enumerate(rows.owners):
            part = scores[bounds[i] : bounds[i + 1]]
            words[owner] += group_words(part, names, rows.char_offsets[i], rows.word_ids[i])
        chunk = texts[len(found) : len(found) + rows.texts]
        found += [spans(text, group) for text, group in zip(chunk, words, strict=True)]
    return found
