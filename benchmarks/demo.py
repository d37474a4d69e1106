"""What `make demo` shows after converting: the same question answered by every engine."""

import sys
from pathlib import Path

from edgeformer.errors import EngineError
from edgeformer.runtime import load
from edgeformer.runtime.bundle import open_bundle

QUESTION = "How do I get water out of my phone?"
ANSWERS = (
    "Switch it off and let it dry for two days.",
    "The river rises in the mountains.",
    "A phone call costs nine cents a minute.",
)


def main(path: Path) -> None:
    """Rank three sentences by similarity to a question on each engine of the bundle."""
    with open_bundle(path) as bundle:
        variants = [variant.id for variant in bundle.manifest.variants]
    print(f"\n{QUESTION}")
    for name in variants:
        try:
            with load(path, engine=name) as model:
                vectors = model.embed([QUESTION, *ANSWERS])
        except EngineError as error:
            print(f"  {name}: {error}")
            continue
        scores = vectors[1:] @ vectors[0]
        print(f"  {name}:")
        for i in scores.argsort()[::-1]:
            print(f"    {scores[i]:+.3f}  {ANSWERS[i]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
