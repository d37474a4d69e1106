"""EdgeFormer: transformer encoders on small machines.

    import edgeformer

    report = edgeformer.convert("./my-model", profile="rpi4", output="my-model.edge")   # host
    with edgeformer.load("my-model.edge") as model:                                     # device
        model.embed("a sentence")

The verbs are resolved when they are first used, so that importing this costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeformer.benchmarking.benchmark import benchmark as benchmark
    from edgeformer.compressing.compress import compress as compress
    from edgeformer.errors import EdgeFormerError as EdgeFormerError
    from edgeformer.evaluation.evaluate import evaluate as evaluate
    from edgeformer.pipeline import convert as convert
    from edgeformer.runtime.loading import load as load
    from edgeformer.searching.search import search as search
    from edgeformer.tuning.tune import tune as tune

__version__ = "0.1.0"

_HOMES = {
    "compress": "edgeformer.compressing.compress",
    "convert": "edgeformer.pipeline",
    "load": "edgeformer.runtime.loading",
    "benchmark": "edgeformer.benchmarking.benchmark",
    "tune": "edgeformer.tuning.tune",
    "evaluate": "edgeformer.evaluation.evaluate",
    "search": "edgeformer.searching.search",
    "EdgeFormerError": "edgeformer.errors",
}
__all__ = [
    "EdgeFormerError",
    "__version__",
    "benchmark",
    "compress",
    "convert",
    "evaluate",
    "load",
    "search",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeformer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
