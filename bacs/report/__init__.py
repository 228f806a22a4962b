"""The files that a run leaves behind: its metrics, its confusion matrices, and how these came about."""

from bacs.report.history import History
from bacs.report.writer import write_results

__all__ = ["History", "write_results"]
