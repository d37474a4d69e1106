"""A linear map as one matrix, or as two by way of a few channels.

The second is what compression/factorize.py makes of the first; the settings of the encoder say
which of its maps are made so (``EncoderConfig.linear_ranks``).
"""

from torch import nn


def make_linear(inputs: int, outputs: int, bias: bool = True, rank: int = 0) -> nn.Module:
    """Float (..., inputs) to (..., outputs).

    Args:
        inputs, outputs: widths.
        bias: add one to the result.
        rank: channels between two matrices; 0 for one matrix.
    """
    if not rank:
        return nn.Linear(inputs, outputs, bias=bias)
    return nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=bias))


def whole(linear: nn.Module) -> nn.Linear:
    """A map that is one matrix, as all are behind NoNorms (``EncoderConfig``)."""
    assert isinstance(linear, nn.Linear)
    return linear
