"""A recipe: how a paper makes a small model, as data.

    recipe = load_recipe("distilbert")          # or a path to a TOML file
    recipe.student, recipe.stages[0].losses

docs/recipes.md explains every key. Nothing here trains, and nothing imports torch: trainer.py
carries a recipe out.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

from edgeformer.compression.layer_maps import LAYER_MAPS
from edgeformer.compression.strict_toml import Source, choice, number

STUDENT_KINDS = ("same", "layers", "sizes", "mobilebert", "bilstm")
DATA_KINDS = ("labelled", "augmented", "unlabelled", "masked_words")
PRUNED_UNITS = ("heads", "neurons", "layers", "embedding_dims")
SCORE_METHODS = (
    "magnitude",
    "movement",
    "gate_taylor",
    "neuron_taylor",
    "neuron_taylor_both",
    "cosine",
    "random",
)
DROPPED_LAYERS = ("top", "bottom", "odd", "even", "symmetric", "spread", "between")
SPARSITY_METHODS = ("magnitude", "movement", "random")
SCHEDULES = ("constant", "linear", "cubic")
AUGMENTATIONS = ("tang", "tinybert")
EXITS = ("", "frozen", "joint")
POOLINGS = ("mean", "cls")


@dataclass(frozen=True)
class Loss:
    """One term of what a stage minimises; ``loss_kinds`` says which option goes with which kind.

    Attributes:
        kind: a key of ``loss_kinds.LOSS_KINDS``.
        weight: factor in the sum of losses.
        temperature: of both softmaxes.
        teacher_share: of the teacher's distribution in a mixed label.
        layer_map: which layer learns from which, of ``layer_maps.LAYER_MAPS``.
        pairs: (student, teacher) for ``explicit``; 0 is the embeddings' output.
        projected: a trained linear map, shared by all layers, goes from the student's width to the
            teacher's.
        normalized: divide the compared vectors by their length.
        relation_heads: heads into which relations split both models; 0 keeps their own.
    """

    kind: str
    weight: float = number(1.0, above=0)
    temperature: float = number(1.0, above=0)
    teacher_share: float = number(0.5, least=0, most=1)
    layer_map: str = choice(LAYER_MAPS, default="top")
    pairs: tuple[tuple[int, int], ...] = ()
    projected: bool = False
    normalized: bool = True
    relation_heads: int = number(0, least=0)


@dataclass(frozen=True)
class Trained:
    """Parameters that a stage trains.

    Attributes:
        parameters: regular expression, searched in the name of a parameter of the student. In a
            stage that is repeated ``per_layer``, ``{layer}`` is the number of its layer, and
            ``{below}`` and ``{above}`` are those of the layers below and above it.
        multiplier: of the learning rate.
    """

    parameters: str
    multiplier: float = number(1.0, above=0)


@dataclass(frozen=True)
class Prune:
    """Units that are scored and cut out before a stage trains.

    Attributes:
        units: kind of unit.
        method: how units are scored; for layers also a rule, of ``DROPPED_LAYERS``.
        keep: share of them that stays.
        per: ``model`` ranks the units of all layers together, ``place`` those of each layer alone.
        minimum: units that stay in each layer, whatever their score.
        normalized: divide the scores of each layer by their Euclidean length.
        examples: training examples on which they are scored.
    """

    units: str = choice(PRUNED_UNITS)
    method: str = choice((*SCORE_METHODS, *DROPPED_LAYERS))
    keep: float = number(above=0, most=1)
    per: str = choice(("model", "place"), default="model")
    minimum: int = number(1, least=1)
    normalized: bool = False
    examples: int = number(1024, least=1)


@dataclass(frozen=True)
class Sparsity:
    """Single weights that are held at zero while a stage trains, and stay zero.

    Attributes:
        method: how weights are scored.
        target: share of each weight matrix that is zero in the end.
        schedule: how the share grows.
        start: share of the stage's steps after which it begins to grow.
        end: share of the stage's steps after which it has its target.
        every: steps between changes of the share.
        modules: parts of the student whose matrices are masked, each to the target.
        score_learning_rate: of the scores of ``movement``.
    """

    method: str = choice(SPARSITY_METHODS)
    target: float = number(least=0, below=1)
    schedule: str = choice(SCHEDULES, default="cubic")
    start: float = number(0.0, least=0, most=1)
    end: float = number(0.7, least=0, most=1)
    every: int = number(10, least=1)
    modules: tuple[str, ...] = ("encoder.layers",)
    score_learning_rate: float = number(1e-2, above=0)


@dataclass(frozen=True)
class Span:
    """How far each attention head looks, learned while a stage trains (soft_spans.py).

    When the stage ends, spans become whole numbers, and heads whose span is 0 are cut out.

    Attributes:
        penalty: what a token of the mean span costs, added to the losses.
        learning_rate: of the spans, in tokens.
        start: spans at first, and at most.
        ramp: length over which a head's sight fades at first; it shrinks to 1.
        end: share of the stage's steps after which the ramp is 1.
    """

    penalty: float = number(above=0)
    learning_rate: float = number(0.2, above=0)
    start: int = number(64, least=1)
    ramp: float = number(32.0, least=1)
    end: float = number(0.7, least=0, most=1)


@dataclass(frozen=True)
class Augmentation:
    """Copies of the training texts with words changed.

    Attributes:
        kind: whose rules.
        copies: of each text.
    """

    kind: str = choice(AUGMENTATIONS)
    copies: int = number(least=1)


@dataclass(frozen=True)
class Stage:
    """One run of the optimizer over one kind of data, with one set of losses.

    Attributes:
        name: for logs and messages.
        losses: their weighted sum is minimised; none for a stage that only cuts units out.
        epochs: passes over the data; steps and epochs exclude each other.
        steps: of the optimizer.
        learning_rate: highest; it rises linearly, then falls linearly to 0.
        warmup_share: share of the steps in which it rises.
        batch_size: examples of one step, over all processes together.
        weight_decay: of AdamW; biases and norms have none.
        clip: largest Euclidean length of the gradient; 0 for no limit.
        dropout: probability at the places where BERT has it.
        layer_drop: probability with which a layer is skipped in a step.
        data: what is read: ``labelled`` texts; ``augmented`` ones; ``unlabelled`` texts;
            ``masked_words``, texts in which words are hidden.
        augmentation: for ``augmented`` data.
        train: what is trained; everything if empty.
        per_layer: repeat the stage for each layer of the student, ``up`` from the first or
            ``down`` from the last; losses with a layer map then look at that layer alone.
        prune: units cut out before the stage trains.
        sparsity: weights held at zero, in one or several ways.
        span: heads' spans that are learned.
        exits: the student has off-ramps after its layers from here on (models/exits.py), and they
            are trained: ``frozen`` alone, ``joint`` with everything else.
        exit_pooling: what off-ramps read: the ``mean`` of the tokens' states, or ``cls``, the first
            one.
    """

    name: str
    losses: tuple[Loss, ...] = ()
    epochs: float = number(0.0, least=0)
    steps: int = number(0, least=0)
    learning_rate: float = number(5e-5, above=0)
    warmup_share: float = number(0.1, least=0, below=1)
    batch_size: int = number(32, least=1)
    weight_decay: float = number(0.01, least=0)
    clip: float = number(1.0, least=0)
    dropout: float = number(0.1, least=0, below=1)
    layer_drop: float = number(0.0, least=0, below=1)
    data: str = choice(DATA_KINDS, default="labelled")
    augmentation: Augmentation | None = None
    train: tuple[Trained, ...] = ()
    per_layer: str = choice(("", "up", "down"), default="")
    prune: tuple[Prune, ...] = ()
    sparsity: tuple[Sparsity, ...] = ()
    span: Span | None = None
    exits: str = choice(EXITS, default="")
    exit_pooling: str = choice(POOLINGS, default="mean")


@dataclass(frozen=True)
class Student:
    """How the student is made from the teacher, before the first stage.

    Attributes:
        kind: ``same`` is a copy; ``layers`` takes some of the teacher's layers; ``sizes`` is a new
            encoder of other sizes; ``mobilebert`` one with bottlenecks; ``bilstm`` a BiLSTM.
        layers: how many; 0 for as many as the teacher.
        layer_share: how many, as a share of the teacher's, instead of ``layers``.
        drop: which of the teacher's layers go: the names of ``layer_choice``, or those ``between``
            layers that lie evenly from the first to the last one.
        layer_numbers: the layers that stay, counted from 0, instead of a number and ``drop``.
        hidden_size: width between layers; 0 for the teacher's. Of a BiLSTM, that of one direction.
        num_heads: heads of each layer; 0 for the teacher's.
        intermediate_size: width inside the feed-forward blocks; 0 for the teacher's.
        bottleneck_size: width inside the layers of a ``mobilebert``.
        stacked_ffns: feed-forward blocks in a layer of a ``mobilebert``.
        embedding_size: width of the token table; 0 leaves it. A copied table is factorised by SVD.
        linear_share: share of its weights that each linear map of the copied layers keeps as two
            factors (SVD); 0 leaves the maps whole.
        tied: all layers share one set of weights, the mean of theirs.
        reads: what the student's classifier reads: the ``mean`` of the tokens' states, or ``cls``,
            the first one; empty for what the teacher's does.
    """

    kind: str = choice(STUDENT_KINDS, default="same")
    layers: int = number(0, least=0)
    layer_share: float = number(0.0, least=0, most=1)
    drop: str = choice(DROPPED_LAYERS, default="top")
    layer_numbers: tuple[int, ...] = number((), least=0)
    hidden_size: int = number(0, least=0)
    num_heads: int = number(0, least=0)
    intermediate_size: int = number(0, least=0)
    bottleneck_size: int = number(0, least=0)
    stacked_ffns: int = number(0, least=0)
    embedding_size: int = number(0, least=0)
    linear_share: float = number(0.0, least=0, most=1)
    tied: bool = False
    reads: str = choice(("", *POOLINGS), default="")


@dataclass(frozen=True)
class Vocabulary:
    """Word pieces that stay in the token table.

    Attributes:
        occurrences: how often a piece occurs in the training texts, at least, to stay.
    """

    occurrences: int = number(1, least=1)


@dataclass(frozen=True)
class Recipe:
    """What is done to a model, and whose idea it was.

    Attributes:
        name: of the file.
        title: one line.
        paper: authors, title, arXiv number.
        deviations: how this recipe differs from the paper.
        student: how the student is made.
        stages: carried out one after the other.
        vocabulary: which word pieces stay; None keeps all.
        max_length: most tokens of a training text.
        export: what to know when the student is converted.
        source: the file, for messages.
    """

    name: str
    title: str
    paper: str
    stages: tuple[Stage, ...]
    deviations: tuple[str, ...] = ()
    student: Student = Student()
    vocabulary: Vocabulary | None = None
    max_length: int = number(128, least=3)
    export: tuple[str, ...] = ()
    source: Source | None = field(default=None, repr=False, compare=False)

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides the result; names and remarks do not count, nor what
        has its default: a recipe stays the same when EdgeFormer learns a new key."""
        said = ("name", "title", "paper", "deviations", "export", "source")
        data = {key: value for key, value in _chosen(self).items() if key not in said}
        text = json.dumps(data, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _chosen(settings: Any) -> Any:
    """Plain data of dataclasses, without what has its default."""
    if isinstance(settings, tuple):
        return [_chosen(value) for value in settings]
    if not is_dataclass(settings):
        return settings
    values = {f.name: (getattr(settings, f.name), f.default) for f in fields(settings)}
    return {name: _chosen(value) for name, (value, default) in values.items() if value != default}


def recipe_data(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, every default written out."""
    data = asdict(recipe)
    del data["source"]
    return data
