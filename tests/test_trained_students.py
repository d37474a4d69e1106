"""Students that were trained: what int8 costs them in decisions, on every engine.

The texts are made up: letters, a few of which say which class a text is of. So the models are right
about nearly all of them, with the margins that a trained model has and a random one lacks.
"""

import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeformer.models import equalizing
from edgeformer.models.bilstm import FAMILY, BiLstmConfig
from edgeformer.models.build import HeadConfig, ModelConfig, make_model
from edgeformer.models.checkpoint import load_checkpoint
from edgeformer.models.config import EncoderConfig
from edgeformer.models.saving import save_checkpoint
from edgeformer.pipeline import convert
from edgeformer.runtime import load
from edgeformer.runtime.tokenizer import load_tokenizer
from tests.mobilebert_models import plant_outliers
from tests.tiny_models import tiny_bert_folder, tiny_tokenizer_json, tiny_vocabulary

pytestmark = pytest.mark.slow

GROUPS = ("abc", "def", "ghi", "jkl")
FILLERS = string.ascii_lowercase[12:] + string.digits
PROFILE = 'extends = "rpi4"\n[length]\nmax_tokens = 64\nbucket_tokens = [64]\n'
ENGINES = ("onnx", "tflite", "numpy")
Texts = tuple[list[str], np.ndarray]

MOBILEBERT = EncoderConfig(
    vocab_size=len(tiny_vocabulary()),
    hidden_size=512,
    num_heads=(4,) * 3,
    head_dim=32,
    intermediate_sizes=(512,) * 12,
    max_positions=64,
    activation="relu",
    embedding_size=128,
    embedding_projection="tokens",
    trigram=True,
    norm="no_norm",
    bottleneck_size=128,
    stacked_ffns=4,
)
BILSTM = BiLstmConfig(
    vocab_size=len(tiny_vocabulary()), embedding_size=64, hidden_size=64, intermediate_size=64
)


def made_up_texts(count: int, seed: int) -> Texts:
    """Texts of 4 to 40 letters: two to five of the class's own, at most one of another class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(GROUPS), count)
    texts = []
    for label in labels:
        letters = list(random.choice(list(GROUPS[label]), random.integers(2, 6)))
        other = GROUPS[(label + 1 + random.integers(0, 3)) % 4]
        letters += list(random.choice(list(other), random.integers(0, 2)))
        letters += list(random.choice(list(FILLERS), random.integers(2, 35)))
        texts.append(" ".join(random.permutation(letters)))
    return texts, labels


def batches(texts: Texts, size: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    tokenizer = load_tokenizer(tiny_tokenizer_json())
    ids = [tokenizer.encode(text) for text in texts[0]]
    for start in range(0, len(ids), size):
        part = [torch.tensor(row) for row in ids[start : start + size]]
        padded = nn.utils.rnn.pad_sequence(part, batch_first=True)
        lengths = torch.tensor([len(row) for row in part])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        labels = torch.from_numpy(texts[1][start : start + size])
        yield {"input_ids": padded, "attention_mask": mask}, labels


def trained(config: ModelConfig, rate: float) -> nn.Module:
    """A classifier after three passes over 2400 texts, right about 97 % of others."""
    torch.manual_seed(0)
    activation = "tanh" if isinstance(config, EncoderConfig) else "relu"
    model = make_model(config, HeadConfig("classification", len(GROUPS), activation=activation))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and isinstance(config, EncoderConfig):
            narrow = name.endswith(("down.weight", "widen.linear.weight"))
            nn.init.normal_(parameter, 0, (0.3 if narrow else 1.0) / parameter.shape[1] ** 0.5)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    steps = 3 * 75
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for epoch in range(3):
        for batch, labels in batches(made_up_texts(2400, epoch), 32):
            loss = nn.functional.cross_entropy(model(**batch)["logits"], labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.eval()
    assert np.mean(decisions(model, HELD_OUT) == HELD_OUT[1]) >= 0.97
    return model


def decisions(model: nn.Module, texts: Texts) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate(
            [model(**b)["logits"].argmax(1).numpy() for b, _ in batches(texts, 64)]
        )


HELD_OUT = made_up_texts(600, 99)


def save(model: nn.Module, config: ModelConfig, folder: Path) -> Path:
    source = load_checkpoint(
        tiny_bert_folder(folder / "source", "classification", num_labels=4, max_length=60)
    )
    own = isinstance(config, BiLstmConfig)
    head = replace(source.head, activation="relu" if own else "tanh")
    student = replace(
        source,
        module=model,
        head=head,
        family=FAMILY if own else "mobilebert",
        input_names=config.input_names,
    )
    return save_checkpoint(student, folder / "student")


def agreements(folder: Path, student: Path, precision: str) -> dict[str, float]:
    """For each engine, the share of held-out texts about which it decides as PyTorch does."""
    (folder / "profile.toml").write_text(PROFILE)
    (folder / "texts.txt").write_text("\n".join(made_up_texts(400, 50)[0]))
    report = convert(
        student,
        profile=str(folder / "profile.toml"),
        output=folder / "bundle.edge",
        engines=ENGINES,
        precisions=(precision,),
        calibration=folder / "texts.txt",
        golden=folder / "texts.txt",
        force=True,
    )
    expected = decisions(load_checkpoint(student).module, HELD_OUT)
    found = {}
    for engine in ENGINES:
        with load(report.path, engine=engine) as model:
            answers = model.classify(HELD_OUT[0])
            chosen = np.array([int(labels[0].name.removeprefix("class ")) for labels in answers])
            found[engine] = float(np.mean(chosen == expected))
    assert report.scans == {} or precision == "int8"
    return found


@pytest.fixture(scope="module")
def mobilebert() -> nn.Module:
    return trained(MOBILEBERT, 1e-3)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_trained_mobilebert_decides_alike(
    mobilebert: nn.Module, precision: str, tmp_path: Path
) -> None:
    found = agreements(tmp_path, save(mobilebert, MOBILEBERT, tmp_path), precision)
    assert min(found.values()) >= (0.99 if precision == "int8" else 1.0), found


def test_channels_far_out_change_no_decisions(
    mobilebert: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same function with outliers 64 times as large; without evening out int8 is lost."""
    plant_outliers(mobilebert, 64.0)
    student = save(mobilebert, MOBILEBERT, tmp_path)
    found = agreements(tmp_path, student, "int8")
    assert min(found.values()) >= 0.99, found
    monkeypatch.setattr(equalizing, "equalize", lambda model: None)
    (tmp_path / "without").mkdir()
    assert min(agreements(tmp_path / "without", student, "int8").values()) < 0.99


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_trained_bilstm_decides_alike(precision: str, tmp_path: Path) -> None:
    student = save(trained(BILSTM, 1e-2), BILSTM, tmp_path)
    found = agreements(tmp_path, student, precision)
    assert min(found.values()) >= (0.99 if precision == "int8" else 1.0), found
