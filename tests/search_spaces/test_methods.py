"""Spaces over several methods, and every shipped space as a legal sweep."""

from __future__ import annotations

import pytest
import yaml

from bacs.errors import RequestError
from search_spaces.propose import ALGORITHMS, StudySettings, Told, propose
from search_spaces.space import METHOD_KEY, SPACES_DIR, known_spaces, load_space
from sweeps.checks import check_request
from sweeps.ledger import planned_total
from sweeps.plan import plan_rows
from sweeps.settings import SweepConfig, compose_preset
from sweeps.trials import make_trial


@pytest.fixture
def sweep_of(tmp_path):
    """The checked sweep of the digits preset; arguments are overrides."""

    def make(*overrides: str) -> SweepConfig:
        one = ["resources.cpus_per_trial=1"]
        return check_request(compose_preset("digits", [*overrides, *one], {"storage": str(tmp_path / "runs")}))

    return make


def several(tmp_path, *methods: str):
    path = tmp_path / "several.yaml"
    path.write_text(yaml.safe_dump({"methods": list(methods)}))
    return load_space(str(path))


@pytest.mark.parametrize("name", known_spaces())
def test_every_shipped_space_is_a_legal_sweep(sweep_of, name):
    """Each value that a dimension can take makes a legal run; the head of the file says how it is run."""
    loss = load_space(name).loss
    sweep = sweep_of(f"search.space={name}", *([f"loss={loss}"] if loss else []))
    assert SweepConfig.from_dict(sweep.resolved).resolved == sweep.resolved
    head = (SPACES_DIR / f"{name}.yaml").read_text().splitlines()[1]
    assert head.startswith("#   python -m sweeps run digits ")
    overrides = head.split()[6:]
    assert f"search.space={name}" in overrides
    assert sweep_of(*overrides).space == sweep.space


def test_a_space_of_another_method_than_the_run_is_refused(sweep_of):
    with pytest.raises(RequestError, match=r"a space of loss=mib, but the run has bacs\.losses\.bacs\.Bacs") as caught:
        sweep_of("search.space=mib")
    assert "add loss=mib" in str(caught.value)


def test_every_method_has_its_own_knobs(tmp_path):
    space = several(tmp_path, "er", "mib")
    assert space.methods == ("er", "mib")
    own = {method: {d.key for d in space.dimensions_of({METHOD_KEY: method})} for method in space.methods}
    for method, keys in own.items():
        assert keys == {METHOD_KEY} | {d.key for d in load_space(method).dimensions}
    assert len({dimension.name for dimension in space.dimensions}) == len(space.dimensions)
    assert len(space.grid()) == sum(len(load_space(method).grid()) for method in space.methods)
    assert all(space.contains(params) for params in space.grid())


@pytest.mark.parametrize("algorithm", ["tpe", "random", "grid"])
def test_suggestions_have_the_knobs_of_their_method(tmp_path, algorithm):
    space = several(tmp_path, "er", "der", "mib")
    history: list[Told] = []
    for number in range(20):
        params = propose(StudySettings(space, algorithm, 0, "2-2", startup_trials=4), history)
        assert params is not None
        assert params.keys() == {d.key for d in space.dimensions_of(params)}
        assert space.contains(params)
        history.append(Told(params, 0.01 * number))
    assert [told.params for told in history] == [told.params for told in _deduplicated(history)]
    if algorithm != "grid":
        assert {told.params[METHOD_KEY] for told in history} == {"er", "der", "mib"}


def _deduplicated(history: list[Told]) -> list[Told]:
    seen: list[dict] = []
    return [told for told in history if told.params not in seen and not seen.append(told.params)]


def test_tpe_comes_to_prefer_the_method_that_scores(tmp_path):
    space = several(tmp_path, "er", "der", "derpp", "mib")
    history: list[Told] = []
    for _ in range(40):
        params = propose(StudySettings(space, "tpe", 0, "2-2", startup_trials=8), history)
        assert params is not None
        history.append(Told(params, float(params[METHOD_KEY] == "mib") - 0.1 * params.get("loss.alpha", 0)))
    late = [told.params[METHOD_KEY] for told in history[20:]]
    assert late.count("mib") > 10  # a quarter of them by chance


def test_the_default_of_every_method_comes_first_and_is_seen(sweep_of):
    sweep = sweep_of("search.space=methods", "search.trials=20")
    defaults = sweep.defaults
    assert [params[METHOD_KEY] for params in defaults] == list(sweep.space.methods)
    assert all(sweep.space.contains(params) for params in defaults)  # so that the sampler learns from them
    settings = StudySettings(sweep.space, "tpe", 0, "2-2", startup_trials=4)
    history = [Told(params, 0.5) for params in defaults]
    assert [propose(settings, history[:n], defaults) for n in range(len(defaults))] == defaults
    assert propose(settings, history, defaults) not in defaults
    assert dict(plan_rows(sweep, None))["method"] == f"one of {len(defaults)} methods on bacs.data.digits.Digits"


