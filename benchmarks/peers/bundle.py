"""EdgeFormer's side of the race: one bundle, opened with one engine or with ``auto``."""

from pathlib import Path
from typing import Any

from benchmarks.peers import CHECKPOINT
from benchmarks.peers.common import MAX_TOKENS, Encode

BUNDLE = "model.edge"


def convert_bundle(folder: Path) -> None:
    """Convert the checkpoint with the profile of this CPU, at its own precisions."""
    from edgeformer.machine import describe_machine
    from edgeformer.pipeline import convert

    profile = "x86-vnni" if "avx512_vnni" in describe_machine().isa else "x86"
    convert(
        folder.parent / CHECKPOINT,
        profile=profile,
        max_length=MAX_TOKENS,
        output=folder / BUNDLE,
    )


def open_bundle(folder: Path, engine: str, threads: int, table: Path | None = None) -> Encode:
    """``Model.embed`` with a list; ``table`` is what `edgeformer tune` wrote."""
    from edgeformer.runtime import load

    return load(folder / BUNDLE, engine=engine, threads=threads, tuned=table).embed


def chosen(encode: Any) -> str:
    """The main variant and its threads, and what the model has to say about the choice."""
    model = encode.__self__
    threads = f"{model.threads} thread{'s' * (model.threads > 1)}"
    return "; ".join([f"{model.variant.id} on {threads}", *model.notices])
