"""What runs on the device: numpy and the standard library, nothing else.

from edgeformer.runtime import load
"""

from edgeformer.runtime.answers import Label, Span
from edgeformer.runtime.loading import load
from edgeformer.runtime.model import CallStats, Model

__all__ = ["CallStats", "Label", "Model", "Span", "load"]
