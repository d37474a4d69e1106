"""Every code point, and tens of thousands of real lines, through our tokenizer and `tokenizers`.

The Unicode tables of a device's Python must not matter: the same text has to give the same ids
on Python 3.11, 3.12 and 3.13.
"""

import os
import random
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from tokenizers import normalizers

from edgeformer.runtime.normalizer import Normalizer, Step
from edgeformer.runtime.tokenizer import load_tokenizer
from edgeformer.runtime.tokenizer_json import parse_wordpiece
from tests import tokenizer_digest
from tests.tokenizer_oracle import (
    assert_same,
    bert_normalizer,
    both,
    minilm_json,
    oracle,
    tiny,
)

ROOT = Path(__file__).parent.parent
MIN_LINES = 20_000
# Where all code points of a block are treated alike, one in this many is tried for each option.
STRIDE = 97
UNIFORM = [
    (0x3400, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xE000, 0xF8FF),
    (0x18000, 0xDFFFF),
    (0xE1000, 0x10FFFF),
]


@pytest.fixture(scope="module")
def oracle_rows() -> list[tuple[str, list[int]]]:
    """Ids that `tokenizers` gives to every code point."""
    theirs = oracle(minilm_json())
    return [(text, theirs.encode(text).ids) for text in tokenizer_digest.code_point_texts()]


def test_every_code_point_has_the_ids_of_the_oracle(
    oracle_rows: list[tuple[str, list[int]]],
) -> None:
    ours = load_tokenizer(minilm_json())
    wrong = [text for text, ids in oracle_rows if ours.encode(text) != ids]
    assert not wrong, f"first of {len(wrong)} batches: {wrong[0]!r}"


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_python_gives_the_same_ids(
    version: str, oracle_rows: list[tuple[str, list[int]]], tmp_path: Path
) -> None:
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip("the Python of this test run, which the test above has compared in full")
    python = _find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    path = tmp_path / "tokenizer.json"
    path.write_bytes(minilm_json())
    script = ROOT / "tests" / "tokenizer_digest.py"
    done = subprocess.run(
        [python, "-I", script, path], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == tokenizer_digest.digest(iter([ids for _, ids in oracle_rows]))


def _find_python(version: str) -> str | None:
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    candidates = [shutil.which(f"python{version}")]
    candidates += map(str, sorted(pyenv.glob(f"{version}.*/bin/python{version}")))
    for path in filter(None, candidates):
        # A pyenv shim exists for versions that are not switched on; it then exits with an error.
        if subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    return None


def _option_code_points() -> Iterator[int]:
    for code in range(sys.maxunicode + 1):
        uniform = any(first <= code <= last for first, last in UNIFORM)
        if not 0xD800 <= code <= 0xDFFF and (not uniform or code % STRIDE == 0):
            yield code


@pytest.mark.parametrize(
    ("clean_text", "chinese", "strip_accents", "lowercase"), list(product([False, True], repeat=4))
)
def test_every_combination_of_options_of_the_bert_normalizer(
    clean_text: bool, chinese: bool, strip_accents: bool, lowercase: bool
) -> None:
    options = {"clean_text": clean_text, "handle_chinese_chars": chinese}
    spec = bert_normalizer(**options, strip_accents=strip_accents, lowercase=lowercase)
    ours = Normalizer(parse_wordpiece(tiny(normalizer=spec)).steps)
    theirs = normalizers.BertNormalizer(clean_text, chinese, strip_accents, lowercase)
    _assert_normalizes_alike(ours, theirs)


@pytest.mark.parametrize(
    "steps", [["nfd"], ["lower"], ["strip_marks"], ["nfd", "lower", "strip_marks"]]
)
def test_single_normalizers(steps: list[Step]) -> None:
    parts = {
        "nfd": normalizers.NFD(),
        "lower": normalizers.Lowercase(),
        "strip_marks": normalizers.StripAccents(),
    }
    theirs = normalizers.Sequence([parts[step] for step in steps])
    _assert_normalizes_alike(Normalizer(steps), theirs)


def _assert_normalizes_alike(ours: Normalizer, theirs: normalizers.Normalizer) -> None:
    codes = list(_option_code_points())
    for start in range(0, len(codes), 256):
        text = "".join(f"a{chr(c)}b" for c in codes[start : start + 256])
        assert ours.fast(text) == theirs.normalize_str(text)


def test_marks_are_sorted_as_the_oracle_sorts_them() -> None:
    """NFD is the one step in which neighbours matter; every combining mark takes part."""
    nfd = normalizers.NFD()
    strip = normalizers.BertNormalizer(False, False, True, False)
    lowest, highest = "\u0334", "\u0345"
    marks = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if not 0xD800 <= code <= 0xDFFF
        and nfd.normalize_str(highest + chr(code) + lowest) != highest + chr(code) + lowest
    ]
    letters = [*marks, "a", "é", "Å", "각", "\u0344", "\u0f73", "\u0cca", "\u1e9b", "ǆ", "中"]
    rng = random.Random(0)
    for _ in range(4000):
        text = "".join(rng.choices(marks, k=5)) + "".join(rng.choices(letters, k=6))
        assert Normalizer(["nfd"]).fast(text) == nfd.normalize_str(text)
        assert Normalizer(["nfd", "strip_nonspacing"]).fast(text) == strip.normalize_str(text)


