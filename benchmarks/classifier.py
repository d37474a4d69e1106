"""Train a BERT classifier on labelled data, convert it, and compare accuracies with PyTorch's.

    python -m benchmarks.classifier --train FILE --test FILE [--base FOLDER] [--profile NAME]

FILE is CSV or TSV with a `text` or `sentence` column and a `label` column. Without --base it
fine-tunes the BERT-tiny that the tests use; the trained model is an ordinary Hugging Face folder.
"""

import argparse
import csv
import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from edgeformer.pipeline import convert
from edgeformer.runtime import load

MAX_LENGTH = 128
BATCH = 32


@dataclass(frozen=True)
class Row:
    """One text and its class name."""

    text: str
    label: str


@dataclass(frozen=True)
class Comparison:
    """Accuracy in percent on the test rows."""

    pytorch: float
    variants: dict[str, float]


def read_rows(path: Path) -> list[Row]:
    """Rows of a CSV or TSV with a text and a label column."""
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open(encoding="utf-8", newline="") as file:
        quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
        rows = csv.DictReader(file, delimiter=delimiter, quoting=quoting)
        return [Row(row.get("text") or row["sentence"], row["label"]) for row in rows]


def tiny_bert() -> Path:
    """Folder of the BERT-tiny checkpoint that `make setup` installs."""
    spec = importlib.util.find_spec("cognition")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package that carries BERT-tiny is not installed: make setup")
    return Path(spec.origin).parent / "model"


def train(base: Path, rows: Sequence[Row], output: Path, epochs: int, rate: float) -> Path:
    """Fine-tune ``base`` on ``rows`` and save it as a Hugging Face folder."""
    torch.manual_seed(0)
    names = sorted({row.label for row in rows})
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(
        base,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    encoded = tokenizer([row.text for row in rows], truncation=True, max_length=MAX_LENGTH)
    targets = torch.tensor([names.index(row.label) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    steps = epochs * (len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1)
    model.train()
    for _ in range(epochs):
        for chosen in _batches([len(ids) for ids in encoded["input_ids"]]):
            features = {k: [encoded[k][i] for i in chosen] for k in ("input_ids", "attention_mask")}
            batch = tokenizer.pad(features, return_tensors="pt")
            model(**batch, labels=targets[chosen]).loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval().save_pretrained(output)
    tokenizer.save_pretrained(output)
    return output


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Full batches of texts of like length, in random order."""
    order = np.argsort(np.array(lengths) + torch.rand(len(lengths)).numpy() * 8)
    groups = [order[i : i + BATCH].tolist() for i in range(0, len(order) - BATCH + 1, BATCH)]
    return [groups[i] for i in torch.randperm(len(groups)).tolist()]


def pytorch_accuracy(folder: Path, rows: Sequence[Row]) -> float:
    """Percent right by the PyTorch model, each text alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    right = 0
    with torch.inference_mode():
        for row in rows:
            inputs = tokenizer(
                row.text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
            )
            best = int(model(**inputs).logits.argmax())
            right += model.config.id2label[best] == row.label
    return 100 * right / len(rows)


def bundle_accuracy(bundle: Path, variant: str, rows: Sequence[Row]) -> float:
    """Percent right by one variant of the bundle."""
    with load(bundle, engine=variant) as model:
        answers = model.classify([row.text for row in rows])
    hits = [best[0].name == row.label for best, row in zip(answers, rows, strict=True)]
    return 100 * sum(hits) / len(rows)


def compare(folder: Path, train_file: Path, rows: Sequence[Row], **options: Any) -> Comparison:
    """Convert the trained folder and measure every variant on ``rows``."""
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / "classifier.edge"
        report = convert(
            folder, output=bundle, max_length=MAX_LENGTH, calibration=train_file, **options
        )
        accuracies = {v.id: bundle_accuracy(bundle, v.id, rows) for v in report.manifest.variants}
    return Comparison(pytorch_accuracy(folder, rows), accuracies)


def main() -> None:
    """Train, convert, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--profile", default="rpi4")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=3e-4)
    args = parser.parse_args()
    rows = read_rows(args.test)
    with tempfile.TemporaryDirectory() as scratch:
        folder = train(
            args.base or tiny_bert(), read_rows(args.train), Path(scratch), args.epochs, args.rate
        )
        result = compare(folder, args.train, rows, profile=args.profile)
    print(f"{len(rows)} test texts\n| engine | accuracy % | against PyTorch |\n|---|---|---|")
    print(f"| PyTorch | {result.pytorch:.2f} | |")
    for name, accuracy in result.variants.items():
        print(f"| {name} | {accuracy:.2f} | {accuracy - result.pytorch:+.2f} |")


if __name__ == "__main__":
    main()
