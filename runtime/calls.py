"""One call of a verb: tokenized texts or images through the engines, and what it cost.

A long list is run some texts at a time, so that memory does not grow with it beyond the answers.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import InputError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.dispatch import Dispatcher, Exited
from edgeformer.runtime.manifest import ModelCard, Variant
from edgeformer.runtime.text import TextRows, encode_in_chunks
from edgeformer.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgeformer.runtime.exit_times import SegmentTimes
    from edgeformer.runtime.exiting import Leave


@dataclass(frozen=True)
class CallStats:
    """What the last call did: texts, tokens run, and what did not fit.

    Attributes:
        texts: texts of the call: with a pair or candidates, pairs of texts; or images.
        tokens: tokens that went through the model, special tokens included.
        truncated_texts, truncated_tokens: what ``on_long="truncate"`` cut off.
        windows: inputs run; above ``texts`` where a text was split.
        variants: ids of the variants that answered.
        exit_layers: of texts that could leave early: layers -> inputs that went through so many.
        tokenize_seconds: time from texts to token ids; ``model_seconds``: from there to the
            program's outputs. What is left of the call builds the answers.
    """

    texts: int = 0
    tokens: int = 0
    truncated_texts: int = 0
    truncated_tokens: int = 0
    windows: int = 0
    variants: tuple[str, ...] = ()
    tokenize_seconds: float = field(default=0.0, compare=False)
    model_seconds: float = field(default=0.0, compare=False)
    exit_layers: Mapping[int, int] = field(default_factory=dict)

    def plus(self, more: "CallStats") -> "CallStats":
        """With the figures of another part of the same call."""
        return CallStats(
            self.texts + more.texts,
            self.tokens + more.tokens,
            self.truncated_texts + more.truncated_texts,
            self.truncated_tokens + more.truncated_tokens,
            self.windows + more.windows,
            tuple(dict.fromkeys(self.variants + more.variants)),
            self.tokenize_seconds + more.tokenize_seconds,
            self.model_seconds + more.model_seconds,
            _summed(self.exit_layers, more.exit_layers),
        )


def _summed(first: Mapping[int, int], second: Mapping[int, int]) -> Mapping[int, int]:
    if not (first and second):
        return first or second
    return {n: first.get(n, 0) + second.get(n, 0) for n in sorted({*first, *second})}


class Call:
    """What a verb's function needs of the open model.

    Attributes:
        card: what the model is.
        stats: what was done so far.
    """

    def __init__(
        self, card: ModelCard, dispatcher: Dispatcher, tokenizer: Tokenizer | None
    ) -> None:
        self.card = card
        self.stats = CallStats()
        self._dispatcher = dispatcher
        self._tokenizer = tokenizer

    @property
    def takes_images(self) -> bool:
        """True where the inputs are images, not texts."""
        return self._tokenizer is None

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's; calls with images have none."""
        assert self._tokenizer is not None  # Model gives one to every call with texts
        return self._tokenizer

    @property
    def output_size(self) -> int:
        """Length of the output's last dimension: hidden size or classes."""
        port = self._dispatcher.variant.programs["main"].outputs[0]
        return int(port.shape[-1])

    @property
    def segments(self) -> int:
        """Segments of an early-exit model. Raises InputError for other models."""
        variant = self._dispatcher.variant
        if variant.exits is None:
            raise InputError(f"{variant.id} has no exits", hint="convert a model that has exits")
        return len(variant.exits.layers)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of ``pixel_values``."""
        _, *shape = self._dispatcher.variant.programs["main"].inputs[0].shape
        channels, height, width = (int(n) for n in shape)
        return channels, height, width

    def encode(
        self,
        texts: list[str],
        pair: list[str] | None,
        on_long: str,
        output: str,
        offsets: bool = False,
    ) -> Iterator[tuple[TextRows, NDArray[Any]]]:
        """The texts' rows and their answers, some texts at a time."""
        longest, clock = self.card.max_length, time.perf_counter
        begun = clock()
        for rows in encode_in_chunks(self.tokenizer, texts, pair, longest, on_long, offsets):
            self.count(rows, begun)
            yield rows, self.run(rows.batch, output)
            begun = clock()  # what the caller made of them is neither

    def run(self, batch: RaggedBatch, output: str) -> NDArray[Any]:
        """Answers to token rows, one row each, or one for each token (see ``Engine.encode``)."""
        begun = time.perf_counter()
        encoded = self._dispatcher.encode(batch)
        done = CallStats(
            windows=len(batch),
            tokens=len(batch.ids),
            variants=encoded.variants,
            model_seconds=time.perf_counter() - begun,
        )
        self.stats = self.stats.plus(done)
        return encoded.outputs[output]

    def run_exits(
        self, batch: RaggedBatch, make_leave: "Callable[[Variant, SegmentTimes], Leave]"
    ) -> Exited:
        """Answers to token rows that may leave early (see ``Dispatcher.encode_exits``)."""
        begun = time.perf_counter()
        exited = self._dispatcher.encode_exits(batch, make_leave)
        counts = Counter(exited.layers.tolist())
        done = CallStats(
            windows=len(batch),
            tokens=len(batch.ids),
            variants=(exited.variant,),
            model_seconds=time.perf_counter() - begun,
            exit_layers=dict(sorted(counts.items())),
        )
        self.stats = self.stats.plus(done)
        return exited

    def run_image(self, pixel_values: NDArray[Any], output: str) -> NDArray[Any]:
        """Answer to one image, float32 (channels, height, width)."""
        answer = self._dispatcher.run("main", {"pixel_values": pixel_values[None]})[output]
        variant = self._dispatcher.variant.id
        self.stats = self.stats.plus(CallStats(texts=1, windows=1, variants=(variant,)))
        return np.asarray(answer[0])

    def count(self, rows: TextRows, begun: float) -> None:
        """Note the texts of ``rows``, what was cut off them, and that they were tokenized from
        ``begun`` on, a ``time.perf_counter()``, until now."""
        self.stats = self.stats.plus(
            CallStats(
                texts=rows.texts,
                truncated_texts=rows.truncated_texts,
                truncated_tokens=rows.truncated_tokens,
                tokenize_seconds=time.perf_counter() - begun,
            )
        )
