"""A loaded model with exits, for the converters."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from edgeformer.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch

    from edgeformer.converters.prepared import PreparedExits


def prepare_exits(
    module: "torch.nn.Module",
    original: "torch.nn.Module",
    problem_type: str,
    exit_layers: Sequence[int] = (),
) -> "PreparedExits | None":
    """The segments of a model with exits; None for a model without.

    Args:
        module: ready to be converted, in eval mode.
        original: what it was made from, perhaps itself.
        problem_type: of its head.
        exit_layers: layers after which texts may leave; every one if empty. Behind the last layer
            all leave, whether or not it is named.

    Raises:
        ModelError: its logits are not those of one label for each text.
        UsageError: layers that cannot be exits, or a model that has none.
    """
    from edgeformer.converters.exits import EveryExit
    from edgeformer.converters.prepared import PreparedExits
    from edgeformer.models.exits import ExitClassifier

    if not isinstance(module, ExitClassifier) or not isinstance(original, ExitClassifier):
        if exit_layers:
            raise UsageError(
                "--exit-layers is for a model with exits, and this one has none",
                hint="leave it out, or train exits: edgeformer compress MODEL --recipe exits",
            )
        return None
    if problem_type != "single_label":
        raise ModelError(
            f"a text leaves early when one label is clear, and this head's are {problem_type}",
            hint="train exits on a classifier of one label for each text",
        )
    config = module.encoder.config
    layers = _layers(exit_layers, config.num_layers)
    sizes = [end - start for start, end in pairwise((0, *layers))]
    whole = EveryExit(module, module.segments(sizes)).eval()
    loaded = whole if original is module else EveryExit(original, original.segments(sizes)).eval()
    return PreparedExits(whole, layers, config.hidden_size, loaded)


def _layers(wanted: Sequence[int], count: int) -> tuple[int, ...]:
    """Layers that are done after each segment of an encoder of ``count``."""
    if not wanted:
        return tuple(range(1, count + 1))
    layers = tuple(sorted({*wanted, count}))
    if len(layers) < 2 or layers[0] < 1 or layers[-1] > count:
        named = ",".join(str(layer) for layer in wanted)
        raise UsageError(
            f"--exit-layers {named}: the exits of this model are after layers 1 to {count - 1}",
            hint=f"for example --exit-layers {max(1, count // 2)}",
        )
    return layers
