"""Which layers stay, by rule instead of by score.

    small = slim(model, {"layers": keep_layers("top", 12, stay=8)})

Sajjad et al., "On the Effect of Dropping Layers of Pre-trained Transformer Models" (first called
"Poor Man's BERT"), arXiv 2004.03844, section 3; Fan et al., "LayerDrop", arXiv 1909.11556.
"""

from collections.abc import Callable

from edgeformer.compression.selection import keep_listed
from edgeformer.compression.units import Values
from edgeformer.errors import UsageError


def _top(layers: int, drop: int) -> list[int]:
    return list(range(layers - drop, layers))


def _bottom(layers: int, drop: int) -> list[int]:
    return list(range(drop))


def _alternate(start: int, layers: int, drop: int) -> list[int]:
    """The last ``drop`` of the layers start, start + 2, ...: of 12 layers, 4 odd ones are layers
    5, 7, 9 and 11 counting from 1."""
    return list(range(start, layers, 2))[-drop:] if drop else []


def _odd(layers: int, drop: int) -> list[int]:
    return _alternate(0, layers, drop)


def _even(layers: int, drop: int) -> list[int]:
    return _alternate(1, layers, drop)


def _middle(layers: int, drop: int) -> list[int]:
    """Of what stays, an odd layer is at the bottom: lower layers matter more."""
    below = (layers - drop + 1) // 2
    return list(range(below, below + drop))


def _spread(layers: int, drop: int) -> list[int]:
    """Every n-th layer, the last one included; of 12, 4 dropped are layers 3, 6, 9 and 12."""
    return [(number + 1) * layers // drop - 1 for number in range(drop)]


LAYER_STRATEGIES: dict[str, Callable[[int, int], list[int]]] = {
    "top": _top,
    "bottom": _bottom,
    "odd": _odd,
    "even": _even,
    "symmetric": _middle,
    "spread": _spread,
}
"""From the number of layers and how many of them to drop to the positions that go, from 0.

``top`` and ``bottom`` drop from there; ``odd`` and ``even`` drop alternate layers (counted from 1),
beginning at the top; ``symmetric`` drops the middle; ``spread`` drops every n-th layer, LayerDrop's
"every other" strategy."""


def keep_layers(strategy: str, layers: int, stay: int) -> Values:
    """The layers that stay.

    Args:
        strategy: of ``LAYER_STRATEGIES``. For the choice by contribution, take ``keep_best`` or
            ``keep_above`` of scores by ``cosine``.
        layers: how many there are.
        stay: how many stay.

    Returns:
        bool (layers,), as one place.

    Raises:
        UsageError: no such strategy, or one that cannot drop as many.
    """
    if strategy not in LAYER_STRATEGIES:
        raise UsageError(
            f"no strategy {strategy!r} to drop layers",
            hint=f"choose from: {', '.join(LAYER_STRATEGIES)}",
        )
    if not 1 <= stay <= layers:
        raise UsageError(f"of {layers} layers at least 1 stays and at most all, not {stay}")
    dropped = LAYER_STRATEGIES[strategy](layers, layers - stay)
    if len(dropped) < layers - stay:
        raise UsageError(
            f"there are only {len(dropped)} {strategy} layers of {layers} to drop, not"
            f" {layers - stay}",
            hint="keep more layers, or choose another strategy",
        )
    return keep_listed(layers, [layer for layer in range(layers) if layer not in dropped])
