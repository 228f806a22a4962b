import pytest

from results import ResultsError, SweepState


def fold(scribe):
    return SweepState.load(scribe.path)


def test_a_trial_from_suggestion_to_end(scribe):
    scribe.created()
    key = scribe.suggest(0, **{"loss.lkd": 0.5})
    assert fold(scribe).counts() == {"pending": 1, "running": 0, "finished": 0, "stopped": 0, "failed": 0}
    scribe.start(key)
    scribe.report(key, 1)
    running = fold(scribe).trials[key]
    assert (running.status, running.attempts, running.step, running.epoch) == ("running", 1, 1, 2)
    scribe.finish(key, seconds=12.0)
    state = fold(scribe)
    done = state.trials[key]
    assert (done.status, done.seconds, done.final["final/val_miou"]) == ("finished", 12.0, 0.5)
    assert done.params == {"loss.lkd": 0.5}
    assert (state.sweep, state.uid, state.ended) == ("digits", "0123456789abcdef", False)


def test_refreshing_equals_loading(scribe):
    state = SweepState()
    scribe.created()
    state.refresh(scribe.path)
    scribe.run_trial(0)
    assert [record["kind"] for record in state.refresh(scribe.path)][:2] == ["suggested", "started"]
    assert state.trials == fold(scribe).trials
    assert state.refresh(scribe.path) == []


def test_the_first_write_of_a_point_wins(scribe):
    scribe.created()
    key = scribe.suggest(0)
    scribe.start(key)
    scribe.journal.append("reported", trial=key, step=1, epoch=1, points=[["a", 1, 0.1, 5.0]])
    scribe.start(key, attempt=2)
    scribe.journal.append("reported", trial=key, step=2, epoch=2, points=[["a", 1, 0.9, 9.0], ["a", 2, 0.2, 9.0]])
    state = fold(scribe)
    assert state.trials[key].points == {("a", 1): (0.1, 5.0), ("a", 2): (0.2, 9.0)}
    assert state.trials[key].attempts == 2
    assert state.latest(key, "a") == (2, 0.2)
    assert state.latest(key, "b") is None


def test_a_failure_that_is_tried_again_is_pending_and_a_final_one_is_failed(scribe):
    scribe.created()
    key = scribe.suggest(0)
    scribe.start(key)
    scribe.journal.append("failed", trial=key, reason="out of memory", traceback="tb", will_retry=True)
    assert (fold(scribe).trials[key].status, fold(scribe).trials[key].reason) == ("pending", "out of memory")
    scribe.start(key, attempt=2)
    assert fold(scribe).trials[key].status == "running"
    scribe.journal.append("failed", trial=key, reason="again", traceback="tb", will_retry=False)
    assert fold(scribe).trials[key].status == "failed"
    scribe.start(key, attempt=3)
    scribe.finish(key)
    assert (fold(scribe).trials[key].status, fold(scribe).trials[key].reason) == ("finished", "")


def test_causes_are_kept_until_a_trial_is_reopened(scribe):
    scribe.created()
    key = scribe.suggest(0)
    told = {"trial": key, "reason": "MemoryError: ", "traceback": "tb"}
    scribe.journal.append("failed", **told, cause="out_of_memory", will_retry=True, charged=False)
    scribe.journal.append("failed", **told | {"reason": "killed"}, cause="died", will_retry=True, charged=True)
    trial = fold(scribe).trials[key]
    assert (trial.status, trial.cause, trial.charged) == ("pending", "died", 1)
    assert [failure.cause for failure in trial.failures] == ["out_of_memory", "died"]
    scribe.journal.append("resumed", driver={})
    assert (fold(scribe).trials[key].charged, len(fold(scribe).trials[key].failures)) == (0, 2)
    scribe.journal.append("failed", **told, cause="out_of_memory", will_retry=False, charged=False)
    assert (fold(scribe).trials[key].status, fold(scribe).trials[key].cause) == ("failed", "out_of_memory")
    scribe.journal.append("reopened", trial=key)
    trial = fold(scribe).trials[key]
    assert (trial.status, trial.cause, trial.reason, trial.failures) == ("pending", "", "", [])
    scribe.start(key)
    scribe.finish(key)
    scribe.journal.append("reopened", trial=key)  # only what has failed is run again
    assert fold(scribe).trials[key].status == "finished"


