"""Settings of the encoder: one frozen dataclass, checked when it is made. Imports torch only for
the activation functions; touches no file.

Widths are per layer from the start (``num_heads`` and ``intermediate_sizes`` are tuples, and
``head_dim`` is written out instead of derived), so that an encoder whose heads and neurons were
pruned unevenly is described by the same settings as the one it came from.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from edgeformer.errors import ModelError

# Several spellings of one formula appear in checkpoints.
_tanh_gelu = functools.partial(F.gelu, approximate="tanh")
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_new": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}
NORMS = ("layer_norm", "no_norm", "rms_norm")
EMBEDDING_PROJECTIONS = ("none", "tokens", "sum")
BOTTLENECK_READERS = ("query_key", "all", "none")
LINEARS = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "feed_forward.up",
    "feed_forward.down",
)
"""The linear maps of a layer, in the order of ``linear_ranks``."""


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that decides the shape and the arithmetic of an ``Encoder``.

    Attributes:
        vocab_size: rows of the token table; 0 for an encoder of images.
        hidden_size: width of the hidden states.
        num_heads: attention heads of each layer; its length is the number of layers.
        head_dim: width of one head; heads * head_dim need not be hidden_size.
        intermediate_sizes: width inside each feed-forward block, layer by layer: one number for a
            layer, or ``stacked_ffns`` numbers.
        max_positions: rows of the position table.
        type_vocab_size: rows of the token-type table; 0 for an encoder without one.
        position_start: position id of the first token (RoBERTa: 2, BERT: 0).
        activation: a key of ``ACTIVATIONS``.
        layer_norm_eps: added to the variance in every normalisation.
        task_type_vocab_size: rows of the task table (ERNIE); 0 without one.
        embedding_size: width of the token table; 0 for hidden_size.
        embedding_projection: what goes from embedding_size to hidden_size: ``none``; the ``sum``
            of all tables after its norm (ALBERT, ELECTRA); the ``tokens`` alone (MobileBERT).
        trigram: a token is looked up together with its two neighbours (MobileBERT).
        norm: ``layer_norm``, ``no_norm`` (a scale and a shift, MobileBERT) or ``rms_norm``.
        pre_norm: normalise what a block reads (ViT), not what it adds up to (BERT).
        layer_scale: multiply what a block adds by a trained vector (DINOv2); with ``pre_norm``.
        qkv_bias: query, key and value have biases.
        bottleneck_size: width inside a layer, narrower than between layers; 0 for the same.
        bottleneck_readers: who reads the narrowed states: ``query_key``, ``all`` or ``none``.
        stacked_ffns: feed-forward blocks of one layer.
        layer_groups: for each layer the number of the weights that it uses, counting up from 0
            (ALBERT: all 0); empty if every layer has its own.
        attention_spans: for each head of the first layer, then of the second and so on, the
            furthest distance in tokens at which it sees a key; empty for no limit.
        linear_ranks: for each linear map (``LINEARS``) of the first layer, then of the second and
            so on, the channels by way of which it goes as two matrices, 0 for one matrix; empty if
            all are one.
        relative_buckets: rows of the table of relative positions (MPNet); 0 without one.
        image_size: height and width of an image in pixels; 0 for an encoder of text.
        patch_size: height and width of a patch.
        num_channels: colours of an image.
        distilled: a second token before the patches, for the teacher's answer (DeiT).

    Raises:
        ModelError: settings that make no encoder.
    """

    vocab_size: int
    hidden_size: int
    num_heads: tuple[int, ...]
    head_dim: int
    intermediate_sizes: tuple[int, ...]
    max_positions: int
    type_vocab_size: int = 2
    position_start: int = 0
    activation: str = "gelu"
    layer_norm_eps: float = 1e-12
    task_type_vocab_size: int = 0
    embedding_size: int = 0
    embedding_projection: str = "none"
    trigram: bool = False
    norm: str = "layer_norm"
    pre_norm: bool = False
    layer_scale: bool = False
    qkv_bias: bool = True
    bottleneck_size: int = 0
    bottleneck_readers: str = "query_key"
    stacked_ffns: int = 1
    layer_groups: tuple[int, ...] = ()
    attention_spans: tuple[int, ...] = ()
    linear_ranks: tuple[int, ...] = ()
    relative_buckets: int = 0
    image_size: int = 0
    patch_size: int = 0
    num_channels: int = 3
    distilled: bool = False

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_sizes()
        self._check_combinations()
        self._check_groups()
        self._check_spans()
        self._check_ranks()

    def _check_choices(self) -> None:
        choices = (
            ("activation", self.activation, tuple(ACTIVATIONS)),
            ("norm", self.norm, NORMS),
            ("embedding_projection", self.embedding_projection, EMBEDDING_PROJECTIONS),
            ("bottleneck_readers", self.bottleneck_readers, BOTTLENECK_READERS),
        )
        for field, value, known in choices:
            if value not in known:
                raise ModelError(
                    f"{field} {value!r} is not supported",
                    hint=f"the encoder has: {', '.join(known)}",
                )

    def _check_sizes(self) -> None:
        sizes = (self.hidden_size, self.head_dim, self.stacked_ffns, self.usable_positions)
        stem = self.num_patches if self.image_size else self.vocab_size
        if min(*sizes, stem, *self.num_heads, *self.intermediate_sizes) < 1:
            raise ModelError(f"an encoder needs sizes of at least 1: {self}")
        blocks = self.num_layers * self.stacked_ffns
        if len(self.intermediate_sizes) != blocks:
            raise ModelError(
                f"the encoder has {self.num_layers} layers by num_heads, so {blocks} feed-forward"
                f" blocks, and intermediate_sizes has {len(self.intermediate_sizes)} widths"
            )
        if self.image_size and self.max_positions != self.num_patches + self.prefix_tokens:
            raise ModelError(
                f"{self.num_patches} patches and {self.prefix_tokens} tokens before them need as"
                f" many positions, not {self.max_positions}"
            )

    def _check_combinations(self) -> None:
        other_width = self.trigram or self.token_size != self.hidden_size
        if other_width and self.embedding_projection == "none":
            raise ModelError(
                "a token table of another width than hidden_size, or trigrams, need an"
                " embedding_projection"
            )
        if self.trigram and self.embedding_projection != "tokens":
            raise ModelError("trigrams need the embedding_projection 'tokens'")
        if self.pre_norm and (self.bottleneck_size or self.stacked_ffns > 1):
            raise ModelError("bottlenecks and stacked feed-forward blocks are not for pre_norm")
        if self.layer_scale and not self.pre_norm:
            raise ModelError("layer_scale needs pre_norm")
        if self.relative_buckets and len(set(self.num_heads)) > 1:
            raise ModelError(
                "one table of relative positions serves all layers, so they need as many heads"
                f" each, not {self.num_heads}"
            )

    def _check_groups(self) -> None:
        groups = self.layer_groups
        if not groups:
            return
        firsts = list(dict.fromkeys(groups))
        if len(groups) != self.num_layers or firsts != list(range(len(firsts))):
            raise ModelError(
                f"layer_groups {groups} must name the weights of {self.num_layers} layers, counting"
                " up from 0"
            )
        for layer, group in enumerate(groups):
            first = groups.index(group)
            if self.layer_sizes(layer) != self.layer_sizes(first):
                raise ModelError(f"layers {first} and {layer} share weights but not their sizes")

    def _check_spans(self) -> None:
        if not self.attention_spans:
            return
        if len(self.attention_spans) != sum(self.num_heads) or min(self.attention_spans) < 1:
            raise ModelError(
                f"attention_spans must name a distance of 1 or more for each of the"
                f" {sum(self.num_heads)} heads, not {self.attention_spans}"
            )
        if self.image_size:
            raise ModelError("attention_spans are for texts: patches have two coordinates")
        for layer, group in enumerate(self.groups):
            first = self.groups.index(group)
            if self.layer_spans(layer) != self.layer_spans(first):
                raise ModelError(f"layers {first} and {layer} share weights but not their spans")

    def _check_ranks(self) -> None:
        if not self.linear_ranks:
            return
        if len(self.linear_ranks) != self.num_layers * len(LINEARS) or min(self.linear_ranks) < 0:
            raise ModelError(
                f"linear_ranks must name a rank, or 0, for each of the {len(LINEARS)} linear maps"
                f" of {self.num_layers} layers, not {self.linear_ranks}"
            )
        if self.norm == "no_norm" or self.bottleneck_size or self.stacked_ffns > 1:
            raise ModelError("linear_ranks are not for the layers of MobileBERT")
        for layer, group in enumerate(self.groups):
            first = self.groups.index(group)
            if self.layer_ranks(layer) != self.layer_ranks(first):
                raise ModelError(f"layers {first} and {layer} share weights but not their ranks")

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return len(self.num_heads)

    @property
    def token_size(self) -> int:
        """Width of the token table."""
        return self.embedding_size or self.hidden_size

    @property
    def inner_size(self) -> int:
        """Width inside a layer, where attention and feed-forward blocks write."""
        return self.bottleneck_size or self.hidden_size

    @property
    def groups(self) -> tuple[int, ...]:
        """For each layer the number of its weights."""
        return self.layer_groups or tuple(range(self.num_layers))

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches of an image."""
        return 2 if self.distilled else 1

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2 if self.patch_size else 0

    @property
    def usable_positions(self) -> int:
        """Longest input in tokens: positions from ``position_start`` to the end of the table."""
        return self.max_positions - self.position_start

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs of a model: ``pixel_values``, or int64 (batch, sequence) each."""
        if self.image_size:
            return ("pixel_values",)
        types = ("token_type_ids",) if self.type_vocab_size > 1 else ()
        return ("input_ids", "attention_mask", *types, "position_ids")

    def layer_spans(self, layer: int) -> tuple[int, ...]:
        """Spans of a layer's heads; empty for no limit."""
        start = sum(self.num_heads[:layer])
        return self.attention_spans[start : start + self.num_heads[layer]]

    def layer_ranks(self, layer: int) -> tuple[int, ...]:
        """Ranks of a layer's linear maps, in the order of ``LINEARS``; 0 for one matrix."""
        if not self.linear_ranks:
            return (0,) * len(LINEARS)
        return self.linear_ranks[layer * len(LINEARS) :][: len(LINEARS)]

    def layer_sizes(self, layer: int) -> tuple[int, tuple[int, ...]]:
        """Heads of a layer, and the widths inside its feed-forward blocks."""
        start = layer * self.stacked_ffns
        return self.num_heads[layer], self.intermediate_sizes[start : start + self.stacked_ffns]
