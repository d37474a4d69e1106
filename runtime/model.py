"""The task API: a bundle opened with one engine, text in, answers out.

    from edgeformer.runtime import load

    with load("model.edge") as model:
        model.embed(["a sentence", "another"])      # float32 (2, 384)

What is inside: bundle -> tokenizer -> RaggedBatch -> engine -> answers. str in, one result; list
in, list out; nothing here pads, and nothing here knows which engine runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import EdgeFormerError, InputError
from edgeformer.runtime.answers import (
    Label,
    Span,
    group_words,
    merge_windows,
    probabilities,
    spans,
    top_labels,
)
from edgeformer.runtime.bundle import Bundle
from edgeformer.runtime.engine import Engine
from edgeformer.runtime.manifest import Manifest, Variant
from edgeformer.runtime.text import TextRows, encode_texts
from edgeformer.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class CallStats:
    """What the last call did: texts, tokens run, and what did not fit.

    Attributes:
        texts: texts of the call.
        tokens: tokens that went through the model, special tokens included.
        truncated_texts, truncated_tokens: what ``on_long="truncate"`` cut off.
        windows: inputs run; above ``texts`` where ``on_long="window"`` split some.
    """

    texts: int = 0
    tokens: int = 0
    truncated_texts: int = 0
    truncated_tokens: int = 0
    windows: int = 0


class Model:
    """An open bundle. Thread-safe; ``close`` it, or use it as a context manager.

    Attributes:
        manifest: what the bundle says of itself.
        variant: the model file that was chosen.
        threads: threads its engine uses.
        skipped: (variant id, reason) of those that were tried before it.
        last_call: figures of the last call (of any thread).
    """

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        engine: Engine,
        tokenizer: Tokenizer | EdgeFormerError | None,
        skipped: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._bundle = bundle
        self._engine = engine
        self._tokenizer = tokenizer
        self.manifest: Manifest = bundle.manifest
        self.variant = variant
        self.threads = engine.threads
        self.skipped = skipped
        self.last_call = CallStats()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the engine and the files; the model cannot be used afterwards."""
        self._engine.close()
        self._bundle.close()

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
        return self._engine.run(program, inputs)

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
        rows, vectors = self._encode(_as_list(texts), None, on_long, "embedding")
        if rows.windowed:
            vectors = merge_windows(vectors, rows.owners, rows.batch.lengths, rows.texts)
            if self.manifest.model.normalized:
                norms = np.linalg.norm(vectors, axis=1, keepdims=True)
                vectors = vectors / np.maximum(norms, 1e-12)
        return vectors[0] if isinstance(texts, str) else vectors

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
        rows, logits = self._encode(_as_list(texts), seconds, on_long, "logits")
        if rows.windowed:
            logits = merge_windows(logits, rows.owners, rows.batch.lengths, rows.texts)
        scores = probabilities(logits, card.problem_type)
        labels = [top_labels(row, card.labels, top_k) for row in scores]
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
        self._need("token-classification")
        names = self.manifest.model.labels
        strings = _as_list(texts)
        rows, logits = self._encode(strings, None, on_long, "logits", offsets=True)
        scores = probabilities(logits, "single_label")
        words: list[list[Any]] = [[] for _ in strings]
        bounds = rows.batch.offsets
        for i, owner in enumerate(rows.owners):
            part = scores[bounds[i] : bounds[i + 1]]
            words[owner] += group_words(part, names, rows.char_offsets[i], rows.word_ids[i])
        found = [spans(text, group) for text, group in zip(strings, words, strict=True)]
        return found[0] if isinstance(texts, str) else found

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
    ) -> tuple[TextRows, NDArray[Any]]:
        longest = self.manifest.model.max_length
        rows = encode_texts(self.tokenizer, texts, pair, longest, on_long, offsets)
        answer = self._engine.encode(rows.batch)[output]
        self.last_call = CallStats(
            texts=rows.texts,
            tokens=len(rows.batch.ids),
            truncated_texts=rows.truncated_texts,
            truncated_tokens=rows.truncated_tokens,
            windows=len(rows.batch),
        )
        return rows, answer


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
