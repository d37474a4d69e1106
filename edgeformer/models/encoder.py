"""The encoder: embeddings, then layers, one additive mask for all of them.

config = EncoderConfig(vocab_size=30522, hidden_size=384, num_heads=(12,) * 6, head_dim=32,
                       intermediate_sizes=(1536,) * 6, max_positions=512)
hidden = Encoder(config)(input_ids, attention_mask, token_type_ids, position_ids)
"""

import torch
from torch import nn

from edgeformer.models.attention import additive_mask
from edgeformer.models.config import EncoderConfig
from edgeformer.models.embeddings import Embeddings
from edgeformer.models.layer import EncoderLayer


class Encoder(nn.Module):
    """A bidirectional transformer encoder without a head.

    Position ids are an input, not derived from the ids, so that the exported graph holds no
    arithmetic on them and so that rows of several texts can be packed one after the other.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(EncoderLayer(config, i) for i in range(config.num_layers))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states of the last layer.

        Args:
            input_ids: int64 (batch, sequence).
            attention_mask: integers (batch, sequence), 1 for a token and 0 for padding.
            token_type_ids: int64 (batch, sequence); None only without a token-type table.
            position_ids: int64 (batch, sequence), starting at ``config.position_start``; None
                counts up from there.

        Returns:
            float (batch, sequence, hidden); rows of padding hold numbers without meaning.
        """
        if position_ids is None:
            start, length = self.config.position_start, input_ids.shape[1]
            position_ids = torch.arange(start, start + length, device=input_ids.device)
        hidden: torch.Tensor = self.embeddings(input_ids, position_ids, token_type_ids)
        mask = additive_mask(attention_mask, hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return hidden
