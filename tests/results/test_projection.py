"""What MLflow is told is a function of what trials reported, not of when the driver wrote it down."""

import json

from results.journal import read_journal
from results.projection import ProjectedState, final_points


def told(path):
    """The final points of every trial and the best ones of the sweep."""
    state = ProjectedState()
    for record in read_journal(path)[0]:
        state.apply(record)
    return [list(final_points(state, trial)) for trial in state.trials.values()], state.best_points


def test_records_that_were_shipped_lost_and_written_again_tell_the_same(scribe):
    scribe.created()
    key = scribe.run_trial(0, val=0.5)
    scribe.end()
    before = told(scribe.path)
    scribe.journal.close()
    lines = scribe.path.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["kind"] for line in lines[-2:]] == ["finished", "ended"]
    scribe.path.write_bytes(b"".join(lines[:-2]))
    scribe.now += 3600
    scribe.open()
    scribe.journal.append("resumed", driver={}, repaired_bytes=0)
    scribe.start(key, attempt=2)
    scribe.finish(key, val=0.5)
    scribe.end()
    assert told(scribe.path) == before
    assert len(before[0][0]) == 6
    assert len(before[1]) == 1
