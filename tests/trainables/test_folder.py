from __future__ import annotations

import subprocess
import sys
import time

import pytest

from trainables.folder import TrialBusyError, TrialFolder

HOLDER = """
import sys, time
from pathlib import Path
from trainables.folder import TrialFolder
with TrialFolder(Path(sys.argv[1])).claim():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_attempt_waits_for_the_first_to_die(tmp_path):
    folder = TrialFolder(tmp_path / "trial")
    folder.write_config({"a": 1})
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TrialBusyError, match="still locked"), folder.claim(patience_seconds=0.3):
            pass
        holder.kill()
        started = time.monotonic()
        with folder.claim(patience_seconds=20):
            assert time.monotonic() - started < 20
    finally:
        holder.kill()
        holder.communicate()


def test_config_and_error_round_trip(tmp_path):
    folder = TrialFolder(tmp_path / "trial")
    folder.write_config({"loss": {"lkd": 0.5}})
    assert folder.read_config() == {"loss": {"lkd": 0.5}}
    assert folder.take_error() is None
    folder.write_error("exception", "ValueError: x", "Traceback ...")
    assert folder.take_error() == {"cause": "exception", "reason": "ValueError: x", "traceback": "Traceback ..."}
    assert folder.take_error() is None
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.json"]


@pytest.mark.parametrize(
    "garbage",
    [
        "", "{", "[]", "7", '"died"', "null", "[" * 100_000, "\\udcff", '{"reason": 1}', '{"reason": "x"}',
        '{"cause": "exception", "reason": 1, "traceback": ""}', '{"cause": null, "reason": "", "traceback": ""}',
    ],
)  # fmt: skip
def test_an_error_that_cannot_be_read_is_none_and_goes(tmp_path, garbage):
    folder = TrialFolder(tmp_path)
    (tmp_path / "error.json").write_bytes(garbage.encode("utf-8", "surrogateescape"))
    (tmp_path / ".error.json.0123abcd.tmp").write_text("half")
    assert folder.take_error() is None
    assert not list(tmp_path.iterdir())
