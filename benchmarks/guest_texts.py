"""Runs on an emulated board for benchmarks/small_on_arm.py: marks the answer to each text.

    python guest_texts.py BUNDLE VARIANT TEXTS.json

Every text is answered once before, unmarked: what an engine prepares for a length is not counted.
Prints JSON: the number of tokens of each text, and the versions that the counts depend on.
"""

import ctypes
import gc
import json
import sys
from pathlib import Path

from edgeformer.runtime import load
from edgeformer.runtime.engine import installed_versions

_MARK = 0x45644765


def main(path: str, variant: str, texts: list[str]) -> None:
    """Mark, and print.

    Args:
        path: of the bundle of a classifier.
        variant: id of one of its model files.
        texts: as they come.
    """
    getpriority = ctypes.CDLL(None).getpriority
    gc.disable()  # a collection belongs to no single call
    with load(path, engine=variant, threads=1) as model:
        lengths = [len(model.tokenizer.encode(text)) for text in texts]
        for text in texts:
            model.classify(text)
        for tag, text in enumerate(texts, 1):
            getpriority(_MARK, 0)
            model.classify(text)
            getpriority(_MARK, tag)
    print(json.dumps({"tokens": lengths, "versions": installed_versions()}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text(encoding="utf-8")))
