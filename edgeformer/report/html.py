"""report.html: one file that opens offline, on a phone and on paper, in the light and in the dark.

    html_page([read_report("report.json")])

No script, no request, nothing but what is in the reports: a policy in the page forbids the rest.
Every string of a report is escaped. The sections are in report/sections.py,
report/inside.py and report/exits.py.
"""

from collections.abc import Sequence
from pathlib import Path

from edgeformer.report import inside, sections
from edgeformer.report.exits import exits
from edgeformer.report.schema import Report
from edgeformer.report.svg import escape

_STYLE = Path(__file__).with_name("style.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def html_page(reports: Sequence[Report]) -> str:
    """The page of one report, or of several beside each other."""
    title = sections.title(reports)
    parts = [
        sections.heading(reports),
        sections.at_a_glance(reports),
        sections.latency(reports),
        sections.scaling(reports),
        sections.stages(reports),
        sections.start(reports),
        inside.layers(reports),
        sections.memory(reports),
        inside.accuracy(reports),
        exits(reports),
        sections.machine(reports),
        sections.footer(reports),
    ]
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{_STYLE.read_text(encoding='utf-8')}</style>",
            "</head>",
            "<body>",
            *(part for part in parts if part),
            "</body>",
            "</html>",
            "",
        )
    )
