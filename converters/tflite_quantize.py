"""fp32 .tflite -> int8: weights per channel, activations quantized per row while running.

ai-edge-quantizer's ``dynamic_wi8_afp32``. Its recipes are ordered and later entries win, so what
stays in float32 gets an entry of its own after it, by the names of what it computes: the sites that
the caller names, and tables of a few rows. Such a row (a token type, a task) is added to every
token, so its rounding error is the same everywhere and never averages out, and it saves no space.
"""

import importlib
import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from edgeformer.converters.sites import Sites, site_of
from edgeformer.converters.tflite_convert import imported
from edgeformer.converters.tflite_file import Constants
from edgeformer.converters.tflite_sharing import share_scales
from edgeformer.runtime.engines.tflite_output import captured_output

_NO_QUANTIZE = "no_quantize"  # ai-edge-quantizer's name
_TABLE_READER = "EMBEDDING_LOOKUP"
_READERS = ("FULLY_CONNECTED", _TABLE_READER)  # of matrices which the recipe makes int8
FEW_ROWS = 16


class _Read(NamedTuple):
    """What the file's operations read.

    Attributes:
        sizes: name of each site that becomes int8 -> its number of weights.
        scopes: name of each site -> the quantizer's names for the operations that read it.
        small: the same names for the tables of a few rows.
    """

    sizes: dict[str, int]
    scopes: dict[str, list[str]]
    small: list[str]


def quantize(content: bytes, sites: Sites, kept: frozenset[str]) -> bytes:
    """The int8 file.

    Args:
        content: the fp32 file.
        sites: names of its weights.
        kept: names of those that stay in float32.
    """
    module, recipe = imported("ai_edge_quantizer.quantizer"), imported("ai_edge_quantizer.recipe")
    read = _read(content, sites)
    exact = [*read.small, *(scope for site in sorted(kept) for scope in read.scopes[site])]
    with captured_output():
        quantizer = module.Quantizer(bytearray(content))
        quantizer.load_quantization_recipe(recipe.dynamic_wi8_afp32())
        for scope in exact:
            quantizer.update_quantization_recipe(
                regex=f"^{re.escape(scope)}$", operation_name="*", algorithm_key=_NO_QUANTIZE
            )
        quantized = quantizer.quantize(enable_progress_report=False).quantized_model
        return share_scales(bytes(quantized))


def quantized_sites(content: bytes, sites: Sites) -> dict[str, int]:
    """Name of each site that the recipe quantizes -> its number of weights."""
    return _read(content, sites).sizes


def _read(content: bytes, sites: Sites) -> _Read:
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    constants = Constants(model, content)
    readers = {getattr(schema.BuiltinOperator, name): name for name in _READERS}
    codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    names: dict[int, str | None] = {}  # buffer -> site, so that each weight is named once
    sizes: dict[str, int] = {}
    scopes: dict[str, list[str]] = defaultdict(list)
    small: list[str] = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            reader = readers.get(codes[operator.opcodeIndex])
            if reader is None:
                continue
            scope = "".join(f"{graph.tensors[i].name.decode()};" for i in operator.outputs)
            tensor = graph.tensors[operator.inputs[1]]
            if reader == _TABLE_READER and tensor.shape[0] <= FEW_ROWS:
                small.append(scope)
                continue
            if tensor.buffer not in names:
                weight = constants.floats(graph, int(operator.inputs[1]))
                names[tensor.buffer] = None if weight is None else site_of(weight, sites)
            site = names[tensor.buffer]
            if site is not None:
                scopes[site].append(scope)
                sizes[site] = int(np.prod(tensor.shape))
    return _Read(sizes, scopes, small)
