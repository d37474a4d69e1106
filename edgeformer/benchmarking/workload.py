"""What one call of a benchmark is: texts of an exact length, or a bundle's own golden input.

The same texts go to every engine; they are made here from a few sentences of ours, so that two
reports of one model at one length measured the same work.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeformer.errors import EdgeFormerError, UsageError

if TYPE_CHECKING:
    from edgeformer.runtime.bundle import Bundle
    from edgeformer.runtime.tokenizer import Tokenizer

DEFAULT_TOKENS = 128
QUESTION_WORDS = 8
SENTENCES = (
    "The ferry leaves the harbour at seven and comes back before the tide turns.",
    "She wrote the measurements down twice, because the first notebook had been left in the rain.",
    "Nobody in the village remembered who had planted the three pear trees behind the school.",
    "A small battery can keep the sensor awake for about four months if it reports once an hour.",
    "The second half of the concert was louder, faster and, to my ear, much less interesting.",
    "Please send the invoice again; the amount on the last page does not match the order.",
    "When the lights went out, the shopkeeper lit a candle and kept counting the coins.",
    "Most of the visitors came for the view, but they stayed for the soup and the stories.",
)


@dataclass(frozen=True)
class Workload:
    """What one call was.

    Attributes:
        kind: ``text`` (the task's verb on texts) or ``arrays`` (``run`` on a golden input).
        texts: the texts of one call; empty for ``arrays``.
        batch: texts, or rows, of one call.
        tokens: of the longest text, special tokens included; 0 for ``arrays``.
    """

    kind: str
    texts: tuple[str, ...]
    batch: int
    tokens: int


def make_workload(
    bundle: "Bundle", text: str | None, tokens: int | None, batch: int | None
) -> Workload:
    """The texts of one call, or ``arrays`` for a bundle that cannot tokenize here.

    Raises:
        UsageError: a text, a length or a batch that the model cannot take.
    """
    from edgeformer.runtime.loading import load_bundle_tokenizer

    manifest = bundle.manifest
    bundle.check([name for name in (manifest.golden, manifest.tokenizer) if name])
    tokenizer = load_bundle_tokenizer(bundle)
    if tokenizer is None or isinstance(tokenizer, EdgeFormerError):
        if (text, tokens, batch) != (None, None, None):
            raise UsageError(
                "this bundle cannot tokenize here: its golden input is measured as it is",
                hint="leave out --text, --tokens and --batch",
            )
        return Workload("arrays", (), _golden_rows(bundle), 0)
    batch, longest = batch or 1, manifest.model.max_length
    if text is not None:
        return Workload("text", (text,) * batch, batch, min(len(tokenizer.encode(text)), longest))
    wanted = min(DEFAULT_TOKENS, longest) if tokens is None else tokens
    added = _added_tokens(bundle, tokenizer)
    least = least_tokens(bundle, tokenizer)
    if not least <= wanted <= longest:
        raise UsageError(f"--tokens {wanted} is outside {least} to {longest}, what the model takes")
    texts = tuple(text_of_length(tokenizer, wanted - added, start) for start in range(batch))
    longest = max(len(tokenizer.encode(text)) for text in texts) + added
    mask = manifest.model.mask_token
    if mask:
        texts = tuple(f"{text} {mask}" for text in texts)
    return Workload("text", texts, batch, longest)


def least_tokens(bundle: "Bundle", tokenizer: "Tokenizer") -> int:
    """Tokens of the shortest call: one word, and what the template and the task add."""
    return tokenizer.num_special_tokens() + 1 + _added_tokens(bundle, tokenizer)


def _added_tokens(bundle: "Bundle", tokenizer: "Tokenizer") -> int:
    """What the task adds to a text: a mask, or the special tokens between question and context."""
    if bundle.manifest.model.task == "question-answering":
        return tokenizer.num_special_tokens(pair=True) - tokenizer.num_special_tokens()
    return 1 if bundle.manifest.model.mask_token else 0


def question_and_context(text: str) -> tuple[str, str]:
    """A text as a question, its first words, and a context, the others."""
    words = text.split(" ")
    size = min(QUESTION_WORDS, max(1, len(words) // 2))
    return " ".join(words[:size]), " ".join(words[size:])


def _golden_rows(bundle: "Bundle") -> int:
    """Rows of the first golden input; 1 where its first dimension is not the batch."""
    from edgeformer.runtime.golden import parse_golden

    case = parse_golden(bundle.read(bundle.manifest.golden))[0]
    ports = bundle.manifest.variants[0].programs["main"].inputs
    rows = [
        len(case.inputs[p.name])
        for p in ports
        if p.shape[:1] == ("batch",) and p.name in case.inputs
    ]
    return rows[0] if rows else 1


def text_of_length(tokenizer: "Tokenizer", tokens: int, start: int = 0) -> str:
    """Sentences from the ``start``-th on, cut after the last word that still fits ``tokens``.

    The gap that is left where the next word needs several tokens is filled with short words; a
    vocabulary without them gives a slightly shorter text.
    """
    first = start % len(SENTENCES)
    words = " ".join(SENTENCES[first:] + SENTENCES[:first]).split()
    words *= 1 + tokens // len(words)
    low, high = 0, len(words)  # low words fit
    while low < high:
        middle = (low + high + 1) // 2
        fits = len(tokenizer.encode(" ".join(words[:middle]))) <= tokens
        low, high = (middle, high) if fits else (low, middle - 1)
    text = " ".join(words[:low])
    length = len(tokenizer.encode(text))
    while length < tokens:
        longer = f"{text} a".strip()
        grown = len(tokenizer.encode(longer))
        if not length < grown <= tokens:
            break
        text, length = longer, grown
    return text
