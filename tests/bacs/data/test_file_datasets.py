"""The datasets in files, each on a small tree in its true format."""

from __future__ import annotations

import hashlib
import importlib
import multiprocessing
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bacs.compose import compose
from bacs.data.ade20k import ADE20K, ADE20KConfig
from bacs.data.cityscapes import BACKGROUND_IDS, CITIES, LABEL_IDS, Cityscapes, CityscapesConfig, CityscapesDomain
from bacs.data.file_dataset import FileDataset, FilesConfig, is_held_out
from bacs.data.file_scenes import FileScenes
from bacs.data.folder import Folder, FolderConfig
from bacs.data.scenario import MODES, select_images, select_seen
from bacs.data.splits import parse_split
from bacs.data.voc import VOC, VOCConfig
from bacs.errors import RequestError
from bacs.schema import parse
from tests.bacs.data import trees

SUBSETS = ("train", "val", "test")
VOC_SPLITS = ("19-1", "15-5", "15-1", "10-1", "5-3")


@pytest.fixture(scope="module")
def forest(tmp_path_factory) -> Path:
    """All trees; never written to."""
    root = tmp_path_factory.mktemp("forest")
    for name in ("voc", "cityscapes", "ade20k", "folder"):
        getattr(trees, f"make_{name}")(root / name)
    return root


@pytest.fixture
def place(forest, tmp_path):
    """Common settings for the tree of a name."""
    return lambda name: {"root": str(forest / name), "cache": str(tmp_path / "cache"), "crop_size": 48}


@pytest.fixture
def every(place) -> dict[str, FileDataset]:
    return {
        "voc": VOC(VOCConfig(**place("voc"))),
        "cityscapes": Cityscapes(CityscapesConfig(**place("cityscapes"))),
        "cityscapes_domain": CityscapesDomain(CityscapesConfig(**place("cityscapes"))),
        "ade20k": ADE20K(ADE20KConfig(**place("ade20k"))),
        "folder": Folder(FolderConfig(**place("folder"))),
    }


def mask_values(path: Path) -> set[int]:
    with Image.open(path) as mask:
        return set(np.unique(np.asarray(mask)).tolist())


def checksum(scenes: FileScenes) -> str:
    rows = np.arange(len(scenes))
    views = [*scenes.read(rows, rows + 7), *scenes.read(rows, None)]
    return hashlib.sha256(b"".join(view.numpy().tobytes() for view in views)).hexdigest()


def test_every_dataset_keeps_the_contract(every, place):
    for data in every.values():
        assert data.classes(data.Config(**place(data.kind.split("_")[0]))) == data.class_names
        assert (data.window, data.evaluation) == ((48, 48), "crop_val")
        assert data.channels == len(data.mean) == len(data.std) == 3
        labels_of = len(data.class_names) + (data.kind != "cityscapes_domain")
        for subset in SUBSETS:
            scenes = getattr(data, subset)
            assert len(scenes) == len(scenes.presence) > 0
            assert (scenes.group is not None) == bool(data.domains) == (data.kind == "cityscapes_domain")
            assert scenes.presence.shape[1] == labels_of
            images, labels = scenes.read(np.array([0, len(scenes) - 1, 0]), np.array([1, 2, 1]))
            assert images.shape == (3, 3, 48, 48)
            assert labels.shape == (3, 48, 48)
            assert images.dtype == labels.dtype == torch.uint8
            assert set(labels.unique().tolist()) <= {*range(labels_of), 255}
            assert torch.equal(images[0], images[2])


def test_presence_is_of_the_whole_mask(every):
    for data in every.values():
        for subset in SUBSETS:
            scenes = getattr(data, subset)
            for row, present in enumerate(scenes.presence):
                _, labels = scenes.read_whole(row)
                assert set(np.flatnonzero(present)) == set(labels.unique().tolist()) - {255}


def test_whole_images_have_their_own_sizes(every):
    scenes = every["voc"].test
    sizes = {tuple(scenes.read_whole(row)[1].shape[1:]) for row in range(len(scenes))}
    assert len(sizes) > 3
    image, labels = scenes.read_whole(0)
    assert image.shape == (1, 3, *labels.shape[1:])
    assert image.is_contiguous()


@pytest.mark.parametrize("split_name", VOC_SPLITS)
def test_images_of_each_step_match_a_count_by_hand(every, forest, split_name):
    voc = forest / "voc" / "VOCdevkit" / "VOC2012"
    ids = (voc / "ImageSets/Segmentation/train_aug.txt").read_text().split()
    trained = [i for i in ids if not is_held_out(i, 0.2, "val", 0)]
    masks = [mask_values(voc / "SegmentationClassAug" / f"{i}.png") - {0, 255} for i in trained]
    tested = (voc / "ImageSets/Segmentation/val.txt").read_text().split()
    test_masks = [mask_values(voc / "SegmentationClass" / f"{i}.png") - {0, 255} for i in tested]
    data, split = every["voc"], parse_split(split_name, every["voc"].class_names)
    first, increment = (int(number) for number in split_name.split("-"))
    ends = [0, *range(first, 21, increment)]
    for mode in MODES:
        counts = [len(select_images(data.train.presence, split, step, mode)) for step in range(split.n_steps)]
        latest = 20 if mode == "overlap" else None
        by_hand = [
            sum(bool(m & set(range(low + 1, high + 1))) and max(m) <= (latest or high) for m in masks)
            for low, high in pairwise(ends)
        ]
        assert counts == by_hand
    seen = [len(select_seen(data.test.presence, split, step)) for step in range(split.n_steps)]
    assert seen == [sum(min(m) <= high for m in test_masks) for high in ends[1:]]


