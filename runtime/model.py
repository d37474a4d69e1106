"""The task API: a bundle opened with one engine, text or images in, answers out.

    from edgeformer.runtime import load

    with load("model.edge") as model:
        model.embed(["a sentence", "another"])      # float32 (2, 384)

What is inside: bundle -> tokenizer -> RaggedBatch -> engine -> answers. One input, one result; a
list in, a list out. Nothing here pads, and nothing here knows which engine runs. The work of each
verb is a module of ``runtime/tasks``, imported when the verb is first called (docs/tasks.md).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import EdgeFormerError, InputError
from edgeformer.runtime.bundle import Bundle
from edgeformer.runtime.calls import Call, CallStats
from edgeformer.runtime.dispatch import Dispatcher
from edgeformer.runtime.manifest import Manifest, Variant
from edgeformer.runtime.text import text_list
from edgeformer.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgeformer.runtime.answers import Answer, Label, Span, Word

Texts = list[str] | tuple[str, ...]
Image = NDArray[Any]
Images = list[Image] | tuple[Image, ...]

# task -> the method of Model that answers it
VERBS = {
    "embedding": "embed",
    "classification": "classify",
    "token-classification": "tag",
    "question-answering": "answer",
    "fill-mask": "fill_mask",
    "module": "run",
}


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
    def embed(self, inputs: str | Image, *, on_long: str = "truncate") -> NDArray[np.float32]: ...
    @overload
    def embed(
        self, inputs: Texts | Images, *, on_long: str = "truncate"
    ) -> NDArray[np.float32]: ...
    def embed(self, inputs: Any, *, on_long: str = "truncate") -> NDArray[np.float32]:
        """Embed one text or image, float32 (hidden,), or a list of them, float32 (inputs, hidden).

        Args:
            inputs: a text or a list; empty text and empty list are valid. For a bundle of images
                a numpy array (height, width, channels), uint8 or floats from 0 to 1, or a list.
            on_long: what to do with a text above ``manifest.model.max_length`` tokens:
                ``truncate`` (counted in ``last_call``), ``window`` (mean over windows, weighted
                by tokens) or ``error``.

        Raises:
            InputError: another task, or inputs of another kind.
        """
        call = self._call("embedding")
        if call.takes_images:
            from edgeformer.runtime.tasks.images import answer_images

            vectors = answer_images(call, inputs, "embedding")
        else:
            from edgeformer.runtime.tasks.embedding import embed_texts

            vectors = embed_texts(call, text_list(inputs), on_long)
        self.last_call = call.stats
        return np.asarray(vectors[0]) if _is_one(inputs) else vectors

    @overload
    def classify(
        self,
        inputs: str | Image,
        pair: str | None = None,
        *,
        top_k: int | None = 1,
        candidates: Sequence[str] | None = None,
        hypothesis: str | None = None,
        multi_label: bool = False,
        on_long: str = "truncate",
        exit: str | float | None = None,
        latency_ms: float | None = None,
    ) -> "list[Label]": ...
    @overload
    def classify(
        self,
        inputs: Texts | Images,
        pair: Texts | None = None,
        *,
        top_k: int | None = 1,
        candidates: Sequence[str] | None = None,
        hypothesis: str | None = None,
        multi_label: bool = False,
        on_long: str = "truncate",
        exit: str | float | None = None,
        latency_ms: float | None = None,
    ) -> "list[list[Label]]": ...
    def classify(
        self,
        inputs: Any,
        pair: Any = None,
        *,
        top_k: int | None = 1,
        candidates: Any = None,
        hypothesis: str | None = None,
        multi_label: bool = False,
        on_long: str = "truncate",
        exit: str | float | None = None,
        latency_ms: float | None = None,
    ) -> Any:
        """The best labels of one text or image, list of Label, or of each of a list, list of lists.

        Args:
            inputs: a text or a list; for a bundle of images as in ``embed``.
            pair: the second text of each, for models of sentence pairs.
            top_k: how many labels, best first; None for all. A regression has one.
            candidates: labels of your own, for models of natural language inference (zero-shot).
            hypothesis: what a text of a candidate entails; None for ``"This example is {}."``.
            multi_label: each candidate is true or false by itself, else exactly one is true.
            on_long: ``truncate`` (the longer of a pair first), ``window`` (mean of the windows'
                logits; not for pairs and candidates) or ``error``.
            exit: when a text may leave a model with exits before its last layer: ``"auto"`` as
                calibrated at conversion; a number, the entropy in nats below which it leaves;
                ``"probability:0.9"`` or ``"patience:2"``; None for never. ``Label.exit_layer``
                says at which layer it left.
            latency_ms: most milliseconds for each text, which runs by itself: it leaves where the
                next segment would end too late. The first text of a length takes longer, to
                measure the segments (docs/early_exit.md).

        Raises:
            InputError: another task, or inputs or arguments of another kind; an exit that was not
                calibrated, or a limit that not even the first exit meets.
        """
        from edgeformer.runtime.tasks import classification as task

        call = self._call("classification")
        wanted = task.make_candidates(candidates, hypothesis, multi_label)
        early = task.make_early(exit, latency_ms)
        labels = task.classify(call, inputs, pair, wanted, early, top_k, on_long)
        self.last_call = call.stats
        return labels[0] if _is_one(inputs) else labels

    def exit_logits(
        self, texts: Texts, pair: Texts | None = None, *, on_long: str = "truncate"
    ) -> NDArray[np.float32]:
        """What every exit answers, for thresholds of your own: float32 (exits, texts, classes).

        ``runtime.exiting.replay`` says where each text would leave. Arguments as of ``classify``.

        Raises:
            InputError: a model without exits.
        """
        from edgeformer.runtime.tasks import early_exit as task

        call = self._call("classification")
        seconds = None if pair is None else text_list(pair)
        logits = task.exit_logits(call, text_list(texts), seconds, on_long)
        self.last_call = call.stats
        return logits

    @overload
    def tag(self, texts: str, *, on_long: str = "truncate") -> "list[Span]": ...
    @overload
    def tag(self, texts: Texts, *, on_long: str = "truncate") -> "list[list[Span]]": ...
    def tag(self, texts: Any, *, on_long: str = "truncate") -> Any:
        """Find labelled spans, with character offsets, in one text or in each of a list.

        A word takes the label of its first piece; B-/I- prefixes join words. Long texts: see
        ``embed``; with ``window`` the windows' words follow each other.
        """
        from edgeformer.runtime.tasks.tagging import tag_texts

        call = self._call("token-classification")
        found = tag_texts(call, text_list(texts), on_long)
        self.last_call = call.stats
        return found[0] if _is_one(texts) else found

    def tag_words(self, texts: list[str], *, on_long: str = "truncate") -> "list[list[Word]]":
        """The words of each text as the tokenizer cuts them, each with its best label: what
        ``tag`` makes spans of. Words that did not fit are absent."""
        from edgeformer.runtime.tasks.tagging import tag_words

        call = self._call("token-classification")
        found = tag_words(call, text_list(texts), on_long)
        self.last_call = call.stats
        return found

    @overload
    def answer(
        self,
        question: str,
        context: str,
        *,
        top_k: None = None,
        no_answer: bool = True,
        max_answer_tokens: int = 30,
        stride: int | None = None,
        on_long: str = "window",
    ) -> "Answer": ...
    @overload
    def answer(
        self,
        question: str,
        context: str,
        *,
        top_k: int,
        no_answer: bool = True,
        max_answer_tokens: int = 30,
        stride: int | None = None,
        on_long: str = "window",
    ) -> "list[Answer]": ...
    @overload
    def answer(
        self,
        question: Texts,
        context: Texts,
        *,
        top_k: None = None,
        no_answer: bool = True,
        max_answer_tokens: int = 30,
        stride: int | None = None,
        on_long: str = "window",
    ) -> "list[Answer]": ...
    @overload
    def answer(
        self,
        question: Texts,
        context: Texts,
        *,
        top_k: int,
        no_answer: bool = True,
        max_answer_tokens: int = 30,
        stride: int | None = None,
        on_long: str = "window",
    ) -> "list[list[Answer]]": ...
    def answer(
        self,
        question: Any,
        context: Any,
        *,
        top_k: int | None = None,
        no_answer: bool = True,
        max_answer_tokens: int = 30,
        stride: int | None = None,
        on_long: str = "window",
    ) -> Any:
        """Find the piece of a context that answers a question, or do so for a list of each.

        Args:
            question: a text or a list.
            context: where the answer is looked for, one for each question; empty is valid.
            top_k: None for the best answer, a number for a list of so many, best first.
            no_answer: "no answer" may win: ``Answer.text`` is empty then. Its score is in
                ``Answer.null_score`` anyway.
            max_answer_tokens: longest answer.
            stride: tokens that neighbouring windows share; None for 128, or half of what fits
                behind the question where that is less.
            on_long: what to do with a context that does not fit behind its question: ``window``
                (overlapping pieces, the best answer of any), ``truncate`` or ``error``.

        Raises:
            InputError: another task, or arguments that make no sense.
        """
        from edgeformer.runtime.tasks.answering import AnswerSettings, answer_questions

        call = self._call("question-answering")
        settings = AnswerSettings(
            1 if top_k is None else top_k, stride, max_answer_tokens, no_answer, on_long
        )
        answers = answer_questions(call, text_list(question), text_list(context), settings)
        self.last_call = call.stats
        found = answers if top_k is not None else [best[0] for best in answers]
        return found[0] if _is_one(question) else found

    @overload
    def fill_mask(self, texts: str, *, top_k: int = 5, on_long: str = "truncate") -> list[Any]: ...
    @overload
    def fill_mask(
        self, texts: Texts, *, top_k: int = 5, on_long: str = "truncate"
    ) -> list[list[Any]]: ...
    def fill_mask(self, texts: Any, *, top_k: int = 5, on_long: str = "truncate") -> Any:
        """The likeliest tokens for the mask of one text, or of each of a list.

        Args:
            texts: a text or a list, each with one ``manifest.model.mask_token`` or more.
            top_k: how many tokens, best first.
            on_long: what to do with a text that does not fit: ``truncate`` (a mask that is cut off
                is an error), ``window`` (a mask is filled from its own window) or ``error``.

        Returns:
            list of Fill; of a text with several masks a list of those, one for each mask.

        Raises:
            InputError: another task, or a text without a mask.
        """
        from edgeformer.runtime.tasks.filling import fill_masks

        call = self._call("fill-mask")
        filled = fill_masks(call, text_list(texts), top_k, on_long)
        self.last_call = call.stats
        found = [masks[0] if len(masks) == 1 else masks for masks in filled]
        return found[0] if _is_one(texts) else found

    def _call(self, task: str) -> Call:
        """A call of the verb for ``task``. Raises InputError where the bundle has another one."""
        card = self.manifest.model
        if card.task != task:
            raise InputError(
                f"this bundle's task is {card.task}, not {task}",
                hint=f"call model.{VERBS[card.task]}(...)",
            )
        return Call(card, self._dispatcher, None if self.manifest.takes_images else self.tokenizer)


def _is_one(inputs: Any) -> bool:
    return isinstance(inputs, (str, np.ndarray))
