"""Runs on an emulated board: marks what benchmarks/arm_instructions.py counts.

    python guest_count.py BUNDLE VARIANT TOKENS:TEXTS...

For so many texts of each length in TOKENS, an engine that has run that length before is marked
when it

- answers to the token ids (``token-ids``): what the engine does, without the tokenizer;
- answers to the text, none of whose words the tokenizer has met (``new-words``);
- answers to the text again, its words being in the tokenizer's cache (``known-words``).

Prints JSON: what each tag means, and the versions that the counts depend on.
"""

import ctypes
import gc
import importlib.metadata
import json
import platform
import sys
from collections.abc import Callable
from functools import partial

import numpy as np

from edgeformer.runtime import Model, load
from edgeformer.runtime.blas import identify_blas
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.engine import open_engine
from edgeformer.runtime.loading import load_bundle_tokenizer
from edgeformer.runtime.text import encode_texts
from edgeformer.runtime.tokenizer import WordPieceTokenizer

# By number of tokens, special ones included. No word is in two of them.
TEXTS = {
    16: (
        "An unseasonable snowfall closed every mountain road well before noon.",
        "Grandmother baked cinnamon rolls yesterday, using some butter my neighbours churned.",
        "Our orchestra rehearsed Shostakovich until midnight, despite storms.",
    ),
    64: (
        "After weeks without showers, farmers along that river worry about their harvest; wells"
        " run dry, cattle grow thin, dust covers windows, children carry water home from springs"
        " two miles away, while engineers promise new pumps by autumn. Nobody believes them, since"
        " last winter another pledge ended with only one pipe, unpaid bills.",
    ),
}
# What the tokenizer reads before, so that it has met every letter and common mark.
OTHER_TEXT = 'Sphinx of black quartz, judge this vow: "done"; isn\'t it? (yes) - oh!'
INPUTS = ("token-ids", "known-words", "new-words")
NOTHING = (0, "nothing")  # what the marks themselves cost

_MARK = 0x45644765  # instructions.c
_PACKAGES = ("numpy", "onnxruntime", "ai-edge-litert")

Label = tuple[int, str]


class Marks:
    """Marks calls, and remembers what the tags mean."""

    def __init__(self) -> None:
        self.labels: list[Label] = []
        self._getpriority = ctypes.CDLL(None).getpriority

    def around(self, label: Label, work: Callable[[], object]) -> None:
        """Mark one call of ``work``; the tag is the number of the label."""
        self.labels.append(label)
        tag = len(self.labels)
        self._getpriority(_MARK, 0)
        work()
        self._getpriority(_MARK, tag)


def main(path: str, variant: str, texts: dict[int, tuple[str, ...]]) -> None:
    """Mark, and print.

    Args:
        path: of the bundle.
        variant: id of one of its model files.
        texts: by number of tokens.
    """
    marks = Marks()
    # A collection belongs to no single call, and what else is alive would change its cost.
    gc.disable()
    for _ in range(3):
        marks.around(NOTHING, partial(int))
    mark_engine(path, variant, texts, marks)
    with load(path, engine=variant, threads=1) as model:
        model.tokenizer.encode(OTHER_TEXT)
        for tokens, some in texts.items():
            mark_texts(model, tokens, some, marks)
    print(json.dumps({"labels": marks.labels, "versions": versions()}))


def mark_engine(path: str, variant: str, texts: dict[int, tuple[str, ...]], marks: Marks) -> None:
    """Token ids in, answers out, by the engine alone."""
    with open_bundle(path) as bundle:
        engine = open_engine(bundle, bundle.manifest.variant(variant), threads=1)
        tokenizer = load_bundle_tokenizer(bundle)
        assert isinstance(tokenizer, WordPieceTokenizer)
        for tokens, some in texts.items():
            batches = [
                encode_texts(tokenizer, [text], None, tokens, "error").batch for text in some
            ]
            if any(len(batch.ids) != tokens for batch in batches):
                sys.exit(f"not every one of these texts has {tokens} tokens: {some}")
            engine.encode(batches[0])  # prepares this length
            for batch in batches:
                marks.around((tokens, "token-ids"), partial(engine.encode, batch))
        engine.close()


def mark_texts(model: Model, tokens: int, texts: tuple[str, ...], marks: Marks) -> None:
    """Text in, answers out; every text twice."""
    model.run(input_ids=np.ones((1, tokens), np.int64))  # prepares this length
    for text in texts:
        embed = partial(model.embed, text)
        marks.around((tokens, "new-words"), embed)
        marks.around((tokens, "known-words"), embed)


def versions() -> dict[str, str]:
    """What runs here: Python, the packages and the BLAS."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["numpy"] = np.__version__  # Debian's has no metadata where a wheel shadows it
    blas = identify_blas()
    found["blas"] = blas.version or blas.name
    return found


if __name__ == "__main__":
    counted = (argument.split(":") for argument in sys.argv[3:])
    main(sys.argv[1], sys.argv[2], {int(n): TEXTS[int(n)][: int(count)] for n, count in counted})
