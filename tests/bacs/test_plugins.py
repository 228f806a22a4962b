"""Classes from packages of the user's: loaded where he has named them, and nowhere else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bacs import plugins
from bacs.bundle import load_bundle
from bacs.compose import compose, named_plugins
from bacs.config import RunConfig
from bacs.errors import RequestError
from bacs.lineage import run_identity
from bacs.model_record import ModelRecord
from bacs.plugins import ENVIRONMENT, allow, allowing, installed, name_faults, named, package_of
from sweeps.settings import compose_preset

LAB = Path(__file__).parent.parent / "mylab"
OWN = ["--config-path", str(LAB / "conf"), "--config-name", "stripes"]
WORDS = ["training.threads=1", "training.epochs=1", "training.iterations_per_epoch=2"]


@pytest.fixture
def lab(monkeypatch):
    """The lab's package on the path, named by nobody."""
    monkeypatch.syspath_prepend(str(LAB))
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    installed.cache_clear()
    yield
    installed.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mylab", "evil")]:
        del sys.modules[name]


def run(folder: Path, *words: str, **environment: str) -> tuple[int, str]:
    clean = {key: value for key, value in os.environ.items() if key != ENVIRONMENT}
    paths = {"PYTHONPATH": os.pathsep.join([str(LAB.parent.parent), str(LAB)]), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "bacs", *words],
        cwd=folder, env=clean | paths | environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def configured(**values) -> RunConfig:
    return RunConfig.from_dict(compose("config", ["loss._target_=mylab.methods.Hold", "dataset.cache=/tmp"]) | values)


@pytest.mark.usefixtures("lab")
def test_a_class_is_refused_until_its_package_is_named(monkeypatch):
    with pytest.raises(RequestError, match=r"BACS_PLUGINS=mylab\.methods .*plugins=\[mylab\.methods\]"):
        configured()
    assert "mylab" not in sys.modules, "refused before anything of it was imported"
    with allowing(["mylab"]):
        config = configured()
        assert config.plugins == ("mylab",)
        assert config.resolved["plugins"] == ["mylab"]
    assert named() == ()
    monkeypatch.setenv(ENVIRONMENT, "other, mylab.methods ,")
    assert named() == ("other", "mylab.methods")
    assert configured().plugins == ("mylab.methods",)
    assert run_identity(configured()) == run_identity(config), "how it was named does not matter"
    assert RunConfig.from_dict(compose("config", ["dataset.cache=/tmp"])).plugins == ()
    for target in ("mylab.networks.Tiny", "mylab.methods.Tensor", "mylab.methodsx.Hold"):
        with pytest.raises(RequestError, match=r"loss\._target_"):
            RunConfig.from_dict(compose("config", [f"loss._target_={target}"]))


@pytest.mark.usefixtures("lab")
def test_a_file_can_need_a_package_and_never_allow_it():
    with pytest.raises(RequestError, match="plugins: names mylab, but only you can allow that its code runs"):
        configured(plugins=["mylab"])
    with allowing(["mylab"]):
        resolved = configured().resolved
    with pytest.raises(RequestError, match="plugins: names mylab"):
        RunConfig.from_dict(json.loads(json.dumps(resolved)))
    assert "mylab" not in sys.modules or package_of("mylab.methods") is None


@pytest.mark.parametrize(
    ("value", "words"),
    [("mylab", "must be a list"), ([3], "must be a list"), (["my lab"], "no package of yours"),
     (["os"], "no package of yours"), (["../x"], "no package of yours"), ([""], "no package of yours")],
)  # fmt: skip
def test_faulty_values_are_told(value, words):
    (fault,) = name_faults(value)
    assert words in fault.problem


@pytest.mark.usefixtures("lab")
def test_code_that_cannot_be_imported_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in {
        "broken": "x = (",
        "failing": "raise OSError('no licence')",
        "absent_part": "import nothing_here",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
        with allowing([name]), pytest.raises(RequestError, match=f"{name}.Mine', which cannot be imported"):
            RunConfig.from_dict(compose("config", [f"loss._target_={name}.Mine"]))


def test_overrides_name_packages_and_files_only_in_a_folder_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert named_plugins(["loss=bacs", "plugins=[a.b,c]", "what"]) == ["a.b", "c"]
    assert named_plugins([], {"plugins": ["d"]}) == ["d"]
    (tmp_path / "stranger.yaml").write_text("defaults: [{loss: mib}, _self_]\nplugins: [evil]\n")
    with allowing():
        values = compose_preset(str(tmp_path / "stranger.yaml"), [], {"storage": str(tmp_path)})
        assert values["plugins"] == ["evil"]
        assert named() == ()
        compose_preset("stranger", [], {"storage": str(tmp_path), "config_path": str(tmp_path)})
        assert named() == ("evil",)


def test_installed_distributions_announce_their_packages(tmp_path, monkeypatch):
    place = tmp_path / "site-packages"
    shutil.copytree(LAB / "mylab", place / "mylab", ignore=shutil.ignore_patterns("__pycache__"))
    info = place / "mylab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mylab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bacs.plugins]\nlab = mylab.methods\n")
    paths = os.pathsep.join([str(LAB.parent.parent), str(place)])
    small = [
        "dataset.train_scenes=40",
        "dataset.val_scenes=12",
        "dataset.test_scenes=12",
        "training.split=5-5",
        "network.width=4",
    ]
    words = ["loss._target_=mylab.methods.Hold", *WORDS, *small, f"dataset.cache={tmp_path}/cache"]
    code, output = run(tmp_path, *words, PYTHONPATH=paths)
    assert code == 0, output
    (origin,) = tmp_path.glob("runs/results/*/origin.json")
    assert {"mylab.methods", "mylab.terms"} <= json.loads(origin.read_text())["code"].keys()
    code, output = run(tmp_path, "network._target_=mylab.networks.Tiny", *WORDS, PYTHONPATH=paths)
    assert code == 2, "only what was announced"


def test_a_lab_trains_on_two_ranks_and_only_who_names_it_uses_its_checkpoint(tmp_path):
    place = [f"training.ckpt_dir={tmp_path}", "training.exp_name=lab"]
    code, output = run(tmp_path, *OWN, *WORDS, *place, "training.n_gpus=2", "training.device=cpu")
    assert code == 0, output
    stage = tmp_path / "lab/stage-001"
    _, meta = load_bundle(stage)
    assert meta["model"]["config"]["plugins"] == ["mylab"]
    record = ModelRecord.from_state(meta["model"])
    with pytest.raises(RequestError, match="plugins: names mylab"):
        record.build(1)
    code, output = run(tmp_path, "predict", str(stage), str(stage / "meta.json"), "--plugins", "mylab")
    assert code == 1, output
    assert "cannot be read" in output, "the model was built, the file is no picture"


def test_what_is_allowed_reaches_child_processes(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with allowing(["a"]):
        allow(["b", "a"])
        done = subprocess.run(
            [sys.executable, "-c", "from bacs.plugins import named; print(named())"],
            capture_output=True, text=True, check=True, cwd=LAB.parent.parent,
        )  # fmt: skip
    assert done.stdout.strip() == "('a', 'b')"
    assert plugins.named() == ()
