"""The batches of a stage by the number of their step, so that training goes on where it stopped."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from edgeformer.compression.batches import Batch
from edgeformer.compression.batching import (
    BatchSettings,
    Tokenized,
    batch_rows,
    collate,
    num_steps,
)


@dataclass(frozen=True)
class Feed:
    """Tokenised examples, and how they become batches.

    Attributes:
        tokenized: the examples.
        settings: of the batches.
        mask_words: hides words of a batch and makes them its labels; None trains on labels.
    """

    tokenized: Tokenized
    settings: BatchSettings
    mask_words: Callable[[Batch, torch.Generator], Batch] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the examples."""
        return num_steps(self.tokenized, self.settings)

    def rows(self, start: int) -> Iterator[torch.Tensor]:
        """Numbers of the examples of each step from ``start`` on, without end."""
        epoch, within = divmod(start, self.steps_per_epoch)
        while True:
            yield from batch_rows(self.tokenized, self.settings, epoch, within)
            epoch, within = epoch + 1, 0

    def batch(self, rows: torch.Tensor, seed: int) -> Batch:
        """The batch of these examples.

        Args:
            rows: int64 (batch,).
            seed: of the words that are hidden.
        """
        batch = collate(self.tokenized, self.settings, rows)
        if self.mask_words is None:
            return batch
        return self.mask_words(batch, torch.Generator().manual_seed(seed))
