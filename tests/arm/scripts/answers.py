"""On the board: every text alone and all in one batch (a module without texts: seeded arrays)."""

import json
import sys

import numpy as np

from edgeformer.runtime import Model, load


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
with load(request["bundle"], engine=request["variant"], threads=1) as model:
    if model.manifest.tokenizer:
        alone = [numbers(model, [text])[0] for text in request["texts"]]
        found = {"alone": np.array(alone), "batch": numbers(model, request["texts"])}
    else:
        found = outputs(model)
np.savez(request["output"], **found)
sys.stdout.write("{}")
