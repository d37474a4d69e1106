"""An LSTM in a .tflite file: one UNIDIRECTIONAL_SEQUENCE_LSTM for each direction, of any length.

    teach_lstm()                      # once, before the converter runs
    content = with_lstm_kernels(convert(module, signatures))

The converter knows no LSTM. It is taught ``edgeformer::lstm`` in two parts: what is arithmetic it
converts as always (``_direction``), the steps become a custom operation, which
``with_lstm_kernels`` exchanges for TFLite's own one when the file is finished.

That one keeps its state from call to call, and it knows no padding. Both are met by one more input
channel, which is 0 for tokens and so large against the input and forget gates that at 1 both are
exactly 0 in float32: such a step leaves a state of zeros. One stands before every text, and
padding is one. So a call forgets the call before, the way back passes over padding, and the way
there is asked for its state at the last token.
"""

import importlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from edgeformer.converters.tflite_convert import LEAVE_OUT, imported
from edgeformer.converters.tflite_file import Constants, repacked
from edgeformer.errors import ModelError

_CODE = b"edgeformer.lstm"
_CLOSED = -1.0e4  # added to a gate: sigmoid(-10000) is 0 in float32
# In torch's order of the gates, which is TFLite's: input, forget, candidate, output.
_GATES_CLOSED = (_CLOSED, _CLOSED, 0.0, 0.0)
_NONE = -1  # an operand that is left out

torch.library.define(
    "edgeformer::lstm_steps",
    "(Tensor steps, Tensor weight_ih, Tensor weight_hh, Tensor bias_ih, Tensor bias_hh) -> Tensor",
)


@torch.library.register_fake("edgeformer::lstm_steps")  # type: ignore[untyped-decorator]
def _fake_steps(
    steps: torch.Tensor,
    weight_ih: torch.Tensor,
    weight_hh: torch.Tensor,
    bias_ih: torch.Tensor,
    bias_hh: torch.Tensor,
) -> torch.Tensor:
    return steps.new_empty(*steps.shape[:2], weight_hh.shape[1])


def _direction(
    x: torch.Tensor,
    attention_mask: torch.Tensor,
    weight_ih: torch.Tensor,
    weight_hh: torch.Tensor,
    bias_ih: torch.Tensor,
    bias_hh: torch.Tensor,
    reverse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``edgeformer::lstm`` by ``lstm_steps``. Slices and flips only of a kind whose length TFLite
    can work out by itself (tflite_any_length)."""
    kept = attention_mask.unsqueeze(2).to(x.dtype)
    steps = torch.cat([x, 1 - kept], dim=2)
    steps = steps.flip(1) if reverse else steps
    start = F.pad(torch.ones_like(steps[:, :1, :1]), (x.shape[2], 0))
    states = torch.ops.edgeformer.lstm_steps(
        torch.cat([start, steps], dim=1), weight_ih, weight_hh, bias_ih, bias_hh
    )[:, 1:]
    if reverse:
        states = states.flip(1)
        return states, states[:, 0]
    # A token is the last one if none follows it.
    is_last = kept * (1 - F.pad(kept, (0, 0, 0, 1))[:, 1:])
    return states, (states * is_last).sum(1)


def teach_lstm() -> None:
    """Tell the converter of the operation, where a model that uses it was imported."""
    found = getattr(torch.ops.edgeformer, "lstm", None)
    if found is None:
        return
    decompositions = imported("litert_torch.fx_infra").decomp
    decompositions.add_pre_convert_decomp(found.default, _direction)
    lowerings = imported("litert_torch.backend.lowerings")
    lowerings.lower(torch.ops.edgeformer.lstm_steps.default)(_lowered_steps)


def _lowered_steps(context: Any, *operands: Any) -> Any:
    ir = imported("litert_converter.mlir.ir")
    types = imported("litert_torch.backend.lowerings").utils.node_meta_to_ir_types(context.node)
    attributes = {
        "custom_code": ir.StringAttr.get(_CODE.decode()),
        "custom_option": ir.Attribute.parse('#tfl<const_bytes: "0x00">'),
    }
    made = ir.Operation.create("tfl.custom", types, list(operands), attributes)
    return made.results[0]


def holds_lstms(content: bytes) -> bool:
    """True if the file is still to be given to ``with_lstm_kernels``."""
    return _CODE in content


def with_lstm_kernels(content: bytes) -> bytes:
    """The file with TFLite's own LSTM in place of the custom operation; as it is without one."""
    if not holds_lstms(content):
        return content
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    constants = Constants(model, content)
    custom = [code.customCode for code in model.operatorCodes].index(_CODE)
    code = schema.OperatorCodeT()
    code.builtinCode = schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
    code.deprecatedBuiltinCode, code.version = code.builtinCode, 1
    model.operatorCodes[custom] = code
    for graph in model.subgraphs:
        for operator in graph.operators:
            if operator.opcodeIndex == custom:
                _exchange(schema, constants, graph, operator)
    return repacked(model, constants.content)


def _exchange(schema: Any, constants: Constants, graph: Any, operator: Any) -> None:
    """Operands as TFLite's kernel numbers them (lstm_shared.h): the input, four weights of it, four
    of the state, three peepholes, four biases, a projection and its bias, the two states, four
    weights of normalisations."""
    steps, *weights = (int(i) for i in operator.inputs)
    arrays = [array for i in weights if (array := constants.floats(graph, i)) is not None]
    if len(arrays) != len(weights):
        raise ModelError("an LSTM's weight is computed while the model runs", hint=LEAVE_OUT)
    w_ih, w_hh, b_ih, b_hh = arrays
    closed = np.repeat(np.array(_GATES_CLOSED, np.float32), w_hh.shape[1])[:, None]
    parts = [np.concatenate([w_ih, closed], axis=1), w_hh, b_ih + b_hh]
    inputs, states, biases = ([constants.add(graph, g) for g in np.split(p, 4)] for p in parts)
    kept = [constants.add_variable(graph, (1, w_hh.shape[1])) for _ in range(2)]
    operator.inputs = [
        *(steps, *inputs, *states, *[_NONE] * 3, *biases),
        *(_NONE, _NONE, *kept, *[_NONE] * 4),
    ]
    options = schema.UnidirectionalSequenceLSTMOptionsT()
    options.fusedActivationFunction = schema.ActivationFunctionType.TANH
    operator.builtinOptions, operator.customOptions = options, None
    operator.builtinOptionsType = schema.BuiltinOptions.UnidirectionalSequenceLSTMOptions
