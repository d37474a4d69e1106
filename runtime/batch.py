"""A batch of tokenized texts of different lengths, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RaggedBatch:
    """The tokens of all texts one after the other.

    Offsets have NumPy's index type: int64, int32 on 32-bit systems.

    Attributes:
        ids: int32 (num_tokens,).
        type_ids: int32 (num_tokens,), segment of each token.
        offsets: intp (num_texts + 1,); text i is ``ids[offsets[i]:offsets[i + 1]]``.
    """

    ids: NDArray[np.int32]
    type_ids: NDArray[np.int32]
    offsets: NDArray[np.intp]

    @classmethod
    def from_lists(
        cls, ids: Sequence[Sequence[int]], type_ids: Sequence[Sequence[int]]
    ) -> "RaggedBatch":
        """Pack one list of ids and one of type ids for each text."""
        offsets = np.array([0, *accumulate(map(len, ids))], np.intp)
        count = int(offsets[-1])
        flat_ids = np.fromiter(chain.from_iterable(ids), np.int32, count)
        flat_types = np.fromiter(chain.from_iterable(type_ids), np.int32, count)
        return cls(flat_ids, flat_types, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.intp]:
        """intp (num_texts,): tokens of each text."""
        return np.diff(self.offsets)

    def select(self, rows: Sequence[int]) -> "RaggedBatch":
        """The texts ``rows``, in that order."""
        spans = [slice(self.offsets[i], self.offsets[i + 1]) for i in rows]
        offsets = np.zeros(len(spans) + 1, np.intp)
        np.cumsum([s.stop - s.start for s in spans], out=offsets[1:])
        empty = np.empty(0, np.int32)
        return RaggedBatch(
            np.concatenate([empty, *(self.ids[s] for s in spans)]),
            np.concatenate([empty, *(self.type_ids[s] for s in spans)]),
            offsets,
        )

    def padded(self, length: int) -> dict[str, NDArray[np.int64]]:
        """``input_ids``, ``token_type_ids`` and ``attention_mask``, each int64 (texts, length).

        Padding has id 0, type 0 and mask 0; no text may be longer than ``length``.
        """
        mask = np.arange(length) < self.lengths[:, None]
        arrays = {
            name: np.zeros((len(self), length), np.int64)
            for name in ("input_ids", "token_type_ids")
        }
        arrays["input_ids"][mask] = self.ids
        arrays["token_type_ids"][mask] = self.type_ids
        return arrays | {"attention_mask": mask.astype(np.int64)}
