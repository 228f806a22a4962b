"""Throughput of training and of the data path, side by side in one run: ``make bench``, ``make bench-gpu``.

Needs PyTorch, scikit-learn and Hydra alone, so that it runs on machines without Ray and MLflow.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable

import torch

from bacs.compose import compose
from bacs.config import RunConfig
from bacs.events import EpochEnded
from bacs.run import ContinualRun

ROUNDS = 3
ITERATIONS = 10


def seconds_per_iteration(overrides: list[str], step: int) -> float:
    """Mean over the second epoch of ``step``; the first warms up."""
    epochs = ["training.epochs=1" if step else "training.epochs=2", "training.next_epochs=2"]
    fixed = [f"training.iterations_per_epoch={ITERATIONS}", "training.val_every=1000", "dataset.train_scenes=200"]
    config = RunConfig.from_dict(compose("config", [*fixed, "training.split=5-5", *epochs, *overrides]))
    run = ContinualRun(config)
    for event in run.events():
        if isinstance(event, EpochEnded) and event.step == step:
            if event.epoch == 1:
                started = _now(run)
            else:
                return (_now(run) - started) / ITERATIONS
    raise AssertionError("the step has two epochs")


def _now(run: ContinualRun) -> float:
    if run.numerics.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def side_by_side(name: str, variants: dict[str, Callable[[], float]]) -> None:
    """Runs the variants in turn, ``ROUNDS`` times, and prints medians and the ratio to the first."""
    times: dict[str, list[float]] = {label: [] for label in variants}
    for _ in range(ROUNDS):
        for label, measure in variants.items():
            times[label].append(measure())
    medians = {label: statistics.median(values) for label, values in times.items()}
    first = next(iter(medians.values()))
    print(f"\n{name}")
    for label, median in medians.items():
        print(f"  {label:34s} {1000 * median:9.1f} ms   {first / median:5.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    device = parser.parse_args().device
    processor = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    print(f"torch {torch.__version__}, {device} ({processor}), {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as cache:
        place = [f"training.device={device}", f"dataset.cache={cache}"]

        def timed(*overrides: str, step: int = 1) -> Callable[[], float]:
            return lambda: seconds_per_iteration([*place, *overrides], step)

        side_by_side(
            "an iteration of BACS after step 0 (width 16, 60x60, 16 new and 16 replayed images)",
            {
                "float32": timed("training.mixed_precision=false"),
                "mixed precision": timed(),
                "mixed precision, 8 replayed images": timed("loss.replay_batch_size=8"),
            },
        )
        side_by_side(
            "what the parts of BACS cost (mixed precision)",
            {
                "fine-tuning": timed("loss=crossentropy"),
                "BACS without replay": timed("loss.alpha=0", "loss.beta=0"),
                "BACS without distillation": timed("loss.lkd=0"),
                "BACS": timed(),
            },
        )


if __name__ == "__main__":
    main()
