"""What a teacher says of texts, kept for a student to learn from.

    tokenized = tokenize(without_labels(texts), loaded.tokenizer_json, loaded.max_length)
    settings = batch_settings(loaded, 64, seed=0)
    answers = teacher_outputs(loaded.module, tokenized, settings, layer=-1)
    student_data = pseudo_labelled(examples, answers.outputs, loaded.labels)

Mukherjee and Awadallah, arXiv 1910.01769, section 3, keep logits, one hidden layer and the classes
for large unlabelled text. The same arrays spare the teacher's forward in any distillation on texts
that do not change: ``answers.outputs[rows]`` with the rows of ``batching.batch_rows``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from edgeformer.compression.batching import BatchSettings, Tokenized, every_example
from edgeformer.compression.examples import Examples
from edgeformer.errors import UsageError
from edgeformer.models.encoder import Encoder
from edgeformer.models.heads import check_pooling, pool


@dataclass(frozen=True)
class TeacherOutputs:
    """Answers to texts, in the order of the texts, on the CPU.

    Attributes:
        outputs: float (examples, classes) logits, or float (examples, hidden) embeddings.
        hidden: float (examples, hidden), one vector of a layer's states for each text; None if none
            was asked for.
    """

    outputs: torch.Tensor
    hidden: torch.Tensor | None


def teacher_outputs(
    teacher: nn.Module,
    tokenized: Tokenized,
    settings: BatchSettings,
    *,
    layer: int | None = None,
    pooling: str = "cls",
    dtype: torch.dtype = torch.float32,
) -> TeacherOutputs:
    """Run a teacher over texts once.

    Args:
        teacher: a model of edgeformer.models for one answer a text, in eval mode, on any device.
        tokenized: the texts; targets are not looked at.
        settings: of the batches; their order and the process do not matter here.
        layer: whose states to keep: 0 the embeddings' output, 1 the first layer's and so on, or
            counted from the last layer, -1.
        pooling: ``cls`` or ``mean``: how the states of a text become one vector.
        dtype: in which to keep them; bfloat16 takes half the memory.

    Raises:
        UsageError: no such layer or pooling, or a teacher that answers for each token.
    """
    check_pooling(pooling)
    encoder = teacher.get_submodule("encoder")
    assert isinstance(encoder, Encoder)
    states = encoder.config.num_layers + 1
    if layer is not None and not -states <= layer < states:
        raise UsageError(
            f"the teacher has no layer {layer}", hint=f"0 to {states - 1}, or -{states} to -1"
        )
    device = next(teacher.parameters()).device
    outputs, vectors, order = [], [], []
    with torch.inference_mode(), _kept_states(encoder) as kept:
        for rows, batch in every_example(tokenized, replace(settings, rank=0, world=1)):
            inputs = {name: batch[name].to(device) for name in settings.input_names}
            (answer,) = teacher(**inputs).values()
            if answer.ndim != 2:
                raise UsageError("a teacher's answers are kept for texts, not for each token")
            outputs.append(answer.to("cpu", dtype))
            if layer is not None:
                vector = pool(kept[layer], inputs["attention_mask"], pooling, normalized=False)
                vectors.append(vector.to("cpu", dtype))
            order.append(rows)
    places = torch.cat(order).argsort()
    hidden = torch.cat(vectors)[places] if vectors else None
    return TeacherOutputs(torch.cat(outputs)[places], hidden)


def pseudo_labelled(examples: Examples, logits: torch.Tensor, labels: Sequence[str]) -> Examples:
    """The examples with the teacher's classes.

    Args:
        examples: whatever labels they have give way.
        logits: float (examples, classes).
        labels: names of the teacher's classes.
    """
    best = logits.argmax(1).tolist()
    rows = zip(examples.rows, best, strict=True)
    return Examples(tuple(replace(row, label=labels[i]) for row, i in rows), tuple(labels))


@contextmanager
def _kept_states(encoder: Encoder) -> Iterator[list[torch.Tensor]]:
    """The embeddings' output and that of each layer, of the last forward inside."""
    states: list[torch.Tensor] = []

    def start(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        states[:] = [output]

    def add(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        states.append(output)

    hooks = [encoder.embeddings.register_forward_hook(start)]
    # Layers that share weights are one module, which runs once for each of them.
    hooks += [layer.register_forward_hook(add) for layer in encoder.layers]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()
