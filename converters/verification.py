"""Prove that the answers survived: each variant against the PyTorch model, on the device's code.

1. Every text runs alone in PyTorch, unpadded: the reference.
2. The variant answers every text alone, and many of them as one mixed batch, through the very
   engine the device will use.
3. fp32 is judged by its largest difference, quantized variants by cosine and by equal arg-max;
   all by how much a text's answer depends on its batch (docs/verification.md).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeformer.converters.comparing import nearness
from edgeformer.converters.prepared import PreparedModel
from edgeformer.device_profiles.profile import Tolerance
from edgeformer.errors import ModelError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.bundle import Bundle
from edgeformer.runtime.engine import Engine, open_engine
from edgeformer.runtime.golden import cosine
from edgeformer.runtime.inputs import complete_inputs
from edgeformer.runtime.manifest import Parity, Port, Variant

Arrays = dict[str, NDArray[Any]]

MAX_ANSWER_VALUES = 1 << 24  # float32 of one mixed batch


@dataclass(frozen=True)
class Reference:
    """What PyTorch answers.

    Attributes:
        batch: the tokenized texts; None for a plain module.
        inputs: named inputs of each case, batch dimension included.
        outputs: named float32 outputs of each case, batch dimension included.
        tokens: for each text the tokens whose answers count, the only ones in ``outputs``; None
            for all.
    """

    batch: RaggedBatch | None
    inputs: tuple[Arrays, ...]
    outputs: tuple[Arrays, ...]
    tokens: tuple[NDArray[np.intp], ...] | None = None

    def counted(self, case: int, output: Any) -> Any:
        """What counts of an output (1, sequence, classes), an array or a tensor, to one case."""
        return output if self.tokens is None else output[:, self.tokens[case]]


def reference_answers(
    prepared: PreparedModel,
    batch: RaggedBatch | None,
    tokens: tuple[NDArray[np.intp], ...] | None = None,
) -> Reference:
    """Run the original PyTorch module on each text of ``batch`` alone, or on its examples.

    ``tokens``: see ``Reference``.
    """
    module = prepared.module if prepared.original is None else prepared.original
    if batch is None:
        cases = [{k: v.numpy() for k, v in example.items()} for example in prepared.examples]
    else:
        cases = list(_single_inputs(prepared.inputs, batch))
    reference = Reference(batch, tuple(cases), (), tokens)
    outputs = []
    with torch.inference_mode():
        for i, case in enumerate(cases):
            answer = module(**{k: torch.from_numpy(v) for k, v in case.items()})
            outputs.append({k: reference.counted(i, v.float().numpy()) for k, v in answer.items()})
    if not all(np.isfinite(v).all() for output in outputs for v in output.values()):
        raise ModelError(
            "the PyTorch model itself answers NaN or infinity", hint="check its weights and inputs"
        )
    return replace(reference, outputs=tuple(outputs))


def _single_inputs(ports: Sequence[Port], batch: RaggedBatch) -> Iterator[Arrays]:
    names = {port.name for port in ports}
    for i in range(len(batch)):
        one = batch.select([i])
        padded = one.padded(int(one.lengths[0]))
        yield complete_inputs(tuple(ports), {k: v for k, v in padded.items() if k in names})


def verify(
    engine: Engine, variant: Variant, reference: Reference, tolerance: Tolerance, task: str
) -> Parity:
    """Compare ``variant``'s answers with the reference.

    Args:
        engine: the variant, open.
        variant: which one it is; its precision chooses the tolerance.
        reference: from ``reference_answers``.
        tolerance: the profile's.
        task: of the model card; it says what is compared (converters/comparing.py).
    """
    alone, batch_cosine = _answers(engine, variant, reference)
    names = [port.name for port in variant.programs["main"].outputs]
    pairs = [(a[n], r[n]) for a, r in zip(alone, reference.outputs, strict=True) for n in names]
    max_abs = max(_max_abs(a, r) for a, r in pairs)
    max_ref = max(_peak(r) for _, r in pairs)
    near = nearness(task, pairs)
    measured = Parity(
        texts=len(reference.outputs),
        max_abs=max_abs,
        max_ref=max_ref,
        min_cosine=min(near.cosines),
        mean_cosine=float(np.mean(near.cosines)),
        top1=near.top1,
        batch_cosine=batch_cosine,
        passed=True,
        top5=near.top5,
    )
    return judge(measured, variant.precision, tolerance)


def open_to_verify(bundle: Bundle, variant: Variant) -> Engine:
    """A variant for another provider (a GPU this host may lack) is verified on the CPU's.

    One thread: answers do not depend on it, and a busy host is not slowed by waiting threads.
    """
    return open_engine(bundle, replace(variant, provider=""), 1)


def judge(parity: Parity, precision: str, tolerance: Tolerance) -> Parity:
    """``parity`` with ``passed`` and ``failures`` filled in from the tolerance of a precision."""
    failures = []

    def need(ok: bool, sentence: str) -> None:
        if not ok:  # also for NaN: every comparison with it is False
            failures.append(sentence)

    if precision == "fp32":
        limit = tolerance.fp32_max_abs * max(1.0, parity.max_ref)
        need(parity.max_abs <= limit, f"max abs {parity.max_abs:.2e} is above {limit:.2e}")
    else:
        int8 = precision == "int8"
        least = tolerance.int8_min_cosine if int8 else tolerance.fp16_min_cosine
        need(parity.min_cosine >= least, f"min cosine {parity.min_cosine:.4f} is below {least}")
        mean = tolerance.int8_mean_cosine if int8 else least
        need(parity.mean_cosine >= mean, f"mean cosine {parity.mean_cosine:.4f} is below {mean}")
    # Of near-equal tokens the best one changes by rounding alone, so five are asked for.
    name, share = ("top-1", parity.top1) if parity.top5 is None else ("top-5", parity.top5)
    if share is not None:
        need(
            share >= tolerance.top1,
            f"{name} {share:.4f} over {parity.texts} texts is below {tolerance.top1}",
        )
    if parity.batch_cosine is not None:
        least = tolerance.batch_min_cosine
        need(
            parity.batch_cosine >= least,
            f"a text's answer depends on its batch: cosine {parity.batch_cosine:.5f} is below"
            f" {least}",
        )
    fields = {name: getattr(parity, name) for name in parity.__dataclass_fields__}
    return Parity(**fields | {"passed": not failures, "failures": tuple(failures)})


def _answers(
    engine: Engine, variant: Variant, reference: Reference
) -> tuple[list[Arrays], float | None]:
    """Each case's answer alone, and the lowest cosine between that and the batched one."""
    if reference.batch is None:
        alone = [engine.run("main", case) for case in reference.inputs]
        return alone, _rows_cosine(engine, variant, reference)
    alone, lowest = [], 1.0
    for first, batch in _mixed_batches(reference.batch, variant.programs["main"].outputs):
        together = engine.encode(batch)
        for i in range(len(batch)):
            one = engine.encode(batch.select([i]))
            for port in variant.programs["main"].outputs:
                per_token = "sequence" in port.shape
                rows = (
                    slice(batch.offsets[i], batch.offsets[i + 1]) if per_token else slice(i, i + 1)
                )
                mate = together[port.name][rows]
                lowest = min(lowest, cosine(one[port.name].ravel(), mate.ravel()))
                if per_token:
                    one[port.name] = reference.counted(first + i, one[port.name][None])
            alone.append(one)
    return alone, lowest


