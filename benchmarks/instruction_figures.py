"""The figures of benchmarks/arm_instructions.py: the file they are kept in, comparison, table.

    before = load_figures()
    comparison = compare(selected(before, [board.name]), now)
    print(comparison.text()); comparison.failed

Standard library only.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

FILE = Path(__file__).with_name("arm_instructions.json")
SCHEMA_VERSION = 1
MAX_CHANGE_PERCENT = 2
UNIT = "executed instructions, not time"
MODEL = "all-MiniLM-L6-v2"

Key = tuple[str, str, str, int, str]


@dataclass(frozen=True)
class Entry:
    """One count.

    Attributes:
        board: name of the emulated board.
        engine, precision: of the model file.
        tokens: length of the text, special tokens included.
        input: ``token-ids``, ``known-words`` or ``new-words`` (guest_count.py).
        instructions: executed for one call, by one thread.
        simd_fp, dot_product: how many of those were such; None on 32 bits.
    """

    board: str
    engine: str
    precision: str
    tokens: int
    input: str
    instructions: int
    simd_fp: int | None
    dot_product: int | None

    @property
    def key(self) -> Key:
        """What was counted."""
        return (self.board, self.engine, self.precision, self.tokens, self.input)


@dataclass(frozen=True)
class Figures:
    """All counts, sorted, and what they were made with.

    Attributes:
        versions: of EdgeFormer and qemu.
        boards: by board the versions in it.
        entries: sorted by key.
    """

    versions: dict[str, str]
    boards: dict[str, dict[str, str]]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Change:
    """One count then and now; None where there is none."""

    key: Key
    before: int | None
    now: int | None

    @property
    def percent(self) -> float:
        """2.0 for 2 % more; 0.0 where one of both is missing."""
        if not self.before or self.now is None:
            return 0.0
        return 100 * (self.now - self.before) / self.before  # one rounding: 2 % is exactly 2.0

    @property
    def missing(self) -> bool:
        """True if there is nothing to compare with."""
        return self.before is None or self.now is None

    def row(self) -> str:
        """A row of a table: what, before, now, change."""
        counts = ["none" if n is None else f"{n:,}" for n in (self.before, self.now)]
        change = "missing" if self.missing else f"{self.percent:+.2f} %"
        return f"| {' '.join(map(str, self.key))} | {' | '.join(counts)} | {change} |"


@dataclass(frozen=True)
class Comparison:
    """What differs between committed and fresh counts.

    Attributes:
        grown: more by over 2 %; ``missing``: only in one of both. Either is a failure.
        shrunk: fewer by over 2 %.
        versions: "what: before, now" of each version that differs.
        counted: how many were compared.
    """

    counted: int
    grown: list[Change] = field(default_factory=list)
    shrunk: list[Change] = field(default_factory=list)
    missing: list[Change] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """True if the committed file does not hold any more."""
        return bool(self.grown or self.missing)

    def text(self) -> str:
        """For people: one table of everything that differs, and what to do."""
        lines = [f"{self.counted} counts compared with {FILE.name} ({UNIT})"]
        changes = [*self.grown, *self.missing, *self.shrunk]
        if changes:
            lines += ["| what | before | now | change |", "|---|---|---|---|"]
            lines += [change.row() for change in changes]
        if changes and self.versions:
            lines += ["Made with other versions:", *(f"  {line}" for line in self.versions)]
        if self.failed:
            lines.append("If that is meant: python -m benchmarks.arm_instructions --update")
        elif self.shrunk:
            lines.append("Better. Keep it: python -m benchmarks.arm_instructions --update")
        return "\n".join(lines)


def compare(before: Figures, now: Figures) -> Comparison:
    """Hold fresh counts against committed ones, both of the same boards and variants."""
    old = {entry.key: entry.instructions for entry in before.entries}
    new = {entry.key: entry.instructions for entry in now.entries}
    keys = sorted(old.keys() | new.keys())
    changes = [Change(key, old.get(key), new.get(key)) for key in keys]
    return Comparison(
        counted=len(old.keys() & new.keys()),
        grown=[change for change in changes if change.percent > MAX_CHANGE_PERCENT],
        shrunk=[change for change in changes if change.percent < -MAX_CHANGE_PERCENT],
        missing=[change for change in changes if change.missing],
        versions=list(_version_changes(before, now)),
    )


def _version_changes(before: Figures, now: Figures) -> Iterable[str]:
    old, new = {"": before.versions} | before.boards, {"": now.versions} | now.boards
    for board, versions in new.items():
        for name, version in versions.items():
            known = old.get(board, {}).get(name)
            if known != version:
                yield f"{board} {name}: {known}, now {version}".strip()


def selected(figures: Figures, boards: Collection[str], variant: str = "") -> Figures:
    """Only what concerns these boards and, if it is given, this variant (``onnx-int8``)."""
    return Figures(
        figures.versions,
        {name: versions for name, versions in figures.boards.items() if name in boards},
        tuple(
            entry
            for entry in figures.entries
            if entry.board in boards and variant in ("", f"{entry.engine}-{entry.precision}")
        ),
    )


def merged(before: Figures, now: Figures) -> Figures:
    """Fresh counts in place of all that was known of their boards."""
    kept = [entry for entry in before.entries if entry.board not in now.boards]
    boards = before.boards | now.boards
    return Figures(
        now.versions,
        {name: boards[name] for name in sorted(boards)},
        tuple(sorted((*kept, *now.entries), key=lambda entry: entry.key)),
    )


def load_figures(path: Path = FILE) -> Figures:
    """Read the file; without one there are no figures.

    Raises:
        ValueError: another schema version.
    """
    if not path.is_file():
        return Figures({}, {}, ())
    data = json.loads(path.read_text(encoding="utf-8"))
    if data["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"{path.name} has schema version {data['schema_version']}: update it")
    entries = tuple(Entry(**entry) for entry in data["entries"])
    return Figures(data["versions"], data["boards"], entries)


def dump_figures(figures: Figures) -> str:
    """The file's text: one line for each count, so that a diff shows which changed."""
    head = {
        "schema_version": SCHEMA_VERSION,
        "unit": UNIT,
        "model": MODEL,
        "versions": figures.versions,
        "boards": figures.boards,
    }
    entries = ",\n".join(f"  {json.dumps(asdict(entry))}" for entry in figures.entries)
    return f'{json.dumps(head, indent=1)[:-2]},\n "entries": [\n{entries}\n ]\n}}\n'


def save_figures(figures: Figures, path: Path = FILE) -> None:
    """Write the file, whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(dump_figures(figures), encoding="utf-8")
    unfinished.replace(path)
