"""The task API: a bundle opened with one engine, text in, answers out.

    from edgeformer.runtime import load

    with load("model.edge") as model:
        model.embed(["a sentence", "another"])      # float32 (2, 384)

What is inside: bundle -> tokenizer -> RaggedBatch -> engine -> answers. str in, one result; list
in, list out; nothing here pads, and nothing here knows which engine runs. A long list is run some
texts at a time, so that memory does not grow with it beyond the answers.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import EdgeFormerError, InputError
from edgeformer.runtime.answers import (
    Label,
    Span,
    Word,
    group_words,
    merge_windows,
    probabilities,
    spans,
    top_labels,
)
from edgeformer.runtime.bundle import Bundle
from edgeformer.runtime.dispatch import Dispatcher
from edgeformer.runtime.manifest import Manifest, Variant
from edgeformer.runtime.text import TextRows, encode_in_chunks
from edgeformer.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class CallStats:
    """What the last call did: texts, tokens run, and what did not fit.

    Attributes:
        texts: texts of the call.
        tokens: tokens that went through the model, special tokens included.
        truncated_texts, truncated_tokens: what ``on_long="truncate"`` cut off.
        windows: inputs run; above ``texts`` where ``on_long="window"`` split some.
        variants: ids of the variants that answered.
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

    def plus(
        self, rows: TextRows, variants: tuple[str, ...], clock: tuple[float, float, float]
    ) -> "CallStats":
        """With the figures of more texts of the same call; ``clock``: begun, tokenized, run."""
        begun, tokenized, run = clock
        return CallStats(
            texts=self.texts + rows.texts,
            tokens=self.tokens + len(rows.batch.ids),
            truncated_texts=self.truncated_texts + rows.truncated_texts,
            truncated_tokens=self.truncated_tokens + rows.truncated_tokens,
            windows=self.windows + len(rows.batch),
            variants=tuple(dict.fromkeys(self.variants + variants)),
            tokenize_seconds=self.tokenize_seconds + tokenized - begun,
            model_seconds=self.model_seconds + run - tokenized,
        )


