"""The one thing every converter takes: a module whose inputs and outputs are plain tensors.

Whoever makes a PreparedModel (a checkpoint loader, or the user's own nn.Module) has already put
the head, the pooling and the additive mask (0 for tokens, -10000 for padding) inside ``module``.
"""

from dataclasses import dataclass

import torch

from edgeformer.runtime.manifest import ModelCard, Port


@dataclass(frozen=True)
class PreparedExits:
    """What a model with early exits can do besides.

    Attributes:
        module: in eval mode; takes the inputs of the model and gives ``hidden_k`` (batch, sequence,
            hidden_size) and ``logits_k`` (batch, classes) of each segment k from 1, the last of
            which has no ``hidden_k`` (converters/exits.py makes one).
        layers: layers that are done after each segment.
        hidden_size: width of the hidden states.
        reference: the same of the model as it was loaded, whose answers are the right ones.
    """

    module: torch.nn.Module
    layers: tuple[int, ...]
    hidden_size: int
    reference: torch.nn.Module


@dataclass(frozen=True)
class PreparedModel:
    """A module that is ready to be exported.

    Attributes:
        module: in eval mode; ``module(**inputs)`` with the tensors of ``examples`` returns a dict
            of tensors, one for each of ``outputs``.
        inputs: ports of the module. Token models have ``input_ids``, ``attention_mask`` (default
            ones), where the model uses them ``token_type_ids`` (default zeros) and
            ``position_ids`` (default positions+K), each int64 (batch, sequence).
        outputs: ports of the result: ``embedding`` (batch, hidden), ``logits`` (batch, classes)
            or (batch, sequence, classes), or a plain module's own names.
        examples: one or more sets of inputs; the first is what exporting traces, all of them tell
            the converters the ranges of activations.
        card: what the model is.
        tokenizer_json: contents of tokenizer.json, truncation and padding removed; None if none.
        original: what ``module`` was made from, whose answers those of the files are compared
            with; None for ``module`` itself.
        exits: of a model that texts may leave early, else None.
    """

    module: torch.nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    examples: tuple[dict[str, torch.Tensor], ...]
    card: ModelCard
    tokenizer_json: bytes | None = None
    original: torch.nn.Module | None = None
    exits: PreparedExits | None = None

    @property
    def paddable(self) -> bool:
        """True if an ``attention_mask`` input lets shorter inputs be padded."""
        return any(port.name == "attention_mask" for port in self.inputs)
