"""The table of wrong requests: each is refused with its value, the rule and the remedy, and leaves nothing behind."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sweeps.__main__ import app
from sweeps.settings import PRESETS_DIR
from tests.sweeps.conftest import ROOT

DIGITS = (PRESETS_DIR / "digits.yaml").read_text()
HUGE = "9" * 400
RANGE = "dimensions: {loss.lkd: {kind: float, low: %s, high: %s%s}}"


def preset(text: str) -> str:
    """The preset digits with other or further lines, as a file of one's own."""
    return DIGITS.replace("  trials: 4\n", text) if text.startswith("  ") else DIGITS + text


OVERRIDES = [
    # the form of an override
    ("search.trials", ["search.trials: is not an override", "write KEY=VALUE"]),
    ("=5", ["=5: is not an override: it has no key", "KEY=VALUE"]),
    ("search.splits=[2-2", ["is not an override: ", "KEY=VALUE"]),
    ("search.trials=" + "9" * 5000, ["search.trials=9", "is not an override: Exceeds the limit", "KEY=VALUE"]),
    ("optimizer.lr=1e-3,1e-2", ["gives several values", "search.space"]),
    ("loss=bacs,mib", ["gives several values", "search.space"]),
    ("search.trials=range(1,3)", ["gives several values", "search.space"]),
    ("hydra.run.dir=/tmp/x", ["hydra.run.dir=/tmp/x: is a setting of Hydra", "leave it out"]),
    # groups and keys
    ("loss=bax", ["loss: is 'bax', which is no choice", "choose one of: bacs, "]),
    ("training=nope", ["training: is 'nope', which is no choice", "choose one of: ade20k"]),
    ("dataset=null", ["dataset: is None, which is no choice", "choose one of: "]),
    ("trainin.epochs=3", ["trainin: is not a configuration group", "known groups: dataset"]),
    ("search=5", ["search: is 5, not a group of keys", "write search.KEY=VALUE"]),
    ("sweep=5", ["sweep: is 5, not a group of keys", "write sweep.KEY=VALUE"]),
    ("resources=[1]", ["resources: is [1], not a group of keys", "write resources.KEY=VALUE"]),
    ("search.trails=3", ["search.trails: is not a known key", "did you mean search.trials?"]),
    ("loss.bufer_size=3", ["loss.bufer_size: is not a known key", "did you mean loss.buffer_size?"]),
    ("training.epochs.x=1", ["training.epochs: is {'x': 1}, which is not int", "give a value of type int"]),
    ("compat.nope=true", ["compat.nope: is not a known key", "known keys: "]),
    ("loss.seen_threshold=0.5", ["loss.seen_threshold: is a key of the original", "set loss.prototype_margin to"]),
    ("dataset.password=x", ["dataset.password: is a key of the original", "CITYSCAPES_PASSWORD"]),
    ("training.learner=x", ["training.learner: is a key of the original", "training.new_head_init"]),
    # values
    ("search.trials=abc", ["search.trials: is 'abc', which is not int", "type int"]),
    ("search.trials=true", ["search.trials: is True, which is not int", "type int"]),
    ("search.trials=0", ["search.trials: is 0, but must be >= 1", "number >= 1"]),
    ("search.trials=null", ["search.trials: is None, which is not int", "type int"]),
    ("search.trials=" + "9" * 30, ["search.trials: is a number of 100 bits, but must fit into 64", "smaller number"]),
    (f"search.trials={HUGE}", ["search.trials: is a number of 1329 bits", "smaller number"]),
    ("search.seeds=[99999999999999999999]", ["search.seeds[0]: is a number of 67 bits", "smaller number"]),
    (
        "dataset.train_scenes=9999999999",
        ["dataset.train_scenes: is 9999999999, but must be >= 1 and <=", "set dataset.train_scenes"],
    ),
    ("loss.lkd=nan", ["loss.lkd: is nan, but must be a finite number", "a finite number"]),
    ("loss.lkd=1e400", ["loss.lkd: is inf, but must be a finite number", "a finite number"]),
    (f"loss.lkd={HUGE}", ["loss.lkd: is a number of 1329 bits", "smaller number"]),
    ("loss.lkd=", ["loss.lkd: is '', which is not float", "type float"]),
    ("loss.lkd=-1", ["loss.lkd: is -1.0, but must be >= 0", "number >= 0"]),
    ("loss.lkd_mode=l1", ["loss.lkd_mode: is 'l1', but must be one of: ref, l2, cos", "set loss.lkd_mode"]),
    ("dataset.cache=", ["dataset.cache: is '', but must be text", "leave it out"]),
    ("optimizer.lr=true", ["optimizer.lr: is True, but must be a number > 0", "set optimizer.lr"]),
    ("optimizer.lr=nan", ["optimizer.lr: is nan, but must be a finite number", "a finite number"]),
    ("optimizer.betas=[0.9]", ["optimizer: AdamW refuses", "[0.9]", "correct the value"]),
    ("optimizer.betas={a:1}", ["optimizer: AdamW refuses", "{'a': 1}", "correct the value"]),
    ("optimizer.momentum=0.9", ["optimizer.momentum: is not an argument of AdamW", "known: lr"]),
    ("training.batch_size=-3", ["training.batch_size: is -3, but must be >= 1", "number >= 1"]),
    ("training.n_gpus=3", ["training.batch_size: is 16, which 3 workers", "multiple of 3"]),
    ("training.exp_name=../../x", ["training.exp_name: is '../../x'", "no '/'"]),
    ("network.n_channels=3", ["network.n_channels: is 3, but the images", "leave it out"]),
    ("dataset.digit_size=70", ["dataset.canvas: is 36, but must be at least", "set dataset.canvas to 70"]),
    ("dataset.source=mnist", ["dataset.root: is null, but the source mnist", "set dataset.root"]),
    (
        "loss.lkd=${oc.env:AWS_SECRET_ACCESS_KEY}",
        ["is '${oc.env:AWS_SECRET_ACCESS_KEY}', but refers to the environment", "write the value itself"],
    ),
    ("training.epochs=1000000000", ["training.epochs: is 1000000000, but must be >= 1 and <= 100,000", "set training"]),
    ("training.batch_size=1000000", ["training.batch_size: is 1000000, but must be", "<= 16,384"]),
    ("training.num_workers=100000", ["training.num_workers: is 100000", "from 0 to 512", "set it to auto"]),
    ("training.threads=100000", ["training.threads: is 100000, but must be", "<= 1,024"]),
    ("network.width=1000000", ["network.width: is 1000000, but must be", "<= 1,024"]),
    ("dataset.max_digits=1000000", ["dataset.max_digits: is 1000000, but must be", "<= 100"]),
    ("loss.buffer_size=1000000000", ["loss.buffer_size: is 1000000000, but must be", "<= 10,000,000"]),
    ("search.trials=1000000", ["search.trials: is 1000000, but must be", "<= 10,000"]),
    ("optimizer.foreach=abc", ["optimizer.foreach: is 'abc', but must be true or false", "leave it out"]),
    ("optimizer.maximize=true", ["optimizer.maximize: is True, with which training would not", "leave it out"]),
    ("optimizer.amsgrad=1", ["optimizer.amsgrad: is 1, but must be true or false", "leave it out"]),
    ("optimizer.weight_decay=abc", ["optimizer.weight_decay: is 'abc', but must be a number", "give a number"]),
    ("training.stages=/dev/null", ["training.stages: is /dev/null, but /dev/null is no folder", "give a folder"]),
    ("dataset.cache=~nobody-here/x", ["dataset.cache: is '~nobody-here/x', but there is no user", "give another path"]),
    ("training.exp_name=" + "A" * 300, ["training.exp_name: is AAAA", "of 300 characters", "give a shorter name"]),
    ("search.confirms=../x", ["search.confirms: is '../x', which is no legal name", "use letters"]),
    ("search.warm_start=[../x]", ["search.warm_start: is '../x', which is no legal name", "use letters"]),
    ("sweep.tracking_uri=http://x/${oc.env:HOME}", ["sweep.tracking_uri: is", "pastes a part of the environment"]),
    ("sweep.tracking_uri=${oc.env:NOT_SET_ANYWHERE}", ["sweep.tracking_uri: is ${oc.env:NOT", "set the variable"]),
    ("dataset.root=${oc.env:NOT_SET_ANYWHERE}", ["dataset.root: is ${oc.env:NOT", "set the variable"]),
    ("loss.lkd=${nope}", ["Interpolation key 'nope' not found", "correct the file or override"]),
    # splits, seeds, searches
    ("search.splits=['3-']", ["training.split: is '3-', which is neither X-Y", "write for example 5-1"]),
    ("search.splits=['0-1']", ["training.split: is '0-1', but both numbers", "with Y=1: 1-1"]),
    ("search.splits=['2-2-2']", ["training.split: is '2-2-2', which is neither", "write for example"]),
    ("search.splits=['3-2']", ["training.split: is '3-2', but the 7 classes left of 10", "with X=3: 3-1, 3-7"]),
    ("search.splits=['11-1']", ["training.split: is '11-1', but X (11) must be less", "5-1"]),
    ("search.splits=[[[0,1],[1,2]]]", ["training.split: names more than once: 1", "exactly one step"]),
    ("search.splits=[[[zero]]]", ["names 'zero', which is not a class", "the classes are: 0, 1"]),
    ("search.splits=[null]", ["search.splits: is [None]", "list each once"]),
    ("search.splits=3-2", ["training.split: is '3-2', but the 7 classes left of 10", "with X=3: 3-1, 3-7"]),
    ("search.splits=[2-2,2-2]", ["search.splits: is ['2-2', '2-2'], empty or with repetitions", "list each once"]),
    ("search.seeds=[-1]", ["search.seeds: is -1, but must be >= 0", "number >= 0"]),
    ("training.split=5-5", ["training.split: is given by training.split=5-5", "write search.splits=[...]"]),
    ("search.algorithm=cma", ["search.algorithm: is 'cma', but must be one of: tpe", "set search.algorithm"]),
    ("search.references=[upper]", ["search.references: has 'upper', which is unknown", "known: joint, finetune"]),
    ("search.space=nowhere", ["search.space: is 'nowhere', which does not exist", "known: bacs"]),
    ("search.space=mib", ["search.space: is mib, a space of loss=mib", "add loss=mib"]),
    # resources
    ("resources.cpus_per_trial=4096", ["resources.cpus_per_trial: is 4096, but this machine has", "give at most"]),
    ("resources.cpus_per_trial=0", ["resources.cpus_per_trial: is 0, but must be >= 1", "number >= 1"]),
    ("resources.gpus_per_trial=64", ["resources.gpus_per_trial: is 64, but this machine has", "give at most"]),
    ("resources.gpus_per_trial=1.5", ["resources.gpus_per_trial: is 1.5, but more than one", "give 1 or 2"]),
    ("resources.gpus_per_trial=-1", ["resources.gpus_per_trial: is -1.0, but must be >= 0", "number >= 0"]),
    ("sweep.time_budget_minutes=-1", ["sweep.time_budget_minutes: is -1.0, but must be > 0", "number > 0"]),
    # classes
    ("loss._target_=os.system", ["loss._target_: is 'os.system', but must start with bacs.", "a class of the project"]),
    (
        "loss._target_=bacs.launch.Path",
        ["loss._target_: is 'bacs.launch.Path', a class of pathlib", "loss=... by name"],
    ),
    ("network._target_=bacs.data.Digits", ["network._target_: is 'bacs.data.Digits', which cannot be", "by name"]),
    ("dataset._target_=bacs.losses.bacs.Bacs", ["dataset._target_: is 'bacs.losses.bacs.Bacs', which", "by name"]),
    ("optimizer._target_=bacs.networks.UNet", ["optimizer._target_: is 'bacs.networks.UNet', which", "by name"]),
]

