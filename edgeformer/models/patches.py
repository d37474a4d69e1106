"""From an image to the first hidden states: patches in a row behind a class token, plus positions.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (ViT), arXiv 2010.11929, equation 1. DeiT
(Touvron et al., arXiv 2012.12877, figure 2) has a second token, which learns the teacher's answer.
"""

import torch
import torch.nn.functional as F
from torch import nn

from edgeformer.models.config import EncoderConfig


class PatchEmbeddings(nn.Module):
    """A linear map of each patch, behind a class token.

    Checkpoints store the map as a convolution whose step is its width; here the image is cut into
    patches and multiplied, which every engine can do, and in int8.

    Args:
        config: settings of the whole encoder.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        hidden, patch = config.hidden_size, config.patch_size
        self.patch_size, self.num_channels = patch, config.num_channels
        self.grid = config.image_size // patch
        self.patches = nn.Conv2d(config.num_channels, hidden, kernel_size=patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden))
        self.distillation_token = (
            nn.Parameter(torch.zeros(1, 1, hidden)) if config.distilled else None
        )
        self.positions = nn.Parameter(torch.zeros(1, config.max_positions, hidden))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Float (batch, channels, height, width) to (batch, tokens + patches, hidden)."""
        batch = pixel_values.shape[0]
        map_of_patch = self.patches.weight.flatten(1)
        patches = F.linear(self._cut(pixel_values), map_of_patch, self.patches.bias)
        parts = [self.cls_token.expand(batch, -1, -1), patches]
        if self.distillation_token is not None:
            parts.insert(1, self.distillation_token.expand(batch, -1, -1))
        return torch.cat(parts, dim=1) + self.positions

    def _cut(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) to (batch, patches, channels * patch * patch)."""
        batch, grid, patch = pixel_values.shape[0], self.grid, self.patch_size
        cut = pixel_values.reshape(batch, self.num_channels, grid, patch, grid, patch)
        return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid * grid, -1)