def test_natural_lines() -> None:
    """Source, documentation and tables of words that the test environment has anyway."""
    ours, theirs = load_tokenizer(minilm_json()), oracle(minilm_json())
    lines = _natural_lines()
    assert len(lines) >= MIN_LINES
    assert sum(not line.isascii() for line in lines) >= MIN_LINES // 10
    wrong = [line for line in lines if ours.encode(line) != theirs.encode(line).ids]
    assert not wrong, f"first of {len(wrong)}: {wrong[0]!r}"
    for first, second in zip(lines[::40], lines[7::40], strict=False):
        assert_same(ours, theirs, first, second, max_length=64)


def _natural_lines() -> list[str]:
    """Distinct lines, sorted files first to last: up to 400 beyond ASCII and 30 others of each."""
    lines: dict[str, None] = {}
    plain_total = 0
    stdlib, installed = (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib"))
    own = [path for path in sorted(stdlib.rglob("*")) if "site-packages" not in path.parts]
    for path in [*own, *sorted(installed.rglob("*"))]:
        if path.suffix not in (".py", ".txt", ".md", ".rst") and path.name != "METADATA":
            continue
        data = path.read_bytes()
        limits = {True: 0 if plain_total >= MIN_LINES else 30, False: 0 if data.isascii() else 400}
        for line in map(str.strip, data.decode("utf-8", errors="ignore").split("\n")):
            if len(line) > 8 and line not in lines and limits[line.isascii()] > 0:
                limits[line.isascii()] -= 1
                plain_total += line.isascii()
                lines[line[:2000]] = None
    return list(lines)


# First and last code point of scripts, symbols and controls, mixed by the seeded test below.
SCRIPTS = [
    *[(0x20, 0x7E), (0xA0, 0x17F), (0x250, 0x2AF), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F)],
    *[(0x531, 0x58A), (0x591, 0x5F4), (0x600, 0x6FF), (0x700, 0x74F), (0x900, 0x97F)],
    *[(0x980, 0x9FF), (0xB80, 0xBFF), (0xE01, 0xE5B), (0xF00, 0xFDA), (0x10A0, 0x10FF)],
    *[(0x1100, 0x11FF), (0x1200, 0x137C), (0x13A0, 0x13FD), (0x1780, 0x17F9), (0x1E00, 0x1FFE)],
    *[(0x2000, 0x206F), (0x20A0, 0x20C0), (0x2100, 0x218B), (0x2460, 0x24FF), (0x3000, 0x30FF)],
    *[(0x4E00, 0x4FFF), (0xA640, 0xA69F), (0xAC00, 0xACFF), (0xF900, 0xFAFF), (0xFB00, 0xFDFF)],
    *[(0xFE20, 0xFFFD), (0x10400, 0x1044F), (0x1D15E, 0x1D1E8), (0x1D400, 0x1D7FF)],
    *[(0x1E000, 0x1E02A), (0x1E900, 0x1E95F), (0x1F300, 0x1F6FF), (0x20000, 0x200FF)],
]


def test_generated_lines_of_mixed_scripts() -> None:
    ours, theirs = load_tokenizer(minilm_json()), oracle(minilm_json())
    tiny_ours, tiny_theirs = both(tiny(normalizer=bert_normalizer(strip_accents=True)))
    rng = random.Random(2024)
    for _ in range(4000):
        ranges = rng.choices(SCRIPTS, k=rng.randint(1, 3))
        words = [
            "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 7)))
            for _ in range(rng.randint(1, 8))
        ]
        line = " ".join(words)
        assert_same(ours, theirs, line)
        assert_same(tiny_ours, tiny_theirs, line)