def test_views_are_the_same_bytes_in_another_process(every):
    scenes = every["voc"].train
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(checksum, (scenes,)) == checksum(scenes)


def test_draws_differ_and_do_not_depend_on_the_batch(every):
    scenes = every["voc"].train
    alone, _ = scenes.read(np.array([3]), np.array([5]))
    among, _ = scenes.read(np.array([0, 3, 3]), np.array([5, 5, 6]))
    assert torch.equal(alone[0], among[1])
    assert not torch.equal(among[1], among[2])


def test_a_pair_is_the_size_of_every_view(place):
    data = Folder(FolderConfig(**place("folder") | {"crop_size": [24, 40]}))
    assert data.window == (24, 40)
    for draws in (np.array([1, 2]), None):
        images, labels = data.train.read(np.array([0, 1]), draws)
        assert images.shape == (2, 3, 24, 40)
        assert labels.shape == (2, 24, 40)


def test_the_held_out_share_goes_by_name_alone(forest, place, tmp_path):
    copy = shutil.copytree(forest / "folder", tmp_path / "copy")
    (copy / "train.txt").write_text("\n".join(reversed((copy / "train.txt").read_text().split()[2:])))
    before, after = (
        {row[0] for row in Folder(FolderConfig(**settings)).val._files}
        for settings in (place("folder"), place("folder") | {"root": str(copy)})
    )
    assert after == before - {"train_0", "train_1"}
    names = [f"image {number}" for number in range(2000)]
    held_out = [is_held_out(name, 0.2, "val", 0) for name in names]
    assert 340 < sum(held_out) < 460
    assert held_out != [is_held_out(name, 0.2, "val", 1) for name in names]


def test_without_validation_all_images_train(place):
    data = VOC(VOCConfig(**place("voc"), val_share=0.0))
    assert (len(data.train), len(data.val), len(data.test)) == (40, 0, 20)


def test_manifest_knows_sizes_and_settings_but_not_the_place(forest, place, tmp_path):
    def manifest(root: Path = forest / "folder", **settings) -> str:
        return Folder(FolderConfig(**place("folder") | {"root": f"{root}"} | settings)).manifest

    moved = shutil.copytree(forest / "folder", tmp_path / "elsewhere")
    first = manifest()
    assert manifest(moved) == manifest(Path(f"{moved}/.")) == first
    assert manifest(decode_cache=True, cache=str(tmp_path / "other cache")) == first
    settings = [{"crop_size": 32}, {"val_share": 0.5}, {"val_seed": 1}, {"evaluation": "full"}]
    manifests = [manifest(**setting) for setting in settings]
    for folder, name in (("images", "train_0.jpg"), ("masks", "val_1.png")):
        with (moved / folder / name).open("ab") as file:
            file.write(b"\0")
        manifests.append(manifest(moved))
    (moved / "train.txt").write_text((moved / "train.txt").read_text().replace("train_0\n", ""))
    manifests.append(manifest(moved))
    assert len({first, *manifests}) == 8
    # The masks were read again where files changed, and not for a setting.
    assert len(list((tmp_path / "cache").glob("folder-*"))) == 4


def test_masks_are_read_once(forest, place, tmp_path):
    root = shutil.copytree(forest / "folder", tmp_path / "tree")
    settings = FolderConfig(**place("folder") | {"root": str(root)})
    presence = np.array(Folder(settings).train.presence)
    for mask in (root / "masks").iterdir():
        mask.write_bytes(b"x" * mask.stat().st_size)
    assert np.array_equal(Folder(settings).train.presence, presence)


@pytest.mark.parametrize("kind", ["voc", "cityscapes", "ade20k"])
def test_decoded_copies_give_the_same_bytes(every, place, kind, tmp_path):
    data = every[kind]
    root = shutil.copytree(place(kind)["root"], tmp_path / "tree")
    copied = type(data)(data.Config(**place(kind) | {"root": str(root), "decode_cache": True}))
    wanted = checksum(data.test)
    assert checksum(copied.test) == wanted
    shutil.rmtree(root)
    assert checksum(copied.test) == wanted  # from the copies alone
    assert copied.manifest == data.manifest


