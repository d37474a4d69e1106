"""A distribution over the vocabulary for each token: what masked language models are trained on.

Devlin et al., "BERT", arXiv 1810.04805, section 3.1. The vocabulary's matrix is the token table
itself. Where that table is narrower than the hidden states, ALBERT and ELECTRA narrow the states
first, MobileBERT widens the table by columns of its own.
"""

import torch
import torch.nn.functional as F
from torch import nn

from edgeformer.models.config import ACTIVATIONS, EncoderConfig
from edgeformer.models.encoder import Encoder


class MaskedLanguageModel(nn.Module):
    """Encoder, dense layer, activation, LayerNorm, and a product with the token table.

    Args:
        config: settings of the encoder.
        activation: after the dense layer, a key of ``ACTIVATIONS``.
        narrows: the dense layer narrows to the width of the token table; else it keeps the hidden
            size, and a narrower table gets further columns.
    """

    def __init__(self, config: EncoderConfig, activation: str, narrows: bool = True) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        size = config.token_size if narrows else config.hidden_size
        self.activation = ACTIVATIONS[activation]
        self.dense = nn.Linear(config.hidden_size, size)
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        missing = size - config.token_size
        self.columns = nn.Linear(missing, config.vocab_size, bias=False) if missing else None
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """``{"logits": float (batch, sequence, vocabulary)}``; inputs as of ``Encoder.forward``."""
        hidden = self.encoder(input_ids, attention_mask, token_type_ids, position_ids)
        hidden = self.norm(self.activation(self.dense(hidden)))
        table = self.encoder.token_table
        if self.columns is None:
            return {"logits": F.linear(hidden, table, self.bias)}
        width = table.shape[1]
        logits = F.linear(hidden[..., :width], table, self.bias)
        return {"logits": logits + self.columns(hidden[..., width:])}
