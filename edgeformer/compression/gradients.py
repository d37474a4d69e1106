"""Scores that go back through the model: what the loss would lose with a unit, to first order.

None of them writes ``.grad``, and frozen weights are scored like others.
"""

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from edgeformer.compression.batches import Batch, Loss, answer
from edgeformer.compression.gating import gated
from edgeformer.compression.units import (
    Values,
    encoder_of,
    parameter_names,
    places,
    unit_counts,
    unit_sums,
)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, and the mode of each module as it was afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def gate_taylor(
    model: nn.Module, kind: str, batches: Iterable[Batch], loss: Loss, per_example: bool = True
) -> Values:
    """The mean of |dL/dg| over examples or batches, for a gate g = 1 on each unit.

    Michel et al., arXiv 1905.10650, equation 2. An example's own loss L is taken to be its
    share of the batch's times the number of examples, which is exact for a loss that is a mean
    over examples; for a mean over tokens, examples with more of them count more.

    Args:
        model: of edgeformer.models.
        kind: of units.
        batches: at least one.
        loss: a mean over the examples of a batch.
        per_example: absolute values of each example; False for those of each batch, where examples
            of opposite sign cancel out.

    Returns:
        float32, one number for each unit.
    """
    like = next(model.parameters())
    counts = unit_counts(model, kind)
    totals = [like.new_zeros(count, dtype=torch.float32) for count in counts]
    seen = 0
    for batch in batches:
        rows = len(next(iter(batch.values()))) if per_example else 1
        gates = tuple(like.new_ones(rows, count).requires_grad_() for count in counts)
        given = gates if per_example else tuple(gate[0] for gate in gates)
        with torch.enable_grad(), gated(model, {kind: given}):
            value = loss(answer(model, batch), batch)
        gradients = torch.autograd.grad(value, gates)
        for total, gradient in zip(totals, gradients, strict=True):
            total += gradient.float().abs().sum(0) * rows
        seen += rows
    return tuple(total / seen for total in totals)


def movement(model: nn.Module, kind: str, batches: Iterable[Batch], loss: Loss) -> Values:
    """The sum of -w * dL/dw over the unit's weights and over batches.

    Positive where training moves the weights away from zero. Sanh et al., "Movement Pruning",
    arXiv 2005.07683, sum this up while the weights train; here they stay as they are.
    """
    totals: Values | None = None
    names = parameter_names(model, kind)
    for products in _weights_by_gradients(model, names, batches, loss):
        sums = unit_sums(model, kind, {name: -product for name, product in products.items()})
        totals = sums if totals is None else _added(totals, sums)
    return totals or ()


def neuron_taylor(
    model: nn.Module, batches: Iterable[Batch], loss: Loss, outgoing: bool = False
) -> Values:
    """The mean over batches of |sum of w * dL/dw + b * dL/db| of what goes into a neuron.

    FastFormers (Kim and Awadalla, arXiv 2010.13382).

    Args:
        model: of edgeformer.models.
        batches: at least one.
        loss: of a batch.
        outgoing: add |sum of w * dL/dw| of what comes out of the neuron, as DynaBERT does (Hou et
            al., arXiv 2004.04037, section 2.1).

    Returns:
        float32, one number for each neuron.
    """
    slices = [part for place in places(model, "neurons") for part in place.slices]
    incoming = {part.name for part in slices if part.axis == 0}
    totals: Values | None = None
    count = 0
    names = parameter_names(model, "neurons")
    for products in _weights_by_gradients(model, names, batches, loss):
        sides = [{name: value for name, value in products.items() if name in incoming}]
        if outgoing:
            sides.append({name: value for name, value in products.items() if name not in incoming})
        for side in sides:
            sums = tuple(values.abs() for values in unit_sums(model, "neurons", side))
            totals = sums if totals is None else _added(totals, sums)
        count += 1
    return tuple(total / count for total in totals or ())


def _added(totals: Values, sums: Values) -> Values:
    return tuple(total + values for total, values in zip(totals, sums, strict=True))


def _weights_by_gradients(
    model: nn.Module, names: Container[str], batches: Iterable[Batch], loss: Loss
) -> Iterator[dict[str, torch.Tensor]]:
    """For each batch, each named parameter of the encoder times the loss's gradient by it."""
    parameters = {
        name: tensor for name, tensor in encoder_of(model).named_parameters() if name in names
    }
    with _trainable(parameters.values()):
        for batch in batches:
            with torch.enable_grad():
                value = loss(answer(model, batch), batch)
            gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
            yield {
                name: parameter.detach() * gradient
                for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
                if gradient is not None
            }


@contextmanager
def _trainable(parameters: Iterable[torch.Tensor]) -> Iterator[None]:
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
