"""Where a student starts: layers of its teacher, or new weights, and what it can take over.

student = take_layers(teacher, (0, 2, 4, 7, 9, 11))      # DistilBERT
student = new_student(config, head, torch.Generator().manual_seed(0))
copy_from_teacher(student, teacher)                      # embeddings and head, where they fit
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from edgeformer.compression.rebuilding import Model, rebuilt
from edgeformer.compression.slimming import slim
from edgeformer.compression.units import encoder_of
from edgeformer.errors import UsageError
from edgeformer.models.build import HeadConfig, fill_model, parameter_shapes
from edgeformer.models.config import EncoderConfig

INITIAL_STD = 0.02
"""Standard deviation of new weights (Devlin et al., "BERT", in the authors' code)."""


def take_layers(model: Model, layers: Sequence[int]) -> Model:
    """A new model of some of the layers, embeddings and head as they are.

    DistilBERT (arXiv 1910.01108, section 2, and the authors' code) starts from layers 0, 2, 4, 7, 9
    and 11 of 12; PKD (arXiv 1908.09355) from the first ones.

    Args:
        model: of edgeformer.models. It is left as it is.
        layers: which, counting up from 0, in rising order.

    Returns:
        A model of the same class. Layers that share weights still do.

    Raises:
        UsageError: no layers, ones that the model has not, or not in rising order.
        ModelError: the model has no Encoder.
    """
    count = encoder_of(model).config.num_layers
    chosen = list(layers)
    if not chosen or chosen != sorted(set(chosen)) or not 0 <= chosen[0] <= chosen[-1] < count:
        raise UsageError(
            f"layers {tuple(chosen)} cannot be taken from a model of {count}",
            hint=f"name some of 0 to {count - 1}, in rising order",
        )
    keep = torch.zeros(count, dtype=torch.bool)
    keep[chosen] = True
    return slim(model, {"layers": (keep,)})


def new_student(config: EncoderConfig, head: HeadConfig, generator: torch.Generator) -> nn.Module:
    """A model of its own sizes with new weights, as BERT begins.

    Tables and linear maps are normal with standard deviation 0.02, biases 0, norms and layer scales
    1; so are the bottlenecks and the NoNorm of MobileBERT. The same generator gives the same model
    on every machine.

    Args:
        config: settings of the encoder.
        head: settings of the head.
        generator: on the CPU.

    Returns:
        On the CPU, float32, in eval mode.

    Raises:
        ModelError: the encoder's inputs have no such task.
    """
    return fill_model(config, head, _new_weights(parameter_shapes(config, head), generator))


def with_head(model: nn.Module, head: HeadConfig, generator: torch.Generator) -> nn.Module:
    """A new model: the encoder of ``model`` under a new head, for another task than before.

    Args:
        model: of edgeformer.models, or an encoder itself. It is left as it is.
        head: settings of the head; its weights begin as those of ``new_student``.
        generator: on the CPU.

    Returns:
        In eval mode, on the device of ``model``.

    Raises:
        ModelError: the model has no Encoder, or its inputs have no such task.
    """
    encoder = encoder_of(model)
    shapes = parameter_shapes(encoder.config, head)
    prefix = "encoder."
    of_head = {name: shape for name, shape in shapes.items() if not name.startswith(prefix)}
    parameters = _new_weights(of_head, generator)
    device = next(encoder.parameters()).device
    parameters = {name: tensor.to(device) for name, tensor in parameters.items()}
    copied = rebuilt(encoder, encoder.config, dict(encoder.named_parameters()))
    for name, tensor in copied.named_parameters():
        parameters[prefix + name] = tensor.detach()
    return fill_model(encoder.config, head, parameters).to(device)


def copy_from_teacher(student: nn.Module, teacher: nn.Module) -> tuple[str, ...]:
    """Overwrite the student's embeddings and head by the teacher's, tensor by tensor where it fits.

    MobileBERT (arXiv 2004.02984, section 3.5) begins so. A tensor fits if both models have it in
    one shape and read it alike: not a norm of another kind, not positions that start elsewhere, not
    a projection at another place, not the head of another class of models. Vocabularies of one size
    are taken to be one vocabulary.

    Args:
        student: of edgeformer.models; changed in place.
        teacher: of edgeformer.models.

    Returns:
        Names of the tensors that were copied; empty if none fits.

    Raises:
        ModelError: a model has no Encoder.
    """
    ours, theirs = dict(student.named_parameters()), dict(teacher.named_parameters())
    names = [name for name in ours if _can_take(name, student, teacher)]
    copied = tuple(n for n in names if n in theirs and ours[n].shape == theirs[n].shape)
    with torch.no_grad():
        for name in copied:
            ours[name].copy_(theirs[name])
    return copied


def _can_take(name: str, student: nn.Module, teacher: nn.Module) -> bool:
    ours, theirs = encoder_of(student).config, encoder_of(teacher).config
    if not name.startswith("encoder."):
        return type(student) is type(teacher)
    if name.startswith("encoder.embeddings.norm"):
        return ours.norm == theirs.norm
    if name.startswith("encoder.embeddings.positions"):
        return ours.position_start == theirs.position_start
    if name.startswith("encoder.embeddings.projection"):
        return ours.embedding_projection == theirs.embedding_projection
    return name.startswith("encoder.embeddings.")


def _new_weights(
    shapes: Mapping[str, torch.Size], generator: torch.Generator
) -> dict[str, torch.Tensor]:
    found = {}
    for name, shape in shapes.items():
        if name.endswith(("norm.weight", "_scale")):
            found[name] = torch.ones(shape)
        elif name.endswith("bias"):
            found[name] = torch.zeros(shape)
        else:
            found[name] = torch.randn(shape, generator=generator) * INITIAL_STD
    return found
