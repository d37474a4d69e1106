"""fp32 .tflite -> int8: weights per channel, activations quantized per row while running.

ai-edge-quantizer's ``dynamic_wi8_afp32``. Its recipes are ordered and later entries win, so sites
that stay in float32 get an entry of their own after it, by the names of what they compute.
"""

import importlib
import re
from collections import defaultdict

import numpy as np

from edgeformer.converters.sites import Sites, site_of
from edgeformer.converters.tflite_convert import imported
from edgeformer.converters.tflite_file import Constants
from edgeformer.converters.tflite_sharing import share_scales
from edgeformer.runtime.engines.tflite_output import captured_output

_NO_QUANTIZE = "no_quantize"  # ai-edge-quantizer's name
# The operations that read a matrix which the recipe makes int8.
_READERS = ("FULLY_CONNECTED", "EMBEDDING_LOOKUP")


def quantize(content: bytes, sites: Sites, kept: frozenset[str]) -> bytes:
    """The int8 file.

    Args:
        content: the fp32 file.
        sites: names of its weights.
        kept: names of those that stay in float32.
    """
    module, recipe = imported("ai_edge_quantizer.quantizer"), imported("ai_edge_quantizer.recipe")
    with captured_output():
        quantizer = module.Quantizer(bytearray(content))
        quantizer.load_quantization_recipe(recipe.dynamic_wi8_afp32())
        for site, scopes in _scopes(content, sites).items() if kept else ():
            for scope in scopes if site in kept else ():
                quantizer.update_quantization_recipe(
                    regex=f"^{re.escape(scope)}$", operation_name="*", algorithm_key=_NO_QUANTIZE
                )
        quantized = quantizer.quantize(enable_progress_report=False).quantized_model
        return share_scales(bytes(quantized))


def quantized_sites(content: bytes, sites: Sites) -> dict[str, int]:
    """Name of each site that the recipe quantizes -> its number of weights."""
    return {site: size for site, (size, _) in _read(content, sites).items()}


def _scopes(content: bytes, sites: Sites) -> dict[str, list[str]]:
    """The quantizer's names for the operations that read each site."""
    return {site: scopes for site, (_, scopes) in _read(content, sites).items()}


def _read(content: bytes, sites: Sites) -> dict[str, tuple[int, list[str]]]:
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    constants = Constants(model, content)
    readers = {getattr(schema.BuiltinOperator, name) for name in _READERS}
    codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    names: dict[int, str | None] = {}  # buffer -> site, so that each weight is named once
    sizes: dict[str, int] = {}
    scopes: dict[str, list[str]] = defaultdict(list)
    for graph in model.subgraphs:
        for operator in graph.operators:
            if codes[operator.opcodeIndex] not in readers:
                continue
            tensor = graph.tensors[operator.inputs[1]]
            if tensor.buffer not in names:
                weight = constants.floats(graph, int(operator.inputs[1]))
                names[tensor.buffer] = None if weight is None else site_of(weight, sites)
            site = names[tensor.buffer]
            if site is not None:
                outputs = (graph.tensors[i].name.decode() for i in operator.outputs)
                scopes[site].append("".join(f"{name};" for name in outputs))
                sizes[site] = int(np.prod(tensor.shape))
    return {site: (sizes[site], scopes[site]) for site in sizes}