def test_voc_is_augmented_where_it_can_be(forest, place, tmp_path):
    plain = trees.make_voc(tmp_path / "plain", train=5, augmented=0, val=3)
    own = VOC.layout(VOCConfig(**place("voc"), augmented=False))
    augmented = VOC.layout(VOCConfig(**place("voc")))
    assert (len(own.train), own.expected["train"]) == (20, 1464)
    assert (len(augmented.train), augmented.expected["train"]) == (40, 10582)
    assert augmented.train == VOC.layout(VOCConfig(**place("voc"), augmented=True)).train
    assert own.test == augmented.test
    assert {pair.mask.parent.name for pair in augmented.train} == {"SegmentationClassAug"}
    assert len(VOC.layout(VOCConfig(root=str(plain), cache=str(tmp_path))).train) == 5
    with pytest.raises(RequestError, match=r"(?s)dataset.augmented: is true.*train_aug.txt.*augmented=false"):
        VOC(VOCConfig(root=str(plain), cache=str(tmp_path), augmented=True))


def test_cityscapes_tables_follow_the_published_ids(every, place):
    table = Cityscapes.layout(CityscapesConfig(**place("cityscapes"))).table
    assert {value for value in range(256) if table[value] == 0} == set(BACKGROUND_IDS)
    assert [int(table[value]) for value in trees.LABEL_IDS] == list(range(1, 20))
    assert (table[[2, 3, 4, 5, *range(34, 256)]] == 255).all()
    domain = CityscapesDomain.layout(CityscapesConfig(**place("cityscapes"))).table
    assert [int(domain[value]) for value in LABEL_IDS.values()] == list(range(19))
    assert np.count_nonzero(domain == 255) == 256 - 19


def test_cityscapes_train_and_val_folders(every, forest):
    data = every["cityscapes"]
    assert len(data.train) + len(data.val) == 2 * len(trees.TRAIN_CITIES)
    assert len(data.test) == 2 * len(trees.VAL_CITIES)
    found = data.layout(CityscapesConfig(root=str(forest / "cityscapes")))
    assert all(mask_values(pair.mask) <= found.legal for pair in found.train)


def test_domains_are_cities(tmp_path):
    root = trees.make_cityscapes(tmp_path / "tree", per_city=12, height=8)
    data = CityscapesDomain(CityscapesConfig(root=str(root), cache=str(tmp_path / "cache"), crop_size=8))
    assert data.domains == CITIES
    assert set(data.domains) == {*trees.TRAIN_CITIES, *trees.VAL_CITIES}
    assert len(data.train) + len(data.val) + len(data.test) == 12 * 21
    assert 0.12 * 252 < len(data.test) < 0.28 * 252
    for scenes in (data.train, data.test):
        cities = [Path(image).parent.name for _, image, _ in scenes._files]
        assert [CITIES[domain] for domain in scenes.group] == cities
    assert set(data.train.group) == set(range(21))
    assert data.train.presence.shape[1] == 19
    assert data.train.presence.any(axis=0).all()


def test_ade_files_are_sorted(tmp_path):
    root = trees.make_ade20k(tmp_path, train=8, val=4)
    folder = root / "ADEChallengeData2016" / "images" / "training"
    for path in sorted(folder.iterdir(), reverse=True):  # entries of a folder come in the order of their making
        path.rename(path.with_name(f"{path.name}.away"))
        path.with_name(f"{path.name}.away").rename(path)
    found = ADE20K.layout(ADE20KConfig(root=str(root), cache=str(tmp_path)))
    assert [pair.name for pair in found.train] == [f"ADE_train_{number:08d}" for number in range(1, 9)]
    assert len(found.class_names) == len(set(found.class_names)) == 150
    assert [int(label) for label in found.table[[0, 1, 150, 151, 255]]] == [0, 1, 150, 255, 255]


def test_missing_files_are_named(forest, place, tmp_path):
    root = shutil.copytree(forest / "ade20k", tmp_path / "tree") / "ADEChallengeData2016"
    (root / "images/training/ADE_train_00000003.jpg").unlink()
    (root / "annotations/validation/ADE_val_00000002.png").unlink()
    settings = ADE20KConfig(**place("ade20k") | {"root": str(root.parent)})
    with pytest.raises(RequestError) as error:
        ADE20K(settings)
    assert [Path(fault.where).name for fault in error.value.faults] == [
        "ADE_train_00000003.jpg",
        "ADE_val_00000002.png",
    ]


def test_unreadable_masks_are_named_together(forest, place, tmp_path):
    root = shutil.copytree(forest / "folder", tmp_path / "tree")
    for number in range(12):
        (root / "masks" / f"train_{number}.png").write_bytes(b"no image")
    with pytest.raises(RequestError) as error:
        Folder(FolderConfig(**place("folder") | {"root": str(root)}))
    assert len(error.value.faults) == 11
    assert "2 more" in str(error.value)


@pytest.mark.parametrize("name", ["voc", "cityscapes", "cityscapes_domain", "ade20k", "folder"])
def test_shipped_settings_are_legal(name):
    values = dict(compose("config", [f"dataset={name}"])["dataset"])
    module, _, factory = values.pop("_target_").rpartition(".")
    found = getattr(importlib.import_module(module), factory)
    settings = parse(found.Config, values, "dataset")
    assert found.kind == name
    assert isinstance(settings, FilesConfig)
    (fault,) = found.check(settings)
    assert fault.where == "dataset.root"
    assert "is not set" in fault.problem
