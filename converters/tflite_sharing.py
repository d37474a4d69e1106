"""Store equal quantization scales of a .tflite file once.

ai-edge-quantizer writes the weights of several signatures once, but the scale and zero point of
each channel (12 bytes) again for every signature: 0.6 MB per length bucket for all-MiniLM-L6-v2,
whose word table alone has 30,522 rows. A flatbuffer may point to one table from many places.
"""

import importlib
from typing import Any

from edgeformer.converters.tflite_file import repacked


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


def _key(parameters: Any) -> Any:
    arrays = (parameters.scale, parameters.zeroPoint, parameters.min, parameters.max)
    return (
        *(None if a is None else bytes(memoryview(a)) for a in arrays),
        parameters.quantizedDimension,
        parameters.detailsType,
        id(parameters.details) if parameters.details is not None else None,
    )
