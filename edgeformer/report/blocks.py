"""What every section of report.html is made of: a figure, a table."""

from collections.abc import Iterable

from edgeformer.report.svg import escape
from edgeformer.report.tables import Table

MAX_ROWS = 150  # of a table; report.json has them all


def figure(drawing: str, caption: str) -> str:
    """A drawing with its caption, which may be empty."""
    head = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{head}{drawing}</figure>"


def beside(left: str, right: str) -> str:
    """Two blocks beside each other where the page is wide enough."""
    return f'<div class="beside">{left}{right}</div>'


def many(drawings: Iterable[str]) -> str:
    """Small drawings of one kind, as many beside each other as fit."""
    return f'<div class="many">{"".join(drawings)}</div>'


def table_html(table: Table, css: str = "", head: bool = True) -> str:
    """A table that scrolls by itself where the page is too narrow for it."""
    headers = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.headers)
    rows = []
    for n, row in enumerate(table.rows[:MAX_ROWS]):
        name = f"{row[0]} (void)" if n in table.marks else row[0]
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in (name, *row[1:]))
        mark = ' class="doubtful"' if n in table.marks else ""
        rows.append(f"<tr{mark}>{cells}</tr>")
    kind = f' class="{css}"' if css else ""
    top = f"<thead><tr>{headers}</tr></thead>" if head else ""
    more = len(table.rows) - len(rows)
    rest = f'<p class="hint">{more} more rows are in report.json.</p>' if more > 0 else ""
    return (
        f'<div class="scroll"><table{kind}>{top}<tbody>{"".join(rows)}</tbody></table>{rest}</div>'
    )
