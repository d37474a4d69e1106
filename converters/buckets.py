"""Choose the fixed lengths of a .tflite file from the lengths of the user's own texts.

    choose_buckets(lengths, profile_buckets=(16, 32, 64, 128), last=128)

Only files that cannot take any length need them (``tflite_any_length``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeformer.device_profiles.profile import DeviceProfile
from edgeformer.runtime.manifest import Variant


def choose_buckets(
    lengths: ArrayLike, profile_buckets: Sequence[int], last: int
) -> tuple[int, ...]:
    """The lengths at which the texts are padded least.

    As many as the profile's buckets at most; the last one is ``last``, so that every text still
    fits. Texts longer than any seen will come: by the rule of succession one more text is counted,
    spread over the profile's buckets above the longest seen, each a quarter as likely as the one
    before. With few texts that is what chooses the upper buckets.

    Args:
        lengths: tokens of each text, at least one.
        profile_buckets: ascending.
        last: most tokens that the file takes; longer texts are cut to it.

    Returns:
        lengths in tokens, ascending, ending in ``last``.
    """
    seen, counts = np.unique(np.minimum(lengths, last), return_counts=True)
    unseen = [b for b in profile_buckets if seen[-1] < b < last]
    weights = [0.25 ** (i + 1) for i in range(len(unseen))]
    sizes = np.array([*seen, *unseen, *([] if seen[-1] == last else [last])])
    texts = np.zeros(len(sizes))
    texts[: len(seen) + len(unseen)] = [*counts, *weights]
    return least_padding(sizes, texts, len(profile_buckets))


@dataclass(frozen=True)
class OwnBuckets:
    """Fixed lengths for the user's own texts, should a file need any.

    Attributes:
        lengths: tokens of each text.
        profile_buckets: what would be used without them, ascending.
    """

    lengths: NDArray[np.intp]
    profile_buckets: tuple[int, ...]

    @cached_property
    def chosen(self) -> tuple[int, ...]:
        """See ``choose_buckets``."""
        return choose_buckets(self.lengths, self.profile_buckets, self.profile_buckets[-1])

    def in_profile(self, profile: DeviceProfile) -> DeviceProfile:
        """The profile with these buckets instead of its own."""
        return replace(profile, length=replace(profile.length, bucket_tokens=self.chosen))

    def noted(self, variant: Variant) -> Variant:
        """The variant, saying what was chosen if it has fixed lengths."""
        if not variant.programs["main"].buckets or variant.engine != "tflite":
            return variant
        own, profiles = (
            padding_share(self.lengths, b) for b in (self.chosen, self.profile_buckets)
        )
        said = (
            f"lengths {', '.join(map(str, self.chosen))} chosen from {len(self.lengths)} texts:"
            f" {own:.0%} of the computed tokens are padding, {profiles:.0%} with the profile's"
        )
        return replace(variant, note="; ".join(filter(None, (variant.note, said))))


def least_padding(
    sizes: NDArray[np.int_], texts: NDArray[np.float64], most: int
) -> tuple[int, ...]:
    """At most ``most`` of ``sizes``, the last among them, so that padding up is least in total.

    Dynamic programming over the sizes: the least cost of the first j sizes with k buckets, the
    k-th at size j, is the least over i < j of that of the first i with k - 1, plus padding all of
    i+1..j up to size j.

    Args:
        sizes: distinct, ascending.
        texts: how many there are of each, 0 or more.
        most: at least 1.
    """
    count = np.concatenate([[0.0], np.cumsum(texts)])
    tokens = np.concatenate([[0.0], np.cumsum(texts * sizes)])
    cost = np.full(len(sizes) + 1, np.inf)
    cost[0] = 0.0
    best, chosen = np.inf, tuple[int, ...]()
    before: list[NDArray[np.int_]] = []
    for _ in range(most):
        after = np.full(len(sizes) + 1, np.inf)
        origin = np.zeros(len(sizes) + 1, np.int_)
        for j in range(1, len(sizes) + 1):
            padded = sizes[j - 1] * (count[j] - count[:j]) - (tokens[j] - tokens[:j])
            total = cost[:j] + padded
            origin[j] = int(np.argmin(total))
            after[j] = total[origin[j]]
        cost = after
        before.append(origin)
        if cost[-1] < best:
            best, chosen = cost[-1], _walk_back(sizes, before)
    return chosen


def _walk_back(sizes: NDArray[np.int_], before: Sequence[NDArray[np.int_]]) -> tuple[int, ...]:
    at, chosen = len(sizes), list[int]()
    for origin in reversed(before):
        chosen.append(int(sizes[at - 1]))
        at = int(origin[at])
    return tuple(reversed(chosen))


def padding_share(lengths: ArrayLike, buckets: Sequence[int]) -> float:
    """Share of the computed tokens that is padding, 0 to 1; longer texts are cut to the last."""
    tokens = np.minimum(lengths, buckets[-1])
    computed = np.asarray(buckets)[np.searchsorted(buckets, tokens)]
    return float(1 - tokens.sum() / computed.sum())
