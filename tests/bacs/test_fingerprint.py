"""Which edit makes which steps run again: every module of the package, with the configurations that it acts on."""

from __future__ import annotations

import ast
import functools
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest

from bacs import fingerprint, source
from bacs.compose import compose
from bacs.config import RunConfig
from bacs.lineage import stage_key
from bacs.precision import set_up_numerics
from tests.bacs.data.trees import make_folder

ROOT = Path(__file__).parent.parent.parent

DIGITS = ["dataset=digits", "network=unet"]
FILES = ["dataset=folder", "training.split=2-1", "network=deep_lab_r50", "network.pretrained_backbone=false"]
RUNS = {
    "bacs": ["loss=bacs", *DIGITS],
    "bacs, no memory": ["loss=bacs", "loss.buffer_size=0", *DIGITS],
    "fine-tuning": ["loss=crossentropy", *DIGITS],
    "mib": ["loss=mib", "network=transformer", "network.pretrained_backbone=false", "dataset=digits"],
    "plop, detector, drift": ["loss=plop", "training.bg_detector=true", "training.log_drift=true", *DIGITS],
    "er on files": ["loss=er", *FILES],
    "derpp": ["loss=derpp", *DIGITS],
    "sdr": ["loss=sdr", "training.log_animation=true", *DIGITS],
    "lwf": ["loss=lwf", *DIGITS],
    "lwf_mc": ["loss=lwf_mc", *DIGITS],
    "ilt": ["loss=ilt", *DIGITS],
    "features, ood": ["loss=feature_distillation", "training.bg_detector=true", "+ood=digits",
                      "training.log_prototypes=true", *DIGITS],
}  # fmt: skip
ALL = tuple(RUNS)
DETECTOR = ("bacs", "bacs, no memory", "plop, detector, drift", "features, ood")
MEMORY = ("bacs", "er on files", "derpp")
ON_DIGITS = tuple(name for name in RUNS if name != "er on files")
NONE: tuple[str, ...] = ()

ACTS_FROM_0 = {
    # The training loop, and what it calls in every run.
    "bacs.run bacs.building bacs.compat bacs.distributed bacs.evaluation bacs.loading bacs.metrics bacs.micro_batches "
    "bacs.model bacs.optimisation bacs.precision bacs.randomness bacs.step_overrides bacs.stopwatch bacs.stream "
    "bacs.training_config bacs.schedules bacs.data.base bacs.data.scenario bacs.data.splits bacs.data.class_lists "
    "bacs.data.array_cache bacs.losses.base bacs.losses.functional.reductions bacs.losses.functional.histograms "
    "bacs.networks.contract bacs.networks.norms": ALL,
    # Step 0 of every method that does not say otherwise.
    "bacs.losses.crossentropy": tuple(n for n in ALL if n not in ("sdr", "lwf_mc")),
    "bacs.losses.functional.cross_entropy": tuple(n for n in ALL if n != "lwf_mc"),
    "bacs.losses.sdr bacs.losses.functional.class_prototypes bacs.losses.functional.unbiased": ("sdr",),
    "bacs.losses.lwf_mc bacs.losses.functional.taught_binary": ("lwf_mc",),
    # What the configuration asks for.
    "bacs.losses.detection bacs.detector bacs.prototypes bacs.losses.functional.detection": DETECTOR,
    "bacs.losses.functional.resizing": (*DETECTOR, "sdr"),
    "bacs.networks.unet": tuple(n for n in ALL if n not in ("mib", "er on files")),
    "bacs.networks.heads": tuple(n for n in ALL if n != "mib"),
    "bacs.networks.transeg bacs.networks.mask_transformer": ("mib",),
    "bacs.networks.deeplab_v3": ("er on files",),
    "bacs.networks.resnet bacs.networks.backbone bacs.networks.pretrained": ("mib", "er on files"),
    "bacs.data.digits bacs.data.digit_config bacs.data.digit_scenes bacs.data.digit_source": ON_DIGITS,
    "bacs.data.folder bacs.data.file_dataset bacs.data.file_scenes bacs.data.class_index bacs.data.layout "
    "bacs.data.folders bacs.data.mask_values bacs.data.pair_check bacs.data.pixels bacs.data.transforms bacs.files": (
        "er on files",
    ),
    "bacs.ood": ("features, ood",),
    "bacs.media.media": ("plop, detector, drift", "sdr", "features, ood"),
    "bacs.media.drift": ("plop, detector, drift",),
    "bacs.media.animation": ("sdr",),
    "bacs.media.features": ("features, ood",),
    # Other datasets, checks, files, pictures, command lines.
    "bacs.data.voc bacs.data.ade20k bacs.data.cityscapes bacs.data.cityscapes_site bacs.data.download "
    "bacs.data.prepare bacs.data.verify bacs.data.known_counts bacs.media.charts "
    "bacs.media.folder bacs.media.gallery bacs.media.page bacs.media.palette bacs.media.panel bacs.media.shift "
    "bacs.report* bacs.contracts* bacs.__main__ "
    "bacs.predict bacs.predictor bacs.outputs bacs.view bacs.exits bacs.terminal bacs.launch bacs.rank bacs.stages "
    "bacs.lineage "
    "bacs.fingerprint bacs.source bacs.origin bacs.compose bacs.config bacs.components bacs.schema bacs.retired "
    "bacs.plugins bacs.errors bacs.events bacs.fit bacs.checkpoints bacs.bundle bacs.atomic bacs.patience "
    "bacs.interpolation bacs.overrides bacs.paths bacs.reading bacs.model_record bacs bacs.data bacs.losses "
    "bacs.losses.functional bacs.networks bacs.media": NONE,
}
"""Modules, and the runs whose step 0 is computed again after an edit."""

