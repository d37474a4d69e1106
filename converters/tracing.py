"""What the converters that call torch.export share: the inputs to trace, and silence."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edgeformer.converters.prepared import PreparedModel


def trace_inputs(prepared: PreparedModel) -> dict[str, torch.Tensor]:
    """The first example, repeated along its named dimensions to sizes of at least 2, no two alike.

    torch.export takes a size of 1 for a constant, and two dimensions of one size for the same one.

    Returns:
        new tensors by input name, in the order of the ports.
    """
    example, sizes = prepared.examples[0], dict[str, int]()
    for port in prepared.inputs:
        for size, name in zip(example[port.name].shape, port.shape, strict=True):
            if isinstance(name, str) and name not in sizes:
                wanted = max(2, size)
                while wanted in sizes.values():
                    wanted += 1
                sizes[name] = wanted
    inputs = {}
    for port in prepared.inputs:
        tensor = example[port.name]
        for axis, name in enumerate(port.shape):
            if isinstance(name, str):
                index = torch.arange(sizes[name]) % tensor.shape[axis]
                tensor = tensor.index_select(axis, index)
        inputs[port.name] = tensor.clone()
    return inputs


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the host libraries' warnings and log lines away from the user; errors stay."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
