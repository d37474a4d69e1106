"""The minutes-long half of the tokenizer's proof: every code point, every option, every offset."""

import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from tokenizers import normalizers

from edgeformer.runtime.normalizer import Normalizer
from edgeformer.runtime.tokenizer import load_tokenizer
from edgeformer.runtime.tokenizer_json import parse_wordpiece
from tests.tokenizer_digest import code_point_texts
from tests.tokenizer_oracle import assert_same, bert_normalizer, minilm_json, oracle, tiny

pytestmark = pytest.mark.slow
GENERATOR = Path(__file__).parent.parent / "tools" / "freeze_unicode.py"


def test_frozen_data_is_what_the_generator_writes() -> None:
    done = subprocess.run([sys.executable, GENERATOR, "--check"], check=False)
    assert done.returncode == 0, "run: python tools/freeze_unicode.py"


@pytest.mark.parametrize("options", list(product([False, True], repeat=4)))
def test_every_option_on_every_code_point(options: tuple[bool, bool, bool, bool]) -> None:
    names = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
    spec = bert_normalizer(**dict(zip(names, options, strict=True)))
    ours = Normalizer(parse_wordpiece(tiny(normalizer=spec)).steps)
    theirs = normalizers.BertNormalizer(*options)
    for text in code_point_texts():
        assert ours.fast(text) == theirs.normalize_str(text)


def test_offsets_of_every_code_point() -> None:
    ours, theirs = load_tokenizer(minilm_json()), oracle(minilm_json())
    for text in code_point_texts():
        assert_same(ours, theirs, text)
