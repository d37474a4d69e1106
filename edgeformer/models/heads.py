"""What stands on the hidden states of a text: a sentence embedding, a class of the text or of each
token, the two ends of an answer.

Each model takes the encoder's inputs and returns a dict with the one output that a bundle names.
Pooling and heads live inside the module, so that the device needs no arithmetic of its own.
masked_lm.py and image_heads.py have the others; build.py makes any of them by its settings.
"""

from collections.abc import Callable

import torch
from torch import nn

from edgeformer.errors import ModelError, UsageError
from edgeformer.models.config import ACTIVATIONS, EncoderConfig
from edgeformer.models.encoder import Encoder

POOLINGS = ("mean", "cls")


def pool(
    hidden: torch.Tensor, attention_mask: torch.Tensor, pooling: str, normalized: bool
) -> torch.Tensor:
    """One vector for each text.

    Reimers and Gurevych, "Sentence-BERT", arXiv 1908.10084, section 3 (MEAN and CLS strategies).

    Args:
        hidden: float (batch, sequence, hidden).
        attention_mask: integers (batch, sequence), 1 for a token and 0 for padding.
        pooling: ``mean`` of the tokens' rows, or ``cls``, the first row.
        normalized: divide by the Euclidean length.

    Returns:
        float (batch, hidden); of a text without tokens, the zero vector if ``mean``.
    """
    if pooling == "cls":
        embedding = hidden[:, 0]
    else:
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        embedding = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    return unit_length(embedding) if normalized else embedding


def unit_length(vectors: torch.Tensor) -> torch.Tensor:
    """Float (batch, size) divided by the Euclidean length; zeros stay zeros."""
    lengths: torch.Tensor = vectors.norm(dim=-1, keepdim=True)
    return vectors / lengths.clamp(min=1e-12)


def check_pooling(pooling: str) -> None:
    """Raises UsageError unless ``pooling`` is one of ``POOLINGS``."""
    if pooling not in POOLINGS:
        raise UsageError(f"no pooling {pooling!r}", hint=f"choose from: {', '.join(POOLINGS)}")


class EmbeddingModel(nn.Module):
    """Encoder and pooling: texts to vectors.

    Args:
        config: settings of the encoder.
        pooling: ``mean`` or ``cls``.
        normalized: True for vectors of unit length.
    """

    def __init__(self, config: EncoderConfig, pooling: str = "mean", normalized: bool = True):
        super().__init__()
        check_pooling(pooling)
        self.encoder = Encoder(config)
        self.pooling = pooling
        self.normalized = normalized

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """``{"embedding": float (batch, hidden)}``; inputs as of ``Encoder.forward``."""
        hidden = self.encoder(input_ids, attention_mask, token_type_ids, position_ids)
        return {"embedding": pool(hidden, attention_mask, self.pooling, self.normalized)}


class SequenceClassifier(nn.Module):
    """Encoder, a dense layer with an activation on one vector of the text, a linear classifier.

    Args:
        config: settings of the encoder.
        num_labels: number of classes.
        activation: after the dense layer: ``tanh`` (BERT's pooler, RoBERTa), ``gelu`` (ELECTRA),
            ``relu`` (DistilBERT); empty for no dense layer.
        pooling: what is read: ``cls``, the first token's state, as all of those do; or ``mean``,
            that of all tokens, which serves a model better whose layers were trained on means.
    """

    def __init__(
        self,
        config: EncoderConfig,
        num_labels: int,
        activation: str = "tanh",
        pooling: str = "cls",
    ) -> None:
        super().__init__()
        if activation and activation not in ACTIVATIONS:
            raise ModelError(f"activation {activation!r} of the classifier is not supported")
        check_pooling(pooling)
        self.pooling = pooling
        self.encoder = Encoder(config)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if activation else None
        self.activation = ACTIVATIONS.get(activation)
        self.classifier = nn.Linear(config.hidden_size, num_labels)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """``{"logits": float (batch, classes)}``; inputs as of ``Encoder.forward``."""
        hidden = self.encoder(input_ids, attention_mask, token_type_ids, position_ids)
        states = pool(hidden, attention_mask, self.pooling, normalized=False)
        return {"logits": classify_states(states, self.pooler, self.activation, self.classifier)}


def classify_states(
    states: torch.Tensor,
    pooler: nn.Linear | None,
    activation: Callable[[torch.Tensor], torch.Tensor] | None,
    classifier: nn.Linear,
) -> torch.Tensor:
    """Logits, float (batch, classes), of texts by one vector of each, float (batch, hidden).

    Args:
        states: the vectors.
        pooler: the dense layer, if any.
        activation: after it.
        classifier: the last linear map.
    """
    if pooler is not None and activation is not None:
        states = activation(pooler(states))
    logits: torch.Tensor = classifier(states)
    return logits


class TokenClassifier(nn.Module):
    """Encoder and a linear classifier on every token.

    With two classes, start and end of an answer, this is also the model of extractive question
    answering (Devlin et al., arXiv 1810.04805, section 4.2).

    Args:
        config: settings of the encoder.
        num_labels: number of classes.
    """

    def __init__(self, config: EncoderConfig, num_labels: int) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.classifier = nn.Linear(config.hidden_size, num_labels)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """``{"logits": float (batch, sequence, classes)}``; inputs as of ``Encoder.forward``."""
        hidden = self.encoder(input_ids, attention_mask, token_type_ids, position_ids)
        return {"logits": self.classifier(hidden)}