OPTIONS = [
    ("--name", "a/b", ["sweep.name: is 'a/b', which is no legal name", "use letters, digits"]),
    ("--name", "..", ["sweep.name: is '..', which is no legal name", "use letters, digits"]),
    ("--name", "", ["sweep.name: is '', but must be text", "give it a value"]),
    ("--name", "x" * 64, ["sweep.name: is 'xxx", "at most 63"]),
    ("--name", "<script>", ["sweep.name: is '<script>', which is no legal name", "use letters, digits"]),
    ("--tracking-uri", "foo://bar", ["'foo://bar': MLflow knows no such store", "use sqlite:////"]),
    ("--tracking-uri", "/tmp/x", ["'/tmp/x': MLflow 3 does not write plain folders", "use sqlite:////"]),
    ("--tracking-uri", "http://127.0.0.1:9", ["http://127.0.0.1:9 does not answer", "start it with `mlflow server`"]),
    ("--tracking-uri", "http://127.0.0.1:x", ["http://127.0.0.1:x does not answer", "correct the address"]),
    ("--tracking-uri", "http://127.0.0.1:99999", ["http://127.0.0.1:99999 does not answer", "correct the address"]),
    ("--tracking-uri", "sqlite:////etc", ["'sqlite:////etc' names a folder", "name a file in it"]),
    (
        "--address",
        "127.0.0.1:99999",
        ["sweep.address: is '127.0.0.1:99999', but must be HOST:PORT", "ray start --head"],
    ),
    ("--address", "nonsense", ["sweep.address: is 'nonsense', but must be HOST:PORT", "drop --address"]),
    ("--address", "127.0.0.1:9", ["sweep.address: is 127.0.0.1:9, which does not answer", "ray start --head"]),
    ("--storage", "s3://bucket/x", ["sweep.storage: is 's3://bucket/x', but must be a folder", "--storage"]),
    ("--storage", "FOLDER/file", ["file is no folder", "with --storage"]),
    ("--storage", "FOLDER/" + "n" * 300, ["a path has at most 3072 bytes", "with --storage"]),
]

