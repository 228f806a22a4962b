"""Records whose checksum is right and whose content is not: told by file, line and field, in every command."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from results.errors import ResultsError
from results.journal import Journal
from results.record_types import _KINDS, record_fault
from results.records import decode_line, encode_line
from results.state import SweepState
from sweeps.__main__ import app

KEY = "0123456789ab"
CODE = {"fingerprint": "f", "commit": None, "dirty": None, "code": {"bacs.run": "d"}, "libraries": {"torch": "2"}}
STOP = {"step": 1, "epoch": 0, "reason": "r", "audited": False}
RECORDS = {
    "created": {"sweep": "s", "uid": "u", "config": {}, "space": {}, "warm": [], "versions": {}, "code": CODE},
    "resumed": {"code": CODE, "allow_other_code": True},
    "edited": {"changes": {"search.trials": [1, 2]}},
    "suggested": {"trial": KEY, "number": 0, "role": "trial", "split": "2-2", "seed": 1, "params": {}, "config": {},
                  "tags": {"reused_steps": 0}},
    "placed": {"trial": KEY, "config": {}},
    "started": {"trial": KEY, "attempt": 1, "origin": {}, "notes": ["n"], "held_seconds": 1.0},
    "reported": {"trial": KEY, "step": 1, "epoch": 1, "points": [["m", 0, 0.5, 1.0], ["n", 1, 1, 2]], "stop": STOP},
    "stopped": {"trial": KEY, "reason": "r"},
    "finished": {"trial": KEY, "final": {"final/miou": 0.5}, "seconds": 2.0},
    "failed": {"trial": KEY, "cause": "c", "reason": "r", "traceback": "t", "will_retry": False, "charged": True},
    "reopened": {"trial": KEY},
    "ended": {"status": "finished", "bound": None, "edited_code": None},
}  # fmt: skip
NEEDED = {
    "created": {"sweep", "uid"}, "edited": {"changes"}, "ended": {"status"}, "placed": {"trial", "config"},
    "suggested": {"trial", "number", "role", "split", "seed", "params", "config"}, "reported": {"trial", "points"},
    **{key: {"trial"} for key in ("started", "stopped", "finished", "failed", "reopened")},
}  # fmt: skip


def record(kind: str, **changes) -> dict:
    return {"seq": 1, "time": 1.0, "kind": kind, **RECORDS[kind], **changes}


def test_records_as_they_are_written_have_no_fault():
    assert RECORDS.keys() == _KINDS.keys()
    for kind in RECORDS:
        assert record_fault(record(kind)) == ""
        written = decode_line(encode_line(record(kind, more={"of": "a later version"}))[:-1])
        assert record_fault(written) == ""
    assert record_fault({"seq": 1, "time": 1, "kind": "of a later version"}) == ""
    assert record_fault(record("finished", final={"x": float("nan")})) == ""


@pytest.mark.parametrize("kind", RECORDS)
def test_every_field_that_is_missing_or_of_another_type_is_named(kind):
    for name in RECORDS[kind]:
        fields = record(kind)
        del fields[name]
        needed = name in NEEDED.get(kind, set())
        assert record_fault(fields) == (f"{name}: field required" if needed else "")
        for wrong in ("text" if not isinstance(RECORDS[kind][name], str) else 7, [["x"]], {"x": object}):
            if isinstance(wrong, dict) and isinstance(RECORDS[kind][name], dict) and kind not in ("edited", "finished"):
                continue  # free dictionaries
            if name in ("bound", "edited_code") and wrong == "text":
                continue
            assert record_fault(record(kind, **{name: wrong})).startswith(name), (name, wrong)


@pytest.mark.parametrize("key", ["../../../victim", "/etc", "a/b", "..", "", "a" * 65, "a\0b", "a b"])
def test_a_key_of_a_trial_leads_nowhere_else(key):
    assert record_fault(record("suggested", trial=key)).startswith("trial: ")


def test_a_forged_journal_is_one_fault_in_every_command_and_none_for_other_sweeps(tmp_path):
    path = tmp_path / "forged/journal.jsonl"
    with Journal(path) as journal:
        journal.append("created", **RECORDS["created"])
        journal.append("suggested", **RECORDS["suggested"])
        journal.append("started", **RECORDS["started"])
    records = [decode_line(line) for line in path.read_bytes().split(b"\n")[:-1]]
    records[1]["params"] = "none"
    path.write_bytes(b"".join(map(encode_line, records)))
    with pytest.raises(
        ResultsError, match=r"journal\.jsonl: line 2 \(suggested\) is no record of ours: params: .*'none'"
    ):
        SweepState.load(path)
    for command in ("status", "report", "sync", "clean", "resume", "confirm"):
        result = CliRunner().invoke(app, [command, "forged", "--storage", str(tmp_path)])
        assert result.exit_code == 2, (command, result.output)
        assert "line 2 (suggested)" in result.output
    words = ["dataset.train_scenes=40", "dataset.val_scenes=10", "dataset.test_scenes=10", "search.splits=[5-5]"]
    result = CliRunner().invoke(app, ["plan", "digits", *words, "--storage", str(tmp_path), "--name", "other"])
    assert result.exit_code == 0, result.output