def test_a_trial_runs_the_method_that_was_suggested(sweep_of):
    sweep = sweep_of("search.space=methods", "loss.replay_batch_size=3")
    trials = {}
    for method in ("bacs", "er"):
        params = {METHOD_KEY: method, "loss.buffer_size": 50}
        place = {"role": "trial", "number": 0, "split": "2-2", "seed": 42}
        trials[method] = make_trial(sweep, "u", params=params, **place)
    assert {method: trial.tags["loss"] for method, trial in trials.items()} == {"bacs": "bacs", "er": "er"}
    assert trials["er"].config["loss"]["_target_"] == "bacs.losses.er.ExperienceReplay"
    assert trials["er"].config["loss"]["buffer_size"] == trials["bacs"].config["loss"]["buffer_size"] == 50
    assert trials["er"].config["loss"]["replay_batch_size"] is None  # shipped settings
    assert trials["bacs"].config["loss"]["replay_batch_size"] == 3  # those that the sweep was asked for


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_equal_trials_go_round_the_methods_and_look_at_their_own_results_alone(tmp_path, algorithm):
    path = tmp_path / "equal.yaml"
    path.write_text("methods: [er, der, mib]\nequal_trials: true\n")
    settings = StudySettings(load_space(str(path)), algorithm, 0, "2-2", startup_trials=2)

    def suggested(scale: float) -> list[dict]:
        history: list[Told] = []
        for number in range(24):
            params = propose(settings, history)
            assert params is not None
            value = 0.01 * number * (scale if params[METHOD_KEY] == "er" else 1.0)
            history.append(Told(params, value))
        return [told.params for told in history]

    one, other = suggested(1.0), suggested(-1.0)
    assert [params[METHOD_KEY] for params in one] == ["er", "der", "mib"] * 8
    others = [params for params in one if params[METHOD_KEY] != "er"]
    assert others == [params for params in other if params[METHOD_KEY] != "er"]  # whatever became of ER
    assert (one != other) == (algorithm == "tpe")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_list_of_configurations_is_run_as_it_stands(tmp_path, sweep_of, algorithm):
    path = tmp_path / "winners.yaml"
    path.write_text("points: [{loss: mib, loss.kd_weight: 3.0}, {loss: er}, {training.lr_next: 0.001}]")
    sweep = sweep_of(f"search.space={path}", "search.splits=[2-2,5-1]", f"search.algorithm={algorithm}")
    assert sweep.defaults == []
    assert sweep.space.methods == ("mib", "er")
    settings = StudySettings(sweep.space, algorithm, 0, "2-2", startup_trials=4)
    history: list[Told] = []
    while (params := propose(settings, history)) is not None:
        history.append(Told(params, None))
    assert [told.params for told in history] == yaml.safe_load(path.read_text())["points"]
    assert planned_total(sweep) == 2 * (3 + 2)  # the preset asks for four trials, the list has three
    place = {"role": "trial", "number": 0, "split": "2-2", "seed": 42}
    made = [make_trial(sweep, "u", params=told.params, **place).config for told in history]
    assert [config["loss"]["_target_"].split(".")[-1] for config in made] == ["MiB", "ExperienceReplay", "Bacs"]
    assert (made[0]["loss"]["kd_weight"], made[2]["training"]["lr_next"]) == (3.0, 0.001)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ("[]", "each once"),
        ("[{loss: mib}, {loss: mib}]", "each once"),
        ("[mib]", "each once"),
        ("[{loss: ewc}]", "names loss=ewc, which is unknown"),
        ("[{loss: mib, loss.kd: 3}]", r"loss\.kd"),
        ("[{loss: mib, loss.kd_weight: -3}]", r"is -3.0, but must be >= 0"),
        ("[{loss: mib}, {training.seed: 3}]", r"training.seed: is not searched but enumerated"),
    ],
)
def test_faulty_lists_of_configurations_say_what_is_wrong(tmp_path, sweep_of, points, words):
    path = tmp_path / "winners.yaml"
    path.write_text(f"points: {points}")
    with pytest.raises(RequestError, match=words):
        sweep_of(f"search.space={path}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("methods: [mib, er]\nequal_trials: 3", "nothing else"),
        ("methods: [mib]", "two or more"),
        ("methods: [mib, mib]", "each once"),
        ("methods: {mib: 1}", "two or more"),
        ("methods: [mib, er]\ndimensions: {}", "nothing else"),
        ("methods: [mib, none]", "'none', which does not exist"),
        ("methods: [mib, bacs_full]", "'bacs_full', which is a space of loss=bacs"),
        ("methods: [mib, methods]", "'methods', which is a space of loss=None"),
    ],
)
def test_faulty_lists_of_methods_say_what_is_wrong(tmp_path, text, words):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(RequestError, match=words):
        load_space(str(path))


def test_a_method_that_does_not_exist_is_refused(tmp_path, sweep_of):
    (tmp_path / "own.yaml").write_text("loss: ewc\ndimensions: {optimizer.lr: {kind: float, low: 0.1, high: 0.2}}")
    with pytest.raises(RequestError, match="names loss=ewc, which is unknown"):
        sweep_of(f"search.space={tmp_path}/own.yaml")
