"""Training throughput: EdgeFormer's trainer against the same steps written by hand.

    python -m benchmarks.training_throughput            # about two minutes
    python -m benchmarks.training_throughput --model FOLDER --tokens 64 --batch 32 -o FILE.json

Both train the same classifier on the same batches with AdamW, clipping and no dropout: plain
fine-tuning, and distillation of logits. They take turns in one process, a few steps each, so that
whatever disturbs the machine disturbs both. Printed: the ratio of the medians (above 1: ours is
faster), its range over the turns, and the peak memory of each in a process of its own. FILE.json
is what the page of recipes quotes (docs/measured/compress.md).
"""

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from edgeformer.compression.batching import BatchSettings, Tokenized
from edgeformer.compression.distill_logits import logit_kl
from edgeformer.compression.feeding import Feed
from edgeformer.compression.losses import BoundLoss
from edgeformer.compression.objective import Objective
from edgeformer.compression.recipe import Loss, Stage
from edgeformer.compression.students import take_layers, with_head
from edgeformer.compression.trainer import StageRun, TrainingOptions, train
from edgeformer.models.build import HeadConfig
from edgeformer.models.checkpoint import load_checkpoint
from edgeformer.pipeline import default_model

STEPS = 6
LEARNING_RATE = 5e-5


def random_texts(count: int, tokens: int, vocabulary: int) -> Tokenized:
    """Random token ids; half to all of ``tokens`` of them in each text."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(tokens // 2, tokens + 1, (count,), generator=generator)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    total = int(starts[-1])
    return Tokenized(
        ids=torch.randint(vocabulary, (total,), generator=generator, dtype=torch.int32),
        type_ids=torch.zeros(total, dtype=torch.int8),
        starts=starts,
        targets=torch.randint(2, (count,), generator=generator),
        num_truncated=0,
    )


def by_hand(model: nn.Module, teacher: nn.Module | None, feed: Feed) -> Callable[[], None]:
    """The steps as a page of PyTorch."""

    def steps() -> None:
        decaying = [p for p in model.parameters() if p.dim() > 1]
        others = [p for p in model.parameters() if p.dim() < 2]
        optimizer = torch.optim.AdamW(
            [{"params": decaying, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
            lr=LEARNING_RATE,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / STEPS)
        model.train()
        for _, rows in zip(range(STEPS), feed.rows(0), strict=False):
            batch = feed.batch(rows, 0)
            labels = batch.pop("labels")
            logits = model(**batch)["logits"]
            loss = F.cross_entropy(logits, labels)
            if teacher is not None:
                with torch.no_grad():
                    wanted = teacher(**batch)["logits"]
                loss = loss + logit_kl(logits, wanted, 2.0)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            loss.item()

    return steps


def ours(model: nn.Module, teacher: nn.Module | None, feed: Feed) -> Callable[[], None]:
    """The same steps by the trainer."""
    losses = [BoundLoss(Loss("labels"))]
    if teacher is not None:
        losses.append(BoundLoss(Loss("logit_kl", temperature=2.0)))
    stage = Stage(name="s", learning_rate=LEARNING_RATE, dropout=0.0)
    run = StageRun(
        stage=stage,
        number=0,
        steps=STEPS,
        student=model,
        objective=Objective(tuple(losses), model, teacher),
        feed=feed,
        projections=nn.ModuleDict(),
    )
    options = TrainingOptions(torch.device("cpu"), save_seconds=1e9)
    return lambda: train(run, options)


def models(folder: Path | None) -> tuple[nn.Module, nn.Module]:
    """A classifier, and its teacher of twice the layers."""
    loaded = load_checkpoint(folder or default_model(), task="embedding")
    generator = torch.Generator().manual_seed(0)
    teacher = with_head(loaded.module, HeadConfig("classification", num_labels=2), generator)
    depth = teacher.get_submodule("encoder").config.num_layers
    return take_layers(teacher, range(depth // 2)), teacher


def rounds(
    model: nn.Module, teacher: nn.Module | None, feed: Feed, turns: int
) -> Iterator[tuple[float, float]]:
    """Seconds of our steps and of those by hand, turn by turn; who begins alternates."""
    makers = (ours, by_hand)
    runs = [make(copy.deepcopy(model), teacher, feed) for make in makers]
    for run in runs:
        run()
    for turn in range(turns):
        seconds = [0.0, 0.0]
        for which in (0, 1) if turn % 2 else (1, 0):
            began = time.perf_counter()
            runs[which]()
            seconds[which] = time.perf_counter() - began
        yield seconds[0], seconds[1]


def measured(
    name: str, model: nn.Module, teacher: nn.Module | None, feed: Feed, turns: int
) -> dict[str, Any]:
    """One kind of training: the ratio of the medians, its range, and the time of our step."""
    pairs = list(rounds(model, teacher, feed, turns))
    ratios = [hand / mine for mine, hand in pairs]
    ours_s = statistics.median(mine for mine, _ in pairs)
    return {
        "name": name,
        "ratio": statistics.median(hand for _, hand in pairs) / ours_s,
        "low": min(ratios),
        "high": max(ratios),
        "turns": turns,
        "ms": ours_s / STEPS * 1e3,
    }


def peak_mb(arguments: Sequence[str]) -> list[float]:
    """Peak memory of our steps and of those by hand, with a teacher, each in its own process."""
    command = [sys.executable, "-m", "benchmarks.training_throughput", *arguments, "--only"]
    return [
        float(subprocess.run([*command, who], capture_output=True, text=True, check=True).stdout)
        for who in ("ours", "by_hand")
    ]


def main() -> None:
    """Measure and print."""
    given = _arguments()
    torch.set_num_threads(given.threads)
    student, teacher = models(given.model)
    vocabulary = student.get_submodule("encoder").config.vocab_size
    settings = BatchSettings(size=given.batch, seed=0)
    feed = Feed(random_texts(given.batch * STEPS, given.tokens, vocabulary), settings)
    if given.only:
        {"ours": ours, "by_hand": by_hand}[given.only](student, teacher, feed)()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
        return
    print(f"{given.batch} texts of {given.tokens // 2} to {given.tokens} tokens a step")
    rows = []
    for name, teaches in (("fine-tuning", None), ("distillation", teacher)):
        row = measured(name, student, teaches, feed, given.turns)
        print(
            f"{name}: {row['ratio']:.3f} times the throughput by hand"
            f" ({row['low']:.3f} to {row['high']:.3f} over {given.turns} turns),"
            f" {row['ms']:.0f} ms a step"
        )
        rows.append(row)
    peaks = peak_mb(sys.argv[1:])
    print(f"peak memory with a teacher: {peaks[0]:.0f} MB, by hand {peaks[1]:.0f} MB")
    if given.output:
        found = {"batch": given.batch, "tokens": given.tokens, "rows": rows, "peak_mb": peaks}
        given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="folder; default: the embedded model")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json")
    parser.add_argument("--only", choices=("ours", "by_hand"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
