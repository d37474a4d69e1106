"""How large each channel of an exported program's values gets on the example inputs.

Runs the exported graph in PyTorch, node by node; reads nothing but the examples.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export.graph_signature import InputKind

_MAX_EXAMPLES = 32


class _Recorder(torch.fx.Interpreter):
    def __init__(self, module: torch.fx.GraphModule, names: frozenset[str]) -> None:
        super().__init__(module)
        self._names = names
        self.ranges: dict[str, torch.Tensor] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self._names and isinstance(result, torch.Tensor) and result.numel():
            largest = result.abs().reshape(-1, result.shape[-1]).amax(0)
            known = self.ranges.get(n.name)
            self.ranges[n.name] = largest if known is None else torch.maximum(known, largest)
        return result


def channel_ranges(
    program: torch.export.ExportedProgram,
    names: Iterable[str],
    examples: Sequence[Sequence[torch.Tensor]],
) -> dict[str, NDArray[np.float32]]:
    """Largest absolute value of each channel (last axis) of the named values.

    Args:
        program: exported; node names are what ``names`` speaks of, unknown ones are left out.
        names: values to watch.
        examples: inputs in call order; the first 32 sets are run.

    Returns:
        name -> float32 (channels,).
    """
    recorder = _Recorder(program.graph_module, frozenset(names))
    with torch.no_grad():
        for example in examples[:_MAX_EXAMPLES]:
            recorder.run(*_flat_inputs(program, example))
    return {name: value.float().numpy() for name, value in recorder.ranges.items()}


def _flat_inputs(
    program: torch.export.ExportedProgram, example: Sequence[torch.Tensor]
) -> list[Any]:
    """Parameters, buffers and user inputs in the order of the graph's placeholders."""
    given = iter(example)
    flat: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            flat.append(next(given))
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target in (
            program.state_dict
        ):
            flat.append(program.state_dict[spec.target])
        else:
            flat.append(program.constants[spec.target or ""])
    return flat
