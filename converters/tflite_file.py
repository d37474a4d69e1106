"""The constants of a .tflite file: read them, add some, and write the changed model.

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    constants = Constants(model, content)
    ...                                     # change the model
    content = repacked(model, constants.content)

A file is a flatbuffer, behind which large constants lie (small files hold them inside).
"""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 16  # of weights, as TFLite's schema asks
_FILE_IDENTIFIER = b"TFL3"


class Constants:
    """Reads constants of ``model``, and adds others.

    Args:
        model: ``ModelT`` read from ``content``.
        content: the file.
    """

    def __init__(self, model: Any, content: bytes) -> None:
        self._model = model
        self._schema = importlib.import_module("ai_edge_litert.schema_py_generated")
        self._content = content
        self._added: list[bytes] = []
        self._end = len(content)
        self._buffers: dict[bytes, int] = {}

    @property
    def content(self) -> bytes:
        """The file, and what was added behind it; for ``repacked``."""
        return b"".join((self._content, *self._added))

    def data(self, graph: Any, tensor: int) -> bytes | None:
        """Bytes of a constant, empty for an operand that is left out, None for a computed one."""
        if tensor < 0:
            return b""
        buffer = self._model.buffers[graph.tensors[tensor].buffer]
        if buffer.offset:
            return self._content[buffer.offset : buffer.offset + buffer.size]
        return bytes(buffer.data) if buffer.data is not None and len(buffer.data) else None

    def floats(self, graph: Any, tensor: int) -> NDArray[np.float32] | None:
        """A constant of float32, None for anything else."""
        held, data = graph.tensors[tensor], self.data(graph, tensor)
        if data is None or held.type != self._schema.TensorType.FLOAT32:
            return None
        return np.frombuffer(data, np.float32).reshape(held.shape)

    def add(self, graph: Any, array: NDArray[Any]) -> int:
        """A new constant tensor of ``graph``, float32 or int32; equal ones share their bytes."""
        data = np.ascontiguousarray(array).tobytes()
        if data not in self._buffers:
            buffer = self._schema.BufferT()
            skipped = -self._end % _ALIGNMENT
            buffer.offset, buffer.size = self._end + skipped, len(data)
            self._added += [bytes(skipped), data]
            self._end += skipped + len(data)
            self._model.buffers.append(buffer)
            self._buffers[data] = len(self._model.buffers) - 1
        kinds = {"float32": self._schema.TensorType.FLOAT32, "int32": self._schema.TensorType.INT32}
        return self._tensor(graph, array.shape, kinds[str(array.dtype)], self._buffers[data])

    def add_variable(self, graph: Any, shape: tuple[int, ...]) -> int:
        """A new float32 tensor of ``graph`` that keeps its values from call to call."""
        tensor = self._tensor(graph, shape, self._schema.TensorType.FLOAT32, 0)
        graph.tensors[tensor].isVariable = True
        return tensor

    def _tensor(self, graph: Any, shape: tuple[int, ...], kind: int, buffer: int) -> int:
        tensor = self._schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer = list(shape), kind, buffer
        # ai-edge-quantizer wants a name to be used once in the whole file.
        place = f"{self._model.subgraphs.index(graph)}_{len(graph.tensors)}"
        tensor.name = f"added_{place}".encode()
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1


def repacked(model: Any, content: bytes) -> bytes:
    """The file of a changed ``model``, without the constants that nothing reads any more.

    Args:
        model: ``ModelT`` read from ``content``; where its constants lie is changed in place.
        content: the file, and whatever ``Constants`` added.
    """
    _forget_unread(model)
    outside = [buffer for buffer in model.buffers if buffer.offset]
    if not outside:
        return _pack(model)
    # Packing again with other offsets, as long as they are not 0, keeps the flatbuffer's size.
    start = -(-len(_pack(model)) // _ALIGNMENT) * _ALIGNMENT
    parts: list[bytes] = []
    places: dict[tuple[int, int], int] = {}
    for buffer in outside:
        key = (buffer.offset, buffer.size)
        if key not in places:
            data = content[buffer.offset : buffer.offset + buffer.size]
            places[key] = start + sum(map(len, parts))
            parts.append(data + bytes(-len(data) % _ALIGNMENT))
        buffer.offset = places[key]
    return b"".join((_pack(model).ljust(start, b"\0"), *parts))


def _forget_unread(model: Any) -> None:
    """Constants that no operation, signature or metadata needs lose their values."""
    read = {0, *(entry.buffer for entry in model.metadata or ())}
    for graph in model.subgraphs:
        tensors = {int(i) for i in (*graph.inputs, *graph.outputs)}
        for operator in graph.operators:
            tensors |= {int(i) for i in (*operator.inputs, *operator.outputs)}
        for i, tensor in enumerate(graph.tensors):
            if i in tensors:
                read.add(tensor.buffer)
            else:
                tensor.buffer = 0
    for i, buffer in enumerate(model.buffers):
        if i not in read:
            buffer.data, buffer.offset, buffer.size = None, 0, 0


def _pack(model: Any) -> bytes:
    flatbuffers = importlib.import_module("flatbuffers")
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=_FILE_IDENTIFIER)
    return bytes(builder.Output())
