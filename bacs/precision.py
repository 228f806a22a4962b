"""Where and in which number format a run computes."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

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
        return {"device": self.device.type, "precision": precision, "threads": self.threads}


def set_up_numerics(device: str, mixed_precision: bool, threads: int | None) -> Numerics:
    """Chooses the device and precision, and gives this process its threads.

    Args:
        device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
        mixed_precision: bfloat16 autocast where the hardware computes in it; elsewhere float32 is used, because
            emulated bfloat16 is slower and less exact.
        threads: threads of this process on the CPU; ``None`` takes every core it may run on.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise RequestError.of("training.device", "is cuda, but no GPU is visible", "set training.device=auto or cpu")
    kind = "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
    threads = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    return Numerics(torch.device(kind), mixed_precision and has_fast_bfloat16(kind), threads)


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
