"""Masks on single weights while a model trains: what is masked counts as zero.

    add_masks(model.encoder.layers, "magnitude")     # before the optimiser is made
    set_sparsity(model.encoder.layers, schedule(step))
    ...
    bake(model)                                      # plain weights again, zeros where masked

Every matrix, the ``weight`` of each Linear and Embedding below the module that is given, has a mask
and a sparsity of its own; biases and norms have none. To leave out position and type tables, give
``encoder.embeddings.tokens``, not ``encoder.embeddings``.

- ``magnitude``: the lowest |w| are masked, chosen anew by each ``set_sparsity`` and kept until the
  next. A masked weight gets no gradient (Gordon et al., arXiv 2002.08307).
- ``movement``: each weight has a trained score, and those with the lowest are masked, at any
  moment. The gradient goes straight through the choice: dL/dscore = dL/dweight * weight, for the
  masked ones too. Scores want a learning rate of their own, about 1e-2 (Sanh et al., arXiv
  2005.07683). Layers that share weights choose once for all if the training step is made inside
  ``torch.nn.utils.parametrize.cached()``.
- ``fixed``: the weights that are zero now stay zero, whatever the optimiser does: fine-tuning of a
  model that was pruned before.
"""

import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils import parametrize

from edgeformer.errors import UsageError

MASK_METHODS = ("magnitude", "movement", "fixed")
SMALLEST_SHARE = 0.005
"""Of each matrix at least this share stays, whatever the target."""


class StoredMask(nn.Module):
    """A mask that stays until it is chosen anew."""

    mask: torch.Tensor

    def __init__(self, mask: torch.Tensor, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed
        self.register_buffer("mask", mask)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight, 0 where it is masked; any shape."""
        return torch.where(self.mask, weight, 0.0)

    def keep(self, weight: torch.Tensor, count: int) -> None:
        """Choose the ``count`` weights that are not masked."""
        if self.fixed:
            raise UsageError(
                "the masks of this module are fixed, so its sparsity is what it is",
                hint="bake(module), then add masks of another method",
            )
        self.mask.copy_(_largest(weight.abs(), count))


class MovementMask(nn.Module):
    """A mask that follows trained scores, one for each weight."""

    count: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros_like(weight))
        self.register_buffer("count", torch.tensor(weight.numel()))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight, 0 where it is masked; any shape."""
        # The last term is 0. It is there for its gradient by the scores.
        straight_through = weight.detach() * (self.scores - self.scores.detach())
        return torch.where(self._mask(), weight, 0.0) + straight_through

    def keep(self, weight: torch.Tensor, count: int) -> None:
        """Set how many weights are not masked from now on."""
        self.count.fill_(count)

    def _mask(self) -> torch.Tensor:
        return _largest(self.scores.detach(), int(self.count))


def add_masks(module: nn.Module, method: str) -> tuple[str, ...]:
    """Put a mask, of nothing yet, on each matrix below a module.

    Add them before the optimiser is made: ``movement`` has parameters of its own, which end in
    ``.scores``. ``state_dict`` holds masks and scores while they are there.

    Args:
        module: a model or a part of one.
        method: of ``MASK_METHODS``.

    Returns:
        The names of the modules whose weight has a mask.

    Raises:
        UsageError: no such method, no matrix, or one that has a mask already.
    """
    if method not in MASK_METHODS:
        raise UsageError(f"no mask {method!r}", hint=f"choose from: {', '.join(MASK_METHODS)}")
    found = list(_matrices(module))
    if not found:
        raise UsageError(f"a {type(module).__name__} holds no matrix that could have a mask")
    for name, matrix in found:
        if parametrize.is_parametrized(matrix):
            raise UsageError(f"the weight of {name} has a mask already", hint="bake(module) first")
    for _, matrix in found:
        weight = matrix.weight.detach()
        mask: nn.Module
        if method == "movement":
            mask = MovementMask(weight)
        else:
            everything = torch.ones_like(weight, dtype=torch.bool)
            fixed = method == "fixed"
            mask = StoredMask(weight != 0 if fixed else everything, fixed)
        parametrize.register_parametrization(matrix, "weight", mask)
    return tuple(name for name, _ in found)


def set_sparsity(module: nn.Module, share: float) -> None:
    """Mask this share of each matrix below a module that has a mask.

    Args:
        module: a model or a part of one.
        share: from 0 to 1; at least ``SMALLEST_SHARE`` of a matrix stays.

    Raises:
        UsageError: a share outside 0 to 1, no masks, or fixed ones.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"a sparsity is from 0 to 1, not {share}")
    masked = list(_masked(module))
    if not masked:
        raise UsageError("nothing below this module has a mask", hint="call add_masks first")
    for matrix, mask in masked:
        original = matrix.get_parameter("parametrizations.weight.original").detach()
        mask.keep(original, kept_weights(original.numel(), share))


def kept_weights(size: int, share: float) -> int:
    """How many of ``size`` weights stay at the sparsity ``share``."""
    return max(math.floor(size * (1 - share) + 0.5), math.ceil(size * SMALLEST_SHARE))


def masked_weights(module: nn.Module) -> int:
    """How many weights below a module have a mask, masked or not."""
    originals = "parametrizations.weight.original"
    return sum(matrix.get_parameter(originals).numel() for matrix, _ in _masked(module))


def bake(module: nn.Module) -> None:
    """Take the masks off below a module; masked weights become zeros. Without masks, nothing."""
    for matrix, _ in list(_masked(module)):
        parametrize.remove_parametrizations(matrix, "weight", leave_parametrized=True)
        if isinstance(matrix, nn.Linear):
            # Back to the order in which a Linear that never had a mask lists its parameters.
            bias = matrix.bias
            del matrix.bias
            matrix.register_parameter("bias", bias)


def sparsities(module: nn.Module) -> dict[str, float]:
    """For each matrix below a module, by name, the share of its weights that is zero or masked."""
    with torch.no_grad():
        return {
            name: float((matrix.weight == 0).float().mean()) for name, matrix in _matrices(module)
        }


def sparsity(module: nn.Module) -> float:
    """The share of zero or masked weights in all matrices below a module."""
    sizes = {name: matrix.weight.numel() for name, matrix in _matrices(module)}
    zeros = sum(share * sizes[name] for name, share in sparsities(module).items())
    return zeros / max(1, sum(sizes.values()))


def _matrices(module: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Embedding]]:
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear | nn.Embedding):
            yield name, child


def _masked(module: nn.Module) -> Iterator[tuple[nn.Module, "StoredMask | MovementMask"]]:
    for _, matrix in _matrices(module):
        if parametrize.is_parametrized(matrix, "weight"):
            mask = matrix.get_submodule("parametrizations.weight.0")
            if isinstance(mask, StoredMask | MovementMask):
                yield matrix, mask


def _largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Bool, shaped as ``values``: true for the ``count`` largest."""
    mask = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    mask[values.flatten().topk(count, sorted=False).indices] = True
    return mask.view(values.shape)
