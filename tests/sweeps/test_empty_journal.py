"""A driver that was killed before its first record left a journal without a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeps.__main__ import app
from tests.sweeps.conftest import TINY_SWEEP


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "runs" / "small" / "journal.jsonl"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


@pytest.mark.parametrize("command", ["resume", "status", "report", "sync"])
def test_there_is_nothing_to_go_on_with(journal, command):
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, [command, "small", "--storage", str(journal.parents[1])])
    assert result.exit_code == 2, result.output
    assert "holds nothing yet" in result.output
    assert "`run PRESET --name small`" in result.output


def test_run_starts_the_sweep(journal):
    arguments = ["run", "digits", "--name", "small", "--storage", str(journal.parents[1]), *TINY_SWEEP]
    result = CliRunner().invoke(app, [*arguments, "sweep.time_budget_minutes=1e-9"])  # over before Ray is needed
    assert result.exit_code == 1, result.output
    assert [json.loads(line)["kind"] for line in journal.read_text().splitlines()] == ["created", "ended"]
