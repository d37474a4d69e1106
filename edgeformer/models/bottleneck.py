"""The narrow middle of a MobileBERT layer: what attention reads, and the way back to full width.

Sun et al., "MobileBERT", arXiv 2004.02984, section 3.1 and figure 1(c): layers pass on wide states,
and compute on narrow ones.
"""

import torch
from torch import nn

from edgeformer.models.config import EncoderConfig
from edgeformer.models.norms import add_and_norm, make_norm


class Projection(nn.Module):
    """A linear map, then a norm.

    Args:
        config: for the kind of norm.
        input_size: width that is read.
        output_size: width of the result.
    """

    def __init__(self, config: EncoderConfig, input_size: int, output_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, output_size)
        self.norm = make_norm(config.norm, output_size, config.layer_norm_eps)

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """``norm(linear(hidden) + residual)``, float (batch, sequence, output_size)."""
        result: torch.Tensor = self.linear(hidden)
        if residual is not None:
            return add_and_norm(self.norm, result, residual)
        normalized: torch.Tensor = self.norm(result)
        return normalized


class Bottleneck(nn.Module):
    """Both ends of the bottleneck of one layer.

    ``narrow`` makes what the layer computes on. ``shared``, for the readers ``query_key``, is a
    second one that query and key read; the value then reads the wide states. With ``all`` they
    read what ``narrow`` made (MobileBERT-tiny), with ``none`` the wide ones (the IB-BERT teacher).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        wide, narrow = config.hidden_size, config.bottleneck_size
        self.readers = config.bottleneck_readers
        self.narrow = Projection(config, wide, narrow)
        self.shared = Projection(config, wide, narrow) if self.readers == "query_key" else None
        self.widen = Projection(config, narrow, wide)
        self.query_size = wide if self.readers == "none" else narrow
        self.value_size = narrow if self.readers == "all" else wide

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Wide states to what query and key read, what the value reads, and the narrow states."""
        narrow = self.narrow(hidden)
        if self.shared is not None:
            return self.shared(hidden), hidden, narrow
        return (narrow, narrow, narrow) if self.readers == "all" else (hidden, hidden, narrow)
