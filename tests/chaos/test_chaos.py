"""A small campaign, really run: kills and damage over one tiny sweep."""

from __future__ import annotations

import pytest

from tests.chaos.campaign import Campaign
from tests.chaos.ground import Ground
from tests.chaos.kinds import KINDS

FEW = ("driver-kill", "worker-kill", "stage-flipped", "journal-torn")


@pytest.mark.slow
def test_a_few_faults_change_nothing():
    ground = Ground()
    said: list[str] = []
    try:
        report = Campaign(ground, [KINDS[key] for key in FEW], len(FEW), 0, said.append).run()
        assert report.is_clean, "\n".join(said)
        assert sorted(hit.fault for hit in report.hits) == sorted(FEW)
    finally:
        ground.clear()
    assert not ground.processes()
    assert not ground.folder.exists()
