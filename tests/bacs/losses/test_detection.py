"""What is measured of the detector at the end of a step, and how much memory that takes."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from bacs.losses import functional as L
from tests.validation_pixels import batches, finished_step

PEAKS = """
import torch
from tests.validation_pixels import batches, finished_step, peak_mb

torch.set_num_threads(1)
detection, context = finished_step()
for count in (8, 64):
    detection.diagnose(context, batches(count))
    print(peak_mb())
"""


def test_metrics_are_those_of_all_valid_pixels():
    detection, context = finished_step()
    found = detection.diagnose(context, batches(2))
    scores, positives = [], []
    with torch.no_grad():
        for batch in batches(2):
            projected = context.model.detector.project(context.model(batch.images).bottleneck)
            valid = batch.labels != L.IGNORE
            scores.append(context.model.detector.seen(projected, 1, valid.shape[1:])[:, 0][valid])
            positives.append(batch.labels[valid] > 0)
    truth, given = torch.cat(positives).numpy(), torch.cat(scores).numpy()
    assert found["detector/auroc"] == pytest.approx(roc_auc_score(truth, given), abs=1e-5)
    assert found["detector/ap"] == pytest.approx(average_precision_score(truth, given), abs=1e-5)


def test_nothing_is_known_without_a_pixel():
    detection, context = finished_step()
    assert all(math.isnan(value) for value in detection.diagnose(context, []).values())


def test_memory_does_not_grow_with_the_pixels():
    """To keep 4 bytes of each of the 15 million further pixels would take 59 MB."""
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    few, many = map(float, done.stdout.split())
    assert many - few < 40