PRESETS = [
    (
        preset("\nfoo: [1, 2\n"),
        ["own.yaml: cannot be read: while parsing a flow sequence", "line 33", "correct the file"],
    ),
    (preset("\nx:\n\ty: 3\n"), ["found character that cannot start any token", "line 34", "correct the file"]),
    (preset("  trials: 4\n  trials: 5\n"), ["found duplicate key trials", "line 31", "correct the file"]),
    (preset("\nx: !!python/object/apply:os.system ['exit 3']\n"), ["could not determine a constructor", "correct"]),
    (DIGITS.encode() + b"# caf\xe9\n", ["own.yaml: cannot be read: it is no UTF-8 text", "correct"]),
    ("defaults: nope\n", ["defaults must be a list (got str)", "correct the file"]),
    ("defaults: [{loss: nope}]\n", ["Could not find 'loss/nope'", "correct the file"]),
    ("", ["dataset._target_: is None, not a class path", "choose dataset=... by name"]),
    ("- a\n", ["must be a DictConfig, got ListConfig", "correct the file"]),
]

SPACES = [
    ("[1, 2]", ["has no dimensions", "list them under"]),
    ("5", ["which cannot be read", "correct the file"]),
    ("points: [{5: 1}]", ["has the key 5, which is no text", "such as loss.lkd"]),
    ("points: [{loss: [a]}]", ["has loss=['a'], which is no method", "write loss: NAME"]),
    ("points: [{loss.lkd.x.y: 1}]", ["loss.lkd.x.y: leads into a plain value", "write GROUP.KEY"]),
    ("points: [{loss.lkd: 1}, {loss.lkd: 1.0}]", ["lists configurations, each once", "write points:"]),
    ("points: [{training.stages: /tmp/x}, {training.stages: /tmp/y}]", ["is a place that all trials share", "outside"]),
    ("dimensions: {loss.lkd: {kind: [a]}}", ["{'kind': ['a']}, without a known kind", "kind: one of"]),
    ("dimensions: {loss.lkd: {kind: choice, choices: [1, true]}}", ["1, 1.0 and true are equal", "each once"]),
    ("dimensions: {loss.lkd_mode: {kind: choice, choices: ['${oc.env:X}', l2]}}", ["refers to the", "write the value"]),
    ("a: &a [*a]", ["*a contains itself", "correct the file"]),
    ("", ["has no dimensions", "list them under `dimensions:`"]),
    ("dimensions: [", ["which cannot be read: while parsing a flow node", "correct the file"]),
    (b"caf\xe9", ["which cannot be read: it is no UTF-8 text", "correct the file"]),
    ("dimensions: {loss.lkd: 5}", ["loss.lkd: is 5, without a known kind", "kind: one of float, int, choice"]),
    ("dimensions: {loss.lkd: {kind: what}}", ["{'kind': 'what'}, without a known kind", "kind: one of"]),
    (RANGE % (2, 1, ""), ["loss.lkd: has low 2 >= high 1", "low must be smaller"]),
    (RANGE % (".nan", 1, ""), ["loss.lkd: has low nan, high 1", "give numbers of that kind"]),
    (RANGE % (0, 10**400, ""), ["high of 1329 bits", "give numbers of that kind"]),
    (RANGE % (0, 1, ", log: true"), ["loss.lkd: is logarithmic from 0", "or drop log"]),
    (RANGE % (1, 2, ", log: maybe"), ["has log 'maybe', which is neither", "write log: true"]),
    (RANGE % (1, 2, ", step: 2"), ["has the unknown setting 'step'", "known for float: grid"]),
    (RANGE % (1, 2, ", grid: 5"), ["has grid 5, which is no list", "inside the range"]),
    (RANGE % (1, 2, ", grid: [9]"), ["has grid [9], which is no list of numbers from 1 to 2", "inside the range"]),
    (RANGE % (1, 2, "") + "\ndimensions: {}", ["found duplicate key dimensions", "correct the file"]),
    ("dimensions: {loss.nope: {kind: float, low: 1, high: 2}}", ["loss.nope: is not a known key", "known keys: "]),
    ("dimensions: {loss.lkd.x: {kind: float, low: 1, high: 2}}", ["loss.lkd.x: leads into a plain value", "GROUP.KEY"]),
    ("dimensions: {sweep.name: {kind: choice, choices: [a, b]}}", ["sweep: is not a configuration group", "known"]),
    ("dimensions: {loss.lkd_mode: {kind: choice, choices: [[a], b]}}", ["[['a'], 'b'], which are not", "each once"]),
    ("dimensions: {loss.lkd_mode: {kind: choice, choices: [l2, l3]}}", ["is 'l3', but must be one of", "set loss"]),
    (
        "dimensions: {loss._target_: {kind: choice, choices: [os.system, os.popen]}}",
        ["'os.popen', but must", "name a class"],
    ),
    ("dimensions: {training.split: {kind: choice, choices: [2-2, 5-5]}}", ["not searched but enumerated", "splits"]),
    ("methods: [mib]", ["{'methods': ['mib']}, but a space over methods", "write methods: [mib, plop, ...]"]),
    ("methods: [mib, nope]", ["search.space: is 'nope', which does not exist", "known: bacs"]),
]

