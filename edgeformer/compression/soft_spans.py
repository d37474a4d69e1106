"""Spans of attention heads while they are learned: soft ends, a price, and what comes of them.

Sukhbaatar et al., "Adaptive Attention Span in Transformers", arXiv 1905.07799, section 2.2, and
EdgeBERT (arXiv 2011.14203, section III-C). A head with span z gives a key at distance d the weight

    m(d) = clip((R + z - d) / R, 0, 1)     a'_ij = m(|i - j|) a_ij / sum_k m(|i - k|) a_ik

The first token's column always counts in full. R shrinks to 1 while training goes on, so that
little changes when spans become whole numbers. A head whose span falls below 1 fades: what it
contributes is multiplied by its span, and one of span 0 can be cut out without a trace.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from edgeformer.compression.batches import Batch
from edgeformer.compression.rebuilding import Model, rebuilt
from edgeformer.compression.recipe import Span, Stage
from edgeformer.compression.schedules import Linear
from edgeformer.compression.slimming import slim
from edgeformer.compression.trainer import Objective
from edgeformer.compression.units import encoder_of
from edgeformer.errors import UsageError
from edgeformer.models.attention import PADDING_SCORE
from edgeformer.models.encoder import Encoder
from edgeformer.models.spans import distances, not_first

_LEAST_WEIGHT = 1e-4  # below it the logarithm's slope is of no use


class SoftSpans(nn.Module):
    """A span for each head of each set of layer weights.

    Args:
        encoder: whose heads.
        span: where they begin.

    Raises:
        UsageError: an encoder of images, or with relative positions, whose heads share a table.
    """

    def __init__(self, encoder: Encoder, span: Span) -> None:
        super().__init__()
        config = encoder.config
        if config.image_size or config.relative_buckets:
            raise UsageError("spans are learned for texts, and without relative positions")
        firsts = [config.groups.index(group) for group in sorted(set(config.groups))]
        self.lengths = nn.ParameterList(
            torch.full((config.num_heads[layer],), float(span.start)) for layer in firsts
        )
        self.longest = float(span.start)
        self.ramp = span.ramp

    def score_mask(self, group: int, length: int) -> torch.Tensor:
        """What the heads add to their scores, the logarithm of m, float (1, heads, query, key)."""
        spans = self.lengths[group].view(1, -1, 1, 1)
        far = distances(length, spans.device)
        weight = ((self.ramp + spans - far) / self.ramp).clamp(0.0, 1.0)
        logarithm = weight.clamp(min=_LEAST_WEIGHT).log()
        scores = torch.where(weight > 0, logarithm, PADDING_SCORE)
        return scores * not_first(length, spans.device)

    def gates(self, group: int) -> torch.Tensor:
        """What multiplies the heads' outputs, float (heads,)."""
        gates: torch.Tensor = self.lengths[group].clamp(0.0, 1.0)
        return gates

    def mean(self) -> torch.Tensor:
        """The mean span of all heads, in tokens, float ()."""
        mean: torch.Tensor = torch.cat([spans.flatten() for spans in self.lengths]).mean()
        return mean

    @torch.no_grad()
    def hold(self) -> None:
        """Bring spans that a step carried out of their range back."""
        for spans in self.lengths:
            spans.clamp_(0.0, self.longest)


def put_spans(student: nn.Module, stage: Stage, projections: nn.ModuleDict) -> None:
    """Add the spans that a stage learns to what is trained beside the student, as ``spans``."""
    if stage.span is not None:
        device = next(student.parameters()).device
        projections["spans"] = SoftSpans(encoder_of(student), stage.span).to(device)


@contextmanager
def within_soft_spans(model: nn.Module, spans: SoftSpans) -> Iterator[None]:
    """Limit the heads' sight while the context is open; gradients flow to the spans."""
    with ExitStack() as stack:
        for group, layer in enumerate(encoder_of(model).layers):
            attention, head_dim = (
                layer.get_submodule("attention"),
                encoder_of(model).config.head_dim,
            )
            limit, fade = partial(_limit, spans, group), partial(_fade, spans, group, head_dim)
            stack.callback(attention.register_forward_pre_hook(limit).remove)
            output = attention.get_submodule("output")
            stack.callback(output.register_forward_pre_hook(fade).remove)
        yield


def _limit(spans: SoftSpans, group: int, module: nn.Module, inputs: Any) -> tuple[Any, ...]:
    queries, values, mask = inputs
    return queries, values, mask + spans.score_mask(group, queries.shape[1]).to(mask.dtype)


def _fade(
    spans: SoftSpans, group: int, head_dim: int, module: nn.Module, inputs: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    return (inputs[0] * spans.gates(group).repeat_interleave(head_dim).to(inputs[0].dtype),)


def span_schedule(spans: SoftSpans, span: Span, steps: int) -> Callable[[int], None]:
    """What is to be called before each step: it shortens the ramp and keeps spans in range."""
    last = max(1, round(span.end * steps))
    ramp = Linear(span.ramp, 1.0, last_step=last)

    def before_step(step: int) -> None:
        spans.ramp = ramp(step)
        spans.hold()

    return before_step


@dataclass(frozen=True)
class Priced:
    """An objective and, as ``spans``, a price for the mean span.

    Attributes:
        objective: of the stage.
        spans: that are learned.
        penalty: for each token.
    """

    objective: Objective
    spans: SoftSpans
    penalty: float

    def __call__(self, batch: Batch, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """See ``trainer.Objective``."""
        return {**self.objective(batch, rows), "spans": self.penalty * self.spans.mean()}


@torch.no_grad()
def harden(model: Model, spans: SoftSpans) -> Model:
    """A new model with these spans as whole numbers, without the heads whose span is 0.

    At whole spans, and with a ramp of 1, it answers as the soft one does. The head with the longest
    span of each set of weights stays, with a span of 1 at least.

    Args:
        model: it is left as it is.
        spans: learned for it.

    Raises:
        UsageError: weights that are still masked (masks.py).
    """
    spans.hold()
    whole = [lengths.detach().round().long() for lengths in spans.lengths]
    for lengths in whole:
        best = lengths.argmax()
        lengths[best] = lengths[best].clamp(min=1)
    made = slim(model, {"heads": tuple(lengths > 0 for lengths in whole)})
    encoder = encoder_of(made)
    kept = [tuple(lengths[lengths > 0].tolist()) for lengths in whole]
    flat = tuple(span for group in encoder.config.groups for span in kept[group])
    config = replace(encoder.config, attention_spans=flat)
    return rebuilt(made, config, dict(encoder.named_parameters()))
