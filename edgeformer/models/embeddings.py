"""From token ids to the first hidden states: token + type + position, then LayerNorm.

Devlin et al., "BERT", arXiv 1810.04805, section 3 and figure 2.
"""

import torch
from torch import nn

from edgeformer.models.config import EncoderConfig


class Embeddings(nn.Module):
    """Sum of the table rows of token, token type and position, normalised."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_types = (
            nn.Embedding(config.type_vocab_size, config.hidden_size)
            if config.type_vocab_size
            else None
        )
        self.positions = nn.Embedding(config.max_positions, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Three int64 (batch, sequence) to float (batch, sequence, hidden)."""
        hidden = self.tokens(input_ids)
        if self.token_types is not None:
            hidden = hidden + self.token_types(token_type_ids)
        hidden = hidden + self.positions(position_ids)
        normalized: torch.Tensor = self.norm(hidden)
        return normalized
