"""The README.md that travels inside a bundle."""

from edgeformer.runtime.manifest import Manifest


def bundle_page(manifest: Manifest) -> str:
    """The page that travels inside the bundle."""
    card = manifest.model
    call = {
        "embedding": 'model.embed("a sentence")',
        "classification": 'model.classify("a sentence")',
        "token-classification": 'model.tag("a sentence")',
    }.get(card.task, "model.run(...)  # names: model.variant.programs['main'].inputs")
    rows = "\n".join(
        f"| {v.id} | {v.layout} | {v.parity.min_cosine:.5f} | {v.parity.max_abs:.2e} |"
        for v in manifest.variants
        if v.parity
    )
    return f"""# {card.name}

An EdgeFormer bundle: {card.task}, converted for `{manifest.profile["name"]}`.

```console
$ pip install edgeformer          # numpy and click; engines: edgeformer[tflite], edgeformer[onnx]
$ edgeformer inspect THIS_FOLDER --verify
```
```python
from edgeformer.runtime import load
model = load("THIS_FOLDER")
{call}
```

| variant | layout | lowest cosine | max abs |
|---|---|---|---|
{rows}

Measured against the PyTorch model when it was converted, on {_texts(manifest)} inputs.
"""


def _texts(manifest: Manifest) -> int:
    return max((v.parity.texts for v in manifest.variants if v.parity), default=0)
