"""A bundle whose texts leave by a rule, as `benchmarks.race.worker` opens it."""

import json
from pathlib import Path
from typing import Any

REQUEST = "request.json"
"""``bundle``, its path, and ``rule``, as of ``Model.classify``'s ``exit``."""


def open(folder: Path, threads: int) -> Any:
    """Texts to labels with their scores."""
    from edgeformer.runtime import load

    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    model = load(request["bundle"], threads=threads)
    return lambda texts: model.classify(texts, exit=request["rule"])
