"""Cut the programs of an early-exit model out of a .tflite file: signatures over the same weights.

    content = cut_signatures(content, cuts(prepared))     # main -> main, segment_1, segment_2, ...

A signature of the file that computes everything becomes one for each cut. A cut's subgraph holds
the operations that its outputs need, from its own inputs on; its constants point to the buffers
where they were, so that the file grows by graphs only. Only the hidden states of the segment before
may be read across a cut, and what comes from the attention mask is computed again.
"""

import copy
import importlib
from collections.abc import Sequence
from typing import Any

from edgeformer.converters.exits import Cut
from edgeformer.converters.tflite_convert import LEAVE_OUT
from edgeformer.converters.tflite_file import repacked
from edgeformer.converters.tflite_sharing import share_scales
from edgeformer.errors import ModelError

_WHOLE = "main"


def cut_signatures(content: bytes, cuts: Sequence[Cut]) -> bytes:
    """The file with a signature for each of ``cuts`` in place of each that it had.

    Args:
        content: a file whose signatures are ``main`` or ``main_LENGTH``.
        cuts: ``main`` alone for a file that stays as it is.

    Raises:
        ModelError: a part of the model reads what only an earlier part does.
    """
    if len(cuts) == 1:
        return content
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    signatures: list[Any] = []
    graphs: list[Any] = []
    for whole in model.signatureDefs:
        graph = model.subgraphs[whole.subgraphIndex]
        for cut in cuts:
            part, signature = _Part(schema, graph, whole, cut).made()
            signature.subgraphIndex = len(graphs)
            graphs.append(part)
            signatures.append(signature)
    model.signatureDefs, model.subgraphs = signatures, graphs
    return share_scales(repacked(model, content))


class _Part:
    """One cut of one signature."""

    def __init__(self, schema: Any, graph: Any, whole: Any, cut: Cut) -> None:
        self._schema, self._graph, self._cut = schema, graph, cut
        self._key = whole.signatureKey.decode().replace(_WHOLE, cut.name, 1)
        given = {entry.name.decode(): int(entry.tensorIndex) for entry in whole.inputs}
        made = {entry.name.decode(): int(entry.tensorIndex) for entry in whole.outputs}
        inputs = {port.name: given[port.name] for port in cut.inputs if port.name in given}
        self._inputs = {name: made[source] for name, source in cut.reads.items()} | inputs
        self._outputs = {name: made[source] for name, source in cut.gives.items()}
        self._places: dict[int, int] = {}  # tensor of the whole -> of the part
        self._tensors: list[Any] = []

    def made(self) -> tuple[Any, Any]:
        """The subgraph and its signature, whose place in the file is not known yet."""
        operators = self._needed()
        part = copy.copy(self._graph)
        inputs = self._mapped(self._inputs)
        part.name = self._key.encode()
        part.operators = [self._moved(operator) for operator in operators]
        outputs = self._mapped(self._outputs)
        part.inputs = [entry.tensorIndex for entry in inputs]
        part.outputs = [entry.tensorIndex for entry in outputs]
        part.tensors = self._tensors
        signature = self._schema.SignatureDefT()
        signature.signatureKey = self._key.encode()
        signature.inputs, signature.outputs = inputs, outputs
        return part, signature

    def _needed(self) -> list[Any]:
        """Operations that the outputs need, in order, none of them before the cut's inputs."""
        needed, kept = set(self._outputs.values()), []
        stop = set(self._inputs.values())
        for operator in reversed(self._graph.operators):
            if not stop.issuperset(made := {int(t) for t in operator.outputs} & needed):
                kept.append(operator)
                needed |= {int(t) for t in operator.inputs if t >= 0}
            needed -= made
        beyond = (needed - stop) & {int(tensor) for tensor in self._graph.inputs}
        if beyond:
            names = ", ".join(self._graph.tensors[i].name.decode() for i in sorted(beyond))
            raise ModelError(
                f"{self._cut.name} needs {names}, which only the first segment reads",
                hint=f"convert the model without exits, or {LEAVE_OUT}",
            )
        return kept[::-1]

    def _mapped(self, tensors: dict[str, int]) -> list[Any]:
        entries = []
        for name, tensor in tensors.items():
            entry = self._schema.TensorMapT()
            entry.name, entry.tensorIndex = name.encode(), self._place(tensor)
            entries.append(entry)
        return entries

    def _moved(self, operator: Any) -> Any:
        moved = copy.copy(operator)
        moved.inputs = [self._place(int(t)) for t in operator.inputs]
        moved.outputs = [self._place(int(t)) for t in operator.outputs]
        return moved

    def _place(self, tensor: int) -> int:
        """Where a tensor of the whole is in the part; one that is left out stays so."""
        if tensor < 0:
            return tensor
        if tensor not in self._places:
            self._places[tensor] = len(self._tensors)
            held = copy.copy(self._graph.tensors[tensor])
            if tensor in self._inputs.values() and tensor not in self._graph.inputs:
                held.shapeSignature = self._resizable(held.shape)
            self._tensors.append(held)
        return self._places[tensor]

    def _resizable(self, shape: Any) -> Any:
        """Of hidden states (1, sequence, hidden): any length, where the tokens may have any."""
        tokens = self._graph.tensors[self._graph.inputs[0]].shapeSignature
        if tokens is None or -1 not in list(tokens):
            return None
        return [int(shape[0]), -1, int(shape[2])]
