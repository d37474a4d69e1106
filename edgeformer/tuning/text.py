"""How a tuning looks on a terminal: a pure function from its result to text."""

from typing import TYPE_CHECKING

from edgeformer.cli.text import table

if TYPE_CHECKING:
    from edgeformer.runtime.tuned import Choice, Table
    from edgeformer.tuning.tune import Tuning


def tuning_text(tuning: "Tuning") -> str:
    """Medians of every call on everything that was timed, what was chosen, and why."""
    timed = [m for m in tuning.measured if m.state == "timed"]
    headers = ["ms (median)", *(f"{m.variant}@{m.threads}" for m in timed)]
    rows = [
        [_call(texts, tokens), *(f"{m.median_ms[w]:.2f}" for m in timed)]
        for w, (texts, tokens) in enumerate(tuning.works)
    ]
    lines = [table(headers, rows), "", "VARIANT@THREADS; a batch is of mixed lengths"]
    for m in tuning.measured:
        if m.state == "slow":
            lines.append(f"{m.variant}@{m.threads}: less than half as fast as another throughout")
        elif m.error:
            lines.append(f"{m.variant}@{m.threads}: {m.state}: {m.error}")
    lines.append("")
    for chosen, gain in zip(tuning.tables, tuning.gains, strict=True):
        lines += _choice_lines(chosen, gain)
    for proof in tuning.proofs:
        what = "kept" if proof.kept else "not enough for its memory: one engine answers all"
        lines.append(
            f"several engines on at most {proof.threads} threads: {proof.speedup:.2f} x as fast as"
            f" the best alone in one process, {what}; peak {proof.peak_rss_mb:.0f} MB, alone"
            f" {proof.alone_peak_rss_mb:.0f} MB"
        )
    lines.append(f"{tuning.rounds} rounds, {tuning.seconds:.0f} s; written to {tuning.path}")
    return "\n".join(lines)


def _call(texts: int, tokens: int) -> str:
    return f"1 text of {tokens}" if texts == 1 else f"{texts} texts up to {tokens}"


def _choice_lines(chosen: "Table", gain: float) -> list[str]:
    limit = f"at most {chosen.threads} thread{'s' if chosen.threads > 1 else ''}: "
    why = f"{gain:.2f} x as fast as the profile's first" if gain > 1 else "the profile's first"
    lines = [f"{limit}{_name(chosen.main)}, {why}"]
    first = 1
    for tokens, choice in chosen.lengths:
        if choice != chosen.main:
            lines.append(f"  {first} to {tokens} tokens: {_name(choice)}")
        first = tokens + 1
    lines += [f"  about {texts} texts at once: {_name(c)}" for texts, c in chosen.batches]
    return lines


def _name(choice: "Choice") -> str:
    return f"{choice.variant}@{choice.threads}"