FOLDERS: list[tuple[dict[str, str | bytes], list[str]]] = [
    ({"classes.txt": ""}, ["classes.txt: names 0 classes, but must name 1..254", "one name a line"]),
    ({"classes.txt": "a\na\n"}, ["classes.txt: names more than once: a", "name each class once"]),
    ({"classes.txt": b"\xff\xfa"}, ["classes.txt: cannot be read: 'utf-8' codec", "plain text"]),
    ({"classes.txt": "=cmd()\nb\nc\n"}, ["names '=cmd()', but the name of a class must", "rename it"]),
    ({"classes.txt": "a\x1b[2J\nb\nc\n"}, ["names 'a\\x1b[2J', but the name of a class must", "rename it"]),
    ({"classes.txt": "a" * 3000 + "\nb\nc\n"}, ["names 'aaa", "up to 100 printable characters", "rename it"]),
    ({"train.txt": "../../etc/passwd\n"}, ["names '../../etc/passwd', but a name must be a path below", "correct"]),
    ({"train.txt": "/etc/passwd\n"}, ["names '/etc/passwd', but a name must be a path below", "correct the line"]),
    ({"train.txt": "x\0\n"}, ["names 'x\\x00', but a name must be a path below", "correct the line"]),
    ({"train.txt": "\n\n"}, ["has no image to train on", "complete the lists"]),
    ({"val.txt": "x\n"}, ["lists 1 images for training that results are measured on: x", "remove them"]),
]


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    """What this machine's user may have set."""
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")


