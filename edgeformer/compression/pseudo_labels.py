"""What a teacher says of texts, kept for a student to learn from.

    tokenized = tokenize(without_labels(texts), loaded.tokenizer_json, loaded.max_length)
    settings = batch_settings(loaded, size=64, seed=0)
    answers = teacher_outputs(loaded.module, tokenized, settings, layer=-1)
    student_data = pseudo_labelled(examples, answers.outputs, loaded.labels)

Mukherjee and Awadallah, arXiv 1910.01769, section 3, keep logits, one hidden layer and the classes
for large unlabelled text. The same arrays spare the teacher's forward in any distillation on texts
that do not change: ``answers.outputs[rows]`` with the rows of ``batching.batch_rows``.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn

from edgeformer.compression.batching import BatchSettings, Tokenized, every_example
from edgeformer.compression.examples import Examples
from edgeformer.compression.traces import Trace, traced
from edgeformer.compression.units import encoder_of
from edgeformer.errors import UsageError
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
        teacher: a module that takes batches and gives one answer for each text, in eval mode.
        tokenized: the texts; targets are not looked at.
        settings: of the batches; their order and the process do not matter here.
        layer: whose states to keep: 0 the embeddings' output, 1 the first layer's and so on, or
            counted from the last layer, -1.
        pooling: ``cls`` or ``mean``: how the states of a text become one vector.
        dtype: in which to keep them; bfloat16 takes half the memory.

    Raises:
        UsageError: no such layer or pooling, a teacher that answers for each token, or no text.
        ModelError: a layer is asked for, and the teacher has no Encoder.
    """
    check_pooling(pooling)
    states = 0 if layer is None else encoder_of(teacher).config.num_layers + 1
    if layer is not None and not -states <= layer < states:
        raise UsageError(
            f"the teacher has no layer {layer}", hint=f"0 to {states - 1}, or -{states} to -1"
        )
    if not len(tokenized):
        raise UsageError("there is no text for the teacher to answer to")
    device = next(teacher.parameters()).device
    outputs, vectors, order = [], [], []
    observing = nullcontext(Trace()) if layer is None else traced(teacher, attention=False)
    with torch.inference_mode(), observing as trace:
        for rows, batch in every_example(tokenized, replace(settings, rank=0, world=1)):
            inputs = {name: batch[name].to(device) for name in settings.input_names}
            (answer,) = teacher(**inputs).values()
            if answer.ndim != 2:
                raise UsageError("a teacher's answers are kept for texts, not for each token")
            outputs.append(answer.to("cpu", dtype))
            if layer is not None:
                hidden = trace.hidden[layer]
                vector = pool(hidden, inputs["attention_mask"], pooling, normalized=False)
                vectors.append(vector.to("cpu", dtype))
            order.append(rows)
    places = torch.cat(order).argsort()
    return TeacherOutputs(
        torch.cat(outputs)[places], torch.cat(vectors)[places] if vectors else None
    )


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
