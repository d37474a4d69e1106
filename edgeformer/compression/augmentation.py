"""More texts from those that there are, for a teacher to label.

    classes = learn_word_classes(examples.texts, seed=0)
    rewriter = tang_rewriter(TangSettings(), "[MASK]", classes)
    for example in augmented(examples.rows, rewriter, copies=20, seed=0): ...

    rewriter = replacing_rewriter(masked_lm_candidates(language_model))
    for example in augmented(examples.rows, rewriter, copies=30, seed=0): ...

Two papers, two rewriters: Tang et al., arXiv 1903.12136, section 3.3, mask and swap words and keep
parts of texts; Jiao et al., "TinyBERT", arXiv 1909.10351, algorithm 1, put words in the place of
others that a language model finds likely there. A rewritten text keeps the label of its source,
which it may contradict: train on what a teacher says of it. Words are what spaces and punctuation
part, so scripts without spaces are not served.
"""

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from edgeformer.compression.examples import Example
from edgeformer.compression.word_classes import WordClasses, word_spans
from edgeformer.errors import UsageError

Words = list[str | None]
"""A text's words, None for one that is left out; what is left stands together."""
Rewrite = Callable[[random.Random], Words]
Rewriter = Callable[[Sequence[str]], Rewrite]
"""Takes the words of a text, once, to a function that rewrites them, a new way each time."""
Candidates = Callable[[Sequence[str], Sequence[int]], Sequence[Sequence[str]]]
"""Takes the words of a text and the places of some of them to what could stand in each place."""

# The release of Tang et al. rewrites both texts of a pair a third of the time, else one of them.
_SIDES_OF_PAIRS = ((0, 1), (0,), (1,))


@dataclass(frozen=True)
class TangSettings:
    """Probabilities of Tang et al., section 3.3 and 4.3.

    Attributes:
        mask: of each word, to be masked.
        swap: of each word, to give way to another one of its class.
        ngram: of a text, to be cut to some words in a row.
        longest: most words of such a part.

    Raises:
        UsageError: numbers that are no probabilities.
    """

    mask: float = 0.1
    swap: float = 0.1
    ngram: float = 0.25
    longest: int = 5

    def __post_init__(self) -> None:
        if min(self.mask, self.swap, self.ngram) < 0 or max(self.mask + self.swap, self.ngram) > 1:
            raise UsageError(f"rewriting needs probabilities: {self}")
        if self.longest < 1:
            raise UsageError(f"a part of a text has at least one word, not {self.longest}")


def augmented(
    examples: Iterable[Example], rewriter: Rewriter, copies: int, seed: int
) -> Iterator[Example]:
    """Each example, and after it up to ``copies`` rewritten ones, made as they are asked for.

    What an example becomes depends on the seed and on its number alone. A copy that equals the
    example, or one before it, is left out. Of a pair one text is rewritten, or both.
    """
    for number, example in enumerate(examples):
        yield example
        chance = random.Random(f"{seed} {number}")
        texts = [text for text in (example.text, example.pair) if text is not None]
        rewriting = [_rewriting(text, rewriter) for text in texts]
        seen = {tuple(text.strip() for text in texts)}
        for _ in range(copies):
            changed = chance.choice(_SIDES_OF_PAIRS) if len(texts) == 2 else (0,)
            new = tuple(
                rewriting[i](chance) if i in changed else text.strip()
                for i, text in enumerate(texts)
            )
            if new not in seen:
                seen.add(new)
                yield replace(example, text=new[0], pair=new[1] if len(new) == 2 else None)


def tang_rewriter(settings: TangSettings, mask_token: str, classes: WordClasses | None) -> Rewriter:
    """Mask words, swap them for others of their class, keep a part (Tang et al., section 3.3).

    The paper swaps a word for one of the same part of speech, drawn by its frequency. Without a
    tagger, classes that are learned from the texts stand for parts of speech.

    Args:
        settings: how often.
        mask_token: the tokenizer's, such as [MASK].
        classes: of words; None swaps none.
    """

    def masked_or_swapped(word: str, chance: random.Random) -> str:
        roll = chance.random()
        if roll < settings.mask:
            return mask_token
        if roll < settings.mask + settings.swap and classes is not None:
            return classes.another(word, chance)
        return word

    def rewriter(words: Sequence[str]) -> Rewrite:
        def rewrite(chance: random.Random) -> Words:
            new: Words = [masked_or_swapped(word, chance) for word in words]
            if chance.random() < settings.ngram:
                length = min(chance.randint(1, settings.longest), len(new))
                first = chance.randint(0, len(new) - length)
                new = [w if first <= i < first + length else None for i, w in enumerate(new)]
            nothing_left = all(word in (mask_token, None) for word in new)
            return list(words) if nothing_left else new

        return rewrite

    return rewriter


def replacing_rewriter(
    candidates: Candidates, probability: float = 0.4, fixed: Collection[str] = ()
) -> Rewriter:
    """Put other words in the place of some (Jiao et al., algorithm 1).

    Args:
        candidates: what could stand in the place of a word (candidates.py); asked once a text.
        probability: of each word, to be replaced.
        fixed: words in lower case that are never replaced; the release spares function words.

    Raises:
        UsageError: not a probability.
    """
    if not 0 <= probability <= 1:
        raise UsageError(f"replacing needs a probability, not {probability}")

    def rewriter(words: Sequence[str]) -> Rewrite:
        places = [i for i, w in enumerate(words) if w.isalpha() and w.lower() not in fixed]
        choices = dict(zip(places, candidates(words, places), strict=True)) if places else {}

        def rewrite(chance: random.Random) -> Words:
            new: Words = list(words)
            for place, others in choices.items():
                if others and chance.random() < probability:
                    new[place] = chance.choice(others)
            return new

        return rewrite

    return rewriter


def _rewriting(text: str, rewriter: Rewriter) -> Callable[[random.Random], str]:
    """What rewrites ``text``, and leaves what stands between its words as it is."""
    spans = word_spans(text)
    rewrite = rewriter([text[start:end] for start, end in spans])
    gaps = [text[end:start] for (_, end), (start, _) in pairwise(spans)]

    def rewritten(chance: random.Random) -> str:
        words = rewrite(chance)
        kept = [i for i, word in enumerate(words) if word is not None]
        spelled = [f"{words[i]}{gaps[i]}" for i in kept[:-1]]
        return "".join(spelled) + str(words[kept[-1]])

    return rewritten if spans else lambda _: text.strip()
