"""What stands on the hidden states of an image: a vector, or a class.

ViT (arXiv 2010.11929) reads its class token; DeiT (arXiv 2012.12877, section 4) averages the class
token's answer and that of the token that learned from the teacher; DINOv2 (arXiv 2304.07193) adds
the mean of the patches to what the classifier reads.
"""

import torch
from torch import nn

from edgeformer.models.config import EncoderConfig
from edgeformer.models.encoder import Encoder
from edgeformer.models.heads import check_pooling, unit_length

IMAGE_CLASSIFIERS = ("cls", "cls_and_teacher", "cls_and_patches")


class ImageEmbeddingModel(nn.Module):
    """Encoder and pooling: images to vectors.

    Args:
        config: settings of the encoder.
        pooling: ``cls``, the class token's row, or ``mean`` of the patches.
        normalized: True for vectors of unit length.
    """

    def __init__(self, config: EncoderConfig, pooling: str = "cls", normalized: bool = True):
        super().__init__()
        check_pooling(pooling)
        self.encoder = Encoder(config)
        self.pooling = pooling
        self.normalized = normalized

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """``{"embedding": float (batch, hidden)}`` of float (batch, channels, height, width)."""
        hidden = self.encoder.encode_image(pixel_values)
        patches = hidden[:, self.encoder.config.prefix_tokens :]
        embedding = hidden[:, 0] if self.pooling == "cls" else patches.mean(1)
        return {"embedding": unit_length(embedding) if self.normalized else embedding}


class ImageClassifier(nn.Module):
    """Encoder and a linear classifier.

    Args:
        config: settings of the encoder.
        num_labels: number of classes.
        reads: ``cls``: the class token; ``cls_and_teacher``: the mean of two classifiers, on the
            class token and on the distillation token; ``cls_and_patches``: the class token beside
            the mean of the patches.
    """

    def __init__(self, config: EncoderConfig, num_labels: int, reads: str = "cls") -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.reads = reads
        width = config.hidden_size * (2 if reads == "cls_and_patches" else 1)
        self.classifier = nn.Linear(width, num_labels)
        self.teacher_classifier = (
            nn.Linear(width, num_labels) if reads == "cls_and_teacher" else None
        )

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """``{"logits": float (batch, classes)}`` of float (batch, channels, height, width)."""
        hidden = self.encoder.encode_image(pixel_values)
        first = hidden[:, 0]
        if self.reads == "cls_and_patches":
            first = torch.cat([first, hidden[:, 1:].mean(1)], dim=1)
        logits = self.classifier(first)
        if self.teacher_classifier is not None:
            logits = (logits + self.teacher_classifier(hidden[:, 1])) / 2
        return {"logits": logits}
