"""What a model is: parameters, floating-point operations, and how often it is right."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edgeformer.compression.batches import Batch
from edgeformer.compression.batching import BatchSettings, Tokenized, every_example
from edgeformer.compression.model_config import config_of
from edgeformer.compression.objective import ask, model_inputs
from edgeformer.models.exits import ExitClassifier

FLOP_TOKENS = 128


@dataclass(frozen=True)
class Size:
    """How large a model is.

    Attributes:
        parameters: trained values, shared ones counted once.
        nonzero: those that are not zero.
        fp32_mb: as 32-bit numbers, in MB (1e6 bytes).
        int8_mb: if each took a byte.
        mflops: floating-point operations of one text of ``FLOP_TOKENS`` tokens, in millions; a
            multiplication and its addition count as two.
        layers: of the encoder.
        heads: in each layer.
        neurons: in each feed-forward block.
        hidden: width of the states.
        vocabulary: word pieces.
    """

    parameters: int
    nonzero: int
    fp32_mb: float
    int8_mb: float
    mflops: float
    layers: int
    heads: tuple[int, ...]
    neurons: tuple[int, ...]
    hidden: int
    vocabulary: int


def size_of(model: nn.Module) -> Size:
    """The size of a model of edgeformer.models."""
    parameters = list(model.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    config = config_of(model)
    return Size(
        parameters=count,
        nonzero=sum(int(parameter.count_nonzero()) for parameter in parameters),
        fp32_mb=count * 4 / 1e6,
        int8_mb=count / 1e6,
        mflops=flops(model) / 1e6,
        layers=config.num_layers,
        heads=getattr(config, "num_heads", ()),
        neurons=getattr(config, "intermediate_sizes", ()),
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
    )


@torch.no_grad()
def flops(model: nn.Module, tokens: int = FLOP_TOKENS) -> int:
    """Floating-point operations of matrix products for one text, as torch counts them."""
    device = next(model.parameters()).device
    config = config_of(model)
    tokens = min(tokens, config.usable_positions or tokens)
    ids = torch.zeros(1, tokens, dtype=torch.int64, device=device)
    # The counter knows the products inside attention only where they are written out.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(ids, torch.ones_like(ids))
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class Quality:
    """How good the answers of a model are on labelled texts.

    Attributes:
        metric: ``accuracy``, or for regression ``pearson``, the correlation with the labels.
        value: of the metric.
        examples: texts it was measured on.
    """

    metric: str
    value: float
    examples: int


def answers(model: nn.Module, tokenized: Tokenized, settings: BatchSettings) -> torch.Tensor:
    """Logits of every example by a model in eval mode, float32 (examples, classes), on the CPU."""
    return _every(lambda batch: ask(model, batch)["logits"], model, tokenized, settings)


def _every(
    asked: Callable[[Batch], torch.Tensor],
    model: nn.Module,
    tokenized: Tokenized,
    settings: BatchSettings,
) -> torch.Tensor:
    """What ``asked`` says of each batch, float32 (batch, ...), for all examples, on the CPU."""
    device = next(model.parameters()).device
    found: torch.Tensor | None = None
    with torch.inference_mode():
        for rows, batch in every_example(tokenized, settings):
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            answer = asked(batch).cpu()
            if found is None:
                found = torch.zeros(len(tokenized), *answer.shape[1:])
            found[rows] = answer
    return torch.zeros(len(tokenized), 1) if found is None else found


def quality(
    model: nn.Module, tokenized: Tokenized, settings: BatchSettings, problem_type: str
) -> Quality:
    """The metric of a classifier of texts on labelled examples."""
    logits, targets = answers(model, tokenized, settings), tokenized.targets
    assert targets is not None
    if problem_type == "regression":
        pair = torch.stack([logits.squeeze(-1), targets])
        return Quality("pearson", float(torch.corrcoef(pair)[0, 1]), len(tokenized))
    right = (logits.argmax(-1) == targets).float().mean()
    return Quality("accuracy", float(right), len(tokenized))


def exit_accuracies(
    model: ExitClassifier, tokenized: Tokenized, settings: BatchSettings
) -> tuple[float, ...]:
    """How often the answer after each layer is right, first to last, on labelled examples."""

    def asked(batch: Batch) -> torch.Tensor:
        return torch.stack(model.all_logits(**model_inputs(model, batch)), dim=1)

    logits, targets = _every(asked, model, tokenized, settings), tokenized.targets
    assert targets is not None
    right = (logits.argmax(-1) == targets.unsqueeze(1)).float().mean(0)
    return tuple(right.tolist())
