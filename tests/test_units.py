"""Gates, and the smaller model without what they switch off.

What a user would lose: a pruned model that does not answer as the gated one whose accuracy was
measured, or that cannot be saved and converted like any other.
"""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeformer.compression.gating import gated
from edgeformer.compression.slimming import new_ids, slim
from edgeformer.compression.units import UNIT_KINDS, Values, unit_counts
from edgeformer.errors import ModelError
from edgeformer.models.build import parameter_shapes
from tests.compressible import CONFIGS, HEADS, batch_for, tiny

SUPPORTED = {
    name: tuple(
        kind
        for kind in UNIT_KINDS
        if (kind != "tokens" or config.vocab_size)
        and (kind != "embedding_dims" or config.embedding_projection == "tokens")
    )
    for name, config in CONFIGS.items()
}


def answer(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        (output,) = model(**batch).values()
    return torch.as_tensor(output)


def assert_equal(ours: torch.Tensor, reference: torch.Tensor) -> None:
    assert ours.shape == reference.shape
    bound = 1e-5 * max(1.0, float(reference.abs().max()))
    assert float((ours - reference).abs().max()) <= bound


def random_keep(counts: tuple[int, ...], share: float, generator: torch.Generator) -> Values:
    """Each unit stays with probability ``share``; one more of each place does."""
    masks = []
    for count in counts:
        mask = torch.rand(count, generator=generator) < share
        mask[torch.randint(count, (1,), generator=generator)] = True
        masks.append(mask)
    return tuple(masks)


def with_new_ids(batch: dict[str, torch.Tensor], keep: torch.Tensor) -> tuple[Any, Any]:
    """The batch with every token one that stays, in old ids and in new ones."""
    staying = keep.nonzero().flatten()
    old = staying[batch["input_ids"] % len(staying)]
    return {**batch, "input_ids": old}, {**batch, "input_ids": new_ids(keep)[old]}


@given(
    name=st.sampled_from(sorted(CONFIGS)),
    task=st.sampled_from(sorted(HEADS)),
    kinds=st.sets(st.sampled_from(UNIT_KINDS), min_size=1),
    share=st.sampled_from([0.1, 0.5, 0.9]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=150, deadline=None)
def test_a_slim_model_answers_as_the_gated_one(
    name: str, task: str, kinds: set[str], share: float, seed: int
) -> None:
    if CONFIGS[name].image_size and task not in ("embedding", "classification"):
        task = "embedding"
    kinds &= set(SUPPORTED[name])
    if task == "fill-mask" and name == "factorised":
        kinds -= {"embedding_dims"}
    model = tiny(name, task, seed % 7)
    generator = torch.Generator().manual_seed(seed)
    keep = {kind: random_keep(unit_counts(model, kind), share, generator) for kind in kinds}
    before = copy.deepcopy(model.state_dict())
    small = slim(model, keep)
    batch = new = batch_for(name, seed=seed)
    if "tokens" in keep:
        batch, new = with_new_ids(batch, keep["tokens"][0])
    with gated(model, keep):
        expected = answer(model, batch)
    if "tokens" in keep and task == "fill-mask":
        expected = expected[..., keep["tokens"][0]]
    assert_equal(answer(small, new), expected)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    head = HEADS[task]
    if name.startswith("mobilebert"):
        head = replace(head, narrows=False)
    if name == "deit":
        head = replace(head, image_reads="cls_and_teacher")
    shapes = {key: tensor.shape for key, tensor in small.named_parameters()}
    assert shapes == parameter_shapes(small.encoder.config, head), "its settings say its sizes"
    assert unit_counts(small, "layers") == (len(small.encoder.config.num_heads),)
    for kind in kinds - {"layers"}:
        if "layers" not in kinds:
            left = tuple(int(mask.sum()) for mask in keep[kind])
            assert unit_counts(small, kind) == left


@pytest.mark.parametrize("name", ["bert", "albert", "vit", "deit", "dinov2"])
def test_columns_that_a_norm_reads_cannot_be_cut(name: str) -> None:
    with pytest.raises(ModelError, match="columns") as caught:
        unit_counts(tiny(name), "embedding_dims")
    assert "factorise" in caught.value.hint
