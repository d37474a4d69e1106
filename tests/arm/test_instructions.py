"""Executed instructions against the committed figures: labelled so, and never time."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.arm_instructions import PLANS, Plan, count_variant, host_versions
from benchmarks.guest_count import OTHER_TEXT, TEXTS
from benchmarks.instruction_figures import Figures, compare, load_figures, selected
from edgeformer.runtime.bundle import open_bundle
from tools.emulator.boards import CPUS
from tools.emulator.counting import count, unavailable
from tools.emulator.debian import EmulatorError
from tools.emulator.install import install

pytestmark = pytest.mark.arm

SCRIPTS = Path(__file__).parent / "scripts"
VARIANTS = [
    pytest.param(plan, f"{engine}-{precision}", id=f"{plan.board.name}-{engine}-{precision}")
    for plan in PLANS
    for engine in plan.engines
    for precision in ("int8", "fp32")
]
ARM64 = [
    pytest.param(plan, id=plan.board.name)
    for plan in PLANS
    if CPUS[plan.board.cpu].qemu == "qemu-aarch64"
]
WITH_DOT_PRODUCT = [param for param in ARM64 if "cortex-a76" in str(param.id)]


@pytest.fixture(autouse=True)
def _needed() -> None:
    if reason := unavailable():
        pytest.skip(f"instructions cannot be counted here: {reason}")


@pytest.mark.parametrize(("plan", "variant"), VARIANTS)
def test_no_count_grew(plan: Plan, variant: str, minilm: Path) -> None:
    with open_bundle(minilm) as bundle:
        chosen = bundle.manifest.variant(variant)
    entries, versions = count_variant(plan, minilm, chosen)
    name = plan.board.name
    now = Figures(host_versions(), {name: versions}, tuple(entries))
    comparison = compare(selected(load_figures(), [name], variant), now)
    assert not comparison.failed, comparison.text()


@pytest.mark.parametrize("plan", ARM64[:1])
def test_counts_repeat_within_a_thousandth(plan: Plan, minilm: Path, tmp_path: Path) -> None:
    """Of the engine that was worst at it, from folders of other names."""
    (tmp_path / "another-folder").symlink_to(minilm.parent)
    short = replace(plan, texts={16: 3})
    with open_bundle(minilm) as bundle:
        variant = bundle.manifest.variant("onnx-int8")
    first, _ = count_variant(short, minilm, variant)
    again, _ = count_variant(short, tmp_path / "another-folder" / minilm.name, variant)
    for one, other in zip(first, again, strict=True):
        assert one.instructions == pytest.approx(other.instructions, rel=1e-3), one.key


@pytest.mark.parametrize("plan", ARM64)
def test_known_machine_code_is_counted_exactly(plan: Plan) -> None:
    counts, printed = count(install(plan.board), SCRIPTS / "machine_code.py", [], {})
    expected = json.loads(printed)
    nothing, *rest = counts
    for found, (name, size, simd_fp) in zip(rest, expected, strict=True):
        assert found.instructions - nothing.instructions == size, name
        assert (found.simd_fp, found.dot_product) == (simd_fp, 0), name


@pytest.mark.parametrize("plan", WITH_DOT_PRODUCT)
def test_dot_products_are_counted_where_the_cpu_has_them(plan: Plan) -> None:
    counts, printed = count(install(plan.board), SCRIPTS / "machine_code.py", ["dot"], {})
    nothing, *rest = counts
    for found, (name, size, simd_fp) in zip(rest, json.loads(printed), strict=True):
        assert found.instructions - nothing.instructions == size, name
        assert (found.simd_fp, found.dot_product) == (simd_fp, size), name


@pytest.mark.parametrize("plan", ARM64)
def test_a_second_thread_is_an_error_not_a_wrong_count(plan: Plan) -> None:
    with pytest.raises(EmulatorError, match="2 threads were alive"):
        count(install(plan.board), SCRIPTS / "second_thread.py", [], {})


def test_new_words_are_new(minilm: Path) -> None:
    """The self-test of ``load`` reads golden texts: none of their words may be in ours."""
    cases = json.loads((minilm / "golden.json").read_text())["cases"]
    read = {word for text in (OTHER_TEXT, *(c["text"] for c in cases)) for word in words(text)}
    for some in TEXTS.values():
        for text in some:
            assert not read & words(text)


def words(text: str) -> set[str]:
    """Its words, as the tokenizer takes them, without marks."""
    return set(re.findall("[a-z]+", text.lower()))
