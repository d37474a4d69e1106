"""Early-exit models for the converters: one graph of everything, from which programs are cut.

    whole = with_every_exit(prepared)          # outputs hidden_1, logits_1, ..., logits_K
    for cut in cuts(prepared): ...             # main, segment_1, ..., segment_K

An exporter converts (folds, quantizes, refines) the whole once, as it would any module, and cuts
the result: so every program computes with the same weights, which the file holds once. A model
without exits has one cut, ``main``, of all there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from edgeformer.converters.prepared import PreparedModel
from edgeformer.runtime.manifest import ExitTable, Port, Program

MASK = "attention_mask"


class EveryExit(nn.Module):
    """A classifier with exits that gives what all of its segments give.

    Args:
        model: has the parameters, under the names that people know them by.
        segments: each takes ``hidden`` and ``attention_mask``, the first the inputs of the model;
            gives ``logits`` and, but for the last, ``hidden``; and computes with ``model``'s parts.
    """

    def __init__(self, model: nn.Module, segments: Sequence[nn.Module]) -> None:
        super().__init__()
        for name, part in model.named_children():
            self.add_module(name, part)
        self._segments = tuple(segments)  # not registered: their parameters are the model's

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """``hidden_1``, ``logits_1``, ..., ``logits_K``; inputs as the model takes them."""
        first, *others = self._segments
        answer = first(input_ids, attention_mask, token_type_ids, position_ids)
        answers = {f"{name}_1": value for name, value in answer.items()}
        for k, segment in enumerate(others, 2):
            answer = segment(answer["hidden"], attention_mask)
            answers |= {f"{name}_{k}": value for name, value in answer.items()}
        return answers


@dataclass(frozen=True)
class Cut:
    """A program, as a part of the whole graph.

    Attributes:
        name: of the program.
        inputs: its ports.
        outputs: its ports.
        reads: input -> the output of the whole that it is, where it is none of its inputs.
        gives: output -> the output of the whole that it is.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    reads: dict[str, str]
    gives: dict[str, str]

    def program(self, file: str, entry: str = "", buckets: tuple[int, ...] = ()) -> Program:
        """The manifest's record of it; ``entry`` defaults to its name."""
        return Program(file, entry or self.name, buckets, self.inputs, self.outputs)


def with_every_exit(prepared: PreparedModel) -> PreparedModel:
    """The model whose outputs are all that its segments give; one without exits as it is."""
    if prepared.exits is None:
        return prepared
    ports = []
    for k in range(1, len(prepared.exits.layers) + 1):
        ports += [replace(port, name=f"{port.name}_{k}") for port in _outputs(prepared, k)]
    return replace(prepared, module=prepared.exits.module, outputs=tuple(ports), exits=None)


def cuts(prepared: PreparedModel) -> tuple[Cut, ...]:
    """``main`` and, of a model with exits, ``segment_1`` and so on."""
    if prepared.exits is None:
        same = {port.name: port.name for port in prepared.outputs}
        return (Cut("main", prepared.inputs, prepared.outputs, {}, same),)
    count = len(prepared.exits.layers)
    found = [Cut("main", prepared.inputs, prepared.outputs, {}, {"logits": f"logits_{count}"})]
    for k in range(1, count + 1):
        outputs = _outputs(prepared, k)
        reads = {} if k == 1 else {"hidden": f"hidden_{k - 1}"}
        gives = {port.name: f"{port.name}_{k}" for port in outputs}
        found.append(Cut(f"segment_{k}", _inputs(prepared, k), outputs, reads, gives))
    return tuple(found)


def exit_table(prepared: PreparedModel) -> ExitTable | None:
    """What a variant says before its exits are calibrated."""
    return None if prepared.exits is None else ExitTable(prepared.exits.layers)


def _inputs(prepared: PreparedModel, k: int) -> tuple[Port, ...]:
    if k == 1:
        return prepared.inputs
    return _hidden(prepared), next(port for port in prepared.inputs if port.name == MASK)


def _outputs(prepared: PreparedModel, k: int) -> tuple[Port, ...]:
    assert prepared.exits is not None
    last = k == len(prepared.exits.layers)
    return prepared.outputs if last else (_hidden(prepared), *prepared.outputs)


def _hidden(prepared: PreparedModel) -> Port:
    assert prepared.exits is not None
    return Port("hidden", "float32", ("batch", "sequence", prepared.exits.hidden_size))