def _mixed_batches(batch: RaggedBatch, ports: Sequence[Port]) -> Iterator[tuple[int, RaggedBatch]]:
    """All texts, as a rule; where each token has a vocabulary of logits, so many as fit in memory.

    Yields:
        number of the first text, and the texts.
    """
    size = max(int(port.shape[-1]) for port in ports)
    limit = max(1, MAX_ANSWER_VALUES // size)  # tokens
    start = 0
    for stop in range(1, len(batch) + 1):
        last = stop == len(batch)
        if last or batch.offsets[stop + 1] - batch.offsets[start] > limit:
            yield start, batch.select(range(start, stop))
            start = stop


def _rows_cosine(engine: Engine, variant: Variant, reference: Reference) -> float | None:
    """For a plain module: the first example's rows one by one against all together."""
    program = variant.programs["main"]
    if variant.layout == "buckets" and not program.buckets:
        return None  # it runs at its example's shape only
    inputs = reference.inputs[0]
    batched = all(port.shape[:1] == ("batch",) for port in (*program.inputs, *program.outputs))
    rows = len(next(iter(inputs.values()))) if batched else 1
    if rows < 2:
        return None
    together = engine.run("main", inputs)
    lowest = 1.0
    for i in range(rows):
        one = engine.run("main", {name: array[i : i + 1] for name, array in inputs.items()})
        for name, array in one.items():
            lowest = min(lowest, cosine(array.ravel(), together[name][i].ravel()))
    return lowest


def _max_abs(answer: NDArray[Any], reference: NDArray[Any]) -> float:
    """Largest absolute difference; infinite for another shape or an answer that is no number."""
    if answer.shape != reference.shape or not np.all(np.isfinite(answer)):
        return float("inf")
    return float(np.max(np.abs(answer.astype(np.float64) - reference), initial=0.0))


def _peak(array: NDArray[Any]) -> float:
    return float(np.max(np.abs(array), initial=0.0))
