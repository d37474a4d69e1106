"""What a tuning times: single texts of many lengths, and mixed batches, as token ids."""

import itertools
import math
from typing import TYPE_CHECKING

from edgeformer.benchmarking.workload import text_of_length
from edgeformer.errors import EdgeFormerError
from edgeformer.tuning.choice import Work

if TYPE_CHECKING:
    from edgeformer.runtime.bundle import Bundle
    from edgeformer.runtime.manifest import Manifest
    from edgeformer.runtime.tokenizer import Tokenizer

BATCHES = (8, 32)
BATCH_TOKENS = 128  # the longest text of a mixed batch
_SHORTEST = 4
_DEFAULT_LENGTHS = (16, 32, 64, 128, 256, 512)


def make_works(bundle: "Bundle") -> list[Work]:
    """One text of each length at which an engine's cost steps, and batches of mixed lengths.

    A bundle that cannot tokenize here is timed on its golden input: one work.
    """
    from edgeformer.runtime.loading import load_bundle_tokenizer

    manifest = bundle.manifest
    bundle.check([name for name in (manifest.golden, manifest.tokenizer) if name])
    tokenizer = load_bundle_tokenizer(bundle)
    if tokenizer is None or isinstance(tokenizer, EdgeFormerError):
        return [Work(1, 1, None)]
    least = tokenizer.num_special_tokens() + 1
    limits = [limit for limit in length_limits(manifest) if limit >= least]
    works = [Work(1, limit, (_ids(tokenizer, limit, 0),)) for limit in limits]
    longest = min(BATCH_TOKENS, manifest.model.max_length)
    for texts in BATCHES:
        lengths = mixed_lengths(texts, max(_SHORTEST, least), longest)
        ids = tuple(_ids(tokenizer, length, start) for start, length in enumerate(lengths))
        works.append(Work(texts, longest, ids))
    return works


def length_limits(manifest: "Manifest") -> list[int]:
    """Lengths to time, ascending: every bucket of the bundle, and the middle between two.

    A bucket costs the same for all its texts; what other engines cost grows between.
    """
    longest = manifest.model.max_length
    buckets = {b for v in manifest.variants for p in v.programs.values() for b in p.buckets}
    steps = sorted({b for b in buckets or _DEFAULT_LENGTHS if b < longest} | {longest})
    middles = {(a + b) // 2 for a, b in itertools.pairwise(steps)}
    return sorted(middles.union(steps))


def mixed_lengths(texts: int, shortest: int, longest: int) -> list[int]:
    """Lengths evenly spread on a logarithmic scale, short and long ones in turn."""
    ratio = math.log(max(longest, shortest) / shortest)
    spread = [round(shortest * math.exp(ratio * i / (texts - 1))) for i in range(texts)]
    stride = next(s for s in range(texts // 2 - 1, 0, -1) if math.gcd(s, texts) == 1)
    return [spread[i * stride % texts] for i in range(texts)]


def _ids(tokenizer: "Tokenizer", tokens: int, start: int) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text_of_length(tokenizer, tokens, start)))
