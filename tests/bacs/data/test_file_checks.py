"""What is said about settings, folders and lists before an image is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from bacs.data.ade20k import ADE20K, ADE20KConfig
from bacs.data.cityscapes import Cityscapes, CityscapesConfig, CityscapesDomain
from bacs.data.file_dataset import FilesConfig
from bacs.data.folder import Folder, FolderConfig
from bacs.data.voc import VOC, VOCConfig
from bacs.errors import RequestError
from tests.bacs.data import trees


@pytest.fixture
def voc(tmp_path) -> Path:
    return trees.make_voc(tmp_path / "voc", train=3, augmented=2, val=2) / "VOCdevkit" / "VOC2012"


@pytest.fixture
def mine(tmp_path) -> Path:
    return trees.make_folder(tmp_path / "mine", train=3, val=2, side=16)


@pytest.mark.parametrize(
    ("dataset", "config", "remedy"),
    [
        (VOC, VOCConfig, "VOCtrainval_11-May-2012.tar"),
        (Cityscapes, CityscapesConfig, "gtFine_trainvaltest.zip"),
        (CityscapesDomain, CityscapesConfig, "gtFine_trainvaltest.zip"),
        (ADE20K, ADE20KConfig, "ADEChallengeData2016.zip"),
        (Folder, FolderConfig, "classes.txt"),
    ],
)
def test_root_must_hold_the_tree(dataset, config, remedy, tmp_path):
    for root, problem in ((None, "is not set"), (tmp_path / "nowhere", "is not a folder"), (tmp_path, "lacks")):
        settings = config(root=None if root is None else str(root), cache=str(tmp_path / "cache"))
        (fault,) = dataset.check(settings)
        assert fault.where == "dataset.root"
        assert problem in fault.problem
        assert remedy in fault.remedy
        with pytest.raises(RequestError, match=problem):
            dataset.layout(settings)


def test_all_faults_come_together(tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    settings = VOCConfig(crop_size=[1, 2, 3], val_share=0.95, evaluation="half", cache=str(blocked))
    faults = VOC.check(settings)
    keys = ["crop_size", "evaluation", "root", "cache", "val_share"]
    assert {fault.where for fault in faults} == {f"dataset.{key}" for key in keys}


def test_a_missing_city_is_named(tmp_path):
    root = trees.make_cityscapes(tmp_path / "tree", cities=["aachen", "ulm", "munster"], height=8)
    (fault,) = CityscapesDomain.check(CityscapesConfig(root=str(root), cache=str(tmp_path)))
    assert "leftImg8bit/val/lindau" in fault.problem
    assert "aachen" not in fault.problem
    assert not Cityscapes.check(CityscapesConfig(root=str(root), cache=str(tmp_path)))


@pytest.mark.parametrize("slash", ["", "/"])
def test_lists_may_hold_ids_or_pairs_of_paths(voc, slash, tmp_path):
    settings = VOCConfig(root=str(voc.parents[1]), cache=str(tmp_path))
    list_file = voc / "ImageSets/Segmentation/train_aug.txt"
    by_ids = VOC.layout(settings)
    ids = list_file.read_text().split()
    lines = [f"{slash}JPEGImages/{i}.jpg {slash}SegmentationClassAug/{i}.png" for i in ids]
    list_file.write_text("\ufeff" + "\r\n".join([*lines[:2], "", *ids[2:]]))
    assert VOC.layout(settings).train == by_ids.train
    list_file.rename(voc / "train_aug.txt")
    assert VOC.layout(settings).train == by_ids.train


ESCAPES = ("../../../etc/passwd", "/etc/passwd", "a/../../b", "..", "a\\..\\b", ".", "./a", "a//b")


@pytest.mark.parametrize("name", ESCAPES)
def test_names_stay_below_the_folder(voc, mine, name, tmp_path):
    (voc / "ImageSets/Segmentation/val.txt").write_text(f"{name}\n")
    with pytest.raises(RequestError, match=r"val\.txt: names .*but a name must be a path below"):
        VOC.layout(VOCConfig(root=str(voc.parents[1]), cache=str(tmp_path)))
    (mine / "train.txt").write_text(f"train_0\n{name}\n")
    with pytest.raises(RequestError, match=r"train\.txt: names .*but a name must be a path below"):
        Folder.layout(FolderConfig(root=str(mine), cache=str(tmp_path)))


@pytest.mark.parametrize(
    "line",
    [
        "/etc/passwd /etc/shadow",
        "JPEGImages/../../x.jpg SegmentationClass/x.png",
        "JPEGImages/x.jpg ../x.png",
        "JPEGImages/x.jpg //etc/x.png",
        "JPEGImages/x.jpg Elsewhere/x.png",
        "a b c",
    ],
)
def test_pairs_of_paths_stay_in_their_folders(voc, line, tmp_path):
    (voc / "ImageSets/Segmentation/train_aug.txt").write_text(f"{line}\n" * 12)
    with pytest.raises(RequestError, match="but a line must be") as error:
        VOC.layout(VOCConfig(root=str(voc.parents[1]), cache=str(tmp_path)))
    assert len(error.value.faults) == 11


def test_training_on_the_test_set_is_refused(voc, tmp_path):
    lists = voc / "ImageSets/Segmentation"
    (lists / "train_aug.txt").write_text((lists / "train_aug.txt").read_text() + (lists / "val.txt").read_text())
    with pytest.raises(RequestError, match="lists 2 images for training that results are measured on: 2008_000032"):
        VOC.layout(VOCConfig(root=str(voc.parents[1]), cache=str(tmp_path)))


def test_lists_must_be_sound(mine, tmp_path):
    settings = FolderConfig(root=str(mine), cache=str(tmp_path))
    (mine / "train.txt").write_text("train_0\ntrain_1\ntrain_0\n")
    with pytest.raises(RequestError, match="more than once for train: train_0"):
        Folder.layout(settings)
    (mine / "train.txt").write_text("\n")
    with pytest.raises(RequestError, match="no image to train on"):
        Folder.layout(settings)
    (mine / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match=r"train\.txt: cannot be read"):
        Folder.layout(settings)


def test_classes_of_a_folder(mine, tmp_path):
    settings = FolderConfig(root=str(mine), cache=str(tmp_path))
    assert Folder.classes(settings) == ("disc", "square", "triangle")
    (mine / "classes.txt").write_text("Background\ndisc\nsquare\n")
    assert Folder.classes(settings) == ("disc", "square")
    assert Folder.layout(settings).legal == {0, 1, 2, 255}
    for text, problem in (
        ("disc\ndisc\n", "more than once: disc"),
        ("background\n", "names 0 classes"),
        ("\n".join(f"c{number}" for number in range(255)), "names 255 classes"),
    ):
        (mine / "classes.txt").write_text(text)
        with pytest.raises(RequestError, match=problem):
            Folder.classes(settings)


def test_images_of_a_folder_are_found_by_any_suffix(mine, tmp_path):
    settings = FolderConfig(root=str(mine), cache=str(tmp_path))
    (mine / "images" / "train_0.jpg").rename(mine / "images" / "train_0.JPEG")
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        (mine / folder / "sub").mkdir()
        (mine / folder / "sub" / f"a b.c.{suffix}").touch()
    (mine / "val.txt").write_text("sub/a b.c\nval_1\nabsent\n")
    found = Folder.layout(settings)
    assert found.train[0].image.name == "train_0.JPEG"
    assert [str(pair.image.relative_to(mine / "images")) for pair in found.test] == [
        "sub/a b.c.jpg",
        "val_1.png",
        "absent.jpg",
    ]
    (mine / "images" / "train_0.png").touch()
    with pytest.raises(RequestError, match=r"names 'train_0', which is train_0\.JPEG and train_0\.png"):
        Folder.layout(settings)


def test_settings_that_never_change_a_result():
    quiet = {name for name, field in FilesConfig.__dataclass_fields__.items() if field.metadata["acts_from"] is None}
    assert quiet == {"root", "cache", "decode_cache"}
