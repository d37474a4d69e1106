"""EdgeBERT's predictor of later entropies from the first, as a table.

Tambe et al., "EdgeBERT", arXiv 2011.14203, section IV; its release: a network of 1 -> 64 (four
times) -> later exits, ReLU, mean squared error, Adam, tabulated at steps of 0.01 and cut at 0. The
release trains 3 epochs on a whole training split; here there are some hundred texts, so it trains
for a fixed number of steps on all of them.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeformer.runtime.exiting import Lookup, entropy

ROWS = 100
_WIDTH, _HIDDEN_LAYERS = 64, 4
_STEPS = 1500
_LEARNING_RATE = 1e-3


def fit_predictor(logits: NDArray[np.float32]) -> Lookup:
    """A table from the answers of all exits to some texts.

    Args:
        logits: (segments, texts, classes), three segments at least.

    Returns:
        rows for entropies 0, 0.01, ..., 0.99; of more than two classes in wider steps, up to the
        largest entropy there is.
    """
    entropies = torch.from_numpy(entropy(logits[:-1]).astype(np.float32))
    first, later = entropies[:1].T, entropies[1:].T
    model = _train(first, later)
    step = max(1 / ROWS, math.log(logits.shape[2]) / (ROWS - 1))
    with torch.inference_mode():
        grid = torch.arange(ROWS, dtype=torch.float32)[:, None] * step
        rows = model(grid).clamp(min=0.0).numpy().astype(np.float64)
    return Lookup(step, np.round(rows, 6))


def _train(first: torch.Tensor, later: torch.Tensor) -> nn.Module:
    """A network from (texts, 1) to (texts, later exits)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        width = 1
        for _ in range(_HIDDEN_LAYERS):
            layers += [nn.Linear(width, _WIDTH), nn.ReLU()]
            width = _WIDTH
        model = nn.Sequential(*layers, nn.Linear(width, later.shape[1]))
    optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(first), later)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()