def test_journals_of_earlier_versions_have_failures_without_a_cause(scribe):
    scribe.created()
    key = scribe.suggest(0)
    scribe.journal.append("failed", trial=key, reason="ValueError: x", traceback="tb", will_retry=False)
    trial = fold(scribe).trials[key]
    assert (trial.status, trial.cause, trial.reason, len(trial.failures)) == ("failed", "", "ValueError: x", 1)


def test_a_new_driver_finds_no_trial_running_and_keeps_what_is_over(scribe):
    scribe.created()
    scribe.run_trial(0)
    pruned = scribe.suggest(1)
    scribe.start(pruned)
    scribe.journal.append("stopped", trial=pruned, reason="rung 1")
    cut = scribe.suggest(2)
    scribe.start(cut)
    scribe.end("interrupted")
    state = fold(scribe)
    assert (state.ended, state.end_status, state.endings) == (True, "interrupted", 1)
    scribe.journal.append("resumed", driver={"pid": 1})
    scribe.suggest(2)  # planned anew by the new driver
    scribe.start(pruned, attempt=2)  # must not happen, must not harm
    state = fold(scribe)
    assert [trial.status for trial in state.trials.values()] == ["finished", "stopped", "pending"]
    assert (state.ended, state.end_status) == (False, "")


def test_the_winner_is_chosen_by_validation_among_finished_trials_of_its_split(scribe):
    scribe.created()
    scribe.run_trial(0, val=0.5, test=0.9)
    winner = scribe.run_trial(1, val=0.7, test=0.1)
    scribe.run_trial(2, val=0.7, test=0.2)  # equal: the older one stays
    scribe.run_trial(3, val=float("nan"))
    scribe.run_trial(4, val=0.95, split="1-1")
    joint = [scribe.run_trial(5 + seed, val=0.99, role="joint", seed=seed) for seed in (0, 1)]
    state = fold(scribe)
    assert state.best("2-2").trials[0].key == winner
    assert state.splits() == ["2-2", "1-1"]
    assert [trial.key for trial in state.references("2-2")["joint"]] == joint
    assert state.references("1-1") == {"joint": [], "finetune": []}
    assert state.best("15-5") is None


def test_time_left(scribe):
    scribe.created()
    running = scribe.suggest(9)
    scribe.start(running)
    start = scribe.now
    assert fold(scribe).eta_seconds(10, 2) is None
    scribe.run_trial(0)
    state = fold(scribe)
    assert state.eta_seconds(5, 2, now=start) == pytest.approx(4 * 10 / 2)
    assert state.eta_seconds(5, 2, now=start + 4) == pytest.approx((4 * 10 - 4) / 2)
    assert state.eta_seconds(2, 8, now=start + 4) == pytest.approx(6)  # one trial does not run eight at a time
    assert state.eta_seconds(1, 2) == 0.0


def test_later_records_may_add_tags_and_unknown_kinds_are_ignored(scribe):
    scribe.created()
    key = scribe.suggest(0)
    scribe.journal.append("started", trial=key, attempt=1, host="h", pid=1, tags={"reused_steps": 2})
    scribe.journal.append("invented_later", trial="none", anything=1)
    scribe.journal.append("edited", changes={"search.trials": [4, 8]})
    state = fold(scribe)
    assert state.trials[key].tags["reused_steps"] == 2
    assert state.edits == [{"search.trials": [4, 8]}]
    assert state.config == {"loss": "bacs", "search": {"trials": 8}}


def test_a_record_of_an_unknown_trial_is_refused(scribe):
    scribe.created()
    scribe.start("feedfeedfeed")
    with pytest.raises(ResultsError, match="feedfeedfeed"):
        fold(scribe)
