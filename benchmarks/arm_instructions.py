"""Executed instructions of one answer, on emulated boards: counted, compared, kept.

    python -m benchmarks.arm_instructions --check [--board NAME]    # against the committed file
    python -m benchmarks.arm_instructions --update [--board NAME]   # write that file
    python -m benchmarks.arm_instructions --markdown                # the table of its figures

Every engine, int8 and fp32, the real MiniLM at 16 and 64 tokens, one thread; docs/instructions.md
says what is counted. ``--board`` takes the boards whose name contains NAME. ``--bundle`` saves
converting. Growth above 2 %, and counts that are missing, exit with 3.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import edgeformer
from benchmarks.guest_count import INPUTS, NOTHING
from benchmarks.instruction_figures import (
    Entry,
    Figures,
    compare,
    load_figures,
    merged,
    save_figures,
    selected,
)
from benchmarks.instruction_table import markdown
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.manifest import Variant
from tools.emulator.boards import BOARDS, WHEELS, Board
from tools.emulator.counting import Count, count, qemu_version, unavailable
from tools.emulator.debian import EmulatorError
from tools.emulator.install import install

ROOT = Path(__file__).resolve().parent.parent
_GUEST = Path(__file__).with_name("guest_count.py")
_PRECISIONS = ("int8", "fp32")
_PROFILE = """
extends = "rpi4"
[length]
max_tokens = 64
bucket_tokens = [16, 64]
"""


@dataclass(frozen=True)
class Plan:
    """What is counted on one board.

    Attributes:
        board: emulated.
        engines: installed there.
        texts: by number of tokens, of how many texts the median is taken. What disturbs is some
            ten thousand instructions: a long call needs one.
    """

    board: Board
    engines: tuple[str, ...]
    texts: Mapping[int, int]


def _plans() -> tuple[Plan, ...]:
    usual = {16: 3, 64: 1}
    arm64 = [
        board
        for board in BOARDS
        if board.userland == "bookworm" and board.sites == WHEELS and "cortex-a" in board.cpu
    ]
    arm32 = next(board for board in BOARDS if board.cpu == "cortex-a7")
    arm_v6 = next(board for board in BOARDS if board.cpu == "arm1176")
    return (
        *(Plan(board, ("numpy", "onnx", "tflite"), usual) for board in arm64),
        Plan(arm32, ("numpy",), usual),
        # Floats in software there: 64 tokens would take five minutes for each precision.
        Plan(arm_v6, ("numpy",), {16: 1}),
    )


PLANS = _plans()


def count_variant(plan: Plan, bundle: Path, variant: Variant) -> tuple[list[Entry], dict[str, str]]:
    """Count one model file on one board, in a fresh process.

    Args:
        plan: the board.
        bundle: of a text model that takes 64 tokens.
        variant: of the bundle.

    Returns:
        an entry for each length and input, and the versions of what ran.

    Raises:
        EmulatorError: the guest failed.
    """
    texts = [f"{tokens}:{number}" for tokens, number in plan.texts.items()]
    arguments = [str(bundle), variant.id, *texts]
    counts, printed = count(
        install(plan.board), _GUEST, arguments, environment={"PYTHONPATH": str(ROOT)}
    )
    told = json.loads(printed)
    by_label: dict[tuple[int, str], list[Count]] = {}
    for found in counts:
        tokens, name = told["labels"][found.tag - 1]
        by_label.setdefault((tokens, name), []).append(found)
    cost = by_label.pop(NOTHING)
    entries = [
        Entry(
            plan.board.name,
            variant.engine,
            variant.precision,
            tokens,
            name,
            _median(found, "instructions") - _median(cost, "instructions"),
            _difference(found, cost, "simd_fp"),
            _difference(found, cost, "dot_product"),
        )
        for (tokens, name), found in by_label.items()
    ]
    assert {entry.input for entry in entries} == set(INPUTS)
    return entries, told["versions"]


def _median(counts: list[Count], kind: str) -> int:
    return statistics.median_low([int(getattr(count, kind)) for count in counts])


def _difference(counts: list[Count], cost: list[Count], kind: str) -> int | None:
    if getattr(counts[0], kind) is None:
        return None
    return _median(counts, kind) - _median(cost, kind)


def count_all(plans: Iterable[Plan], path: Path) -> Figures:
    """Count everything of these boards; progress goes to stderr."""
    boards: dict[str, dict[str, str]] = {}
    entries: list[Entry] = []
    with open_bundle(path) as bundle:
        variants = bundle.manifest.variants
    for plan in plans:
        for variant in variants:
            if variant.engine in plan.engines:
                print(f"# {plan.board.name} {variant.id}", file=sys.stderr, flush=True)
                found, versions = count_variant(plan, path, variant)
                entries += found
                boards[plan.board.name] = versions
    ordered = sorted(entries, key=lambda entry: entry.key)
    return Figures(host_versions(), boards, tuple(ordered))


def host_versions() -> dict[str, str]:
    """What all boards have in common."""
    return {"edgeformer": edgeformer.__version__, "qemu": qemu_version()}


def convert_model(folder: Path) -> Path:
    """MiniLM in int8 and fp32, for every engine."""
    from edgeformer.pipeline import convert  # torch: not for --markdown or --bundle

    print("# converting", file=sys.stderr, flush=True)
    profile = folder / "two-buckets.toml"
    profile.write_text(_PROFILE, encoding="utf-8")
    output = folder / "minilm.edge"
    return convert(profile=str(profile), output=output, precisions=_PRECISIONS).path


def main() -> int:
    """Count, then compare or write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true")
    action.add_argument("--update", action="store_true")
    action.add_argument("--markdown", action="store_true")
    parser.add_argument("--board", default="", help="part of the boards' names; all without it")
    parser.add_argument("--bundle", type=Path, help="MiniLM in int8 and fp32")
    args = parser.parse_args()
    if args.markdown:
        print(markdown(load_figures()), end="")
        return 0
    plans = [plan for plan in PLANS if args.board in plan.board.name]
    if not plans:
        names = ", ".join(plan.board.name for plan in PLANS)
        parser.error(f"no board's name contains {args.board!r}; there are: {names}")
    if reason := unavailable():
        print(f"cannot count: {reason}", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory() as folder:
            now = count_all(plans, args.bundle or convert_model(Path(folder)))
    except EmulatorError as error:
        print(error, file=sys.stderr)
        return 1
    before = load_figures()
    comparison = compare(selected(before, now.boards), now)
    print(comparison.text())
    if args.update:
        save_figures(merged(before, now))
        return 0
    return 3 if comparison.failed else 0


if __name__ == "__main__":
    sys.exit(main())