class Model:
    """An open bundle. Thread-safe; ``close`` it, or use it as a context manager.

    Attributes:
        manifest: what the bundle says of itself.
        skipped: (variant id, reason) of those that were tried before the chosen one.
        last_call: figures of the last call (of any thread).
    """

    def __init__(
        self,
        bundle: Bundle,
        dispatcher: Dispatcher,
        tokenizer: Tokenizer | EdgeFormerError | None,
        skipped: tuple[tuple[str, str], ...] = (),
        notices: tuple[str, ...] = (),
    ) -> None:
        self._bundle = bundle
        self._dispatcher = dispatcher
        self._tokenizer = tokenizer
        self._notices = notices
        self.manifest: Manifest = bundle.manifest
        self.skipped = skipped
        self.last_call = CallStats()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the engine and the files; the model cannot be used afterwards."""
        self._dispatcher.close()
        self._bundle.close()

    @property
    def variant(self) -> Variant:
        """The model file that was chosen: it runs ``run``, and every text unless the bundle was
        tuned. A tuned bundle may send some texts to another variant (``last_call.variants``);
        this is then the one for most lengths. After a failure it is what replaced it."""
        return self._dispatcher.variant

    @property
    def threads(self) -> int:
        """Threads that ``variant`` uses."""
        return self._dispatcher.threads

    @property
    def notices(self) -> tuple[str, ...]:
        """What one should know of this model besides its answers: a tuned table that was ignored,
        an engine that failed and was replaced."""
        return self._notices + self._dispatcher.notices

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer.

        Raises:
            InputError: a plain module has none.
            EngineError: this kind of tokenizer needs a package that is not installed.
        """
        if self._tokenizer is None:
            raise InputError("this bundle has no tokenizer", hint="call run(...) with arrays")
        if isinstance(self._tokenizer, EdgeFormerError):
            raise self._tokenizer
        return self._tokenizer

    def run(self, program: str = "main", /, **inputs: Any) -> dict[str, NDArray[Any]]:
        """Raw named arrays in, named arrays out.

        Absent inputs take their default (mask of ones, zeros, positions); any integer dtype does.
        ``model.variant.programs["main"].inputs`` lists names, dtypes and shapes.

        Raises:
            InputError: inputs that do not fit, or an unknown program.
        """
        if program not in self.variant.programs:
            known = ", ".join(self.variant.programs)
            raise InputError(f"no program {program!r}", hint=f"the programs are: {known}")
        return self._dispatcher.run(program, inputs)

    @overload
    def embed(self, texts: str, *, on_long: str = "truncate") -> NDArray[np.float32]: ...
    @overload
    def embed(
        self, texts: list[str] | tuple[str, ...], *, on_long: str = "truncate"
    ) -> NDArray[np.float32]: ...
    def embed(self, texts: Any, *, on_long: str = "truncate") -> NDArray[np.float32]:
        """Embed one text, float32 (hidden,), or a list of them, float32 (texts, hidden).

        Args:
            texts: a text or a list; empty text and empty list are valid.
            on_long: what to do with a text above ``manifest.model.max_length`` tokens:
                ``truncate`` (counted in ``last_call``), ``window`` (mean over windows, weighted
                by tokens) or ``error``.
        """
        self._need("embedding")
        strings = _as_list(texts)
        answers: NDArray[np.float32] | None = None
        done = 0
        for rows, vectors in self._encode(strings, None, on_long, "embedding"):
            if rows.windowed:
                vectors = merge_windows(vectors, rows.owners, rows.batch.lengths, rows.texts)
                if self.manifest.model.normalized:
                    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
                    vectors = vectors / np.maximum(norms, 1e-12)
            if answers is None:  # filled piece by piece: joining pieces would take twice the memory
                answers = np.empty((len(strings), vectors.shape[1]), vectors.dtype)
            answers[done : done + len(vectors)] = vectors
            done += len(vectors)
        assert answers is not None  # even no text is one piece
        return np.asarray(answers[0]) if isinstance(texts, str) else answers

    @overload
    def classify(
        self,
        texts: str,
        pair: str | None = None,
        *,
        top_k: int | None = 1,
        on_long: str = "truncate",
    ) -> list[Label]: ...
    @overload
    def classify(
        self,
        texts: list[str] | tuple[str, ...],
        pair: list[str] | tuple[str, ...] | None = None,
        *,
        top_k: int | None = 1,
        on_long: str = "truncate",
    ) -> list[list[Label]]: ...
    def classify(
        self, texts: Any, pair: Any = None, *, top_k: int | None = 1, on_long: str = "truncate"
    ) -> Any:
        """The best labels of one text (list of Label) or of each of a list (list of lists).

        Args:
            texts: a text or a list.
            pair: the second text of each, for models of sentence pairs.
            top_k: how many labels, best first; None for all. A regression has one.
            on_long: ``truncate`` (the longer of a pair first), ``window`` (mean of the windows'
                logits; not for pairs) or ``error``.
        """
        self._need("classification")
        card = self.manifest.model
        seconds = None if pair is None else _as_list(pair)
        labels: list[list[Label]] = []
        for rows, logits in self._encode(_as_list(texts), seconds, on_long, "logits"):
            if rows.windowed:
                logits = merge_windows(logits, rows.owners, rows.batch.lengths, rows.texts)
            scores = probabilities(logits, card.problem_type)
            labels += [top_labels(row, card.labels, top_k) for row in scores]
        return labels[0] if isinstance(texts, str) else labels

    @overload
    def tag(self, texts: str, *, on_long: str = "truncate") -> list[Span]: ...
    @overload
    def tag(
        self, texts: list[str] | tuple[str, ...], *, on_long: str = "truncate"
    ) -> list[list[Span]]: ...
    def tag(self, texts: Any, *, on_long: str = "truncate") -> Any:
        """Find labelled spans, with character offsets, in one text or in each of a list.

        A word takes the label of its first piece; B-/I- prefixes join words. Long texts: see
        ``embed``; with ``window`` the windows' words follow each other.
        """
        strings = _as_list(texts)
        words = self.tag_words(strings, on_long=on_long)
        found = [spans(text, group) for text, group in zip(strings, words, strict=True)]
        return found[0] if isinstance(texts, str) else found

    def tag_words(self, texts: list[str], *, on_long: str = "truncate") -> list[list[Word]]:
        """The words of each text as the tokenizer cuts them, each with its best label: what
        ``tag`` makes spans of. Words that did not fit are absent."""
        self._need("token-classification")
        names = self.manifest.model.labels
        found: list[list[Word]] = []
        for rows, logits in self._encode(_as_list(texts), None, on_long, "logits", offsets=True):
            scores = probabilities(logits, "single_label")
            words: list[list[Word]] = [[] for _ in range(rows.texts)]
            bounds = rows.batch.offsets
            for i, owner in enumerate(rows.owners):
                part = scores[bounds[i] : bounds[i + 1]]
                words[owner] += group_words(part, names, rows.char_offsets[i], rows.word_ids[i])
            found += words
        return found

    def _need(self, task: str) -> None:
        have = self.manifest.model.task
        if have == task:
            return
        verbs = {"embedding": "embed", "classification": "classify", "token-classification": "tag"}
        raise InputError(
            f"this bundle's task is {have}, not {task}",
            hint=f"call model.{verbs.get(have, 'run')}(...)",
        )

    def _encode(
        self,
        texts: list[str],
        pair: list[str] | None,
        on_long: str,
        output: str,
        offsets: bool = False,
    ) -> Iterator[tuple[TextRows, NDArray[Any]]]:
        """The texts' rows and their answers, some texts at a time."""
        longest, stats = self.manifest.model.max_length, CallStats()
        clock = time.perf_counter
        begun = clock()
        chunks = encode_in_chunks(self.tokenizer, texts, pair, longest, on_long, offsets)
        for rows in chunks:
            tokenized = clock()
            encoded = self._dispatcher.encode(rows.batch)
            stats = stats.plus(rows, encoded.variants, (begun, tokenized, clock()))
            yield rows, encoded.outputs[output]
            begun = clock()  # what the caller made of them is neither
        self.last_call = stats


def _as_list(texts: Any) -> list[str]:
    """A list of str from a str or an iterable of str; InputError for anything else."""
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Sequence) or isinstance(texts, (bytes, bytearray)):
        raise InputError(f"expected a text or a list of texts, not {type(texts).__name__}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {i} is {type(text).__name__}, not str")
    return list(texts)
