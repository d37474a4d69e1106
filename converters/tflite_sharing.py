"""Store equal quantization scales of a .tflite file once.

ai-edge-quantizer writes the weights of several signatures once, but the scale and zero point of
each channel (12 bytes) again for every signature: 0.6 MB per length bucket for all-MiniLM-L6-v2,
whose word table alone has 30,522 rows. A flatbuffer may point to one table from many places.
"""

import importlib
from typing import Any

_ALIGNMENT = 16  # of weights, as TFLite's schema asks
_FILE_IDENTIFIER = b"TFL3"


class _PackedOnce:
    """Stands for one QuantizationParameters table; only its first use writes it."""

    def __init__(self, parameters: Any) -> None:
        self._parameters = parameters
        self._packed: tuple[Any, int] | None = None

    def Pack(self, builder: Any) -> int:  # named by the generated schema
        """Offset of the table in ``builder``."""
        if self._packed is None or self._packed[0] is not builder:
            self._packed = builder, self._parameters.Pack(builder)
        return self._packed[1]


def share_scales(content: bytes) -> bytes:
    """The same model in fewer bytes.

    Files that hold their weights inside the flatbuffer (small ones) are returned as they are.
    """
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    weights = [buffer for buffer in model.buffers if buffer.offset]
    if not weights:
        return content
    shared: dict[Any, _PackedOnce] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.quantization is not None:
                key = _key(tensor.quantization)
                tensor.quantization = shared.setdefault(key, _PackedOnce(tensor.quantization))
    return repacked(model, content)


def repacked(model: Any, content: bytes) -> bytes:
    """The file of a changed ``model`` whose weights are those of the file ``content``.

    Args:
        model: ``ModelT`` read from ``content``; where its weights lie is changed in place.
        content: weights behind the flatbuffer stay in their order.
    """
    weights = [buffer for buffer in model.buffers if buffer.offset]
    if not weights:
        return _pack(model)
    # All weights move by one distance, known once the flatbuffer is packed, and packing again
    # with new offsets keeps its size.
    start = min(buffer.offset for buffer in weights)
    new_start = -(-len(_pack(model)) // _ALIGNMENT) * _ALIGNMENT
    for buffer in weights:
        buffer.offset += new_start - start
    return _pack(model).ljust(new_start, b"\0") + content[start:]


def _key(parameters: Any) -> Any:
    arrays = (parameters.scale, parameters.zeroPoint, parameters.min, parameters.max)
    return (
        *(None if a is None else bytes(memoryview(a)) for a in arrays),
        parameters.quantizedDimension,
        parameters.detailsType,
        id(parameters.details) if parameters.details is not None else None,
    )


def _pack(model: Any) -> bytes:
    flatbuffers = importlib.import_module("flatbuffers")
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=_FILE_IDENTIFIER)
    return bytes(builder.Output())
