"""The texts of a compression, and the batches that each stage makes of them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from tokenizers import Tokenizer

from edgeformer.compression import distributed
from edgeformer.compression.augmentation import (
    Rewriter,
    TangSettings,
    augmented,
    replacing_rewriter,
    tang_rewriter,
)
from edgeformer.compression.batches import Batch
from edgeformer.compression.batching import Tokenized, batch_settings, tokenize
from edgeformer.compression.candidates import nearest_candidates
from edgeformer.compression.examples import Examples
from edgeformer.compression.feeding import Feed
from edgeformer.compression.objectives import MaskingSettings, mask_tokens, token_kinds
from edgeformer.compression.recipe import Augmentation, Stage
from edgeformer.compression.units import encoder_of
from edgeformer.compression.word_classes import learn_word_classes
from edgeformer.models.checkpoint import LoadedModel


@dataclass(frozen=True)
class TrainingData:
    """What there is to train on.

    Attributes:
        labelled: texts with labels; without labels where there are none.
        texts: texts without labels.
        loaded: whose tokenizer and inputs the batches are for.
        max_length: most tokens of a text.
        seed: of orders and changes.
    """

    labelled: Examples
    texts: Examples
    loaded: LoadedModel
    max_length: int
    seed: int
    _tokenized: dict[str, Tokenized] = field(default_factory=dict, repr=False, compare=False)

    def feed(self, stage: Stage) -> Feed:
        """The batches of a stage.

        Raises:
            UsageError: a batch that the processes cannot share evenly.
            ModelError: a tokenizer that does not know what the stage needs, such as a mask.
        """
        settings = batch_settings(
            self.loaded,
            stage.batch_size,
            self.seed,
            distributed.rank(),
            distributed.world_size(),
        )
        if stage.augmentation is not None:
            return Feed(self._augmented(stage.augmentation), settings)
        if stage.data == "labelled":
            return Feed(self._known("labelled", lambda: self.labelled), settings)
        texts = self._known("texts", lambda: self.texts)
        mask = self._word_mask() if stage.data == "masked_words" else None
        return Feed(texts, settings, mask)

    @property
    def _tokenizer(self) -> bytes:
        assert self.loaded.tokenizer_json is not None
        return self.loaded.tokenizer_json

    def _known(self, name: str, make: Callable[[], Examples]) -> Tokenized:
        """Tokenised once, whatever the number of stages that read it."""
        if name not in self._tokenized:
            self._tokenized[name] = tokenize(make(), self._tokenizer, self.max_length)
        return self._tokenized[name]

    def _augmented(self, augmentation: Augmentation) -> Tokenized:
        def make() -> Examples:
            rewriter = self._rewriter(augmentation)
            rows = augmented(self.labelled.rows, rewriter, augmentation.copies, self.seed)
            return Examples(tuple(replace(row, label=None) for row in rows))

        return self._known(repr(augmentation), make)

    def _rewriter(self, augmentation: Augmentation) -> Rewriter:
        if augmentation.kind == "tinybert":
            table = encoder_of(self.loaded.module).token_table.detach().cpu()
            return replacing_rewriter(nearest_candidates(table, self._tokenizer))
        rows = self.labelled.rows
        texts = (text for row in rows for text in (row.text, row.pair) if text is not None)
        tokenizer = Tokenizer.from_str(self._tokenizer.decode())
        mask = str(tokenizer.id_to_token(token_kinds(self._tokenizer).mask_id))
        return tang_rewriter(TangSettings(), mask, learn_word_classes(texts, self.seed))

    def _word_mask(self) -> Callable[[Batch, torch.Generator], Batch]:
        kinds, settings = token_kinds(self._tokenizer), MaskingSettings()

        def mask(batch: Batch, generator: torch.Generator) -> Batch:
            ids, there = batch["input_ids"], batch["attention_mask"]
            hidden, labels = mask_tokens(ids, there, kinds, settings, generator)
            return {**batch, "input_ids": hidden, "labels": labels}

        return mask
