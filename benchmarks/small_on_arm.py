"""Executed instructions of a small model and of the one it was made from, on an emulated board.

    python -m benchmarks.small_on_arm TEACHER.edge/onnx-fp32 SMALL.edge/numpy-int8 --texts dev.tsv

Both answer the same texts, text to label, one thread: 30 of the file, drawn by lot. The sums are
compared, so that a long text counts for what it costs. Instructions are not time
(docs/instructions.md). Prints JSON with ``--json``.
"""

import argparse
import json
import random
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeformer.data import read_rows, row_texts
from edgeformer.runtime.bundle import open_bundle
from tools.emulator.boards import BOARDS
from tools.emulator.counting import count, qemu_version, unavailable
from tools.emulator.debian import EmulatorError
from tools.emulator.install import install

ROOT = Path(__file__).resolve().parent.parent
_GUEST = Path(__file__).with_name("guest_texts.py")
_BOARD = "cortex-a72-bookworm-engines-numpy2"


@dataclass(frozen=True)
class Counted:
    """One model file on the board.

    Attributes:
        variant: id of the file.
        megabytes: size of its files, in 1e6 bytes.
        mean_tokens: of the texts, special tokens included.
        instructions: executed for all texts together.
        versions: of what ran.
    """

    variant: str
    megabytes: float
    mean_tokens: float
    instructions: int
    versions: dict[str, str]


def count_file(board: str, name: str, texts: list[str]) -> Counted:
    """Count one model file, in a process of its own.

    Args:
        board: name of an emulated board.
        name: BUNDLE/VARIANT.
        texts: what it answers.

    Raises:
        EmulatorError: the guest failed.
    """
    path, _, variant = name.rstrip("/").rpartition("/")
    with open_bundle(Path(path)) as bundle:
        files = {p.file for p in bundle.manifest.variant(variant).programs.values()}
        size = sum(bundle.manifest.files[file].size for file in files)
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(texts, file)
        file.flush()
        launcher = install(next(b for b in BOARDS if b.name == board))
        arguments = [str(Path(path).resolve()), variant, file.name]
        counts, printed = count(launcher, _GUEST, arguments, {"PYTHONPATH": str(ROOT)})
    told = json.loads(printed)
    assert len(counts) == len(texts)
    return Counted(
        variant,
        size / 1e6,
        sum(told["tokens"]) / len(texts),
        sum(c.instructions for c in counts),
        told["versions"],
    )


def main() -> int:
    """Count both, and print how many times fewer the small one needs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("teacher", metavar="BUNDLE/VARIANT")
    parser.add_argument("small", metavar="BUNDLE/VARIANT")
    parser.add_argument("--texts", type=Path, required=True, metavar="DATA")
    parser.add_argument("--number", type=int, default=30)
    parser.add_argument("--board", default=_BOARD)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if reason := unavailable():
        print(f"cannot count: {reason}", file=sys.stderr)
        return 1
    rows = [row_texts(row)[0] for row in read_rows(args.texts)]
    texts = random.Random(0).sample(rows, min(args.number, len(rows)))
    try:
        teacher, small = (count_file(args.board, n, texts) for n in (args.teacher, args.small))
    except EmulatorError as error:
        print(error, file=sys.stderr)
        return 1
    ratio = teacher.instructions / small.instructions
    if args.json:
        told = {"board": args.board, "qemu": qemu_version(), "texts": len(texts), "fewer": ratio}
        print(json.dumps(told | {"teacher": asdict(teacher), "small": asdict(small)}, indent=1))
        return 0
    print(f"{len(texts)} texts on an emulated {args.board}, executed instructions, not time\n")
    print("variant       MB  tokens  instructions per text")
    for one in (teacher, small):
        each = one.instructions / len(texts)
        print(f"{one.variant:<11} {one.megabytes:>4.1f} {one.mean_tokens:>7.1f} {each:>22,.0f}")
    print(f"\n{ratio:.2f} times fewer")
    return 0


if __name__ == "__main__":
    sys.exit(main())