@pytest.fixture
def refused(tmp_path) -> Callable[..., None]:
    """Runs a command and looks at everything that a refusal promises."""
    storage = tmp_path / "runs"

    def check(words: list[str], *arguments: str, command: str = "run") -> None:
        where = [] if "--storage" in arguments else ["--storage", str(storage)]
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [command, *arguments, *where])
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == 2, result.output
        told = " ".join(result.output.split())
        for word in words:
            assert word in told, told
        faults = re.findall(r"\n\S.*", result.output)
        assert faults, "no fault is named"
        assert len(faults) == result.output.count("\n    -> "), "every fault has a remedy"
        assert "hunter2" not in told
        assert not storage.exists(), "nothing was created"

    return check


@pytest.mark.parametrize(("override", "words"), OVERRIDES, ids=[text[:60] for text, _ in OVERRIDES])
def test_overrides(refused, override, words):
    refused(words, "digits", override)


@pytest.mark.parametrize(("option", "value", "words"), OPTIONS, ids=[f"{o}={v[:40]}" for o, v, _ in OPTIONS])
def test_options(refused, tmp_path, option, value, words):
    (tmp_path / "file").touch()
    refused(words, "digits", option, value.replace("FOLDER", str(tmp_path)))


@pytest.mark.parametrize(("content", "words"), PRESETS, ids=[words[0] for _, words in PRESETS])
def test_presets_of_ones_own(refused, tmp_path, content, words):
    _write(tmp_path / "own.yaml", content)
    refused(words, str(tmp_path / "own.yaml"))


