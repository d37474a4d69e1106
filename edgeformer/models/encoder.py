"""The encoder: embeddings, then layers, one additive mask for all of them.

config = EncoderConfig(vocab_size=30522, hidden_size=384, num_heads=(12,) * 6, head_dim=32,
                       intermediate_sizes=(1536,) * 6, max_positions=512)
hidden = Encoder(config)(input_ids, attention_mask, token_type_ids, position_ids)
"""

import copy
from collections.abc import Iterator

import torch
from torch import nn

from edgeformer.models.attention import additive_mask
from edgeformer.models.config import EncoderConfig
from edgeformer.models.embeddings import Embeddings
from edgeformer.models.layer import PostNormLayer, PreNormLayer
from edgeformer.models.norms import make_norm
from edgeformer.models.patches import PatchEmbeddings
from edgeformer.models.relative_positions import RelativePositions
from edgeformer.models.spans import AttentionSpans


class Encoder(nn.Module):
    """A bidirectional transformer encoder without a head.

    Position ids are an input, not derived from the ids, so that the exported graph holds no
    arithmetic on them and so that rows of several texts can be packed one after the other.

    ``layers`` holds each set of weights once; layers that share one (ALBERT) run it several times,
    in the order of ``config.groups``.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = PatchEmbeddings(config) if config.image_size else Embeddings(config)
        make_layer = PreNormLayer if config.pre_norm else PostNormLayer
        firsts = [config.groups.index(group) for group in sorted(set(config.groups))]
        self.layers = nn.ModuleList(make_layer(config, index) for index in firsts)
        self.spans = (
            nn.ModuleList(AttentionSpans(config.layer_spans(index)) for index in firsts)
            if config.attention_spans
            else None
        )
        self.relative_positions = (
            RelativePositions(config.relative_buckets, config.num_heads[0], config.max_positions)
            if config.relative_buckets
            else None
        )
        self.final_norm = (
            make_norm(config.norm, config.hidden_size, config.layer_norm_eps)
            if config.pre_norm
            else None
        )

    @property
    def token_table(self) -> torch.Tensor:
        """Float (vocabulary, token size): the embedding of each token."""
        assert isinstance(self.embeddings, Embeddings)
        return self.embeddings.tokens.weight

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        task_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states of the last layer of a text.

        Args:
            input_ids: int64 (batch, sequence).
            attention_mask: integers (batch, sequence), 1 for a token and 0 for padding.
            token_type_ids: int64 (batch, sequence); None for type 0 everywhere.
            position_ids: int64 (batch, sequence), starting at ``config.position_start``; None
                counts up from there.
            task_type_ids: int64 (batch, sequence), for ERNIE; None for task 0 everywhere.

        Returns:
            float (batch, sequence, hidden); rows of padding hold numbers without meaning.
        """
        hidden = self.embed(input_ids, attention_mask, token_type_ids, position_ids, task_type_ids)
        return self._through_layers(hidden, self.score_mask(attention_mask, hidden.dtype))

    def embed(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        task_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the first layer reads, float (batch, sequence, hidden); inputs as of ``forward``."""
        if position_ids is None:
            start, length = self.config.position_start, input_ids.shape[1]
            position_ids = torch.arange(start, start + length, device=input_ids.device)
        hidden: torch.Tensor = self.embeddings(
            input_ids, attention_mask, position_ids, token_type_ids, task_type_ids
        )
        return hidden

    def score_mask(self, attention_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """What all layers add to their attention scores, ``dtype`` (batch, heads or 1, query or 1,
        key): padding, and MPNet's bias by relative position."""
        mask = additive_mask(attention_mask, dtype)
        if self.relative_positions is not None:
            bias: torch.Tensor = self.relative_positions(
                attention_mask.shape[1], attention_mask.device
            )
            mask = bias + mask
        return mask

    def encode_image(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Hidden states of the last layer of an image.

        Args:
            pixel_values: float (batch, channels, height, width), scaled as the checkpoint says.

        Returns:
            float (batch, tokens + patches, hidden); the first row is the class token's.
        """
        return self._through_layers(self.embeddings(pixel_values), None)

    def after_each(
        self,
        hidden: torch.Tensor,
        mask: torch.Tensor | None,
        start: int = 0,
        end: int | None = None,
    ) -> Iterator[torch.Tensor]:
        """Run layers ``start`` to ``end`` (all of them), one for each item.

        Args:
            hidden: what the first of them reads, float (batch, sequence, hidden).
            mask: of ``score_mask``; None for images.
            start: layers that are done already.
            end: layers that are done in the end; None for all.

        Yields:
            what each layer gives, float (batch, sequence, hidden), before ``normalized``.
        """
        masks: dict[int, torch.Tensor | None] = {}
        for group in self.config.groups[start:end]:
            if group not in masks:
                masks[group] = self._within_spans(group, hidden.shape[1], mask)
            hidden = self.layers.get_submodule(str(group))(hidden, masks[group])
            yield hidden

    def _within_spans(
        self, group: int, length: int, mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        if self.spans is None or mask is None:
            return mask
        within: torch.Tensor = self.spans[group](length, mask)
        return within

    def normalized(self, hidden: torch.Tensor) -> torch.Tensor:
        """What a head reads of states that a layer gives, float (..., hidden)."""
        return hidden if self.final_norm is None else self.final_norm(hidden)

    def part(self, start: int, end: int) -> "Encoder":
        """An encoder that has only the layers ``start`` to ``end``, and embeddings if ``start`` is
        0, with this one's parameters under their names: for ``after_each`` of those layers."""
        part = copy.copy(self)
        groups = dict.fromkeys(self.config.groups[start:end])
        layers = nn.ModuleDict({str(g): self.layers.get_submodule(str(g)) for g in groups})
        kept = {
            name: module
            for name, module in self._modules.items()
            if start == 0 or name != "embeddings"
        }
        part._modules = {**kept, "layers": layers}
        return part

    def _through_layers(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        for states in self.after_each(hidden, mask):
            hidden = states
        return self.normalized(hidden)
