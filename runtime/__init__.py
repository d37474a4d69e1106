"""What runs on the device: numpy and the standard library, nothing else.

from edgeformer.runtime import load
"""

from edgeformer.runtime.answers import Answer, Fill, Label, Span
from edgeformer.runtime.calls import CallStats
from edgeformer.runtime.loading import load
from edgeformer.runtime.model import Model

__all__ = ["Answer", "CallStats", "Fill", "Label", "Model", "Span", "load"]
