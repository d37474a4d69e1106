"""A checkpoint folder behind the task API: what the original model answers. Host only, PyTorch.

    with open_checkpoint(Path("./my-classifier")) as model:
        model.classify("What a lovely film")

Tokenizing, truncation, probabilities and tags are the device's own code; only the numbers in
between come from PyTorch, on texts of one length at a time, so that nothing is padded.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import InputError, ModelError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.bundle import Bundle
from edgeformer.runtime.dispatch import Dispatcher
from edgeformer.runtime.exiting import Leave
from edgeformer.runtime.grouping import length_groups
from edgeformer.runtime.inputs import complete_inputs
from edgeformer.runtime.manifest import Manifest, ModelCard, Port, Program, Variant
from edgeformer.runtime.model import Model
from edgeformer.runtime.threads import available_threads
from edgeformer.runtime.tokenizer import load_tokenizer
from edgeformer.runtime.tuned import Choice

if TYPE_CHECKING:
    from edgeformer.models.checkpoint import LoadedModel

VARIANT = "pytorch"

EVALUATED_TASKS = ("embedding", "classification", "token-classification", "question-answering")


def open_checkpoint(folder: Path, threads: int | None = None) -> Model:
    """The checkpoint as a Model whose only variant is ``pytorch``.

    Args:
        folder: a Hugging Face or sentence-transformers folder of a text model.
        threads: threads of PyTorch from now on, in this process; None leaves them as they are.

    Raises:
        ModelError: not a model, or one that bundles have no task for.
        EngineError: a package of the extra ``convert`` is missing.
    """
    from edgeformer.pipeline import need_extra

    need_extra()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    from edgeformer.converters.tracing import quiet_libraries
    from edgeformer.models.checkpoint import load_checkpoint
    from edgeformer.ports import input_ports

    with quiet_libraries():
        loaded = load_checkpoint(folder)
    if loaded.task not in EVALUATED_TASKS or loaded.tokenizer_json is None:
        raise ModelError(
            f"{folder} is a model of {loaded.task}{'' if loaded.tokenizer_json else ' on images'},"
            " which has no table of labelled texts",
            hint=f"tasks that have one: {', '.join(EVALUATED_TASKS)}",
        )
    if threads is not None:
        torch.set_num_threads(available_threads(threads))
    count = torch.get_num_threads()
    output = "embedding" if loaded.task == "embedding" else "logits"
    engine = TorchEngine(loaded, input_ports(loaded), output, count)
    manifest = _manifest(loaded, output)
    dispatcher = Dispatcher(manifest.variants, Choice(VARIANT, count), engine)
    return Model(
        Bundle(folder, manifest, {}),
        dispatcher,
        load_tokenizer(loaded.tokenizer_json),
        notices=loaded.notices,
    )


class TorchEngine:
    """The PyTorch module as an Engine of the runtime."""

    def __init__(
        self, loaded: "LoadedModel", ports: tuple[Port, ...], output: str, threads: int
    ) -> None:
        self.threads = threads
        self._module = loaded.module
        self._ports = ports
        self._output = output

    def run(self, program: str, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """See ``Engine.run``; there is ``main`` only."""
        import torch

        arrays = complete_inputs(self._ports, inputs)
        with torch.inference_mode():
            answer = self._module(**{k: torch.from_numpy(v) for k, v in arrays.items()})
        return {name: value.float().numpy() for name, value in answer.items()}

    def encode(self, batch: RaggedBatch) -> dict[str, NDArray[Any]]:
        """See ``Engine.encode``; texts of one length run together."""
        lengths = batch.lengths
        names = {port.name for port in self._ports}
        answers: dict[int, NDArray[Any]] = {}
        for rows in length_groups(lengths.tolist(), max_waste=0.0):
            padded = batch.select(rows).padded(int(lengths[rows[0]]))
            found = self.run("main", {k: v for k, v in padded.items() if k in names})
            answers |= dict(zip(rows, found[self._output], strict=True))
        ordered = [answers[i] for i in range(len(batch))]
        per_token = bool(ordered) and ordered[0].ndim == 2
        join = np.concatenate if per_token else np.stack
        return {self._output: join(ordered)}

    def encode_exits(
        self, batch: RaggedBatch, leave: Leave
    ) -> tuple[NDArray[Any], NDArray[np.intp]]:
        """A checkpoint runs through all of its layers. Raises InputError."""
        raise InputError("a checkpoint has no segments", hint="convert it, and run the bundle")

    def close(self) -> None:
        """Nothing to release."""


def card_of(loaded: "LoadedModel") -> ModelCard:
    """What a bundle would say of the checkpoint, as far as its answers are judged by that."""
    return ModelCard(
        name=loaded.name,
        family=loaded.family,
        task=loaded.task,
        labels=loaded.labels,
        problem_type=loaded.problem_type,
        pooling=loaded.pooling,
        normalized=loaded.normalized,
        max_length=loaded.max_length,
        parameters=loaded.parameters,
    )


def _manifest(loaded: "LoadedModel", output: str) -> Manifest:
    program = Program("", "", (), (), (Port(output, "float32", ("batch",)),))
    variant = Variant(VARIANT, "pytorch", "fp32", "dense", "", "", {"main": program})
    return Manifest(card_of(loaded), {}, ("pytorch",), 0, "", "", (variant,), {})
