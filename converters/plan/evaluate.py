"""Run elementwise nodes on the host, with the device's own kernels: how passes check by value."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.converters.plan.graph import Node
from edgeformer.runtime.execution import KERNELS
from edgeformer.runtime.operations import OPS
from edgeformer.runtime.scratch import Scratch


def evaluate_elementwise(node: Node, operands: Sequence[NDArray[Any]], dtype: str) -> NDArray[Any]:
    """What ``node`` makes of arrays that broadcast to one shape."""
    out = np.empty(np.broadcast_shapes(*(a.shape for a in operands)), dtype)
    extra = (Scratch(),) if OPS[node.op].scratch else ()
    operands = [np.broadcast_to(a, out.shape) for a in operands]
    with np.errstate(all="ignore"):
        KERNELS[node.op](*operands, out, *extra, **node.attributes)
    return out
