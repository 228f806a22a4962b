"""What came out of a sweep: the journal (the truth), its projection into MLflow, and tables.

Imports nothing of the other packages, and neither Ray nor torch; MLflow only where it is talked to.
"""

from __future__ import annotations

from results.errors import ResultsError
from results.journal import Journal, read_journal
from results.state import SweepState, TrialState
from results.tracking import Tracker

__all__ = ["Journal", "ResultsError", "SweepState", "Tracker", "TrialState", "read_journal"]
