"""The contracts as somebody outside uses them: by the command, or in a test of his own; and what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bacs.contracts.targets import contracts_of
from bacs.errors import RequestError
from bacs.plugins import allowing

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
PYTEST = Path(sys.executable).with_name("pytest")

NAN = "where every pixel is ignored, the term 'mine' is nan.*-> a mean over no pixel is 0/0: divide by at least 1"
BROKEN = {
    "methods.NanWhereAllIsIgnored": {
        "test_losses_and_gradients_are_finite_on_degenerate_batches[0]": f"in step 0, {NAN}",
        "test_losses_and_gradients_are_finite_on_degenerate_batches[1]": f"in step 1, {NAN}",
    },
    "methods.ActsEarlier": {
        "test_fields_that_act_later_leave_step_0_bit_identical": "weight is declared to act from a later step, but "
        r"weight=3.0 changes step 0.*-> declare it weight: ... = knob\(..., acts_from=0\)",
    },
    "methods.SpoilsTheBatch": {
        "test_an_iteration_leaves_the_teacher_and_the_batch_alone": "Batch.images of the batch.*-> work on a copy",
        "test_it_explains_itself": "does not say what happens in step 0.*-> say in it which terms",
    },
    "networks.HalfSize": {
        "test_outputs_have_the_documented_shapes": r"logits of images \(2, 1, 33, 47\) in train mode has the shape "
        r"\(2, 6, 17, 24\) instead of \(2, 6, 33, 47\).*-> .*interpolated to the size of the input",
        "test_growth_appends_classes": "",
    },
    "networks.NormalisesOverClasses": {
        "test_random_growth_leaves_old_logits_alone": "has moved logits of old classes by .*give as replay_logits those"
    },
    "datasets.WrongPresence": {
        "test_presence_is_that_of_the_masks": r"presence of image 0 of train names the ids \[0, 1, 2\], but its whole "
        r"mask has \[0, \d\].*-> make it of the same masks",
    },
    "datasets.ReadsOneAfterTheOther": {
        "test_a_view_depends_on_row_and_draw_alone": "of train are other bytes when they are read in",
    },
    "datasets.ForgetsTheSeed": {
        "test_the_manifest_tells_data_apart": "seed=3 gives other data under the same manifest 6.*-> hash seed too",
    },
}
"""Classes of `otherlab`, the tests that each fails, and words of what they say."""

GROWS_ONCE = r"grow\(2, '\w+'\) left n_classes at 4 instead of 6.*-> append the new classes in grow\(\)"
WHOLE = ("methods.Weighted", "networks.Plain", "datasets.Noise")


@pytest.fixture
def away(tmp_path):
    """Another folder, where a command finds the project and `otherlab` by PYTHONPATH alone."""
    return tmp_path


def run(folder, *arguments, path=(ROOT, HERE)):
    kept = {name: value for name, value in os.environ.items() if name not in ("BACS_PLUGINS", "PYTEST_ADDOPTS")}
    place = kept | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [str(PYTEST), "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=folder, env=place, capture_output=True, text=True, timeout=300, check=False)


def said(report):
    """(class, test) -> what the test says where it fails, else None."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failure = case.find("failure")
        key = case.get("classname").rpartition(".Test")[2], case.get("name")
        found[key] = None if failure is None else failure.get("message")
    return found


def test_the_command_passes_whole_classes_and_tells_of_broken_ones_in_words(away):
    named = [("--target", f"otherlab.{name}") for name in (*BROKEN, "networks.GrowsOnce", *WHOLE)]
    rest = ["--set", "weight=0.5", "-m", "not slow", "--junitxml=report.xml"]
    done = run(away, "--pyargs", "bacs.contracts", *chain.from_iterable(named), *rest)
    assert done.returncode == 1, done.stdout + done.stderr
    found = said(away / "report.xml")
    for name, expected in BROKEN.items():
        failed = {test: text for (owner, test), text in found.items() if owner == name.partition(".")[2] and text}
        assert failed.keys() == expected.keys(), name
        for test, text in failed.items():
            assert re.search(expected[test], text, re.DOTALL), text
            assert "assert" not in text
    failed = [text for (owner, _), text in found.items() if owner == "GrowsOnce" and text]
    assert len(failed) >= 8
    assert all(re.search(GROWS_ONCE, text, re.DOTALL) for text in failed)
    for name in WHOLE:
        texts = [text for (owner, _), text in found.items() if owner == name.partition(".")[2]]
        assert len(texts) >= 8
        assert not any(texts), name


