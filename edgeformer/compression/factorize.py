"""Two narrow matrices for one wide one.

    small = factorize_embedding(model, 128)   # V x H becomes V x 128 and 128 x H, as ALBERT has it
    small = factorize_linears(model, even_ranks(model.encoder.config, 0.5))  # half of the weights
    first_then_second = factorize_linear(linear, 64)

By the singular value decomposition, which gives the best approximation of a rank (Eckart and Young,
1936). Without training afterwards the answers change by what the approximation leaves out; at full
rank they stay.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from edgeformer.compression.rebuilding import Model, rebuilt
from edgeformer.compression.units import encoder_of
from edgeformer.errors import ModelError, UsageError
from edgeformer.models.config import LINEARS, EncoderConfig
from edgeformer.models.encoder import Encoder
from edgeformer.models.low_rank import make_linear
from edgeformer.models.masked_lm import MaskedLanguageModel

_TOKENS = "embeddings.tokens.weight"
_PROJECTION = "embeddings.projection"


def low_rank(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors whose product is the closest matrix of that rank, in the Frobenius norm.

    Each factor takes the square root of the singular values, so that both are of one scale, as in
    the authors' code of FLOP (Wang et al., arXiv 1910.04732).

    Args:
        matrix: float (rows, columns).
        rank: from 1 to the smaller of both.

    Returns:
        float (rows, rank) and (rank, columns), of the matrix' type.

    Raises:
        UsageError: no such rank.
    """
    largest = min(matrix.shape)
    if not 1 <= rank <= largest:
        raise UsageError(
            f"a matrix of {' x '.join(map(str, matrix.shape))} has no factors of rank {rank}",
            hint=f"choose a rank from 1 to {largest}",
        )
    # In float64, since the singular values of a trained matrix span many magnitudes.
    left, values, right = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
    roots = values[:rank].sqrt()
    first, second = left[:, :rank] * roots, roots[:, None] * right[:rank]
    return first.to(matrix.dtype), second.to(matrix.dtype)


def factorize_linear(linear: nn.Linear, rank: int) -> nn.Sequential:
    """A linear map as two, by way of ``rank`` channels.

    It saves parameters and multiplications where ``rank`` is below ``break_even_rank(linear)``.

    Args:
        linear: float (..., inputs) to (..., outputs). It is left as it is.
        rank: channels between, from 1 to the smaller of inputs and outputs.

    Returns:
        A linear map without bias, then one with the bias that ``linear`` has.

    Raises:
        UsageError: no such rank.
    """
    parameters = {f"map.{name}": p.detach().clone() for name, p in linear.named_parameters()}
    _split(parameters, "map", rank)
    with torch.device("meta"):  # nothing is allocated or initialised
        made = make_linear(
            linear.in_features, linear.out_features, linear.bias is not None, rank
        ).train(linear.training)
    assert isinstance(made, nn.Sequential)
    made.load_state_dict(
        {name.removeprefix("map."): tensor for name, tensor in parameters.items()}, assign=True
    )
    return made


def break_even_rank(linear: nn.Linear) -> int:
    """The largest rank at which both factors have no more weights than the map itself.

    floor(inputs * outputs / (inputs + outputs)), the rank at which FLOP starts (arXiv 1910.04732).
    """
    inputs, outputs = linear.in_features, linear.out_features
    return (inputs * outputs) // (inputs + outputs)


def even_ranks(config: EncoderConfig, share: float) -> tuple[int, ...]:
    """Ranks at which both factors together have a share of the weights that a map has whole.

    Args:
        config: of the encoder whose maps are to be factorised.
        share: above 0, up to 1.

    Returns:
        For each layer those of its six maps, each at least 1, as ``EncoderConfig.linear_ranks``.
    """
    ranks: list[int] = []
    for layer in range(config.num_layers):
        heads, widths = config.layer_sizes(layer)
        for inner in (*[heads * config.head_dim] * 4, *[widths[-1]] * 2):
            size = config.inner_size
            ranks.append(max(1, int(share * size * inner / (size + inner))))
    return tuple(ranks)


