"""The files that a run leaves for people: results and pictures. None of them is worth a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bacs.events import Event, Picture, RunEnded, StepEnded
from bacs.media import save_picture
from bacs.origin import Origin
from bacs.patience import refusal
from bacs.report import write_results
from bacs.run import ContinualRun


class Outputs:
    """Writes them as a run goes on; what storage refuses is kept and written with the next step."""

    def __init__(
        self, results: Path, pictures: Path, notice: Callable[[str], None], origin: Origin | None = None
    ) -> None:
        """Args:
        results: folder of the tables.
        pictures: folder of the pictures.
        notice: is told what could not be written.
        origin: of the run, which is written beside the tables.
        """
        self.results = results
        self.pictures = pictures
        self._notice = notice
        self._origin = origin
        self._waiting: list[Picture] = []

    def after(self, event: Event, run: ContinualRun) -> None:
        """Writes what an event brings: a picture, or everything known by now when a step or the whole run has ended."""
        if isinstance(event, Picture):
            self._waiting.append(event)
            if len(self._waiting) == 1:  # else storage refused a moment ago
                self._draw_waiting()
        steps_follow = isinstance(event, StepEnded) and run.steps_done < run.split.n_steps
        if steps_follow or isinstance(event, RunEnded):
            self._write_results(run)

    def _write_results(self, run: ContinualRun) -> None:
        self._draw_waiting()
        try:
            write_results(self.results, run.history(), self._origin)
        except OSError as error:
            self._notice(f"results are not written, the next step tries again: {refusal(self.results, error)}")

    def _draw_waiting(self) -> None:
        try:
            while self._waiting:
                save_picture(self.pictures, self._waiting[0])
                self._waiting.pop(0)
        except OSError as error:
            why = refusal(self.pictures, error)
            self._notice(f"{len(self._waiting)} pictures are not written, the next step tries again: {why}")
