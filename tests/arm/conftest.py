"""What the tests on boards share: the wheel, the guests, and bundles for every engine."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from benchmarks.held_out import held_out_texts
from edgeformer.pipeline import convert
from tests.arm.guest import Guest
from tests.tiny_models import WORDS, tiny_bert_folder
from tests.wheels import build_wheel, unpack_wheel
from tools.emulator.boards import BOARDS, HOST, Board
from tools.emulator.install import install, pinned, unavailable

PROFILE = """
extends = "rpi4"
[length]
max_tokens = 64
bucket_tokens = [16, 64]
"""
PRECISIONS = ("int8", "fp32")
ALL_ENGINES = ("onnx", "tflite", "numpy")
ALL_VARIANTS = tuple(f"{engine}-{precision}" for engine in ALL_ENGINES for precision in PRECISIONS)
ODD_TEXTS = (
    *("no. .", "\U0001f600", "", "\u6771\u4eac\u90fd", "the the the the", "."),
    *(" ", "a", "?!", "0", "I", "\n\t", "\U0001f469\u200d\U0001f680 \U0001f1e9\U0001f1ea"),
    *("na\u00efve caf\u00e9", "\u0627\u0644\u0633\u0644\u0627\u0645", "x" * 200, "A-1 b_2 c/3"),
)


def expected_variants(board: Board) -> tuple[str, ...]:
    """Variants of a Raspberry Pi 4's bundle whose engine a board has, and that are right there."""
    if board.userland == HOST:  # the onnx-int8 one is not for x86: test_families.py
        return tuple(variant for variant in ALL_VARIANTS if variant != "onnx-int8")
    if "engines" in board.sites:
        return ALL_VARIANTS
    numpy = tuple(variant for variant in ALL_VARIANTS if variant.startswith("numpy"))
    # its answers in int8 are wrong: test_controls.py
    return (*numpy, "tflite-fp32") if "tflite-runtime" in board.sites else numpy


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EdgeFormer's wheel and click, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    return unpack_wheel(build_wheel(folder), folder / "site", pinned("click"))


@pytest.fixture(scope="session")
def host(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Guest:
    """This machine itself, for the answers to compare with."""
    python = Path(sys.executable)
    return Guest("host", python, site, ALL_VARIANTS, tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="session", params=BOARDS, ids=lambda board: board.name)
def board(request: pytest.FixtureRequest) -> Board:
    """One of the emulated boards."""
    reason = unavailable()
    if reason:
        pytest.skip(f"no emulation here: {reason}")
    chosen = request.param
    assert isinstance(chosen, Board)
    return chosen


@pytest.fixture(scope="session")
def guest_of(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Board], Guest]:
    """The Python of any board, one per board: what it answered once is not asked again."""

    @functools.cache
    def made(board: Board) -> Guest:
        reason = unavailable()
        if reason:
            pytest.skip(f"no emulation here: {reason}")
        scratch = tmp_path_factory.mktemp(board.name)
        return Guest(board.name, install(board), site, expected_variants(board), scratch)

    return made


@pytest.fixture(scope="session")
def guest(board: Board, guest_of: Callable[[Board], Guest]) -> Guest:
    """The Python of that board."""
    return guest_of(board)


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Raspberry Pi 4's, with two TFLite buckets."""
    path = tmp_path_factory.mktemp("profile") / "two-buckets.toml"
    path.write_text(PROFILE, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def minilm(minilm_folder: Path, profile: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 for every engine, int8 and fp32."""
    output = tmp_path_factory.mktemp("minilm") / "minilm.edge"
    return convert(profile=profile, output=output, precisions=PRECISIONS).path


@pytest.fixture(scope="session")
def classifier(profile: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that has learned which words are kind, for every engine, int8 and fp32."""
    folder = tmp_path_factory.mktemp("classifier")
    checkpoint = tiny_bert_folder(folder / "checkpoint", "classification")
    _learn(checkpoint)
    texts = folder / "texts.txt"
    texts.write_text("\n".join(text for text, _ in film_reviews()), encoding="utf-8")
    report = convert(
        checkpoint,
        profile=profile,
        output=folder / "classifier.edge",
        precisions=PRECISIONS,
        calibration=texts,
    )
    return report.path


class Mixer(nn.Module):
    """A module of a user's own: no text, no attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.norm, self.second = nn.Linear(24, 64), nn.LayerNorm(64), nn.Linear(64, 16)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.second(nn.functional.gelu(self.norm(self.first(features))))
        return hidden


@pytest.fixture(scope="session")
def mixer(profile: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That module for every engine, int8 and fp32."""
    features = torch.randn(3, 24, generator=torch.Generator().manual_seed(0))
    report = convert(
        Mixer(),
        profile=profile,
        output=tmp_path_factory.mktemp("mixer") / "mixer.edge",
        example_inputs={"features": features},
        precisions=PRECISIONS,
    )
    return report.path


@functools.cache
def varied_texts() -> tuple[str, ...]:
    """Odd ones, short ones and a long one, mixed, so that the first few are mixed too."""
    found = held_out_texts(count=300)
    short = [text for text in found if 10 <= len(text) <= 40][: len(ODD_TEXTS) + 28]
    long = next(text for text in found if 25 <= len(text.split()) <= 40)
    mixed = [text for pair in zip(ODD_TEXTS, short, strict=False) for text in pair]
    return (*mixed[:8], long, *mixed[8:], *short[len(ODD_TEXTS) :])


@functools.cache
def film_reviews() -> tuple[tuple[str, int], ...]:
    """Sentences of the tiny vocabulary: 0 unkind, 1 kind, 2 neither."""
    kinds = {"good": 1, "lovely": 1, "bad": 0, "boring": 0, "was": 2, "film": 2}
    forms = ("{}", "the film was {}", "a {} film", "very very {} and not a film", "{} the {}")
    assert set(kinds) <= set(WORDS)
    return tuple((form.format(word, word), kind) for form in forms for word, kind in kinds.items())


def _learn(checkpoint: Path) -> None:
    """Train the checkpoint on those sentences until it knows them all."""
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint).train()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    texts, kinds = zip(*film_reviews(), strict=True)
    batch = tokenizer(list(texts), padding=True, return_tensors="pt")
    labels = torch.tensor(kinds)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        assert (model.eval()(**batch).logits.argmax(-1) == labels).all()
    model.save_pretrained(checkpoint)
