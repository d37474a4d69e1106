"""Reports on disk: read one, or write one of the three forms, whole or not at all.

    write_reports([report], "report.html")
    report = read_report("report.json")

The ending of the name chooses the form. ``.json`` is the source and holds one report; ``.md`` and
``.html`` are views of one or several.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from edgeformer.errors import DataError, UsageError
from edgeformer.report.schema import Report, dump_report, parse_report

FORMS = (".json", ".md", ".html")
MAX_BYTES = 256 << 20


def read_report(path: str | os.PathLike[str]) -> Report:
    """The report of a .json file.

    Raises:
        UsageError: no such file.
        DataError: not a report, or of another schema.
    """
    source = Path(path)
    if not source.is_file():
        raise UsageError(
            f"no file {str(source)!r}",
            hint="edgeformer benchmark BUNDLE --report FILE.json writes one",
        )
    if source.stat().st_size > MAX_BYTES:
        raise DataError(f"{source.name} is too large for a report")
    return parse_report(source.read_bytes(), source.name)


def check_outputs(paths: Sequence[str | os.PathLike[str]], force: bool) -> None:
    """Refuse what cannot be written, before anything is measured.

    Raises:
        UsageError: an unknown ending, no such folder, or a file that exists without ``force``.
    """
    for path in map(Path, paths):
        if path.suffix.lower() not in FORMS:
            raise UsageError(
                f"a report is {', '.join(FORMS[:-1])} or {FORMS[-1]}, not {path.name!r}",
                hint="give the file one of these endings",
            )
        if not path.absolute().parent.is_dir():
            raise UsageError(f"no folder {str(path.parent)!r}", hint=f"mkdir -p {path.parent}")
        if path.is_dir() or (os.path.lexists(path) and not force):
            raise UsageError(f"{path} exists", hint="choose another name, or add --force")


def write_reports(
    reports: Sequence[Report], path: str | os.PathLike[str], force: bool = False
) -> None:
    """Write reports in the form that the name ends with.

    Raises:
        UsageError: see ``check_outputs``; or several reports for a .json.
    """
    check_outputs((path,), force)
    target = Path(path)
    data = _text(reports, target.suffix.lower()).encode("utf-8")
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        part.write_bytes(data)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _text(reports: Sequence[Report], form: str) -> str:
    if form == ".json":
        if len(reports) != 1:
            raise UsageError("a .json holds one report", hint="write .html or .md")
        return dump_report(reports[0])
    if form == ".md":
        from edgeformer.report.markdown import markdown_page

        return markdown_page(reports)
    from edgeformer.report.html import html_page

    return html_page(reports)
