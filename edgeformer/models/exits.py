"""A classifier of texts that may stop early: an off-ramp after every layer but the last.

    model = with_exits(classifier, torch.Generator().manual_seed(0))
    model(**batch)["logits"]                   # of the last layer, as if there were no exits
    model.all_logits(**batch)                  # of every layer, first to last
    model.segments((2, 2, 2))                  # parts for conversion, two layers each

Xin et al., "DeeBERT", arXiv 2004.12993, section 3.1; Tambe et al., "EdgeBERT", arXiv 2011.14203,
section III. The last layer has no ramp: it uses the classifier that was there before.
"""

import copy
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import torch
from torch import nn

from edgeformer.errors import ModelError
from edgeformer.models.config import EncoderConfig
from edgeformer.models.encoder import Encoder
from edgeformer.models.heads import SequenceClassifier, check_pooling, classify_states, pool

_INITIAL_STD = 0.02  # of new weights, as BERT has it (arXiv 1810.04805, in its release)


class Ramp(nn.Module):
    """An off-ramp: a pooler on one vector for each text, and a classifier.

    Args:
        hidden_size: width of the hidden states.
        num_labels: number of classes.
        activation: after the pooler.
    """

    def __init__(
        self,
        hidden_size: int,
        num_labels: int,
        activation: Callable[[torch.Tensor], torch.Tensor] = torch.tanh,
    ) -> None:
        super().__init__()
        self.pooler = nn.Linear(hidden_size, hidden_size)
        self.activation = activation
        self.classifier = nn.Linear(hidden_size, num_labels)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Float (batch, hidden) to logits (batch, classes)."""
        return classify_states(states, self.pooler, self.activation, self.classifier)


class ExitClassifier(SequenceClassifier):
    """A SequenceClassifier with a ``Ramp`` after each layer but the last: ``exits[i]`` stands
    behind ``i + 1`` layers.

    Args:
        config: settings of the encoder, of two layers at least.
        num_labels: number of classes, two at least.
        activation: as of SequenceClassifier; ramps of one without a dense layer have ``tanh``.
        pooling: as of SequenceClassifier.
        exit_pooling: what ramps read: the ``mean`` of the tokens' states, or ``cls``, the first
            one, as the papers do. Models that were trained on means (sentence encoders) keep next
            to nothing in the first token's state until the last layers.

    Raises:
        ModelError: nothing to choose from, or no layer to leave before the last one.
    """

    def __init__(
        self,
        config: EncoderConfig,
        num_labels: int,
        activation: str = "tanh",
        pooling: str = "cls",
        exit_pooling: str = "mean",
    ) -> None:
        _check(config, num_labels)
        check_pooling(exit_pooling)
        super().__init__(config, num_labels, activation, pooling)
        self.exit_pooling = exit_pooling
        self.exits = nn.ModuleList(
            Ramp(config.hidden_size, num_labels, self.activation or torch.tanh)
            for _ in range(config.num_layers - 1)
        )

    def all_logits(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """The logits after 1, 2, ... all layers, float (batch, classes) each; inputs as of
        ``Encoder.forward``."""
        return self.logits_of(
            self.states_read(input_ids, attention_mask, token_type_ids, position_ids)
        )

    def states_read(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """What the ramps read, and last what the classifier does, float (batch, hidden) each;
        inputs as of ``Encoder.forward``."""
        hidden = self.encoder.embed(input_ids, attention_mask, token_type_ids, position_ids)
        mask = self.encoder.score_mask(attention_mask, hidden.dtype)
        read = []
        for layer, states in enumerate(self.encoder.after_each(hidden, mask), start=1):
            pooling = self.exit_pooling if layer <= len(self.exits) else self.pooling
            read.append(read_states(self.encoder, states, attention_mask, pooling))
        return tuple(read)

    def logits_of(self, states: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The logits after every layer, float (batch, classes) each, from ``states_read``."""
        *early, last = states
        logits = [ramp(read) for ramp, read in zip(self.exits, early, strict=True)]
        return *logits, classify_states(last, self.pooler, self.activation, self.classifier)

    def without_exits(self) -> SequenceClassifier:
        """The classifier of the last layer, with the same parameters."""
        plain = SequenceClassifier.__new__(SequenceClassifier)
        plain.__dict__ = self.__dict__.copy()
        plain._modules = {n: module for n, module in self._modules.items() if n != "exits"}
        return plain

    def keep_layers(self, stay: Sequence[int]) -> None:
        """Drop the ramps of layers that are taken out; the last one that stays has none.

        Args:
            stay: numbers of the layers that stay, ascending.

        Raises:
            ModelError: a single layer stays.
        """
        if len(stay) < 2:
            raise ModelError("an encoder of one layer has no layer before its last to exit from")
        self.exits = nn.ModuleList(self.exits[layer] for layer in stay[:-1])

    def segments(self, sizes: Sequence[int] = ()) -> tuple[nn.Module, ...]:
        """Parts that compute one after the other what ``forward`` computes.

        The first takes the token inputs, the others ``hidden`` and ``attention_mask``. All give
        ``logits``, and all but the last ``hidden``, float (batch, sequence, hidden). Parameters
        are this model's, under the same names; weights that layers share occur in several parts.

        Args:
            sizes: layers of each segment, in order; one each if empty.

        Returns:
            modules in this model's mode, as many as there are sizes.

        Raises:
            ModelError: sizes that are not all the layers, in two parts at least.
        """
        layers = self.encoder.config.num_layers
        sizes = tuple(sizes) or (1,) * layers
        if len(sizes) < 2 or min(sizes) < 1 or sum(sizes) != layers:
            raise ModelError(
                f"segments of {sizes} layers do not divide an encoder of {layers}",
                hint=f"name two or more numbers from 1 on that make {layers} together",
            )
        ends = list(accumulate(sizes))
        others = [NextSegment(self, *span) for span in pairwise(ends)]
        return FirstSegment(self, 0, ends[0]), *others


