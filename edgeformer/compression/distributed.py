"""Several processes that train one model: torchrun starts them, this joins them.

    torchrun --nproc-per-node 2 -m edgeformer compress ...

Each process takes its share of the rows of every batch; gradients are summed before each step, so
all processes hold the same weights at all times. Alone, every function here does nothing.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

_Value = TypeVar("_Value")


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if _joined() else 1


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    NCCL carries tensors between GPUs where there is one for each process, Gloo between CPUs.
    """
    if _joined() or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.cuda.is_available() and torch.cuda.device_count() > local
    if on_gpu:
        torch.cuda.set_device(local)
    dist.init_process_group("cuda:nccl,cpu:gloo" if on_gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def sum_gradients(parameters: Sequence[nn.Parameter], extra: torch.Tensor) -> torch.Tensor:
    """Replace each gradient by its sum over all processes; return the sum of ``extra``.

    A parameter without a gradient in every process (a layer that was skipped) stays without one,
    so that the optimizer passes it by, as it does in one process.

    Args:
        parameters: on one device, the same ones in the same order in every process.
        extra: float (n,): further numbers to sum, such as losses.
    """
    if not _joined():
        return extra
    device = parameters[0].device
    found = torch.tensor([float(p.grad is not None) for p in parameters], device=device)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    pieces = [gradient.reshape(-1).float() for gradient in gradients]
    flat = torch.cat([*pieces, found, extra.to(device).float()])
    dist.all_reduce(flat)
    sizes = [piece.numel() for piece in pieces]
    *summed, counts, total = torch.split(flat, [*sizes, len(sizes), extra.numel()])
    for parameter, gradient, count in zip(parameters, summed, counts.tolist(), strict=True):
        parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if count else None
    return total.to(extra)


def summed(table: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes."""
    if _joined():
        dist.all_reduce(table)
    return table


def agreed(value: _Value) -> _Value:
    """What process 0 has, in all processes: decisions are made once."""
    if not _joined():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if _joined():
        dist.barrier()


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
