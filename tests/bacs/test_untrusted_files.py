"""Files from elsewhere cannot run code, read secrets, or leave their folder."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from bacs.__main__ import main
from bacs.bundle import BundleError, load_bundle, save_bundle
from bacs.checkpoints import CheckpointFolder
from bacs.compose import compose
from bacs.config import RunConfig
from bacs.data.download import DownloadError
from bacs.data.folder import Folder, FolderConfig
from bacs.data.prepare import Archive, prepare_voc
from bacs.data.voc import VOC, VOCConfig
from bacs.errors import RequestError
from bacs.events import Point, StepEnded
from bacs.interpolation import hidden
from bacs.media.animation import Board
from bacs.media.page import blank, legend
from bacs.networks.pretrained import load_weights
from bacs.paths import made_folders_faults
from bacs.view import step_table
from tests.bacs.data.trees import make_voc

NAMES = ("<script>alert(1)</script>", "[bold]", "[/red]", "$\\frac$", "$x_", "naïve 猫", "a\\nb")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_the_payload_works(tmp_path):
    torch.save(Payload(tmp_path / "made"), tmp_path / "file")
    torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "made").exists()


def test_bundles_with_code_are_refused(tmp_path, capsys):
    stage = tmp_path / "stage-000"
    save_bundle(stage, {"model": Payload(tmp_path / "made")}, {"identity": "run", "step": 0, "model": {}})
    with pytest.raises(BundleError, match="such as code"):
        load_bundle(stage)
    checkpoints = CheckpointFolder(tmp_path, "run")
    assert checkpoints.latest() == []
    assert "such as code" in checkpoints.notes[0]
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "image.png")
    assert main(["predict", str(stage), str(tmp_path / "image.png"), "--out", str(tmp_path / "masks")]) == 1
    assert "such as code" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "made").exists()


def test_pretrained_weights_with_code_are_refused(tmp_path):
    torch.save({"state_dict": Payload(tmp_path / "made")}, tmp_path / "weights.pth")
    with pytest.raises(RequestError, match=r"network.backbone_weights_path: is .* cannot be read"):
        load_weights(torch.nn.Module(), tmp_path / "weights.pth")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("group", ["dataset", "network", "optimizer", "scheduler", "loss", "ood"])
@pytest.mark.parametrize("target", ["os.system", "bacs.launch.Path", "torch.optim.lr_scheduler.math.sqrt", "bacs..os"])
def test_no_group_names_a_class_from_elsewhere(tiny_values, group, target):
    values = tiny_values()
    values[group] = dict(values.get(group) or {}) | {"_target_": target}
    with pytest.raises(RequestError, match=rf"{group}._target_: is '{target}'"):
        RunConfig.from_dict(values)


@pytest.mark.parametrize(
    "given", ["${oc.env:PGPASS}", "x${oc.decode:'${oc.env:PGPASS}'}", "${oc.env:NO_SUCH,'${oc.env:PGPASS}'}"]
)
def test_what_comes_from_the_environment_is_recorded_as_a_reference(tmp_path, monkeypatch, given):
    monkeypatch.setenv("PGPASS", "hunter2")
    config = RunConfig.from_dict(compose("config", ["dataset.cache=/tmp", f"training.name={given}"]))
    assert "hunter2" in str(config.training.name), "who needs it looks it up"
    assert "hunter2" not in str(config.resolved)
    assert "${oc.env:" in config.resolved["training"]["name"]
    assert RunConfig.from_dict(config.resolved) == config
    assert hidden(f"no such file: {config.training.name}") == f"no such file: {config.resolved['training']['name']}"


@pytest.mark.parametrize("override", [
    "loss.lkd=${oc.decode:${oc.env:PGPASS}}", "loss.lkd_mode=${oc.env:PGPASS}", "training.split=${oc.env:PGPASS}",
    "optimizer.weight_decay=${oc.env:PGPASS}", "training.threads=${oc.env:PGPASS}", "plugins=[${oc.env:PGPASS}]",
    "network.backbone_weights_path=${oc.env:PGPASS}", "training.overrides_from_step.1.loss.lkd=${oc.env:PGPASS}",
    "loss._target_=${oc.env:PGPASS}", "training.name=${oc.env:NO_SUCH}", "training.stages=/${oc.env:PGPASS}",
])  # fmt: skip
def test_no_result_and_no_message_depends_on_what_nobody_recorded(monkeypatch, override):
    monkeypatch.setenv("PGPASS", "dev/null/hunter2")
    with pytest.raises(RequestError) as caught:
        config = RunConfig.from_dict(compose("config", ["network=deep_lab", "dataset.cache=/tmp", override]))
        raise RequestError(made_folders_faults(config.resolved))
    assert "oc.env" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_names_of_classes_are_text_wherever_they_are_shown():
    event = StepEnded(0, 2, dict.fromkeys(NAMES, 0.5), [Point("time/step_seconds", 0, 1.0, 0.0)])
    console = Console(file=io.StringIO(), width=400)
    console.print(step_table(event))
    assert all(f"{name} 50.0" in console.file.getvalue() for name in NAMES)
    assert Board(NAMES).empty().any()
    assert legend([(blank(14, 14), name) for name in NAMES], 200).size[0] == 200


def test_lists_of_voc_stay_in_their_folders(tmp_path):
    root = make_voc(tmp_path, train=4, augmented=4, val=2)
    voc = root / "VOCdevkit/VOC2012"
    listed = voc / "ImageSets/Segmentation/train.txt"
    for line in ("../../secret", "/etc/passwd", "a\0b", "JPEGImages/.. SegmentationClass/x.png",
                 "JPEGImages/x.jpg SegmentationClass/..", "JPEGImages/x.jpg ../x.png"):  # fmt: skip
        listed.write_text(f"\n{line}\n")
        with pytest.raises(RequestError, match=r"train\.txt"):
            VOC.layout(VOCConfig(root=str(root), augmented=False, cache=str(tmp_path)))


def test_images_may_be_links(tmp_path):
    """Clusters keep images elsewhere; whoever made the link could have copied the file."""
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
        for image in "xy":
            Image.fromarray(np.ones((8, 8), dtype=np.uint8)).save(elsewhere / f"{name}-{image}.png")
            (root / name / f"{image}.png").symlink_to(elsewhere / f"{name}-{image}.png")
    for name, text in (("classes.txt", "a\n"), ("train.txt", "x\n"), ("val.txt", "y\n")):
        (root / name).write_text(text)
    layout = Folder.layout(FolderConfig(root=str(root), cache=str(tmp_path)))
    assert [pair.name for pair in layout.train] == ["x"]


@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_archives_cannot_write_outside_their_folder(tmp_path, monkeypatch, kind):
    from torchvision.datasets import voc

    inside = tmp_path / "root"
    inside.mkdir()
    with tarfile.open(inside / "voc.tar", "w") as tar:
        member = tarfile.TarInfo({"parent": "../made", "absolute": f"{tmp_path}/made", "link": "link"}[kind])
        if kind == "link":
            member.type, member.linkname = tarfile.SYMTYPE, str(tmp_path)
            tar.addfile(member)
            member = tarfile.TarInfo("link/made")
        tar.addfile(member, io.BytesIO())
    checksum = hashlib.md5((inside / "voc.tar").read_bytes()).hexdigest()
    source = voc.DATASET_YEAR_DICT["2012"] | {"md5": checksum, "url": "http://127.0.0.1:9/voc.tar"}
    monkeypatch.setitem(voc.DATASET_YEAR_DICT, "2012", source)
    with pytest.raises(DownloadError):
        prepare_voc(inside, print, archive=Archive("voc.tar", "VOCdevkit", {"*.jpg": 1}))
    assert not (tmp_path / "made").exists()
