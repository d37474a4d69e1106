"""The self-test: a broken engine must not pass by chance, and a sound one must not be refused."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeformer.errors import EngineError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.golden import MAX_DISTANCE, GoldenCase, check_golden, quick_cases
from edgeformer.runtime.manifest import Port, Program, Variant
from edgeformer.runtime.tokenizer import load_tokenizer
from tests.tiny_models import tiny_tokenizer_json


class Recorded:
    """An engine that gives one prepared answer after the other."""

    threads = 1

    def __init__(self, answers: list[list[float]]) -> None:
        self._answers = iter(answers)

    def run(self, program: str, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        return {"logits": np.array([next(self._answers)], np.float32)}

    def encode(self, batch: RaggedBatch) -> dict[str, NDArray[Any]]:
        raise NotImplementedError

    def close(self) -> None:
        pass


def cases_of(references: list[list[float]], text: str = "") -> tuple[GoldenCase, ...]:
    return tuple(GoldenCase(text, {"input_ids": [[1]]}, {"logits": [row]}) for row in references)


def verdict(
    answers: list[list[float]], references: list[list[float]], precision: str = "int8"
) -> str:
    """What the self-test says, empty if it is content."""
    output = Port("logits", "float32", ("batch", len(references[0])))
    main = Program("model", "main", (), (Port("input_ids", "int64", ("batch", 1)),), (output,))
    variant = Variant(f"numpy-{precision}", "numpy", precision, "dense", "", "", {"main": main})
    try:
        check_golden(Recorded(answers), variant, None, cases_of(references), 8)
    except EngineError as error:
        return error.message
    return ""


# tflite-runtime 2.14.0 on int8 files of tiny classifiers (always the same answer), and PyTorch's.
CONSTANT = {
    "a regression": ([[-0.33]], [[-0.17], [-0.15], [-0.23], [-0.05]]),
    "a regression that is right once": ([[-0.16]], [[-0.26], [-0.24], [-0.16], [-0.14]]),
    "two classes": ([[-0.11, 0.11]], [[-0.23, 0.18], [-0.27, 0.14], [-0.35, 0.19], [-0.36, 0.09]]),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_an_answer_that_ignores_its_input_is_found(name: str) -> None:
    answer, references = CONSTANT[name]
    assert "is wrong here" in verdict(answer * 4, references)


@pytest.mark.parametrize("precision", MAX_DISTANCE)
def test_a_turn_beyond_the_tolerance_is_found_and_one_within_is_not(precision: str) -> None:
    least = {"fp32": 0.9999, "fp16": 0.995, "int8": 0.97}[precision]
    reference = np.random.default_rng(0).standard_normal(64)
    aside = np.random.default_rng(1).standard_normal(64)
    aside -= reference * (aside @ reference) / (reference @ reference)
    aside *= np.linalg.norm(reference) / np.linalg.norm(aside)
    for loss, wrong in ((0.9, False), (1.2, True)):
        angle = np.arccos(1 - loss * (1 - least))
        answer = np.cos(angle) * reference + np.sin(angle) * aside
        assert bool(verdict([answer.tolist()], [reference.tolist()], precision)) is wrong


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.sampled_from(sorted(MAX_DISTANCE)))
def test_rounding_is_no_fault_even_near_zero(reference: list[float], precision: str) -> None:
    near = [value + 5e-6 for value in reference]
    assert verdict([near], [reference], precision) == ""


@pytest.mark.parametrize("answer", [[np.nan, 0.0], [np.inf, 0.0], [0.1]])
def test_what_is_not_an_answer_is_named(answer: list[float]) -> None:
    assert "not a number or misshapen" in verdict([answer], [[0.1, 0.2]])


def test_zeros_for_an_answer() -> None:
    assert "off by 100% of its size" in verdict([[0.0, 0.0]], [[1.0, -1.0]])
    assert "is wrong here" in verdict([[1.0, -1.0]], [[0.0, 0.0]])


def test_loading_runs_as_many_cases_as_tell() -> None:
    assert len(quick_cases(cases_of([[0.1] * 384] * 4))) == 1
    assert len(quick_cases(cases_of([[0.1] * 40] * 4))) == 2
    assert len(quick_cases(cases_of([[0.1]] * 4))) == 4


def test_ids_are_compared_as_they_were_cut_on_the_host() -> None:
    """A text above the max length of a small bundle, and a tokenizer that reads it otherwise."""
    tokenizer = load_tokenizer(tiny_tokenizer_json())
    text = "the film was very good and not boring"
    ids = tokenizer.encoding(text, max_length=6).ids
    assert len(ids) == 6 < len(tokenizer.encode(text))
    case = GoldenCase(text, {"input_ids": [ids]}, {"logits": [[1.0]]})
    variant: Any = SimpleNamespace(
        id="numpy-fp32",
        precision="fp32",
        programs={"main": SimpleNamespace(outputs=(SimpleNamespace(name="logits"),))},
    )
    check_golden(Recorded([[1.0]]), variant, tokenizer, (case,), 6)
    with pytest.raises(EngineError, match="reads 'the film"):
        check_golden(Recorded([[1.0]]), variant, tokenizer, (case,), 7)
