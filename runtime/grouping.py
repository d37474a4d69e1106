"""Which texts to pad together: similar lengths, so that little of the work is padding.

    length_groups([3, 50, 4, 49])  ->  [[1, 3], [2], [0]]

Used by engines that need rectangular arrays; touches nothing but the lengths it is given.
"""

from collections.abc import Sequence

MAX_TEXTS = 32


def length_groups(
    lengths: Sequence[int], max_waste: float = 0.1, max_texts: int = MAX_TEXTS
) -> list[list[int]]:
    """Split texts into groups that can each be padded to their longest member.

    Longest first, so that the largest arrays are allocated once and reused.

    Args:
        lengths: tokens of each text, at least 1.
        max_waste: largest share of padding among the tokens of one group, 0 to 1.
        max_texts: most texts in one group.

    Returns:
        indices into ``lengths``; each index occurs exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda i: -int(lengths[i]))
    groups: list[list[int]] = []
    longest = tokens = 0
    for i in order:
        length = int(lengths[i])
        if groups and len(groups[-1]) < max_texts:
            padded = longest * (len(groups[-1]) + 1)
            if padded - (tokens + length) <= max_waste * padded:
                groups[-1].append(i)
                tokens += length
                continue
        groups.append([i])
        longest = tokens = length
    return groups
