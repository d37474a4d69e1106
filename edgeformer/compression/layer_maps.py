"""Which layer of the student learns from which layer of the teacher.

A map is pairs (student, teacher) of states: 0 for the embeddings' output, m for the output of the
m-th layer; they index ``Trace.hidden``. ``attention_pairs`` turns it into indices of layers.
"""

from collections.abc import Sequence

from edgeformer.errors import UsageError

LAYER_MAPS = ("uniform", "skip", "last", "top", "explicit")

LayerMap = tuple[tuple[int, int], ...]


def layer_map(
    kind: str, students: int, teachers: int, explicit: Sequence[tuple[int, int]] = ()
) -> LayerMap:
    """The pairs of one kind of map.

    * ``uniform``: m to m * teachers / students, the embeddings included (TinyBERT, arXiv
      1909.10351, section 3.1; layer by layer where both are as deep: MobileBERT).
    * ``skip``: the same without embeddings and without the last layer, which learns from the logits
      (PKD, arXiv 1908.09355, section 3.2: 1..5 of 6 to 2, 4, 6, 8, 10 of 12).
    * ``last``: the student's layers but its last to the teacher's last ones but its very last (PKD:
      1..5 of 6 to 7..11 of 12).
    * ``top``: the last to the last (MiniLM, arXiv 2002.10957, section 3).
    * ``explicit``: the pairs given.

    Args:
        kind: one of ``LAYER_MAPS``.
        students: layers of the student, at least 1.
        teachers: layers of the teacher, at least 1.
        explicit: pairs, for that kind alone.

    Returns:
        pairs in the order of the student's layers, or as given.

    Raises:
        UsageError: no such kind, or models for which the kind has no map.
    """
    if kind not in LAYER_MAPS:
        raise UsageError(f"no layer map {kind!r}", hint=f"the maps are: {', '.join(LAYER_MAPS)}")
    if min(students, teachers) < 1:
        raise UsageError(f"a model needs layers: {students} of the student, {teachers} the teacher")
    if explicit and kind != "explicit":
        raise UsageError(f"pairs are given, and the layer map {kind!r} makes its own")
    if kind == "explicit":
        return _checked(explicit, students, teachers)
    if kind == "top":
        return ((students, teachers),)
    if kind == "last":
        return _last(students, teachers)
    step = _step(kind, students, teachers)
    if kind == "uniform":
        return tuple((layer, layer * step) for layer in range(students + 1))
    _check_inner(kind, students)
    return tuple((layer, layer * step) for layer in range(1, students))


def attention_pairs(pairs: LayerMap) -> LayerMap:
    """A map of states as one of layers: 0 for the first layer, without the embeddings.

    They index ``Trace.queries``, and are what ``traces.attention_scores`` takes.

    Raises:
        UsageError: the embeddings of one model are paired with a layer of the other.
    """
    for student, teacher in pairs:
        if (student == 0) != (teacher == 0):
            raise UsageError(f"embeddings have no attention: pair ({student}, {teacher})")
    return tuple((student - 1, teacher - 1) for student, teacher in pairs if student)


def _step(kind: str, students: int, teachers: int) -> int:
    if teachers % students:
        raise UsageError(
            f"the layer map {kind!r} needs a teacher of a multiple of the student's layers, and"
            f" {teachers} is none of {students}",
            hint="write the pairs out, as an explicit map",
        )
    return teachers // students


def _last(students: int, teachers: int) -> LayerMap:
    _check_inner("last", students)
    if students > teachers:
        raise UsageError(
            f"the layer map 'last' needs a teacher of at least {students} layers, not {teachers}"
        )
    return tuple((layer, teachers - students + layer) for layer in range(1, students))


def _check_inner(kind: str, students: int) -> None:
    if students < 2:
        raise UsageError(
            f"the layer map {kind!r} leaves out the last layer, and the student has only that",
            hint="use 'top', or an explicit map",
        )


def _checked(pairs: Sequence[tuple[int, int]], students: int, teachers: int) -> LayerMap:
    if not pairs:
        raise UsageError("an explicit layer map needs pairs", hint="for example (1, 2), (2, 4)")
    for student, teacher in pairs:
        if not (0 <= student <= students and 0 <= teacher <= teachers):
            raise UsageError(
                f"no pair ({student}, {teacher}): states are 0 (embeddings) to {students} of the"
                f" student and to {teachers} of the teacher"
            )
    if len(set(pairs)) < len(pairs):
        raise UsageError(f"a pair occurs twice in {tuple(pairs)}")
    return tuple((student, teacher) for student, teacher in pairs)
