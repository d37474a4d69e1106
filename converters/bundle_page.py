"""The README.md that travels inside a bundle."""

from edgeformer.runtime.manifest import Manifest


def bundle_page(manifest: Manifest) -> str:
    """The page that travels inside the bundle."""
    card = manifest.model
    call = _call(manifest)
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


def _call(manifest: Manifest) -> str:
    card = manifest.model
    arrays = "model.run(...)  # names: model.variant.programs['main'].inputs"
    if manifest.takes_images:
        verb = "embed" if card.task == "embedding" else "classify"
        return f"model.{verb}(image)  # uint8 (height, width, channels)" if card.image else arrays
    return {
        "embedding": 'model.embed("a sentence")',
        "classification": 'model.classify("a sentence")',
        "token-classification": 'model.tag("a sentence")',
        "question-answering": 'model.answer("a question?", "a context with the answer")',
        "fill-mask": f'model.fill_mask("a {card.mask_token} with one word left out")',
    }.get(card.task, arrays)


def _texts(manifest: Manifest) -> int:
    return max((v.parity.texts for v in manifest.variants if v.parity), default=0)
