"""How much each unit of a model matters, by one of several methods. More is better to keep.

    scores = score(model, "heads", "gate_taylor", batches, loss)
    small = slim(model, {"heads": keep_best(scores, fraction=0.5)})

``magnitude`` and ``random`` look at no data. ``cosine`` runs the model, the others also go back
through it. What each of them computes stands at its function, here or in gradients.py.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from edgeformer.compression.batches import Batch, Loss, answer, real_tokens
from edgeformer.compression.gradients import evaluating, gate_taylor, movement, neuron_taylor
from edgeformer.compression.layer_hooks import after_each_layer
from edgeformer.compression.rebuilding import check_plain
from edgeformer.compression.units import (
    UNIT_KINDS,
    Values,
    encoder_of,
    places,
    unit_counts,
    unit_sums,
)
from edgeformer.errors import ModelError, UsageError

METHODS: dict[str, tuple[str, ...]] = {
    "magnitude": UNIT_KINDS,
    "movement": UNIT_KINDS,
    "gate_taylor": UNIT_KINDS,
    "neuron_taylor": ("neurons",),
    "neuron_taylor_both": ("neurons",),
    "cosine": ("layers",),
    "random": UNIT_KINDS,
}
"""For each method the kinds of units that it can score."""


def score(
    model: nn.Module,
    kind: str,
    method: str,
    batches: Iterable[Batch] = (),
    loss: Loss | None = None,
    generator: torch.Generator | None = None,
    *,
    per_example: bool = True,
) -> Values:
    """Score each unit of a kind.

    The model runs in eval mode and is left as it was; no ``.grad`` is written.

    Args:
        model: of edgeformer.models.
        kind: of ``UNIT_KINDS``.
        method: of ``METHODS``. ``neuron_taylor`` looks at what goes into a neuron,
            ``neuron_taylor_both`` also at what comes out of it.
        batches: what to run the model on; not for ``magnitude`` and ``random``.
        loss: what to go back from; for all methods with gradients.
        generator: for ``random``; None for one with seed 0.
        per_example: for ``gate_taylor``: the absolute value is taken of each example, not of each
            batch.

    Returns:
        float32, one number for each unit.

    Raises:
        UsageError: an unknown method or kind, a method that is not for that kind, no batches or no
            loss where the method needs them, weights that are still masked.
        ModelError: the model has no units of that kind, or scores that are not finite.
    """
    _check(model, kind, method)
    if method == "random":
        return random_scores(model, kind, generator)
    if method == "magnitude":
        return magnitude(model, kind)
    batches = _some(batches, method)
    with evaluating(model):
        if method == "cosine":
            scores = cosine_distance(model, batches)
        elif loss is None:
            raise UsageError(f"scores by {method} need a loss")
        elif method == "gate_taylor":
            scores = gate_taylor(model, kind, batches, loss, per_example)
        elif method == "movement":
            scores = movement(model, kind, batches, loss)
        else:
            scores = neuron_taylor(model, batches, loss, outgoing=method == "neuron_taylor_both")
    if not all(bool(values.isfinite().all()) for values in scores):
        raise ModelError(
            f"scores of {kind} by {method} are not finite: the loss or a weight is not either",
            hint="look for a learning rate that is too large, or for labels outside the classes",
        )
    return scores


def _check(model: nn.Module, kind: str, method: str) -> None:
    if method not in METHODS:
        raise UsageError(f"no score {method!r}", hint=f"choose from: {', '.join(METHODS)}")
    places(model, kind)
    if kind not in METHODS[method]:
        raise UsageError(f"{method} scores {', '.join(METHODS[method])}, not {kind}")
    check_plain(model)


def _some(batches: Iterable[Batch], method: str) -> Iterable[Batch]:
    """The batches, at least one of them."""
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise UsageError(f"scores by {method} need batches to run the model on, and there are none")
    yield first
    yield from iterator


def random_scores(model: nn.Module, kind: str, generator: torch.Generator | None = None) -> Values:
    """Uniform numbers: the control that every other method has to beat."""
    chosen = generator or torch.Generator().manual_seed(0)
    return tuple(torch.rand(count, generator=chosen) for count in unit_counts(model, kind))


def magnitude(model: nn.Module, kind: str) -> Values:
    """The Euclidean norm of all weights and biases that go with the unit."""
    parameters = encoder_of(model).named_parameters()
    squares = {name: tensor.detach().float().square() for name, tensor in parameters}
    return tuple(values.sqrt() for values in unit_sums(model, kind, squares))


def cosine_distance(model: nn.Module, batches: Iterable[Batch]) -> Values:
    """1 - the mean cosine of a layer's input and output over all real tokens.

    A layer that hardly turns its input contributes little (Sajjad et al., arXiv 2004.03844,
    section 3, contribution-based dropping).

    Returns:
        float32 (layers,), by position.
    """
    encoder = encoder_of(model)
    totals = torch.zeros(encoder.config.num_layers)
    tokens = 0
    for batch in batches:
        cosines: list[torch.Tensor] = []

        def note(
            position: int,
            before: torch.Tensor,
            after: torch.Tensor,
            batch: Batch = batch,
            cosines: list[torch.Tensor] = cosines,
        ) -> None:
            cosines.append(F.cosine_similarity(before, after, dim=-1)[real_tokens(batch, after)])

        with after_each_layer(encoder, note), torch.no_grad():
            answer(model, batch)
        totals += torch.stack([values.sum() for values in cosines]).cpu()
        tokens += len(cosines[0])
    return (1 - totals / tokens,)