@pytest.mark.parametrize("name", ["nope", "../presets/digits", "", "/", "x" * 300, "absent.yaml"])
def test_presets_that_do_not_exist(refused, name):
    refused([name.removesuffix(".yaml")[:100], "is no configuration file in", "known: "], name)


@pytest.mark.parametrize(("content", "words"), SPACES, ids=[words[0] for _, words in SPACES])
def test_spaces(refused, tmp_path, content, words):
    _write(tmp_path / "space.yaml", content)
    refused(words, "digits", f"search.space={tmp_path}/space.yaml")


def test_a_grid_without_values(refused, tmp_path):
    _write(tmp_path / "space.yaml", RANGE % (1, 2, ""))
    words = ["search.space: loss.lkd: has no grid values", "give grid: [a, b, ...]"]
    refused(words, "digits", f"search.space={tmp_path}/space.yaml", "search.algorithm=grid")


@pytest.mark.parametrize(("files", "words"), FOLDERS, ids=[words[0] for _, words in FOLDERS])
def test_datasets(refused, tmp_path, files, words):
    refused(words, *_own_dataset(tmp_path, files))


@pytest.mark.parametrize("place", ["absent", "data/classes.txt", "x" * 200])
def test_roots(refused, tmp_path, place):
    preset, _ = _own_dataset(tmp_path, {})
    words = [f"dataset.root: is {tmp_path / place}, which is not a folder", "put there images/"]
    refused(words, preset, f"dataset.root={tmp_path / place}")


def test_a_right_dataset_is_planned(tmp_path):
    """Else the refusals above would prove nothing."""
    held_out = "dataset.val_seed=3"  # one of the two
    arguments = ["plan", *_own_dataset(tmp_path, {}), held_out, "--storage", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "runs").exists(), "a plan makes nothing"


@pytest.mark.parametrize("command", ["resume", "status", "report", "sync"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nobody", ["NAME: no sweep nobody in ", "--storage"]),
        ("..", ["NAME: is '..', which is no legal name", "use letters"]),
        ("a/../b", ["NAME: is 'a/../b', which is no legal name", "use letters"]),
    ],
)
def test_names_of_sweeps_that_do_not_exist(refused, command, name, words):
    refused(words, name, command=command)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["sweeps", "plan", "digits", "search=5"], 2, "search: is 5, not a group of keys"),
        (["sweeps", "plan", "digits", "loss._target_=os.system"], 2, "but must start with bacs."),
        (["sweeps", "nonsense"], 2, "No such command 'nonsense'"),
        (["bacs", "loss.lkd=nan"], 2, "loss.lkd: is nan, but must be a finite number"),
        (["bacs", "predict", "absent", "absent.png"], 2, "BUNDLE: is absent, which is no checkpoint"),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else None,
)
def test_processes_end_with_2_and_without_a_traceback(tmp_path, arguments, code, words):
    place = ["--storage", str(tmp_path / "runs")] if arguments[1] == "plan" else []
    done = subprocess.run(
        [sys.executable, "-m", *arguments, *place], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def _own_dataset(folder: Path, files: dict[str, str | bytes]) -> list[str]:
    """A right folder of images x, y, z with some files replaced; a preset for it."""
    root = folder / "data"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
        for image in "xyz":
            shown = np.arange(64, dtype=np.uint8).reshape(8, 8) % 4  # background and all three classes
            Image.fromarray(shown).save(root / name / f"{image}.png")
    for name, content in ({"classes.txt": "a\nb\nc\n", "train.txt": "x\ny\n", "val.txt": "z\n"} | files).items():
        _write(root / name, content)
    groups = (
        "dataset: folder}, {network: unet}, {optimizer: adamw}, {scheduler: poly}, {loss: bacs}, {training: default"
    )
    _write(folder / "own.yaml", f"defaults: [{{{groups}}}, {{compat: none}}, _self_]\nsearch: {{splits: [2-1]}}\n")
    return [str(folder / "own.yaml"), f"dataset.root={root}"]


def _write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
