"""On the board: every text alone, the first in a batch (a module without texts: seeded arrays)."""

import json
import sys

import numpy as np

from edgeformer.runtime import Model, load

BATCH = 10


def numbers(model: Model, texts: list[str]) -> np.ndarray:
    """Embeddings, or the score of every label."""
    if model.manifest.model.task == "embedding":
        return model.embed(texts)
    labels = model.manifest.model.labels
    rows = []
    for scored in model.classify(texts, top_k=len(labels)):
        by_name = {label.name: label.score for label in scored}
        rows.append([by_name[name] for name in labels])
    return np.array(rows, np.float32)


def outputs(model: Model) -> dict[str, np.ndarray]:
    """Of a plain module: on arrays of its own shapes, the first dimension 3 if it is the batch."""
    random = np.random.default_rng(0)
    inputs = {}
    for port in model.variant.programs["main"].inputs:
        shape = [3 if size == "batch" else size for size in port.shape]
        inputs[port.name] = random.standard_normal(shape).astype(port.dtype)
    return model.run(**inputs)


request = json.load(sys.stdin)
for variant, texts, output in request["questions"]:
    sys.stderr.write(f"{variant}\n")  # the last one is the one that died, should it die
    with load(request["bundle"], engine=variant, threads=1) as model:
        if model.manifest.tokenizer:
            alone = np.array([numbers(model, [text])[0] for text in texts])
            found = {"alone": alone, "batch": numbers(model, texts[:BATCH])}
        else:
            found = outputs(model)
    np.savez(output, **found)
sys.stdout.write("{}")
