"""Making one candidate of a search: a smaller checkpoint if the candidate cuts, then its bundle.

With training texts a cut is a recipe: the upper layers go, neurons and heads are scored by how the
loss depends on them and cut, and what is left learns the original's answers for a while.
Without, the same layers go, and the neurons and heads with the smallest weights: no training.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgeformer.data import read_rows
from edgeformer.errors import ModelError
from edgeformer.searching.candidates import Candidate, Cut, Sizes, stays
from edgeformer.searching.request import Request

if TYPE_CHECKING:
    from edgeformer.models.checkpoint import LoadedModel

Tell = Callable[[str], None]
EPOCHS, MIN_STEPS, MAX_STEPS, BATCH = 2, 200, 2000, 32
LEARNING_RATE = 1e-4


def make_bundle(request: Request, candidate: Candidate, output: Path, tell: Tell) -> None:
    """Write the bundle of a candidate.

    Raises:
        EdgeFormerError: whatever ``convert`` and ``compress`` raise.
    """
    from edgeformer.pipeline import convert

    model = request.model
    if candidate.cut is not None:
        tell("cutting" if request.train is None else "cutting and training")
        model = _cut(request, candidate.cut, output.with_suffix(".models"))
    tell("converting")
    convert(
        model,
        profile=request.profile,
        output=output,
        engines=(candidate.engine,),
        precisions=(candidate.precision,),
        fp32_share=candidate.fp32_share,
        exits=request.exits if candidate.exits else None,
        max_drop=request.exit_drop,
        max_length=request.max_length,
        calibration=request.calibration,
        golden=request.golden,
        force=request.force,
    )


def sizes_of(loaded: "LoadedModel") -> Sizes:
    """How large a model is. Raises ModelError where it cannot be cut."""
    from edgeformer.compression.units import encoder_of, unit_counts

    layers = encoder_of(loaded.module).config.num_layers
    neurons, heads = (unit_counts(loaded.module, kind) for kind in ("neurons", "heads"))
    return Sizes(layers, neurons, heads)


def _cut(request: Request, cut: Cut, folder: Path) -> Path:
    """A folder of the smaller model, with the model's own name."""
    from edgeformer.compressing.compress import compress
    from edgeformer.models.checkpoint import load_checkpoint
    from edgeformer.pipeline import DEFAULT_NAME

    loaded = load_checkpoint(request.folder)
    if loaded.tokenizer_json is None:
        raise ModelError("only models of texts are cut here")
    output = folder / (DEFAULT_NAME if request.model is None else loaded.name)
    folder.mkdir()
    if request.train is None:
        return _cut_only(loaded, cut, output)
    recipe = folder / "search.toml"
    rows = sum(1 for _ in read_rows(request.train))
    recipe.write_text(recipe_text(loaded, cut, rows), encoding="utf-8")
    compress(
        request.folder,
        recipe=str(recipe),
        train=request.train,
        output=output,
        columns=request.columns,
    )
    return output


def _cut_only(loaded: "LoadedModel", cut: Cut, output: Path) -> Path:
    """Layers from the top, then the neurons and heads with the smallest weights of each place."""
    from edgeformer.compressing.inputs import with_module
    from edgeformer.compression.scores import score
    from edgeformer.compression.selection import keep_best
    from edgeformer.compression.slimming import slim
    from edgeformer.compression.students import take_layers
    from edgeformer.models.saving import save_checkpoint

    module = take_layers(loaded.module, range(stays(sizes_of(loaded).layers, cut.layers)))
    shares = {"neurons": cut.neurons, "heads": cut.heads}
    keep = {
        kind: keep_best(score(module, kind, "magnitude"), fraction=share, per="place")
        for kind, share in shares.items()
        if share < 1
    }
    return save_checkpoint(with_module(loaded, slim(module, keep), loaded.head), output)


def recipe_text(loaded: "LoadedModel", cut: Cut, rows: int) -> str:
    """The recipe that makes a cut and trains it on so many rows, as TOML."""
    steps = min(max(EPOCHS * rows // BATCH, MIN_STEPS), MAX_STEPS)
    embeds = loaded.task == "embedding"
    method = "magnitude" if embeds else "gate_taylor"
    losses = ['{ kind = "text_mse" }']
    if not embeds:
        numbers = loaded.problem_type == "regression"
        answers = 'kind = "logit_mse"' if numbers else 'kind = "logit_kl", temperature = 2.0'
        losses = [f"{{ {answers} }}", '{ kind = "labels", weight = 0.2 }']
    prune = [
        f'{{ units = "{units}", method = "{method}", keep = {share!r}, per = "place" }}'
        for units, share in (("neurons", cut.neurons), ("heads", cut.heads))
        if share < 1
    ]
    return f"""title = "{cut.name}, then distillation"
paper = "none: a candidate of a search to a budget"

[student]
kind = "layers"
layer_share = {cut.layers!r}
drop = "top"

[[stages]]
name = "distil"
steps = {steps}
batch_size = {BATCH}
learning_rate = {LEARNING_RATE!r}
data = "{"unlabelled" if embeds else "labelled"}"
losses = [{", ".join(losses)}]
prune = [{", ".join(prune)}]
"""
