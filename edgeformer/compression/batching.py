"""Examples as batches of token ids, in an order that a seed decides.

    tokenized = tokenize(examples, loaded.tokenizer_json, loaded.max_length)
    settings = batch_settings(loaded, size=32, seed=0)
    for batch in batches(tokenized, settings, epoch=0, start=0):
        targets = batch.pop("labels")
        loaded.module(**batch)

A batch holds int64 (batch, sequence) tensors under the names of the model's inputs, and ``labels``.
The order of an epoch depends on the seed and the number of the epoch alone: training that was
interrupted after k steps goes on with ``start=k``, and n processes with ``rank`` and ``world`` see
the batches that one process would see, each its share of the rows.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from edgeformer.compression.batches import Batch
from edgeformer.compression.examples import Examples
from edgeformer.errors import UsageError
from edgeformer.models.checkpoint import LoadedModel
from edgeformer.runtime.tokenizer_json import pad_token_id
from edgeformer.runtime.wordpiece import without_surrogates

_TOKENIZED_AT_ONCE = 4096
# Texts of like length are sought among this many batches: enough that little is padding, few enough
# that a text meets others in every epoch.
_POOL_BATCHES = 64


@dataclass(frozen=True)
class Tokenized:
    """Examples as token ids, one text after the other.

    Attributes:
        ids: int32 (tokens,), special tokens included.
        type_ids: int8 (tokens,): 0 in the first text, 1 in the second.
        starts: int64 (examples + 1,): where each example starts, and the end.
        targets: int64 (examples,) classes, float32 (examples,) values for regression, or None.
        num_truncated: examples that were cut to the maximum length.
    """

    ids: torch.Tensor
    type_ids: torch.Tensor
    starts: torch.Tensor
    targets: torch.Tensor | None
    num_truncated: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> torch.Tensor:
        """Int64 (examples,): tokens of each example."""
        return self.starts.diff()


@dataclass(frozen=True)
class BatchSettings:
    """How examples become batches.

    Attributes:
        size: examples of a batch, over all processes together.
        seed: of the order.
        input_names: the model's inputs, as of ``LoadedModel``.
        position_start: position id of a text's first token.
        pad_id: id that fills up shorter texts.
        rank: number of this process, from 0.
        world: number of processes.

    Raises:
        UsageError: a size that the processes cannot share evenly, or no such process.
    """

    size: int
    seed: int
    input_names: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    position_start: int = 0
    pad_id: int = 0
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise UsageError(f"no process {self.rank} among {self.world}")
        if self.size < 1 or self.size % self.world:
            raise UsageError(
                f"a batch of {self.size} does not divide among {self.world} processes",
                hint=f"use a multiple of {self.world}",
            )


def batch_settings(
    loaded: LoadedModel, size: int, seed: int, rank: int = 0, world: int = 1
) -> BatchSettings:
    """Settings for a model's inputs; the arguments are those of ``BatchSettings``.

    Raises:
        UsageError: the model reads images.
    """
    if loaded.tokenizer_json is None:
        raise UsageError(f"{loaded.name} reads images, and these batches are of texts")
    return BatchSettings(
        size=size,
        seed=seed,
        input_names=loaded.input_names,
        position_start=loaded.position_start,
        pad_id=pad_token_id(json.loads(loaded.tokenizer_json)) or 0,
        rank=rank,
        world=world,
    )


def tokenize(examples: Examples, tokenizer_json: bytes, max_length: int) -> Tokenized:
    """Tokenise every example.

    Args:
        examples: the texts; without labels there are no targets.
        tokenizer_json: contents of tokenizer.json; its own truncation and padding do not count.
        max_length: most tokens of an example; of a pair, the longer text is cut first.

    Raises:
        UsageError: ``max_length`` leaves no room for the special tokens.
    """
    tokenizer = Tokenizer.from_str(tokenizer_json.decode())
    tokenizer.no_padding()
    pairs = any(row.pair is not None for row in examples.rows)
    special = tokenizer.num_special_tokens_to_add(pairs)
    if max_length < special:
        raise UsageError(f"{max_length} tokens leave no room for the {special} special ones")
    tokenizer.enable_truncation(max_length)
    ids, types = [torch.empty(0, dtype=torch.int32)], [torch.empty(0, dtype=torch.int8)]
    lengths, truncated = [0], 0
    for start in range(0, len(examples.rows), _TOKENIZED_AT_ONCE):
        block = examples.rows[start : start + _TOKENIZED_AT_ONCE]
        encodings = tokenizer.encode_batch([_text(row.text, row.pair) for row in block])
        ids.append(torch.tensor([i for e in encodings for i in e.ids], dtype=torch.int32))
        types.append(torch.tensor([i for e in encodings for i in e.type_ids], dtype=torch.int8))
        lengths += [len(encoding.ids) for encoding in encodings]
        truncated += sum(bool(encoding.overflowing) for encoding in encodings)
    starts = torch.tensor(lengths).cumsum(0)
    return Tokenized(torch.cat(ids), torch.cat(types), starts, _targets(examples), truncated)


def num_steps(tokenized: Tokenized, settings: BatchSettings) -> int:
    """Batches of one epoch."""
    return -(-len(tokenized) // settings.size)


def batches(
    tokenized: Tokenized, settings: BatchSettings, epoch: int, start: int = 0
) -> Iterator[Batch]:
    """The batches of one epoch; see ``batch_rows`` for the arguments."""
    for rows in batch_rows(tokenized, settings, epoch, start):
        yield collate(tokenized, settings, rows)


def batch_rows(
    tokenized: Tokenized, settings: BatchSettings, epoch: int, start: int = 0
) -> Iterator[torch.Tensor]:
    """Which examples each batch of an epoch takes.

    The examples are shuffled; among those of every ``_POOL_BATCHES`` batches, texts of like length
    come together; then the batches are shuffled. Every batch is full: the last ones are filled up
    with the epoch's first examples, so that all processes always have as many rows.

    Args:
        tokenized: the examples.
        settings: size, seed, and which of the processes this is.
        epoch: number of the epoch; each has an order of its own.
        start: batches to leave out, those of an interrupted run.

    Yields:
        int64 (size / world,): numbers of examples, for this process.
    """
    generator = torch.Generator().manual_seed(settings.seed * 100_003 + epoch)
    order = torch.randperm(len(tokenized), generator=generator)
    steps = num_steps(tokenized, settings)
    if not steps:
        return
    needed = steps * settings.size
    filled = order.repeat(-(-needed // len(order)))[:needed]
    pool = settings.size * _POOL_BATCHES
    alike = torch.cat([_by_length(tokenized, rows) for rows in _cut(filled, pool)])
    for step in torch.randperm(steps, generator=generator)[start:].tolist():
        rows = alike[step * settings.size : (step + 1) * settings.size]
        yield rows[settings.rank :: settings.world]


def every_example(
    tokenized: Tokenized, settings: BatchSettings
) -> Iterator[tuple[torch.Tensor, Batch]]:
    """Each example once, for measuring: numbers of examples, int64 (batch,), and their batch.

    Texts of like length come together, the longest first, so that memory runs out at once if it
    does. The last batch may be smaller. Of several processes each gets its share of the batches.
    """
    order = _by_length(tokenized, torch.arange(len(tokenized))).flip(0)
    for rows in _cut(order, settings.size)[settings.rank :: settings.world]:
        yield rows, collate(tokenized, settings, rows)


def collate(tokenized: Tokenized, settings: BatchSettings, rows: torch.Tensor) -> Batch:
    """The batch of the examples ``rows``, int64 (batch,), padded to the longest of them."""
    lengths = tokenized.lengths[rows]
    places = torch.arange(int(lengths.max()))
    mask = places < lengths.unsqueeze(1)
    flat = tokenized.starts[rows].unsqueeze(1) + places
    inputs = {
        "input_ids": torch.full(mask.shape, settings.pad_id),
        "attention_mask": mask.to(torch.int64),
        "token_type_ids": torch.zeros(mask.shape, dtype=torch.int64),
        "position_ids": (settings.position_start + places).repeat(len(rows), 1),
    }
    inputs["input_ids"][mask] = tokenized.ids[flat[mask]].to(torch.int64)
    inputs["token_type_ids"][mask] = tokenized.type_ids[flat[mask]].to(torch.int64)
    batch = {name: inputs[name] for name in settings.input_names}
    if tokenized.targets is not None:
        batch["labels"] = tokenized.targets[rows]
    return batch


def _text(text: str, pair: str | None) -> str | tuple[str, str]:
    first = without_surrogates(text)
    return first if pair is None else (first, without_surrogates(pair))


def _targets(examples: Examples) -> torch.Tensor | None:
    if examples.labels:
        return torch.tensor(examples.targets, dtype=torch.int64)
    return torch.tensor(examples.targets, dtype=torch.float32) if examples.targets else None


def _by_length(tokenized: Tokenized, rows: torch.Tensor) -> torch.Tensor:
    return rows[tokenized.lengths[rows].argsort(stable=True)]


def _cut(rows: torch.Tensor, size: int) -> list[torch.Tensor]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
