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

# Both spellings of the tanh approximation appear in checkpoints; the formula is one.
_tanh_gelu = functools.partial(F.gelu, approximate="tanh")
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
}


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that decides the shape and the arithmetic of an ``Encoder``.

    Attributes:
        vocab_size: rows of the token table.
        hidden_size: width of the hidden states.
        num_heads: attention heads of each layer; its length is the number of layers.
        head_dim: width of one head; heads * head_dim need not be hidden_size.
        intermediate_sizes: width inside the feed-forward block of each layer.
        max_positions: rows of the position table.
        type_vocab_size: rows of the token-type table; 0 for an encoder without one.
        position_start: position id of the first token (RoBERTa: 2, BERT: 0).
        activation: a key of ``ACTIVATIONS``.
        layer_norm_eps: added to the variance in every layer normalisation.

    Raises:
        ModelError: sizes that are not positive, tuples of unequal length, unknown activation.
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

    def __post_init__(self) -> None:
        sizes = (self.vocab_size, self.hidden_size, self.head_dim)
        if min(*sizes, *self.num_heads, *self.intermediate_sizes, self.usable_positions) < 1:
            raise ModelError(f"an encoder needs sizes of at least 1: {self}")
        if len(self.num_heads) != len(self.intermediate_sizes):
            raise ModelError(
                f"the encoder has {len(self.num_heads)} layers by num_heads and"
                f" {len(self.intermediate_sizes)} by intermediate_sizes"
            )
        if self.activation not in ACTIVATIONS:
            raise ModelError(
                f"activation {self.activation!r} is not supported",
                hint=f"the encoder has: {', '.join(ACTIVATIONS)}",
            )

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return len(self.num_heads)

    @property
    def usable_positions(self) -> int:
        """Longest input in tokens: positions from ``position_start`` to the end of the table."""
        return self.max_positions - self.position_start

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs that ``Encoder.forward`` takes, each int64 (batch, sequence)."""
        types = ("token_type_ids",) if self.type_vocab_size else ()
        return ("input_ids", "attention_mask", *types, "position_ids")
