"""A BiLSTM that classifies texts: the small student of distillation.

Tang et al., "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks", arXiv
1903.12136, section 3.1: token embeddings, one bidirectional LSTM, the last states of both
directions, a ReLU layer, the logits. Mukherjee and Awadallah, arXiv 1910.01769, let the states of
such a student follow those of its teacher (``encoder`` is what they call it).

A pair of texts is read as the tokenizer joins it, with the separator between them. (Tang et al.
read each text of a pair by itself and compare the states; that is not done here.)
"""

from dataclasses import dataclass

import torch
from torch import nn

from edgeformer.errors import ModelError
from edgeformer.models.config import ACTIVATIONS
from edgeformer.models.lstm import BidirectionalLstm

FAMILY = "bilstm"
"""What a bundle calls the family of such a model."""


@dataclass(frozen=True)
class BiLstmConfig:
    """Everything that decides the shape of a ``BiLstmEncoder`` and the layer on it.

    Attributes:
        vocab_size: rows of the token table.
        embedding_size: width of the token table.
        hidden_size: width of the state of one direction.
        intermediate_size: width of the layer between the last states and the logits.
        projection_size: width to which the rows of the token table are projected before the LSTM
            reads them; 0 for no projection.
        num_layers: LSTMs, each reading both directions of the one before.

    Raises:
        ModelError: sizes that make no model.
    """

    vocab_size: int
    embedding_size: int
    hidden_size: int
    intermediate_size: int
    projection_size: int = 0
    num_layers: int = 1

    def __post_init__(self) -> None:
        sizes = (self.vocab_size, self.embedding_size, self.hidden_size, self.intermediate_size)
        if min(*sizes, self.num_layers, self.projection_size + 1) < 1:
            raise ModelError(f"a BiLSTM needs sizes of at least 1: {self}")

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs of a model, int64 (batch, sequence) each."""
        return ("input_ids", "attention_mask")

    @property
    def position_start(self) -> int:
        """As of ``EncoderConfig``; a BiLSTM reads no position ids."""
        return 0

    @property
    def usable_positions(self) -> int | None:
        """As of ``EncoderConfig``; a BiLSTM reads texts of any length."""
        return None


class BiLstmEncoder(nn.Module):
    """Token table, projection if there is one, LSTM layers."""

    def __init__(self, config: BiLstmConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        self.projection = None
        if config.projection_size:
            self.projection = nn.Linear(config.embedding_size, config.projection_size)
        first = config.projection_size or config.embedding_size
        sizes = (first, *(2 * config.hidden_size for _ in range(config.num_layers - 1)))
        self.layers = nn.ModuleList(BidirectionalLstm(size, config.hidden_size) for size in sizes)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both directions of the last layer, as ``BidirectionalLstm.forward`` returns them.

        Args:
            input_ids: int64 (batch, sequence).
            attention_mask: integers (batch, sequence), 1 for tokens, then 0 for padding.

        Raises:
            InputError: a text without tokens, or padding before a token.
        """
        hidden: torch.Tensor = self.tokens(input_ids)
        if self.projection is not None:
            hidden = self.projection(hidden)
        for layer in self.layers:
            hidden, last = layer(hidden, attention_mask)
        return hidden, last


class BiLstmClassifier(nn.Module):
    """BiLSTM, a dense layer with an activation on its last states, and a linear classifier.

    Args:
        config: settings of the encoder and of the dense layer.
        num_labels: number of classes.
        activation: after the dense layer, a key of ``ACTIVATIONS``.

    Raises:
        ModelError: an activation that is not known.
    """

    def __init__(self, config: BiLstmConfig, num_labels: int, activation: str = "relu") -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ModelError(f"activation {activation!r} of the classifier is not supported")
        self.encoder = BiLstmEncoder(config)
        self.dense = nn.Linear(2 * config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[activation]
        self.classifier = nn.Linear(config.intermediate_size, num_labels)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """``{"logits": float (batch, classes)}``; inputs as of ``BiLstmEncoder.forward``."""
        _, last = self.encoder(input_ids, attention_mask)
        return {"logits": self.classifier(self.activation(self.dense(last)))}
