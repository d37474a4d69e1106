"""The output layer of a masked language model is the token table: what is cut there is cut here."""

from collections.abc import Mapping

import torch
from torch import nn

from edgeformer.compression.units import Values
from edgeformer.errors import ModelError
from edgeformer.models.masked_lm import MaskedLanguageModel


def slim_masked_lm(
    model: MaskedLanguageModel, table: torch.Tensor, keep: Mapping[str, Values]
) -> None:
    """Fit the head of a masked language model, in place, to its slimmed encoder.

    Columns that the token table loses are still read by the output layer. They move to the
    columns that this layer has for itself, so that the scores of words stay what they were; the
    dense layer and the norm before it give their results in the new order.

    Args:
        model: encoder slimmed, head not.
        table: float (old vocabulary, old token size), the token table before.
        keep: as for ``slim``.

    Raises:
        ModelError: ``embedding_dims``, and the output layer has no columns for itself.
    """
    columns = None if model.columns is None else model.columns.weight.detach()
    if "embedding_dims" in keep:
        if columns is None:
            raise ModelError(
                "the output layer of this masked language model reads every column of the token"
                " table, so none can be cut",
                hint="cut them from the model of another task: its encoder alone reads the table",
            )
        stays = keep["embedding_dims"][0].to(table.device)
        columns = torch.cat([table[:, ~stays], columns], dim=1)
        _reorder(model, stays)
    if "tokens" in keep:
        rows = keep["tokens"][0].nonzero().flatten().to(table.device)
        model.bias = nn.Parameter(model.bias.detach()[rows])
        columns = None if columns is None else columns[rows]
    if columns is not None:
        model.columns = nn.Linear(columns.shape[1], columns.shape[0], bias=False, device="meta")
        model.columns.weight = nn.Parameter(columns)


def _reorder(model: MaskedLanguageModel, stays: torch.Tensor) -> None:
    """Put what the dense layer writes for columns that stay before what it writes for the rest."""
    beside = torch.arange(len(stays), model.dense.out_features, device=stays.device)
    order = torch.cat([stays.nonzero().flatten(), (~stays).nonzero().flatten(), beside])
    with torch.no_grad():
        parameters = (model.dense.weight, model.dense.bias, model.norm.weight, model.norm.bias)
        for parameter in parameters:
            parameter.copy_(parameter[order].clone())
