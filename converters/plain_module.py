"""A user's own nn.Module with example inputs -> PreparedModel, converted as it is."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from edgeformer.converters.prepared import PreparedModel
from edgeformer.errors import ModelError, UsageError
from edgeformer.runtime.manifest import ModelCard, Port

_PADDABLE = ("input_ids", "attention_mask")


class _NamedOutputs(torch.nn.Module):
    """Calls the module and gives its tensors names."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

        def forward(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            """The module's outputs by name: its own, or ``output``, ``output_1``, ..."""
            return _named(self.module(**inputs))

        # torch.export matches dynamic shapes with argument names, which **inputs would hide.
        forward.__signature__ = inspect.signature(module.forward)  # type: ignore[attr-defined]
        self.forward = forward


def prepare_plain_module(
    module: torch.nn.Module, examples: Sequence[dict[str, torch.Tensor]]
) -> PreparedModel:
    """See ``edgeformer.pipeline.prepare_module``."""
    module = module.eval()
    _check_examples(module, examples)
    _check_weights(module)
    wrapped = _NamedOutputs(module).eval()
    # Exporting and comparing must not see the caller's tensors change, nor share one object.
    copies = tuple({k: v.detach().clone() for k, v in example.items()} for example in examples)
    inputs, outputs = _ports(wrapped, copies[0])
    card = ModelCard(
        name=type(module).__name__,
        family="module",
        task="module",
        max_length=0,
        parameters=sum(p.numel() for p in module.parameters()),
    )
    return PreparedModel(wrapped, inputs, outputs, copies, card)


def _ports(
    module: torch.nn.Module, example: dict[str, torch.Tensor]
) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Input and output ports; which dimensions may change is found by changing them.

    1. The batch: every input twice, one after the other. Where the module takes that, the
       dimensions that doubled are ``batch``.
    2. The sequence, for modules with ``input_ids`` and ``attention_mask``: one column less on
       all inputs of their shape. The dimensions that shrank are ``sequence``.
    """
    before = _shapes(example, _run(module, example))
    names: dict[str, list[int | str]] = {name: list(shape) for name, shape in before.items()}
    for symbol, probe in (("batch", _doubled(example)), ("sequence", _shortened(example))):
        try:
            after = _shapes(probe, _run(module, probe)) if probe else before
        except Exception:  # whatever a user's module raises, it does not take this shape
            continue
        for name, shape in after.items():
            for axis, (old, new) in enumerate(zip(before[name], shape, strict=True)):
                if old != new:
                    names[name][axis] = symbol
    answer = _run(module, example)
    defaults = {"attention_mask": "ones", "token_type_ids": "zeros"} if _padded(example) else {}
    return (
        tuple(
            Port(k, _dtype(v), tuple(names["in " + k]), defaults.get(k)) for k, v in example.items()
        ),
        tuple(Port(k, _dtype(v), tuple(names["out " + k])) for k, v in answer.items()),
    )


def _run(module: torch.nn.Module, example: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        answer: dict[str, torch.Tensor] = module(**example)
    return answer


def _shapes(
    inputs: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor]
) -> dict[str, torch.Size]:
    shapes = {f"in {k}": v.shape for k, v in inputs.items()}
    return shapes | {f"out {k}": v.shape for k, v in outputs.items()}


def _padded(example: dict[str, torch.Tensor]) -> bool:
    return set(_PADDABLE) <= set(example)


def _doubled(example: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every input twice, or nothing if the inputs do not share a first dimension."""
    if len({v.shape[0] if v.ndim else None for v in example.values()} - {None}) != 1:
        return {}
    return {k: torch.cat([v, v]) if v.ndim else v for k, v in example.items()}


def _shortened(example: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One column less on the inputs shaped like ``input_ids``, or nothing if not paddable."""
    if not _padded(example) or example["input_ids"].shape[-1] < 3:
        return {}
    shape = example["input_ids"].shape
    return {k: v[:, :-1].clone() if v.shape == shape else v for k, v in example.items()}


def _check_examples(module: torch.nn.Module, examples: Sequence[Mapping[str, Any]]) -> None:
    hint = "pass example_inputs={'name of forward's argument': tensor, ...}"
    if not examples or not all(examples):
        raise UsageError("example_inputs is empty", hint=hint)
    for example in examples:
        if set(example) != set(examples[0]):
            raise UsageError("the example inputs do not all have the same names", hint=hint)
        for name, value in example.items():
            if not isinstance(value, torch.Tensor):
                raise UsageError(f"example input {name!r} is not a tensor", hint=hint)
    try:
        inspect.signature(module.forward).bind(**examples[0])
    except TypeError as error:
        raise UsageError(
            f"{type(module).__name__} cannot be called so: {error}", hint=hint
        ) from None


def _check_weights(module: torch.nn.Module) -> None:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"weight {name} contains NaN or infinity", hint="train or export the model again"
            )


def _named(answer: Any) -> dict[str, torch.Tensor]:
    if isinstance(answer, torch.Tensor):
        return {"output": answer}
    if isinstance(answer, Mapping):
        named = {str(k): v for k, v in answer.items() if v is not None}
    elif isinstance(answer, (tuple, list)):
        named = {f"output_{i}" if i else "output": v for i, v in enumerate(answer)}
    else:
        named = {}
    if not named or not all(isinstance(v, torch.Tensor) for v in named.values()):
        raise ModelError(
            f"the module returns {type(answer).__name__}: not a tensor, nor tensors by name",
            hint="return a tensor, a tuple of tensors or a dict of tensors",
        )
    return named


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
