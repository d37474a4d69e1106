"""A loaded model with exits, for the converters."""

from typing import TYPE_CHECKING

from edgeformer.errors import ModelError

if TYPE_CHECKING:
    import torch

    from edgeformer.converters.prepared import PreparedExits


def prepare_exits(
    module: "torch.nn.Module", original: "torch.nn.Module", problem_type: str
) -> "PreparedExits | None":
    """The segments of a model with exits, one layer each; None for a model without.

    Args:
        module: ready to be converted, in eval mode.
        original: what it was made from, perhaps itself.
        problem_type: of its head.

    Raises:
        ModelError: its logits are not those of one label for each text.
    """
    from edgeformer.converters.exits import EveryExit
    from edgeformer.converters.prepared import PreparedExits
    from edgeformer.models.exits import ExitClassifier

    if not isinstance(module, ExitClassifier) or not isinstance(original, ExitClassifier):
        return None
    if problem_type != "single_label":
        raise ModelError(
            f"a text leaves early when one label is clear, and this head's are {problem_type}",
            hint="train exits on a classifier of one label for each text",
        )
    config = module.encoder.config
    whole = EveryExit(module, module.segments()).eval()
    loaded = whole if original is module else EveryExit(original, original.segments()).eval()
    layers = tuple(range(1, config.num_layers + 1))
    return PreparedExits(whole, layers, config.hidden_size, loaded)
