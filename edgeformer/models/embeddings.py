"""From token ids to the first hidden states: token + type + position, then a norm.

Devlin et al., "BERT", arXiv 1810.04805, section 3 and figure 2. Two families save rows by a narrow
token table and a projection: ALBERT (arXiv 1909.11942, section 3.1) projects the normalised sum,
MobileBERT (arXiv 2004.02984, section 3.1) the tokens alone, each beside its two neighbours.
"""

import torch
import torch.nn.functional as F
from torch import nn

from edgeformer.models.config import EncoderConfig
from edgeformer.models.norms import make_norm


class Embeddings(nn.Module):
    """Sum of the table rows of token, token type, position and task, normalised.

    Args:
        config: settings of the whole encoder. A pre-norm encoder leaves the norm to its layers.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        tokens, hidden = config.token_size, config.hidden_size
        size = tokens if config.embedding_projection == "sum" else hidden
        self.trigram = config.trigram
        self.project = config.embedding_projection
        self.tokens = nn.Embedding(config.vocab_size, tokens)
        self.token_types = _table(config.type_vocab_size, size)
        self.task_types = _table(config.task_type_vocab_size, size)
        self.positions = nn.Embedding(config.max_positions, size)
        self.norm = None if config.pre_norm else make_norm(config.norm, size, config.layer_norm_eps)
        self.projection = None
        if self.project != "none":
            self.projection = nn.Linear(3 * tokens if config.trigram else tokens, hidden)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        task_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Integers (batch, sequence) to float (batch, sequence, hidden).

        Types that are not given are those of type 0.
        """
        hidden: torch.Tensor = self.tokens(input_ids)
        if self.trigram:
            hidden = with_neighbours(hidden, attention_mask)
        if self.projection is not None and self.project == "tokens":
            hidden = self.projection(hidden)
        if self.token_types is not None:
            hidden = hidden + _rows(self.token_types, token_type_ids)
        hidden = hidden + self.positions(position_ids)
        if self.task_types is not None:
            hidden = hidden + _rows(self.task_types, task_type_ids)
        if self.norm is not None:
            hidden = self.norm(hidden)
        if self.projection is not None and self.project == "sum":
            hidden = self.projection(hidden)
        return hidden


def with_neighbours(tokens: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Each token between its next and its previous one, in that order.

    Beyond both ends of a text are zeros. Padding counts as beyond the end, so that a text is the
    same however far it is padded.

    Args:
        tokens: float (batch, sequence, size).
        attention_mask: integers (batch, sequence), 1 for a token and 0 for padding.

    Returns:
        float (batch, sequence, 3 * size).
    """
    tokens = tokens * attention_mask.unsqueeze(-1).to(tokens.dtype)
    wider = F.pad(tokens, (0, 0, 1, 1))
    return torch.cat([wider[:, 2:], tokens, wider[:, :-2]], dim=2)


def _table(rows: int, size: int) -> nn.Embedding | None:
    return nn.Embedding(rows, size) if rows else None


def _rows(table: nn.Embedding, ids: torch.Tensor | None) -> torch.Tensor:
    """Rows of ``ids``; of no ids, or from a table of one row, the first row for all tokens."""
    if ids is None or table.num_embeddings == 1:
        return table.weight[0]
    rows: torch.Tensor = table(ids)
    return rows
