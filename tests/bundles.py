"""Tiny bundles for tests that need no converter: a manifest by hand and files of a few bytes."""

import hashlib
from pathlib import Path

from edgeformer.runtime.manifest import (
    FileRecord,
    Manifest,
    ModelCard,
    Parity,
    Port,
    Program,
    Variant,
)
from edgeformer.runtime.manifest_json import dump_manifest

PARITY = Parity(4, 1e-7, 1.0, 1.0, 1.0, None, 1.0, True)


def variant(name: str = "numpy-fp32", file: str = "numpy-fp32/model.plan") -> Variant:
    engine, precision = name.split("-")
    program = Program(
        file=file,
        entry="main",
        buckets=(),
        inputs=(Port("input_ids", "int64", ("batch", "sequence")),),
        outputs=(Port("embedding", "float32", ("batch", 4)),),
    )
    return Variant(name, engine, precision, "packed", "", "", {"main": program}, PARITY)


def manifest(files: dict[str, bytes], *variants: Variant) -> Manifest:
    return Manifest(
        model=ModelCard("tiny", "bert", "embedding", max_length=8),
        profile={"name": "rpi4"},
        engines=("numpy", "onnx"),
        threads=2,
        tokenizer="",
        golden="golden.json",
        variants=variants or (variant(),),
        files={
            name: FileRecord(len(data), hashlib.sha256(data).hexdigest())
            for name, data in files.items()
        },
    )


FILES = {"golden.json": b'{"cases":[]}', "numpy-fp32/model.plan": bytes(range(256)) * 40}


def write_bundle(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "manifest.json").write_bytes(dump_manifest(manifest(files)))
    return folder