def read_states(
    encoder: Encoder, hidden: torch.Tensor, attention_mask: torch.Tensor, pooling: str
) -> torch.Tensor:
    """One vector of each text, float (batch, hidden).

    Args:
        encoder: whose layer gave the states.
        hidden: float (batch, sequence, hidden).
        attention_mask: integers (batch, sequence).
        pooling: ``mean`` or ``cls``.
    """
    if pooling == "cls":
        return encoder.normalized(hidden[:, 0])
    return pool(encoder.normalized(hidden), attention_mask, pooling, normalized=False)


class _Segment(nn.Module):
    """Some of the layers, and the classifier after them; see ``ExitClassifier.segments``."""

    def __init__(self, model: ExitClassifier, start: int, end: int) -> None:
        super().__init__()
        self.encoder = model.encoder.part(start, end)
        self.span = start, end
        self.is_last = end == model.encoder.config.num_layers
        self.pooling = model.pooling if self.is_last else model.exit_pooling
        if self.is_last:
            self.pooler, self.classifier = model.pooler, model.classifier
            self.activation = model.activation
        else:
            name = str(end - 1)
            self.exits = nn.ModuleDict({name: model.exits.get_submodule(name)})
        self.train(model.training)

    def through(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What the segment gives, from what its first layer reads."""
        mask = self.encoder.score_mask(attention_mask, hidden.dtype)
        for states in self.encoder.after_each(hidden, mask, *self.span):
            hidden = states
        states = read_states(self.encoder, hidden, attention_mask, self.pooling)
        if self.is_last:
            head = self.pooler, self.activation, self.classifier
            return {"logits": classify_states(states, *head)}
        (ramp,) = self.exits.values()
        return {"hidden": hidden, "logits": ramp(states)}


class FirstSegment(_Segment):
    """Embeddings, the first layers, and the ramp after them."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """``hidden`` (batch, sequence, hidden) and ``logits`` (batch, classes); inputs as of
        ``Encoder.forward``."""
        hidden = self.encoder.embed(input_ids, attention_mask, token_type_ids, position_ids)
        return self.through(hidden, attention_mask)


class NextSegment(_Segment):
    """Layers behind others, and the ramp or the classifier after them."""

    def forward(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """``logits`` (batch, classes), and ``hidden`` unless these are the last layers.

        Args:
            hidden: of the segment before, float (batch, sequence, hidden).
            attention_mask: as of ``Encoder.forward``.
        """
        return self.through(hidden, attention_mask)


def with_exits(
    model: SequenceClassifier, generator: torch.Generator, exit_pooling: str = "mean"
) -> ExitClassifier:
    """A copy of a classifier with untrained ramps. Its last layer answers as before.

    Poolers start as the classifier's own where it has one (EdgeBERT's release), the other weights
    at random.

    Args:
        model: it is left as it is.
        generator: of the new weights, on the CPU.
        exit_pooling: what ramps read, as of ``ExitClassifier``.

    Raises:
        ModelError: as ``ExitClassifier``, or the model has exits already.
    """
    if isinstance(model, ExitClassifier):
        raise ModelError("the model has exits already", hint="train those it has")
    config, labels = model.encoder.config, model.classifier.out_features
    with torch.device("meta"):
        made = ExitClassifier(config, labels, "tanh", model.pooling, exit_pooling)
    plain = copy.deepcopy(model)
    ramps = [_ramp(plain, generator) for _ in range(config.num_layers - 1)]
    made.encoder, made.pooler, made.activation = plain.encoder, plain.pooler, plain.activation
    made.classifier, made.exits = plain.classifier, nn.ModuleList(ramps)
    return made.train(model.training)


def ramps_of(model: nn.Module) -> tuple[Ramp, ...]:
    """The off-ramps of a model, in order; none if it is no ExitClassifier."""
    exits = model.exits if isinstance(model, ExitClassifier) else ()
    return tuple(ramp for ramp in exits if isinstance(ramp, Ramp))


def _ramp(model: SequenceClassifier, generator: torch.Generator) -> Ramp:
    hidden, labels = model.classifier.in_features, model.classifier.out_features
    ramp = Ramp(hidden, labels, model.activation or torch.tanh)
    for parameter in ramp.parameters():
        nn.init.zeros_(parameter)
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=_INITIAL_STD, generator=generator)
    if model.pooler is not None:
        ramp.pooler.load_state_dict(model.pooler.state_dict())
    return ramp.to(model.classifier.weight.device)


def _check(config: EncoderConfig, num_labels: int) -> None:
    if config.num_layers < 2:
        raise ModelError("an encoder of one layer has no layer before its last to exit from")
    if num_labels < 2:
        raise ModelError(
            "an exit is taken when one class is clear, and this head has a single one",
            hint="early exits are for two classes or more",
        )