ACTS_FROM_1 = {
    "bacs.losses.bacs bacs.losses.functional.background_aware": ("bacs", "bacs, no memory"),
    "bacs.losses.mib": ("mib",),
    "bacs.losses.functional.unbiased": ("bacs", "bacs, no memory", "mib", "sdr"),
    "bacs.losses.plop bacs.losses.functional.pod bacs.losses.functional.confidence": ("plop, detector, drift",),
    "bacs.losses.er": ("er on files",),
    "bacs.losses.derpp": ("derpp",),
    "bacs.losses.lwf": ("lwf",),
    "bacs.losses.ilt": ("ilt",),
    "bacs.losses.feature_distillation": ("features, ood",),
    "bacs.losses.functional.distillation": ("lwf", "ilt", "features, ood"),
    "bacs.losses.functional.replay": ("bacs", "bacs, no memory", "er on files", "derpp"),
    "bacs.remembering": MEMORY,
    "bacs.replay bacs.replay_policies": (*MEMORY, "bacs, no memory"),  # a method's file that speaks of it
    "bacs.losses.der bacs.losses.pseudo_label bacs.losses.output_distillation": NONE,
}
"""The same for later steps, where it is not as for step 0."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("folder"))
    cache = [f"dataset.cache={tmp_path_factory.mktemp('cache')}"]
    place = {True: [*cache, f"dataset.root={folder}"], False: cache}
    return {
        name: RunConfig.from_dict(compose("config", [*words, *place["dataset=folder" in words]]))
        for name, words in RUNS.items()
    }


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A copy of the package whose sources count in the place of the project's."""
    copy = tmp_path_factory.mktemp("scratch") / "bacs"
    shutil.copytree(ROOT / "bacs", copy, ignore=shutil.ignore_patterns("__pycache__", "conf"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "_folders", lambda top: (copy,) if top == "bacs" else ())
        patch.setattr(
            source, "_read", lambda module, path: parsed(path.read_bytes(), module, path.name == "__init__.py")
        )
        forget()
        yield copy
    forget()


@functools.cache
def parsed(content: bytes, module: str, is_package: bool) -> source.Source:
    return source.parse_source(content, module, is_package=is_package)


def forget():
    for function in (source._kind, source._path, source._names, fingerprint._closure):
        function.cache_clear()


def module_name(path: Path, copy: Path) -> str:
    parts = path.relative_to(copy.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def keys(runs, step):
    forget()
    numerics = set_up_numerics("cpu", False, 1)
    return {name: stage_key(run, step, "data", numerics) for name, run in runs.items()}


def changed(runs, step, before):
    return {name for name, key in keys(runs, step).items() if key != before[name]}


def expected(module: str, step: int) -> set[str]:
    for table in [ACTS_FROM_1, ACTS_FROM_0] if step else [ACTS_FROM_0]:
        for modules, names in table.items():
            if any(fnmatch(module, pattern) for pattern in modules.split()):
                return set(names)
    if not step and any(module in modules.split() for modules in ACTS_FROM_1):
        return set()
    raise AssertionError(f"say in this test's tables which steps an edit of {module} makes run again")


@pytest.mark.parametrize("step", [0, 1])
def test_an_edit_changes_the_keys_of_exactly_the_runs_that_it_acts_on(scratch, runs, step):
    before = keys(runs, step)
    for path in sorted(scratch.rglob("*.py")):
        module, text = module_name(path, scratch), path.read_text()
        if module.startswith("bacs.contracts"):
            continue
        constant = "_EDITED" if path.name != "__init__.py" else "__edited__"
        path.write_text(f"{text}\n{constant} = 1\n")
        found = changed(runs, step, before)
        path.write_text(text)
        wanted = expected(module, step)
        assert found == wanted, f"step {step}, {module}: also {found - wanted}, not {wanted - found}"
    assert changed(runs, step, before) == set()


def test_comments_docstrings_and_formatting_change_no_key(scratch, runs):
    before = keys(runs, 1)
    texts = {path: path.read_text() for path in scratch.rglob("*.py")}
    for path, text in texts.items():
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                node.value.value = "Another text."
        path.write_text(f"# another comment\n{ast.unparse(tree)}\n")
    assert changed(runs, 1, before) == set()
    for path, text in texts.items():
        path.write_text(text)


def test_libraries_and_in_place_abn_are_part_of_the_key_where_they_are_used(runs, monkeypatch):
    before = keys(runs, 0)
    real = fingerprint.version_of
    for library, users in {
        "torch": ALL,
        "numpy": ALL,
        "torchvision": ALL,
        "inplace_abn": ("mib", "er on files"),
    }.items():
        monkeypatch.setattr(fingerprint, "extension", object)
        fresh = keys(runs, 0)
        monkeypatch.setattr(
            fingerprint, "version_of", lambda name, library=library: "9.9" if name == library else real(name)
        )
        assert {name for name, key in keys(runs, 0).items() if key != fresh[name]} == set(users), library
        monkeypatch.setattr(fingerprint, "version_of", real)
    monkeypatch.setattr(fingerprint, "extension", lambda: None)
    without = {name for name, key in keys(runs, 0).items() if key != before[name]}
    assert without <= {"mib", "er on files"}
