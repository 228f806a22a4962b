from __future__ import annotations

from pathlib import Path

import pytest

from bacs.config import RunConfig
from bacs.errors import RequestError
from sweeps.checks import check_request
from sweeps.settings import PRESETS_DIR, SweepConfig, compose_preset
from sweeps.trials import make_trial

PRESETS = sorted(path.stem for path in PRESETS_DIR.glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("space", ["bacs", "bacs_full"])
def test_every_shipped_preset_is_a_legal_sweep(preset, space, roots, tmp_path):
    here = [f"search.space={space}", "resources.gpus_per_trial=0", "resources.cpus_per_trial=1"]
    here += [f"dataset.root={roots[preset]}"] if preset in roots else []
    values = compose_preset(preset, here, {"storage": str(tmp_path / "runs")})
    sweep = check_request(values)
    assert SweepConfig.from_dict(sweep.resolved).resolved == sweep.resolved
    assert sweep.folder == tmp_path / "runs" / preset
    assert sweep.base["dataset"]["cache"] == "runs/cache" or Path(sweep.base["dataset"]["cache"]).is_absolute()
    assert (PRESETS_DIR / f"{preset}.yaml").read_text().splitlines()[1].startswith("#   python -m sweeps run")


def test_faults_of_every_section_and_service_come_together(tmp_path):
    locked = tmp_path / "file"
    locked.write_text("")
    overrides = [
        "search.trials=0",
        "search.splits=[3-2,2-2]",
        "search.algorithm=cma",
        "search.references=[joint,upper]",
        "search.space=nowhere",
        "search.seeds=[1,1]",
        "loss.lkd=-1",
        "dataset.source=mnist",
        "resources.cpus_per_trial=4096",
    ]
    launch = {"storage": str(locked / "x"), "tracking_uri": "http://127.0.0.1:9", "name": "a/b"}
    with pytest.raises(RequestError) as caught:
        check_request(compose_preset("digits", overrides, launch))
    found = {fault.where for fault in caught.value.faults}
    expected = {"search.trials", "training.split", "search.algorithm", "search.references", "search.space"}
    expected |= {"search.seeds", "loss.lkd", "dataset.root", "sweep.storage", "sweep.tracking_uri", "sweep.name"}
    assert expected <= found
    assert all(fault.problem and fault.remedy for fault in caught.value.faults)


@pytest.mark.parametrize(
    ("dimension", "words"),
    [
        ("loss.buffersize: {kind: int, low: 1, high: 5}", "not a known key"),
        ("loss.lkd: {kind: float, low: -1, high: 5}", "must be >= 0"),
        ("loss.lkd_mode: {kind: choice, choices: [l2, l3]}", "'l3'"),
        ("training.split: {kind: choice, choices: [2-2, 5-5]}", "enumerated"),
    ],
)
def test_a_space_is_checked_against_the_configuration(tmp_path, dimension, words):
    (tmp_path / "space.yaml").write_text(f"dimensions:\n  {dimension}\n")
    values = compose_preset("digits", [f"search.space={tmp_path}/space.yaml"], {"storage": str(tmp_path)})
    with pytest.raises(RequestError, match=words):
        check_request(values)


def test_too_many_cores_are_refused_before_the_start(tmp_path):
    values = compose_preset("digits", ["resources.cpus_per_trial=4096"], {"storage": str(tmp_path)})
    with pytest.raises(RequestError, match=r"cpus_per_trial: is 4096, but this machine has \d+ cores"):
        check_request(values)


def test_references_to_the_environment_are_recorded_and_looked_up_where_they_are_used(tmp_path, monkeypatch):
    monkeypatch.setenv("PGPASS", str(tmp_path / "hunter2"))
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/hunter2.db")
    given = ["training.name=${oc.env:PGPASS}", "dataset.cache=${oc.env:PGPASS}", "training.stages=${oc.env:PGPASS}/s"]
    given += ["sweep.tracking_uri=${oc.env:DATABASE_URL}"]
    sweep = check_request(compose_preset("digits", given, {"storage": str(tmp_path / "runs")}))
    assert "hunter2" not in str(sweep.resolved)
    assert sweep.resolved["sweep"]["tracking_uri"] == "${oc.env:DATABASE_URL}"
    assert sweep.tracking_uri == f"sqlite:///{tmp_path}/hunter2.db"
    assert sweep.stages == tmp_path / "hunter2" / "s"
    for again in (SweepConfig.from_dict(sweep.resolved), SweepConfig.recorded(sweep.resolved, sweep.space)):
        assert again.resolved == sweep.resolved
    trial = make_trial(sweep, "uid", role="trial", number=0, split="2-2", seed=1, params={})
    assert "hunter2" not in str(trial)
    assert RunConfig.from_dict(trial.config).dataset.settings.cache == str(tmp_path / "hunter2")

    with pytest.raises(RequestError, match="Ray and MLflow write down where it is"):
        compose_preset("digits", ["sweep.storage=${oc.env:PGPASS}"], {})


def test_faults_of_the_configuration_and_of_the_space_come_together(tmp_path):
    (tmp_path / "s.yaml").write_text("dimensions: {loss.nope: {kind: float, low: 0.1, high: 1}}")
    given = [f"search.space={tmp_path}/s.yaml", "training.epochs=0", "search.splits=3-2"]
    with pytest.raises(RequestError) as caught:
        check_request(compose_preset("digits", given, {"storage": str(tmp_path / "runs")}))
    found = {fault.where for fault in caught.value.faults}
    assert found == {"training.epochs", "training.split", "search.space s: loss.nope"}


@pytest.mark.parametrize("splits", ["5-5", "[5-5]", "\"[['0','1'],['2','3','4','5','6','7','8','9']]\""])
def test_one_split_may_stand_without_its_list_and_names_in_quotes(tmp_path, splits):
    values = compose_preset("digits", [f"search.splits={splits}"], {"storage": str(tmp_path)})
    assert len(check_request(values).search.splits) == 1
