"""What a driver tells where there is no terminal, and the commands that it prints."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from bacs.terminal import Terminal
from results.journal import Journal
from results.state import SweepState
from sweeps import screen
from sweeps.ledger import Ledger
from sweeps.screen import WAITS, Doing, command
from tests.sweeps.test_edits import open_books, requested


@pytest.fixture
def books(tmp_path: Path) -> tuple[Journal, Ledger]:
    return open_books(requested(tmp_path / "runs", "search.references=[]"))


def test_a_line_for_what_is_done_and_for_every_step_and_trial_that_ends(books, capsys, monkeypatch):
    journal, ledger = books
    with journal:
        trial = ledger.next_trial()
        assert trial is not None
        doing = Doing()
        lines = screen._Lines(ledger, doing, Terminal())
        doing("starting Ray on this machine, attempt 1 of 3")
        lines.look()
        lines.look()
        ledger.book("started", trial=trial.key, attempt=1, host="h", pid=1)
        for epoch in (1, 2):  # the second within a minute
            ledger.book("reported", trial=trial.key, step=0, epoch=epoch, points=[])
            lines.look()
        points = [["val/miou_all", 0, 0.3456, 1.0]]
        ledger.book("reported", trial=trial.key, step=1, epoch=2, points=points)
        lines.look()
        ledger.book("finished", trial=trial.key, final={"final/val_miou": 0.5}, seconds=1.0)
        ledger.waits_for_others = True
        lines.look()
    name = "trial 0, split 5-5, seed 42"
    assert capsys.readouterr().out.splitlines() == [
        "starting Ray on this machine, attempt 1 of 3",
        f"{name}: in step 1/2, epoch 1 of the run",
        f"{name}: step 1/2 over, epoch 2 of the run, val mIoU 34.6 %",
        WAITS,
        f"[1/3] finished: {name}: val mIoU 50.0 %",
    ]
    assert isinstance(ledger.state, SweepState)


def test_a_printed_command_can_be_pasted(tmp_path):
    storage = tmp_path / "é (1) #%2F,=?&~[x]'"
    words = shlex.split(command("resume", storage / "mine", "search.trials=16"))
    assert words[1:] == ["-m", "sweeps", "resume", "mine", "--storage", str(storage), "search.trials=16"]
