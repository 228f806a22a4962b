"""Ranks that train one model together. Alone, every function is a no-op.

Whatever sums over ranks must be called by every rank, otherwise the others wait for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@torch.no_grad()
def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of ``tensor`` over all ranks."""
    if world_size() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` holds on any rank, so that all of them take the same branch."""
    return flag if world_size() == 1 else bool(sum_over_ranks(torch.tensor(float(flag), device=device)) > 0)


def mean_share(count: Tensor) -> Tensor:
    """What a rank's sum is divided by, so that the mean of all ranks' quotients is the mean over all their items."""
    return count if world_size() == 1 else sum_over_ranks(count.double()) / world_size()


def wait_for_all() -> None:
    """Returns when every rank has called it."""
    if world_size() > 1:
        dist.barrier()


def from_first(value: Any) -> Any:
    """Rank 0's value, on every rank. Plain objects and tensors on the CPU."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gathered(value: Any) -> list[Any]:
    """The values of all ranks, by rank, on every rank. Plain objects and tensors on the CPU."""
    if world_size() == 1:
        return [value]
    boxes: list[Any] = [None] * world_size()
    dist.all_gather_object(boxes, value)
    return boxes


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces every gradient by its mean over the ranks, in one message.

    A gradient that only some ranks have counts as 0 on the others; one that no rank has stays ``None``, so that the
    optimizer leaves its parameter alone as it would on one rank. There is no wrapper around the model, so a method may
    call its parts in any order and any number of times.
    """
    if world_size() == 1:
        return
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    if not wanted:
        return
    has = torch.tensor([float(p.grad is not None) for p in wanted], device=wanted[0].device)
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in wanted] + [has])
    dist.all_reduce(flat)
    has = flat[-len(wanted) :]
    start = 0
    for parameter, count in zip(wanted, has.tolist(), strict=True):
        mean = flat[start : start + parameter.numel()].view_as(parameter) / world_size()
        start += parameter.numel()
        if count == 0:
            continue
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)
        parameter.grad.copy_(mean)
