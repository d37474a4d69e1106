"""The committed instruction counts as Markdown, for docs/instructions.md."""

from benchmarks.guest_count import INPUTS
from benchmarks.instruction_figures import MODEL, UNIT, Entry, Figures

_LENGTHS = (16, 64)


def markdown(figures: Figures) -> str:
    """One row for each board, engine and precision, and a list of the versions."""
    columns = [f"{tokens} {name.replace('-', ' ')}" for tokens in _LENGTHS for name in INPUTS]
    heads = ["board", "engine", "precision", *columns, "SIMD or FP", "dot product"]
    lines = [
        f"Millions of {UNIT}; {MODEL}, one thread.",
        "",
        f"| {' | '.join(heads)} |",
        "|" + "---|" * 3 + "---:|" * (len(heads) - 3),
    ]
    by_key = {entry.key: entry for entry in figures.entries}
    for row in dict.fromkeys(entry.key[:3] for entry in figures.entries):
        of_row = [by_key.get((*row, tokens, name)) for tokens in _LENGTHS for name in INPUTS]
        cells = [f"{entry.instructions / 1e6:,.1f}" if entry else "" for entry in of_row]
        model = by_key[(*row, _LENGTHS[0], INPUTS[0])]
        shares = [_share(model, n) for n in (model.simd_fp, model.dot_product)]
        lines.append(f"| {' | '.join([*row, *cells, *shares])} |")
    lines += ["", "Counted with " + _listed(figures.versions) + ", and"]
    lines += ["", *(f"- {board}: {_listed(v)}" for board, v in figures.boards.items())]
    return "\n".join(lines) + "\n"


def _share(entry: Entry, part: int | None) -> str:
    return "" if part is None else f"{part / entry.instructions:.0%}"


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
