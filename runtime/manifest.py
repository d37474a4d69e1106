"""What a bundle says of itself, as frozen dataclasses.

runtime/manifest_json.py reads and writes them; docs/bundle.md describes every field for other
readers of the format.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

from edgeformer.errors import BundleError

SCHEMA_VERSION = 1

# A field that schema 1 got later: a manifest leaves it out where it has its default, so that
# bundles that do not need it read and compare as before.
_ADDED = {"added": True}


@dataclass(frozen=True)
class Port:
    """One named input or output of a program.

    Attributes:
        name: argument name, for example ``input_ids``.
        dtype: numpy name of the type: ``int64``, ``int32``, ``float32``, ...
        shape: sizes; a string is a symbolic dimension (``batch``, ``sequence``).
        default: how an absent input is made: ``ones``, ``zeros``, ``positions+K`` (0, 1, 2, ...
            along the last axis, plus K) or None for a required input.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    default: str | None = None


@dataclass(frozen=True)
class Program:
    """One entry of a model file.

    Attributes:
        file: path inside the bundle.
        entry: what the file calls it; ``{length}`` stands for the bucket where there are buckets.
        buckets: sequence lengths the program exists for, ascending; empty if any length runs.
        inputs: ports in call order.
        outputs: ports in result order. A ``sequence`` dimension marks one row per token.
    """

    file: str
    entry: str
    buckets: tuple[int, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Parity:
    """How near a variant's answers are to the PyTorch model's, measured with this runtime.

    Attributes:
        texts: number of texts (or example inputs) compared.
        max_abs: largest absolute difference.
        max_ref: largest absolute value of the reference.
        min_cosine, mean_cosine: over texts for embeddings and plain outputs, over classes for
            logits (docs/verification.md says why).
        top1: share of equal arg-max answers, None where the output has no classes.
        batch_cosine: lowest cosine of an answer alone against the same text in a mixed batch, None
            where the program takes no batch.
        passed: True if every figure is within the profile's tolerance.
        failures: one sentence for each figure that is not.
        top5: for ``fill-mask`` the share of masks whose best token is among the variant's five
            best; else None.
    """

    texts: int
    max_abs: float
    max_ref: float
    min_cosine: float
    mean_cosine: float
    top1: float | None
    batch_cosine: float | None
    passed: bool
    failures: tuple[str, ...] = ()
    top5: float | None = field(default=None, metadata=_ADDED)


@dataclass(frozen=True)
class ExitPoint:
    """What one threshold costs and saves, measured on calibration texts.

    Attributes:
        threshold: of the criterion.
        mean_layers: layers that a text goes through on average.
        drop: points (0 to 100) of accuracy lost against the last layer's answers; without labels
            percent of texts whose answer changes.
        bound: upper end of the drop's one-sided 95 % confidence interval.
    """

    threshold: float
    mean_layers: float
    drop: float
    bound: float


@dataclass(frozen=True)
class ExitTable:
    """Where texts may leave a variant early, and when they should.

    Attributes:
        layers: layers that are done after each of ``segment_1``, ``segment_2``, ...
        criterion: ``entropy``, ``probability`` or ``patience``.
        threshold: the calibrated one, what ``exit="auto"`` means; None without calibration, and
            where no threshold kept the budget.
        max_drop: the budget of the calibration, in points.
        texts: calibration texts.
        labelled: they had labels, so that ``drop`` is of accuracy.
        curve: from the strictest threshold on; empty without calibration.
        lookup_step: entropy from one row of ``lookup`` to the next.
        lookup: EdgeBERT's predictor: rows for the entropy after the first segment, holding the
            predicted entropies after each later segment but the last; empty for none.
    """

    layers: tuple[int, ...]
    criterion: str = "entropy"
    threshold: float | None = None
    max_drop: float = 0.0
    texts: int = 0
    labelled: bool = False
    curve: tuple[ExitPoint, ...] = ()
    lookup_step: float = 0.0
    lookup: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Variant:
    """One model file for one engine at one precision.

    Attributes:
        id: ``ENGINE-PRECISION``, also the folder of its files.
        engine: ``onnx``, ``tflite`` or ``numpy``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        layout: ``packed`` (rows of all texts one after the other, no padding), ``dense`` (any
            padded shape), ``buckets`` (fixed lengths) or ``single`` (one text per call without
            padding: the file has no ``attention_mask``, the engine leaves out what it masks).
        note: why this layout, or another fact a user should know.
        provider: execution provider the engine must have, empty for its CPU one.
        programs: entries by name; ``main`` always exists. Early-exit models also have
            ``segment_1``, ``segment_2``, ...: each reads the ``hidden`` of the one before.
        parity: the verification's figures.
        exits: of early-exit models, else None.
        weights: file in which the programs' files have their weights; empty where each has its own.
    """

    id: str
    engine: str
    precision: str
    layout: str
    note: str
    provider: str
    programs: dict[str, Program]
    parity: Parity | None = None
    exits: ExitTable | None = field(default=None, metadata=_ADDED)
    weights: str = field(default="", metadata=_ADDED)

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of all its files, sorted."""
        files = {program.file for program in self.programs.values()} | {self.weights}
        return tuple(sorted(files - {""}))

    @functools.cached_property
    def segments(self) -> tuple[Program, ...]:
        """The programs of an early-exit model in their order; none for other models."""
        count = len(self.exits.layers) if self.exits else 0
        return tuple(self.programs[f"segment_{k}"] for k in range(1, count + 1))


@dataclass(frozen=True)
class ImageInput:
    """How an image becomes ``pixel_values``, in the order of the attributes.

    Attributes:
        resize: (height, width) in pixels; one number for the shorter edge, the other in
            proportion; empty for images that are not resized.
        resample: ``bilinear``, ``bicubic`` or ``lanczos``, as Pillow does it.
        crop: (height, width) of the middle that is kept; empty for all.
        scale: factor from 0..255 to what ``mean`` and ``std`` are of.
        mean, std: of each channel: taken off, and divided by.
    """

    resize: tuple[int, ...]
    resample: str
    crop: tuple[int, ...]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ModelCard:
    """What the model is and what its answers mean.

    Attributes:
        name: folder or class it was made from.
        family: ``bert``, another Hugging Face ``model_type``, or ``module``.
        task: ``embedding``, ``classification``, ``token-classification``, ``question-answering``,
            ``fill-mask`` or ``module`` (a plain nn.Module: only ``run``).
        labels: class names in order of the logits (``start``, ``end`` for question answering);
            empty for other tasks.
        problem_type: ``single_label``, ``multi_label`` or ``regression`` for classifiers.
        pooling: ``mean`` or ``cls`` for embeddings, else empty. Pooling is inside the programs.
        normalized: True if embeddings have unit length.
        max_length: most tokens of one input, special tokens included; 0 for a plain module.
        parameters: number of trained values, shared ones counted once.
        mask_token: what ``fill-mask`` fills, as texts spell it; else empty.
        image: how images are prepared; None for models of texts, and where the checkpoint does not
            say.
    """

    name: str
    family: str
    task: str
    labels: tuple[str, ...] = ()
    problem_type: str = ""
    pooling: str = ""
    normalized: bool = False
    max_length: int = 0
    parameters: int = 0
    mask_token: str = field(default="", metadata=_ADDED)
    image: ImageInput | None = field(default=None, metadata=_ADDED)


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (hex) of one file of the bundle."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything about a bundle except the bytes of its files.

    Attributes:
        model: the card.
        profile: the device profile it was converted for, as plain data.
        engines: engine names in the order in which ``auto`` tries them.
        threads: most threads the profile allows.
        recipe: name of the compression recipe, empty if none.
        tokenizer: path of tokenizer.json inside the bundle, empty for a plain module.
        golden: path of the self-test inside the bundle.
        variants: what can be run, in the order of ``engines``.
        files: every file but manifest.json.
        tools: versions of what made the files.
        forced: True if a tolerance was missed and ``--force`` wrote the bundle all the same.
        chosen: how a search to a budget came to this bundle, in a sentence; empty without one.
    """

    model: ModelCard
    profile: dict[str, Any]
    engines: tuple[str, ...]
    threads: int
    tokenizer: str
    golden: str
    variants: tuple[Variant, ...]
    files: dict[str, FileRecord]
    tools: dict[str, str] = field(default_factory=dict)
    recipe: str = ""
    forced: bool = False
    chosen: str = field(default="", metadata=_ADDED)
    schema_version: int = SCHEMA_VERSION

    @property
    def takes_images(self) -> bool:
        """True if the model reads ``pixel_values``, not texts."""
        ports = self.variants[0].programs["main"].inputs
        return any(port.name == "pixel_values" for port in ports)

    def variant(self, variant_id: str) -> Variant:
        """The variant of that id. Raises BundleError, naming those there are."""
        for variant in self.variants:
            if variant.id == variant_id:
                return variant
        known = ", ".join(v.id for v in self.variants)
        raise BundleError(f"the bundle has no variant {variant_id!r}", hint=f"it has: {known}")
