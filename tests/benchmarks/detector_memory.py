"""Memory and error of the detector's AUROC and AP: ``python -m tests.benchmarks.detector_memory``; a minute, 7 GB.

Side by side: the histogram that a run counts into, and the scores of all pixels, kept and sorted. Each measurement is a
process of its own, of which the memory held before the first pixel is subtracted. One rank and one thread; of several
ranks each would hold the scores of all. Times are CPU seconds, which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from bacs.losses.base import Batch, StepContext
from bacs.losses.detection import Detection, detector_of, size_of
from bacs.losses.functional import IGNORE
from bacs.metrics import auroc_ap, ranking_histogram
from tests.ranking import ap_range, auroc_error
from tests.validation_pixels import PIXELS, batches, finished_step, peak_mb

MEGAPIXELS = {"histogram": (4, 33, 134, 380), "all scores": (4, 33, 134)}
"""380: the 1,449 validation images of VOC in crops of 512."""
SCORES = 10_000_000
SPREADS = (0.1, 1, 4, 8, 16)
"""Standard deviation of the logits of either class, and distance of their means."""


def ranked(scores: Tensor, positives: Tensor) -> tuple[float, float]:
    """(AUROC, AP) of the scores themselves: a bin for each distinct score."""
    descending, order = scores.sort(descending=True)
    _, ties = descending.unique_consecutive(return_counts=True)
    ends = ties.cumsum(0)
    true = positives[order].cumsum(0)[ends - 1]
    return auroc_ap(torch.stack([ends - true, true]).diff(prepend=ends.new_zeros(2, 1)).flip(1))


def with_histogram(detection: Detection, context: StepContext, given: Iterable[Batch]) -> tuple[float, float]:
    auroc, ap = detection.diagnose(context, given).values()
    return auroc, ap


@torch.no_grad()
def with_all_scores(_: Detection, context: StepContext, given: Iterable[Batch]) -> tuple[float, float]:
    detector = detector_of(context.model)
    scores, positives = [], []
    for batch in given:
        projected = detector.project(context.model(batch.images).bottleneck)
        valid = batch.labels != IGNORE
        scores.append(detector.seen(projected, 1, size_of(valid)).amax(dim=1)[valid])
        positives.append(batch.labels[valid] > 0)
    return ranked(torch.cat(scores), torch.cat(positives))


WAYS: dict[str, Callable[[Detection, StepContext, Iterable[Batch]], tuple[float, float]]] = {
    "histogram": with_histogram,
    "all scores": with_all_scores,
}


def measure(way: str, megapixels: int) -> None:
    """Prints a row of the first table."""
    detection, context = finished_step()
    before, started = peak_mb(), time.process_time()
    auroc, ap = WAYS[way](detection, context, batches(round(megapixels * 1e6 / PIXELS)))
    seconds, memory = time.process_time() - started, peak_mb() - before
    print(f"| {megapixels} | {way} | {memory:,.0f} | {seconds:.1f} | {auroc:.7f} | {ap:.7f} |", flush=True)


def errors(spread: float) -> None:
    """Prints a row of the second table."""
    generator = torch.Generator().manual_seed(0)
    positives = torch.rand(SCORES, generator=generator) < 0.25
    scores = (spread * (torch.randn(SCORES, generator=generator) + positives)).sigmoid()
    histogram = ranking_histogram(scores, positives, torch.ones_like(positives))
    auroc, ap = auroc_ap(histogram)
    exact_auroc, exact_ap = ranked(scores, positives)
    low, high = ap_range(histogram)
    found = [abs(auroc - exact_auroc), auroc_error(histogram), abs(ap - exact_ap), max(high - ap, ap - low)]
    print(f"| {spread} | {exact_auroc:.4f} | {exact_ap:.4f} |", " | ".join(f"{value:.1e}" for value in found), "|")


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "MEGAPIXELS"), help="one row, in this process")
    one = parser.parse_args().measure
    if one is not None:
        measure(one[0], int(one[1]))
        return
    print(f"torch {torch.__version__}, {platform.machine()}, one thread\n")
    print("| megapixels | kept | peak MB | CPU s | AUROC | AP |\n|---|---|---|---|---|---|", flush=True)
    for megapixels in MEGAPIXELS["histogram"]:
        for way in (way for way in WAYS if megapixels in MEGAPIXELS[way]):
            command = [sys.executable, "-m", "tests.benchmarks.detector_memory", "--measure", way, str(megapixels)]
            subprocess.run(command, check=True)
    print(f"\n{SCORES:,} scores\n")
    print("| spread | AUROC | AP | AUROC off by | at most | AP off by | at most |\n|---|---|---|---|---|---|---|")
    for spread in SPREADS:
        errors(spread)


if __name__ == "__main__":
    main()
