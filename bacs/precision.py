"""Where and in which number format a run computes."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from bacs.distributed import world_size
from bacs.errors import RequestError


@dataclass(frozen=True, slots=True)
class Numerics:
    """The numeric setting: two runs agree to the last bit only where it is the same."""

    device: torch.device
    mixed: bool
    """Whether autocast to bfloat16 is on."""
    threads: int

    def autocast(self) -> AbstractContextManager[object]:
        if not self.mixed:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def describe(self) -> dict[str, str | int]:
        precision = "bfloat16" if self.mixed else "float32"
        facts = {"device": self.device.type, "model": self.model, "precision": precision}
        return {**facts, "threads": self.threads, "world": world_size()}

    @property
    def model(self) -> str:
        """The kind of device, on which the last digits of sums depend: that of the GPU or, on CPUs, the instruction set
        that PyTorch dispatches to."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return torch.backends.cpu.get_cpu_capability()


def set_up_numerics(
    device: str, mixed_precision: bool, threads: int | None, *, allow_tf32: bool = True, local_rank: int = 0
) -> Numerics:
    """Chooses the device and precision, and gives this process its threads.

    Args:
        device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
        mixed_precision: bfloat16 autocast where the hardware computes in it; elsewhere float32 is used, because
            emulated bfloat16 is slower and less exact.
        threads: threads of this process on the CPU; ``None`` takes its share of the cores it may run on.
        allow_tf32: whether a GPU may round the factors of float32 products to TF32.
        local_rank: which of the visible GPUs is this process's.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise RequestError.of("training.device", "is cuda, but no GPU is visible", "set training.device=auto or cpu")
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    chosen = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(chosen)
        torch.set_float32_matmul_precision("high" if allow_tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = allow_tf32
    threads = threads or max(1, len(os.sched_getaffinity(0)) // world_size())
    torch.set_num_threads(threads)
    return Numerics(chosen, mixed_precision and has_fast_bfloat16(chosen.type), threads)


def has_fast_bfloat16(kind: str) -> bool:
    """Whether the hardware multiplies in bfloat16 itself."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = _cpu_flags()
    return "avx512_bf16" in flags or "amx_bf16" in flags or "bf16" in flags


def _cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as lines:  # noqa: PTH123  a kernel file
            for line in lines:
                if line.startswith(("flags", "Features")):
                    return set(line.split(":", 1)[1].split())
    except OSError:  # not Linux: stay in float32
        pass
    return set()
