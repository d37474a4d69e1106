"""Plain modules: which sizes may change is found by trying, and wrong calls are named."""

from typing import Any

import pytest
import torch
from torch import nn

from edgeformer.converters.plain_module import prepare_plain_module
from edgeformer.errors import ModelError, UsageError
from edgeformer.pipeline import prepare_module


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


class Tagger(nn.Module):
    """Token model whose number of classes equals the example's sequence length."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 5)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        rows = self.table(input_ids) * attention_mask.unsqueeze(-1)
        return {"tokens": self.head(rows), "pooled": self.head(rows.sum(1)), "none": None}


class FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 3) + 1


def test_batch_dimension_is_found() -> None:
    prepared = prepare_module(Perceptron(), {"x": torch.randn(1, 6)})
    assert prepared.inputs[0].shape == ("batch", 6)
    assert prepared.outputs[0].shape == ("batch", 3)
    assert prepared.outputs[0].name == "output"
    assert not prepared.paddable
    assert prepared.card.parameters == 6 * 8 + 8 + 8 * 3 + 3


def test_sequence_is_told_from_classes_of_the_same_size() -> None:
    example = {
        "input_ids": torch.ones(2, 5, dtype=torch.int64),
        "attention_mask": torch.ones(2, 5, dtype=torch.int64),
    }
    prepared = prepare_module(Tagger(), example)
    assert [p.shape for p in prepared.inputs] == [("batch", "sequence")] * 2
    assert [p.default for p in prepared.inputs] == [None, "ones"]
    shapes = {p.name: p.shape for p in prepared.outputs}
    assert shapes == {"tokens": ("batch", "sequence", 5), "pooled": ("batch", 5)}
    assert prepared.paddable


def test_a_fixed_batch_stays_fixed() -> None:
    prepared = prepare_module(FixedBatch(), {"x": torch.zeros(2, 3)})
    assert prepared.inputs[0].shape == (2, 3)


def test_examples_are_copies() -> None:
    shared = torch.ones(2, 5, dtype=torch.int64)
    prepared = prepare_module(Tagger(), {"input_ids": shared, "attention_mask": shared})
    first = prepared.examples[0]
    assert first["input_ids"] is not first["attention_mask"]
    assert first["input_ids"].data_ptr() != shared.data_ptr()


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ({}, "empty"),
        ([], "empty"),
        ({"x": 3}, "not a tensor"),
        ({"y": torch.zeros(1, 6)}, "cannot be called"),
        ([{"x": torch.zeros(1, 6)}, {"z": torch.zeros(1, 6)}], "same names"),
    ],
)
def test_wrong_examples(examples: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prepare_module(Perceptron(), examples)


def test_nan_weights_are_named() -> None:
    module = Perceptron()
    with torch.no_grad():
        module.second.weight[1, 1] = float("nan")
    with pytest.raises(ModelError, match=r"second\.weight contains NaN"):
        prepare_plain_module(module, [{"x": torch.zeros(1, 6)}])


def test_outputs_must_be_tensors() -> None:
    class Words(nn.Module):
        def forward(self, x: torch.Tensor) -> str:
            return "no"

    with pytest.raises(ModelError, match="returns str"):
        prepare_plain_module(Words(), [{"x": torch.zeros(1)}])
