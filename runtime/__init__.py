"""What runs on the device: numpy and the standard library, nothing else.

from edgeformer.runtime import load
"""

from typing import TYPE_CHECKING, Any

from edgeformer.runtime.calls import CallStats
from edgeformer.runtime.loading import load
from edgeformer.runtime.model import Model

if TYPE_CHECKING:
    from edgeformer.runtime.answers import Answer as Answer
    from edgeformer.runtime.answers import Fill as Fill
    from edgeformer.runtime.answers import Label as Label
    from edgeformer.runtime.answers import Span as Span

__all__ = ["Answer", "CallStats", "Fill", "Label", "Model", "Span", "load"]


def __getattr__(name: str) -> Any:
    """The classes of results are imported when they are named: a cold start does without them."""
    if name not in __all__:
        raise AttributeError(f"module 'edgeformer.runtime' has no attribute {name!r}")
    from edgeformer.runtime import answers

    return getattr(answers, name)