def factorize_linears(model: Model, ranks: Sequence[int]) -> Model:
    """A new model whose layers have two narrow matrices in the place of a wide one.

    Args:
        model: of edgeformer.models. It is left as it is.
        ranks: for each layer those of its query, key, value, output, up and down; 0 leaves one
            whole. ``even_ranks`` gives them for a share of the weights.

    Returns:
        A model of the same class; its ``encoder.config`` has these ``linear_ranks``.

    Raises:
        UsageError: a rank that its map cannot have.
        ModelError: maps that are factorised already, too few ranks, or a MobileBERT, whose
            normalisations are folded into these maps.
    """
    encoder = encoder_of(model)
    if encoder.config.linear_ranks:
        raise ModelError("the linear maps of this encoder are factorised already")
    config = replace(encoder.config, linear_ranks=tuple(ranks))
    parameters = {name: tensor.detach() for name, tensor in encoder.named_parameters()}
    for layer, group in enumerate(config.groups):
        if group in config.groups[:layer]:
            continue
        for name, rank in zip(LINEARS, config.layer_ranks(layer), strict=True):
            if rank:
                _split(parameters, f"layers.{group}.{name}", rank)
    return rebuilt(model, config, parameters)


def _split(parameters: dict[str, torch.Tensor], name: str, rank: int) -> None:
    """Put the factors of a linear map in its place, under the names that ``make_linear`` gives."""
    outer, inner = low_rank(parameters.pop(f"{name}.weight"), rank)
    parameters |= {f"{name}.0.weight": inner, f"{name}.1.weight": outer}
    bias = parameters.pop(f"{name}.bias", None)
    if bias is not None:
        parameters[f"{name}.1.bias"] = bias


def factorize_embedding(model: Model, rank: int) -> Model:
    """A new model whose token table is ``rank`` wide, with a linear map to the width of before.

    Lan et al., "ALBERT", arXiv 1909.11942, section 3.1 (factorized embedding parameterization),
    from a trained table. Rows are mapped before positions and types are added, so at full rank the
    answers are those of before. A table with such a map already is narrowed further: the product of
    both is approximated anew.

    Args:
        model: of edgeformer.models. It is left as it is.
        rank: new width of the token table.

    Returns:
        A model of the same class; its ``encoder.config`` has ``embedding_size`` = ``rank`` and
        ``embedding_projection`` = ``tokens``.

    Raises:
        UsageError: no such rank.
        ModelError: a model without a token table, or one whose table something else reads too.
    """
    encoder = encoder_of(model)
    _check_table(model, encoder)
    parameters = {name: tensor.detach() for name, tensor in encoder.named_parameters()}
    matrix = parameters[_TOKENS]
    bias = torch.zeros(encoder.config.hidden_size).to(matrix)
    if encoder.config.embedding_projection == "tokens":
        matrix = matrix @ parameters[f"{_PROJECTION}.weight"].t()
        bias = parameters[f"{_PROJECTION}.bias"]
    table, projection = low_rank(matrix, rank)
    parameters |= {_TOKENS: table}
    parameters |= {f"{_PROJECTION}.weight": projection.t(), f"{_PROJECTION}.bias": bias}
    config = replace(encoder.config, embedding_size=rank, embedding_projection="tokens")
    return rebuilt(model, config, parameters)


def _check_table(model: nn.Module, encoder: Encoder) -> None:
    config = encoder.config
    if config.image_size:
        raise ModelError("an encoder of images has no token table to factorise")
    if config.embedding_projection == "sum":
        raise ModelError(
            "the token table of this encoder is factorised already, behind the norm of the sum of"
            f" all tables ({config.token_size} to {config.hidden_size})"
        )
    if config.trigram:
        raise ModelError("trigrams read three rows of the token table at once: it stays whole")
    if isinstance(model, MaskedLanguageModel):
        raise ModelError(
            "the output layer of this masked language model reads the token table too, at its full"
            " width",
            hint="factorise the encoder, or the model of another task, and give it a new head:"
            " edgeformer.compression.students.with_head",
        )
