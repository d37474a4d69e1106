"""How right the answers to questions are: exact match and F1 of words, as SQuAD counts them.

Rajpurkar et al., "SQuAD", arXiv 1606.05250, section 6.1, and arXiv 1806.03822 for questions that
have no answer. Equal to the official script of SQuAD 2.0. Standard library only.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalized(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and spare white space."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(answer: str, accepted: Sequence[str]) -> float:
    """1 if the answer is one of those accepted, once both are normalized.

    Args:
        answer: empty for "no answer".
        accepted: what people answered; none where the context holds no answer.
    """
    return float(normalized(answer) in [normalized(text) for text in _golden(accepted)])


def word_f1(answer: str, accepted: Sequence[str]) -> float:
    """F1 of the words that answer and an accepted one share, the best over those accepted."""
    return max(_f1(normalized(answer).split(), normalized(t).split()) for t in _golden(accepted))


def _golden(accepted: Sequence[str]) -> Sequence[str]:
    """Answers of punctuation and articles only do not count; none at all is "no answer"."""
    return [text for text in accepted if normalized(text)] or [""]


def _f1(answer: list[str], accepted: list[str]) -> float:
    if not answer or not accepted:
        return float(answer == accepted)
    shared = sum((Counter(answer) & Counter(accepted)).values())
    return 2 * shared / (len(answer) + len(accepted))
