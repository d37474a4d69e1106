"""What a compression starts from: models, texts and a recipe that fit together.

``prepare`` reads the files and settles every choice that the user left out; compressing.py and the
dry run both start there.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeformer.compressing.request import Request, Source
from edgeformer.compression.batching import BatchSettings, Tokenized, batch_settings, tokenize
from edgeformer.compression.examples import Examples, read_examples, without_labels
from edgeformer.compression.loss_kinds import LOSS_KINDS
from edgeformer.compression.making import make_student
from edgeformer.compression.measuring import Quality, exit_accuracies, quality
from edgeformer.compression.model_config import config_of
from edgeformer.compression.optimizing import seed_of
from edgeformer.compression.recipe import Recipe
from edgeformer.compression.students import with_head
from edgeformer.compression.training_data import TrainingData
from edgeformer.compression.vocabulary import slim_vocabulary, used_tokens
from edgeformer.data import read_texts
from edgeformer.errors import UsageError
from edgeformer.models.build import HeadConfig
from edgeformer.models.checkpoint import LoadedModel, load_checkpoint
from edgeformer.models.exits import ExitClassifier


@dataclass(frozen=True)
class Inputs:
    """Everything in memory.

    Attributes:
        recipe: what to do.
        given: the model that was given, with a head for the task.
        had_head: it came with that head.
        teacher: the same with the recipe's vocabulary.
        student: where the student starts.
        data: what it is trained on.
        evaluation: what is measured on; None without.
        digests: of what decides the result, by name.
        notices: sentences that a user should read.
    """

    recipe: Recipe
    given: LoadedModel
    had_head: bool
    teacher: LoadedModel
    student: LoadedModel
    data: TrainingData
    evaluation: Examples | None
    digests: dict[str, str]
    notices: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return next(self.teacher.module.parameters()).device


def prepare(request: Request, recipe: Recipe) -> Inputs:
    """Read and check everything.

    Raises:
        UsageError: a path or name that is wrong, or a recipe that does not go with the model.
        ModelError: a checkpoint that cannot be loaded or compressed.
        DataError: texts that cannot be read or do not fit the model.
    """
    loaded, had_head, labelled = _model_and_labels(request, recipe)
    loaded = _on_device(loaded, request.device)
    evaluation = _evaluation(request, loaded)
    texts, notices = _texts(request, recipe, labelled)
    teacher = _trimmed(loaded, recipe, labelled, texts)
    student = _student(request, recipe, teacher)
    data = TrainingData(
        labelled=labelled,
        texts=texts,
        loaded=teacher,
        max_length=min(recipe.max_length, teacher.max_length),
        seed=request.seed,
    )
    digests = {
        "recipe": recipe.digest,
        "model": _digest_of(loaded.module),
        "student": _digest_of(student.module),
        "training data": _digest_of_texts(labelled, texts),
        "seed": str(request.seed),
        "scale": repr(request.scale),
    }
    notices = (*loaded.notices, *notices, *_scale_notice(request.scale))
    return Inputs(recipe, loaded, had_head, teacher, student, data, evaluation, digests, notices)


def _model_and_labels(request: Request, recipe: Recipe) -> tuple[LoadedModel, bool, Examples]:
    """The model with a head for the task, whether it came with it, and the training texts."""
    loaded = load_checkpoint(request.model)
    if loaded.task in ("token-classification", "question-answering"):
        raise UsageError(
            f"{request.model} was saved for {loaded.task}; recipes train on one label for each"
            " text, or on none",
            hint="a classifier of texts, an embedding model or a masked language model can be"
            " compressed",
        )
    kinds = [LOSS_KINDS[loss.kind] for stage in recipe.stages for loss in stage.losses]
    wants_labels = any(
        LOSS_KINDS[loss.kind].labels and stage.data == "labelled"
        for stage in recipe.stages
        for loss in stage.losses
    )
    reads_logits = any(kind.reads == "logits" for kind in kinds)
    if loaded.task == "classification":
        return loaded, True, _labelled(request, loaded)
    if loaded.task == "embedding" and reads_logits:
        if any(kind.teacher for kind in kinds):
            raise UsageError(
                f"the recipe {recipe.name!r} learns from the answers of a classifier, and"
                f" {request.model} gives embeddings",
                hint="make a classifier of it first: edgeformer compress MODEL --recipe finetune",
            )
        labelled = read_examples(_source(request.train), request.columns)
        return _with_classes(loaded, labelled, request.seed), False, labelled
    if wants_labels:
        raise UsageError(
            f"the recipe {recipe.name!r} learns from labels, and a model for {loaded.task} has no"
            " classes",
            hint="make a classifier of it first: edgeformer compress MODEL --recipe finetune",
        )
    return loaded, True, _unlabelled(request)


def _labelled(request: Request, loaded: LoadedModel) -> Examples:
    regression = loaded.problem_type == "regression"
    labels = None if regression else loaded.labels
    return read_examples(
        _source(request.train), request.columns, labels=labels, regression=regression
    )


def _unlabelled(request: Request) -> Examples:
    if not isinstance(request.train, str | os.PathLike):
        raise UsageError("texts without labels are read from a file")
    return without_labels(read_texts(Path(request.train)))


def _source(source: Source) -> Path | Iterable[Mapping[str, Any]]:
    return Path(source) if isinstance(source, str | os.PathLike) else source


def _with_classes(loaded: LoadedModel, labelled: Examples, seed: int) -> LoadedModel:
    """A new head for the classes of the labels (Devlin et al., arXiv 1810.04805, section 4.1)."""
    head = HeadConfig("classification", num_labels=len(labelled.labels), activation="tanh")
    generator = torch.Generator().manual_seed(seed_of(seed, "head"))
    module = with_head(loaded.module, head, generator)
    return replace(
        loaded,
        module=module,
        task="classification",
        head=head,
        labels=labelled.labels,
        problem_type="single_label",
        pooling="",
        normalized=False,
        notices=(),
    )


def _on_device(loaded: LoadedModel, name: str | None) -> LoadedModel:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        return replace(loaded, module=loaded.module.to(device).eval())
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"no device {name!r}: {error}", hint="--device cpu") from None


def _evaluation(request: Request, loaded: LoadedModel) -> Examples | None:
    if request.evaluate is None:
        return None
    if loaded.task != "classification":
        raise UsageError(
            f"evaluation texts are labelled, and a model for {loaded.task} has no classes"
        )
    regression = loaded.problem_type == "regression"
    labels = None if regression else loaded.labels
    return read_examples(
        _source(request.evaluate), request.columns, labels=labels, regression=regression
    )


def _texts(
    request: Request, recipe: Recipe, labelled: Examples
) -> tuple[Examples, tuple[str, ...]]:
    if request.texts is not None:
        return without_labels(read_texts(request.texts)), ()
    texts = without_labels((row.text, row.pair) for row in labelled.rows)
    wanting = [s.name for s in recipe.stages if s.data in ("unlabelled", "masked_words")]
    if not wanting:
        return texts, ()
    notice = (
        f"no texts without labels were given (--texts): {', '.join(wanting)} read the training"
        " texts, their labels left out"
    )
    return texts, (notice,)


def _trimmed(
    loaded: LoadedModel, recipe: Recipe, labelled: Examples, texts: Examples
) -> LoadedModel:
    """The model with the word pieces that the recipe keeps: those of all training texts."""
    if recipe.vocabulary is None:
        return loaded
    rows = dict.fromkeys((row.text, row.pair) for row in (*labelled.rows, *texts.rows))
    words = (text for row in rows for text in row if text is not None)
    assert loaded.tokenizer_json is not None
    keep = used_tokens(loaded.tokenizer_json, words, recipe.vocabulary.occurrences)
    return slim_vocabulary(loaded, keep)


def _student(request: Request, recipe: Recipe, teacher: LoadedModel) -> LoadedModel:
    if request.student is None:
        module, head = make_student(recipe.student, teacher.module, teacher.head, request.seed)
        return with_module(teacher, module, head)
    student = load_checkpoint(request.student)
    if recipe.vocabulary is not None:
        raise UsageError(
            f"the recipe {recipe.name!r} cuts the vocabulary, and a student of its own has one",
            hint="leave --student out, or the table vocabulary in the recipe",
        )
    if student.tokenizer_json != teacher.tokenizer_json:
        raise UsageError(
            f"{request.student} and {request.model} have different vocabularies, so they read"
            " different tokens",
            hint="a student needs the tokenizer.json of its teacher",
        )
    if student.task != teacher.task:
        generator = torch.Generator().manual_seed(seed_of(request.seed, "head"))
        module = with_head(student.module, teacher.head, generator)
        student = with_module(teacher, module, teacher.head)
    if student.labels != teacher.labels:
        raise UsageError(f"{request.student} and {request.model} have different classes")
    device = next(teacher.module.parameters()).device
    return replace(student, module=student.module.to(device).eval())


def with_module(loaded: LoadedModel, module: nn.Module, head: HeadConfig) -> LoadedModel:
    """The model with another module, and what follows from it."""
    config = config_of(module)
    return replace(
        loaded,
        module=module,
        head=head,
        input_names=config.input_names,
        position_start=config.position_start,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
    )


def measured(inputs: Inputs, model: LoadedModel) -> Quality | None:
    """How good a model's answers to the evaluation texts are; None without such texts."""
    if inputs.evaluation is None:
        return None
    return quality(model.module, *_for_measuring(inputs.evaluation, model), model.problem_type)


def exits_measured(inputs: Inputs, model: LoadedModel) -> tuple[float, ...]:
    """Accuracy after each layer on the evaluation texts; empty without such texts or exits."""
    if inputs.evaluation is None or not isinstance(model.module, ExitClassifier):
        return ()
    return exit_accuracies(model.module, *_for_measuring(inputs.evaluation, model))


def _for_measuring(texts: Examples, model: LoadedModel) -> tuple[Tokenized, BatchSettings]:
    assert model.tokenizer_json is not None
    tokenized = tokenize(texts, model.tokenizer_json, model.max_length)
    return tokenized, batch_settings(model, 64, seed=0)


def _scale_notice(scale: float) -> tuple[str, ...]:
    if scale == 1:
        return ()
    return (f"every stage had {scale:g} times the steps of its recipe: expect other results",)


def _digest_of(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _digest_of_texts(*groups: Examples) -> str:
    digest = hashlib.sha256()
    for examples in groups:
        digest.update(repr(examples.labels).encode())
        for row in examples.rows:
            digest.update(repr((row.text, row.pair, row.label)).encode())
    return digest.hexdigest()
