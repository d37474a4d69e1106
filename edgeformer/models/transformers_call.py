"""A model of ``transformers`` behind the inputs and the output of our own, and how to call it.

The wrapper gives the converters what they expect of every model: an additive mask made once, and
position ids as an input. Whether a family takes them is not looked up but measured: a small padded
batch goes through the model as transformers would call it, and then in each way we would prefer;
the best way whose answers are equal is kept (``find_call``). Imports torch, not transformers.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from edgeformer.errors import ModelError
from edgeformer.models.attention import additive_mask
from edgeformer.models.heads import pool

GENERIC_HINT = (
    "any torch module converts through edgeformer.convert(module, example_inputs=..., profile=...)"
)
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError)


@dataclass(frozen=True)
class Call:
    """How a model of transformers is called.

    Attributes:
        additive: pass our additive (batch, 1, 1, sequence) mask, else the plain integer mask.
        token_types: ``input``, ``zero`` (a constant: the model knows one type) or ``absent``.
        position_start: first position id, None if position ids are not passed.
    """

    additive: bool = False
    token_types: str = "absent"
    position_start: int | None = None


class TransformersModel(nn.Module):
    """A model of transformers with the inputs and the output of our own.

    Args:
        model: from an AutoModel class, in eval mode.
        call: how to call it.
        task: one of ``model_folder.TASKS``.
        pooling: ``mean`` or ``cls``; for embeddings.
        normalized: True for vectors of unit length; for embeddings.
    """

    no_types: torch.Tensor

    def __init__(
        self, model: nn.Module, call: Call, task: str, pooling: str, normalized: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.call = call
        self.task = task
        self.pooling = pooling
        self.normalized = normalized
        self.register_buffer("no_types", torch.zeros(1, 1, dtype=torch.int64), persistent=False)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs that ``forward`` uses, each int64 (batch, sequence)."""
        types = ("token_type_ids",) if self.call.token_types == "input" else ()
        positions = ("position_ids",) if self.call.position_start is not None else ()
        return ("input_ids", "attention_mask", *types, *positions)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """``{"embedding": ...}`` or ``{"logits": ...}`` as of the models in heads.py."""
        output = self.raw(input_ids, attention_mask, token_type_ids, position_ids)
        if self.task == "embedding":
            return {"embedding": pool(output, attention_mask, self.pooling, self.normalized)}
        return {"logits": output}

    def raw(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states (batch, sequence, hidden) if the task is embedding, else the logits."""
        arguments: dict[str, torch.Tensor | None] = {"input_ids": input_ids}
        arguments["attention_mask"] = (
            additive_mask(attention_mask, torch.float32) if self.call.additive else attention_mask
        )
        if self.call.token_types != "absent":
            given = self.call.token_types == "input"
            arguments["token_type_ids"] = token_type_ids if given else self.no_types
        if self.call.position_start is not None:
            arguments["position_ids"] = position_ids
        output = self.model(**arguments)
        result: torch.Tensor
        if self.task == "embedding":
            result = output.last_hidden_state
        elif self.task == "question-answering":
            result = torch.stack([output.start_logits, output.end_logits], dim=-1)
        else:
            result = output.logits
        return result


def find_call(wrapped: TransformersModel, config: Any) -> torch.Tensor:
    """Set ``wrapped.call`` to the best way of calling the model that leaves its answers alone.

    Preferred, in this order: token types as an input or a constant, position ids as an input if
    the model uses them, the additive mask.

    Returns:
        the model's plain answer to the probe, for its shape.

    Raises:
        ModelError: the model cannot be called with token ids and a mask alone.
    """
    batch = _probe(config)
    call = wrapped.call = Call()
    try:
        with torch.no_grad():
            plain = wrapped.raw(**batch)
    except _REFUSALS as error:
        raise ModelError(
            f"{config.model_type} cannot be called with token ids and an attention mask alone:"
            f" {error}",
            hint=GENERIC_HINT,
        ) from error
    types = getattr(config, "type_vocab_size", 0)
    candidates = [replace(call, token_types="input" if types > 1 else "zero")] if types else []
    call = _first_equal(wrapped, candidates, batch, plain) or call
    if _uses_positions(wrapped, call, batch):
        starts = (0, (config.pad_token_id or 0) + 1)
        candidates = [replace(call, position_start=start) for start in starts]
        call = _first_equal(wrapped, candidates, batch, plain) or call
    call = _first_equal(wrapped, [replace(call, additive=True)], batch, plain) or call
    wrapped.call = call
    return plain


def _probe(config: Any) -> dict[str, torch.Tensor]:
    """A padded batch of three texts: random ids, the pad id where the mask is 0."""
    length = 8
    generator = torch.Generator().manual_seed(0)
    pad = config.pad_token_id or 0
    ids = torch.randint(0, config.vocab_size - 1, (3, length), generator=generator)
    ids = torch.where(ids >= pad, ids + 1, ids)  # every id but the pad id
    lengths = torch.tensor([[length], [5], [3]])
    mask = (torch.arange(length) < lengths).long()
    return {"input_ids": torch.where(mask == 1, ids, pad), "attention_mask": mask}


def _answer(
    wrapped: TransformersModel, call: Call, batch: Mapping[str, torch.Tensor], step: int = 1
) -> torch.Tensor | None:
    """The model's answer under ``call``, None if it refuses. ``step`` spreads the positions."""
    inputs = dict(batch)
    shape = batch["input_ids"].shape
    positions = torch.arange(shape[1]) * step + (call.position_start or 0)
    inputs["position_ids"] = positions.expand(shape).contiguous()
    inputs["token_type_ids"] = torch.zeros(shape, dtype=torch.int64)
    before, wrapped.call = wrapped.call, call
    try:
        with torch.no_grad():
            return wrapped.raw(**inputs)
    except _REFUSALS:  # an answer to the question, not a failure: this way is not open
        return None
    finally:
        wrapped.call = before


def _uses_positions(
    wrapped: TransformersModel, call: Call, batch: Mapping[str, torch.Tensor]
) -> bool:
    """True if the model takes position ids and its answer depends on them."""
    if "position_ids" not in inspect.signature(wrapped.model.forward).parameters:
        return False
    call = replace(call, position_start=0)
    near, far = (_answer(wrapped, call, batch, step) for step in (1, 2))
    return near is not None and far is not None and not torch.equal(near, far)


def _first_equal(
    wrapped: TransformersModel,
    candidates: list[Call],
    batch: Mapping[str, torch.Tensor],
    plain: torch.Tensor,
) -> Call | None:
    """The first candidate whose answer at real tokens is the plain one to 1e-5 of its size."""
    for call in candidates:
        answer = _answer(wrapped, call, batch)
        if answer is None or answer.shape != plain.shape:
            continue
        difference = (answer - plain).abs()
        if plain.dim() == 3:
            difference = difference * batch["attention_mask"].unsqueeze(-1)
        if float(difference.max()) <= 1e-5 * max(1.0, float(plain.abs().max())):
            return call
    return None