MINE = """
import os

from bacs.contracts.datasets import DatasetContract
from bacs.contracts.methods import MethodContract
from bacs.contracts.networks import NetworkContract


class TestMyLoss(MethodContract):
    target = "otherlab.methods.Weighted"
    settings = {"weight": 0.5}


class TestLossWithoutSettings(MethodContract):
    target = "otherlab.methods.Weighted"


class TestMyNetwork(NetworkContract):
    target = "otherlab.networks.Plain"


class TestMyData(DatasetContract):
    target = "otherlab.datasets.Noise"
    sample = 3


def test_the_package_is_allowed_no_longer():
    assert "BACS_PLUGINS" not in os.environ
"""


def test_contracts_are_base_classes_of_tests(away):
    (away / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -q\n")
    (away / "test_mine.py").write_text(MINE)
    done = run(away, "test_mine.py", "-m", "not slow", "-k", "not WithoutSettings or settings_are_accepted")
    assert "\n1 failed" in done.stdout, done.stdout + done.stderr
    assert "TestLossWithoutSettings.test_settings_are_accepted" in done.stdout
    assert "loss.weight: is required but was not given" in done.stdout
    assert "-> give what it needs: settings = {...} in the subclass" in done.stdout


def test_the_marker_is_needed_only_where_the_plugin_is_loaded(away):
    (away / "test_strict.py").write_text(MINE)
    done = run(away, "test_strict.py", "--strict-markers", "--collect-only", "-p", "no:bacs-contracts")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_repository_itself_is_a_place_to_run_it_from(away):
    done = run(ROOT, "--pyargs", "bacs.contracts", "--target", "bacs.networks.unet.UNet", "--set=width=4", path=())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name the class to check: pytest --pyargs bacs.contracts --target mylab.methods.MyLoss"),
        (["--target", "otherlab.losses.Mine"], "cannot be imported: ModuleNotFoundError.*PYTHONPATH, or install it"),
    ],
)
def test_wrong_use_is_told_before_any_test(away, arguments, words):
    done = run(away, "--pyargs", "bacs.contracts", *arguments)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert re.search(words, done.stderr, re.DOTALL), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("target", "setting", "words"),
    [
        ("otherlab.methods.Stranger", "count=1", "no class that there is a contract for.*lacks Config, check"),
        ("otherlab.methods.losses", "count=1", "is <module.*, no class"),
        ("otherlab.datasets.Noise", "weight=1", "weight: is a key of no target.*count, seed"),
        ("otherlab.datasets.Noise", "count", "has no value.*--set KEY=VALUE"),
        ("otherlab.datasets.Noise", "count=[", "no YAML.*quote it"),
    ],
)
def test_unusable_targets_and_settings_are_told(monkeypatch, target, setting, words):
    monkeypatch.syspath_prepend(HERE)
    with pytest.raises(RequestError, match=f"(?s){words}"):
        contracts_of([target], [setting])


def test_each_target_gets_the_settings_that_it_has(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    targets = [
        "otherlab.datasets.Noise",
        "otherlab.methods.Weighted",
        "otherlab.networks.Plain",
        "otherlab.datasets.Noise",
    ]
    data, method, network = contracts_of(targets, ["count=3", "weight=1e-1", "seed=2"])
    assert [data.settings, method.settings, network.settings] == [{"count": 3, "seed": 2}, {"weight": "1e-1"}, {}]
    with allowing(["otherlab"]):
        assert method.component().settings.weight == 0.1
    assert (data.__name__, data.group, network.group) == ("TestNoise", "dataset", "network")


@pytest.mark.slow
def test_two_ranks_run_a_method_from_outside(away):
    target = ["--target", "otherlab.methods.Weighted", "--set", "weight=0.5"]
    done = run(away, "--pyargs", "bacs.contracts", *target, "-m", "slow", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
