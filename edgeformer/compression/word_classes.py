"""Classes of words that stand in like places: parts of speech, learned from plain texts.

    classes = learn_word_classes(texts, seed=0)
    classes.another("film", random.Random(0))            # perhaps "story"

Frequent words are clustered by the words that stand left and right of them (Schütze,
"Distributional Part-of-Speech Tagging", EACL 1995). A rarer word joins the class that most words of
its ending are in (endings as in Clark, "Combining Distributional and Morphological Information for
Part of Speech Induction", EACL 2003).
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_NUM_NEIGHBOURS = 150  # the commonest words, which say most of what is beside them
_MOST_CLUSTERED = 20_000
_MIN_COUNT = 5  # fewer places say little of a word
_LONGEST_ENDING = 4
_ITERATIONS = 20


@dataclass(frozen=True)
class WordClasses:
    """Words in classes, and how frequent they are.

    Attributes:
        class_of: number of each word's class.
        words: the words of each class.
        totals: for each class the running sums of its words' counts.
    """

    class_of: Mapping[str, int]
    words: tuple[tuple[str, ...], ...]
    totals: tuple[tuple[int, ...], ...]

    def another(self, word: str, chance: random.Random) -> str:
        """A word of the same class, as often as it occurs; ``word`` itself if it is unknown."""
        number = self.class_of.get(word)
        if number is None:
            return word
        return chance.choices(self.words[number], cum_weights=self.totals[number])[0]


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where the words of a text are: first character and the one after the last. A mark of
    punctuation is a word; hyphens and apostrophes inside a word belong to it."""
    return [match.span() for match in _WORD.finditer(text)]


def learn_word_classes(texts: Iterable[str], seed: int, count: int = 32) -> WordClasses:
    """Sort the words of ``texts`` into at most ``count`` classes.

    Args:
        texts: taken once; their words are held in memory.
        seed: of where the clusters start.
        count: most classes.
    """
    lines = [[text[start:end] for start, end in word_spans(text)] for text in texts]
    counts = Counter(word for line in lines for word in line)
    ranked = [word for word, _ in counts.most_common()]
    frequent = [w for w in ranked if counts[w] >= _MIN_COUNT][:_MOST_CLUSTERED] or ranked
    if not frequent:
        return WordClasses({}, (), ())
    vectors = _contexts(lines, frequent, ranked[:_NUM_NEIGHBOURS])
    generator = torch.Generator().manual_seed(seed)
    numbers = _clustered(vectors, min(count, len(frequent)), generator).tolist()
    class_of = dict(zip(frequent, numbers, strict=True))
    class_of |= _by_ending(class_of, [word for word in ranked if word not in class_of])
    members: list[list[str]] = [[] for _ in range(max(numbers) + 1)]
    for word in ranked:
        members[class_of[word]].append(word)
    totals = (tuple(accumulate(counts[word] for word in words)) for words in members)
    return WordClasses(class_of, tuple(map(tuple, members)), tuple(totals))


def _contexts(
    lines: Sequence[Sequence[str]], words: Sequence[str], neighbours: Sequence[str]
) -> torch.Tensor:
    """Float (words, 2 * features): the square root of the share of each neighbour, on the left and
    on the right, so that distances are Hellinger's. The first feature is the end of the text, the
    second all other words."""
    rows = {word: row for row, word in enumerate(words)}
    columns = {word: column for column, word in enumerate(neighbours, 2)}
    size = len(neighbours) + 2
    places = Counter(
        (rows[word], side * size + (0 if beside is None else columns.get(beside, 1)))
        for line in lines
        for word, *both in zip(line, [None, *line], [*line[1:], None], strict=False)
        if word in rows
        for side, beside in enumerate(both)
    )
    table = torch.zeros(len(words), 2 * size)
    for (row, column), times in places.items():
        table[row, column] = times
    return (table / table.sum(1, keepdim=True)).sqrt()


def _clustered(vectors: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Int64 (words,): k-means, started as k-means++ (Arthur and Vassilvitskii, SODA 2007)."""
    centers = vectors[torch.randint(len(vectors), (1,), generator=generator)]
    while len(centers) < count:
        far = torch.cdist(vectors, centers).min(1).values.square()
        if not far.any():
            break  # fewer different words than classes
        centers = torch.cat([centers, vectors[far.multinomial(1, generator=generator)]])
    for _ in range(_ITERATIONS):
        numbers = torch.cdist(vectors, centers).argmin(1)
        sums = torch.zeros_like(centers).index_add_(0, numbers, vectors)
        sizes = numbers.bincount(minlength=len(centers)).unsqueeze(1)
        centers = torch.where(sizes > 0, sums / sizes.clamp(min=1), centers)
    return numbers


def _by_ending(known: Mapping[str, int], words: Iterable[str]) -> dict[str, int]:
    """The class that most of the ``known`` words with the longest common ending are in."""
    votes: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for word, number in known.items():
        for form in _forms(word):
            votes[form][number] += 1
    everywhere = Counter(known.values()).most_common(1)[0][0]
    return {
        word: next(
            (votes[form].most_common(1)[0][0] for form in _forms(word) if form in votes),
            everywhere,
        )
        for word in words
    }


def _forms(word: str) -> Iterator[tuple[str, str]]:
    """What a word looks like, the most telling first: its kind and its last characters."""
    if word[0].isdigit():
        kind = "number"
    elif not word[0].isalpha():
        kind = "mark"
    else:
        kind = "name" if word[0].isupper() else "word"
    for length in range(min(_LONGEST_ENDING, len(word) - 1), -1, -1):
        yield kind, word[len(word) - length :].lower()
