"""Layers are found in a list of steps, for every shape of transformer, without any names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeformer.profiling.layers import layer_names, roll_up
from edgeformer.profiling.steps import AROUND, Step, around, usual

KINDS = {
    "e": "embedding",
    "l": "linear",
    "L": "linear",  # of another size
    "a": "attention",
    "S": "attention",  # the softmax
    "n": "norm",
    "g": "activation",
    "+": "elementwise",
    "q": "quantize",
    "t": "layout",
}


def steps(text: str) -> list[Step]:
    """A list of steps from one letter each; spaces are only for the reader."""
    return [
        Step(c, KINDS[c], 1.0, flops=2.0 if c == "L" else 1.0, anchor=c == "S")
        for c in text.replace(" ", "")
    ]


POST = "lllta S atl+n lgl+n"
FUSED = "lll S l n l l n"
PRE = "lll S l+ n lgl+ n"  # the norm at the end is the next layer's first


@pytest.mark.parametrize(
    ("parts", "layers"),
    [
        (["eee++n", POST, POST, POST, "++"], 3),  # BERT
        (["eee++n", POST, "++"], 1),
        (["en", FUSED, FUSED, ""], 2),  # BERT, attention in one step, nothing after it
        (["en", FUSED, FUSED, "lgl"], 2),  # a classifier behind it
        (["eeenL", POST, POST, "+"], 2),  # ELECTRA: a projection of another size before layer 1
        (["en", "q+lqlqlta S atql+n qlgql+n", "q+lqlqlta S atql+n qlgql+n", "t"], 2),  # int8
        (["eL+", "llSlllgl+", "llSlllgl+", ""], 2),  # MobileBERT: no normalization anywhere
        (["Lt+n", PRE, PRE, PRE, "tl"], 3),  # ViT
        (["en", "lll S l n ll n", "LLL S l n ll n", "+"], 2),  # heads pruned unevenly
        (["en", "lll S l n LL n", "lll S l n ll n", "+"], 2),  # feed-forward pruned unevenly
    ],
)
def test_each_step_belongs_to_its_layer(parts: list[str], layers: int) -> None:
    text = "".join(parts)
    names = layer_names(steps(text))
    wanted: list[str] = ["embeddings"] * len(parts[0].replace(" ", ""))
    for number, part in enumerate(parts[1:-1], 1):
        wanted += [f"layer {number}"] * len(part.replace(" ", ""))
    wanted += ["head"] * len(parts[-1])
    if parts[1].endswith("l+") and "n" not in text:  # where nothing says that a sum is the end
        names = [name for name, step in zip(names, steps(text), strict=True) if step.name != "+"]
        wanted = [name for name, c in zip(wanted, text.replace(" ", ""), strict=True) if c != "+"]
    assert names == wanted
    assert len({name for name in names if name.startswith("layer")}) == layers


def test_a_model_without_attention_is_one_piece() -> None:
    assert layer_names(steps("elgl+n")) == ["model"] * 6
    assert layer_names([]) == []


@given(st.text("elLaSng+qt", max_size=40))
def test_no_step_is_lost_whatever_the_model(text: str) -> None:
    found = steps(text)
    rows = roll_up([*found, around(0.5)])
    assert sum(row.steps for row in rows) == len(found) + 1
    assert sum(row.time_ms for row in rows) == pytest.approx(len(found) + 0.5)
    assert sum(row.flops for row in rows) == pytest.approx(sum(step.flops for step in found))
    assert len({(row.layer, row.operation) for row in rows}) == len(rows)
    assert rows[-1].layer == AROUND
    order = list(dict.fromkeys(row.layer for row in rows))
    numbered = [name for name in order if name.startswith("layer")]
    assert numbered == [f"layer {n}" for n in range(1, len(numbered) + 1)]


def test_interruptions_are_left_out_of_a_usual_time() -> None:
    assert usual([1.0, 1.0, 2.0, 100.0]) == pytest.approx(4 / 3)
    assert usual([3.0]) == 3.0


def test_time_before_the_clock_is_never_negative() -> None:
    assert around(-0.2).time_ms == 0.0
