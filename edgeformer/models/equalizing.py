"""Even out the channels of a model whose NoNorms are folded, so that int8 holds them all.

Nothing in MobileBERT bounds a channel: a few large ones take the eight bits of all others in their
row. But between its linear maps are only sums, products with a vector, and ReLU, so channel c of a
stream may be multiplied by s_c where it is written and divided by it where it is read (Nagel et
al., arXiv 1906.04721, section 4.1, for two layers; here a stream has many writers and readers):

    s_c = sqrt(max|w_c| / max|x_c|)      w_c: the readers' columns, x_c: the channel's values

the scale of SmoothQuant (Xiao et al., arXiv 2211.10438, equation 4, with their alpha of 0.5), at no
cost on the device. Powers of two are taken, so that float32 answers stay the same to the last bit.
How large channels get is seen on random tokens: outliers come from the weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from edgeformer.models.embeddings import Embeddings
from edgeformer.models.encoder import Encoder
from edgeformer.models.exits import ExitClassifier, ramps_of
from edgeformer.models.feed_forward import FeedForward
from edgeformer.models.layer import FeedForwardBlock, PostNormLayer
from edgeformer.models.low_rank import whole

_TEXTS, _TOKENS = 8, 32
_MOST = 20  # powers of two, either way


@dataclass(frozen=True)
class Stream:
    """Channels that some modules write and others read, with nothing between that mixes them.

    Attributes:
        writers: linear maps, whose rows are the channels, and tables, whose columns are.
        readers: linear maps, whose columns are the channels.
    """

    writers: tuple[nn.Module, ...]
    readers: tuple[nn.Linear, ...]


def equalize(model: nn.Module) -> None:
    """Rescale the streams of ``model`` in place, by new parameters: shared ones stay.

    Args:
        model: from ``without_no_norms``.
    """
    streams = list(_streams(model))
    peaks = _peaks(model, {reader for stream in streams for reader in stream.readers})
    with torch.no_grad():
        for stream in streams:
            _rescale(stream, peaks)


def _streams(model: nn.Module) -> Iterator[Stream]:
    encoder = model.get_submodule("encoder")
    assert isinstance(encoder, Encoder)
    writers, readers = _embedding_writers(encoder), _head_readers(model)
    inside: list[Stream] = []
    complete = bool(writers and readers)
    for layer in encoder.layers:
        assert isinstance(layer, PostNormLayer)
        attention, blocks = layer.attention, _feed_forwards(layer)
        output, downs = whole(attention.output), [whole(block.down) for block in blocks]
        inner_writers, inner_readers = [output, *downs], [whole(block.up) for block in blocks]
        query_key, value = [whole(attention.query), whole(attention.key)], [whole(attention.value)]
        inside.append(Stream(tuple(value), (output,)))
        if encoder.config.activation == "relu":
            pairs = zip(inner_readers, downs, strict=True)
            inside += [Stream((up,), (down,)) for up, down in pairs]
        ends = layer.bottleneck
        if ends is None:
            writers += inner_writers
            readers += [*query_key, *value, *inner_readers]
            continue
        writers.append(ends.widen.linear)
        readers.append(ends.narrow.linear)
        inner_writers.append(ends.narrow.linear)
        inner_readers.append(ends.widen.linear)
        if ends.shared is not None:
            readers.append(ends.shared.linear)
            inside.append(Stream((ends.shared.linear,), tuple(query_key)))
            query_key = []
        (inner_readers if ends.readers == "all" else readers).extend((*query_key, *value))
        inside.append(Stream(tuple(inner_writers), tuple(inner_readers)))
    yield from inside
    if complete:
        yield Stream(tuple(writers), tuple(readers))


def _feed_forwards(layer: PostNormLayer) -> list[FeedForward]:
    stacked = [block for block in layer.stacked if isinstance(block, FeedForwardBlock)]
    return [*(block.feed_forward for block in stacked), layer.feed_forward]


def _embedding_writers(encoder: Encoder) -> list[nn.Module]:
    """What writes the first hidden states; nothing if tables do that others may use too."""
    embeddings = encoder.embeddings
    if not isinstance(embeddings, Embeddings) or embeddings.projection is None:
        return []
    if embeddings.project == "sum":
        return [embeddings.projection]
    if embeddings.norm is not None:
        return []
    tables = (embeddings.token_types, embeddings.positions, embeddings.task_types)
    return [embeddings.projection, *(table for table in tables if table is not None)]


def _head_readers(model: nn.Module) -> list[nn.Linear]:
    """The linear maps that read hidden states: of the last layer, and those of exits before it;
    nothing if the last states are the answer."""
    for name in ("pooler", "dense", "classifier"):
        found = getattr(model, name, None)
        if isinstance(found, nn.Linear):
            return [found, *(ramp.pooler for ramp in ramps_of(model))]
    return []


def _peaks(model: nn.Module, readers: set[nn.Linear]) -> dict[nn.Module, torch.Tensor]:
    """Largest absolute value of each channel that a reader sees, over random texts."""
    peaks: dict[nn.Module, torch.Tensor] = {}

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        peak = inputs[0].abs().reshape(-1, inputs[0].shape[-1]).amax(0)
        peaks[module] = torch.maximum(peaks.get(module, peak), peak)

    encoder = model.get_submodule("encoder")
    assert isinstance(encoder, Encoder)
    generator = torch.Generator().manual_seed(0)
    shape = (_TEXTS, min(_TOKENS, encoder.config.usable_positions))
    ids = torch.randint(0, encoder.config.vocab_size, shape, generator=generator)
    handles = [reader.register_forward_pre_hook(note) for reader in readers]
    try:
        with torch.no_grad():
            ask = model.all_logits if isinstance(model, ExitClassifier) else model
            ask(ids, torch.ones_like(ids))
    finally:
        for handle in handles:
            handle.remove()
    return peaks


def _rescale(stream: Stream, peaks: dict[nn.Module, torch.Tensor]) -> None:
    peak = torch.stack([peaks[reader] for reader in stream.readers]).amax(0)
    columns = torch.stack([reader.weight.abs().amax(0) for reader in stream.readers]).amax(0)
    # Few texts see few of the values a channel can have: none counts as smaller than most are.
    exponents = 0.5 * torch.log2(columns / torch.maximum(peak, peak.median()))
    usable = (peak > 0) & (columns > 0)
    exponents = torch.where(usable, exponents.round().clamp(-_MOST, _MOST), 0.0)
    scale = torch.exp2(exponents)
    for writer in stream.writers:
        assert isinstance(writer, (nn.Linear, nn.Embedding))
        rows = isinstance(writer, nn.Linear)
        writer.weight = nn.Parameter(writer.weight * (scale[:, None] if rows else scale))
        if isinstance(writer, nn.Linear) and writer.bias is not None:
            writer.bias = nn.Parameter(writer.bias * scale)
    for reader in stream.readers:
        reader.weight = nn.Parameter(reader.weight / scale)
