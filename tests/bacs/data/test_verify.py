from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bacs.data import parse_split
from bacs.data.cityscapes import Cityscapes, CityscapesConfig, CityscapesDomain
from bacs.data.folder import Folder, FolderConfig
from bacs.data.known_counts import ADE20K, AGREES, CITYSCAPES, DIFFERS, KNOWN, OTHER_LIST, OTHER_RULE, VOC, KnownCounts
from bacs.data.verify import FAULT, OK, WARNING, verify
from bacs.data.voc import VOC as VOCDataset
from bacs.data.voc import VOCConfig
from tests.bacs.data.trees import make_cityscapes, make_folder, make_voc


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "data")


def folder_layout(root):
    return Folder.layout(FolderConfig(root=str(root)))


def not_ok(verification):
    return [finding for finding in verification.findings if finding.level != OK]


def voc_layout(root, **config):
    layout = VOCDataset.layout(VOCConfig(root=str(root), **config))
    return replace(layout, expected={"train": len(layout.train), "test": len(layout.test)})


def read(path):
    with Image.open(path) as mask:
        return np.array(mask)


def test_a_clean_tree_passes(root):
    verification = verify(folder_layout(root), None)
    assert not not_ok(verification)
    assert verification.usable
    assert {finding.subset for finding in verification.findings} == {"", "train", "test"}


# Each fault: the file of the tree it is planted in, how, the message, and what is told of the file.


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def rename(path):
    path.rename(path.with_name(path.name.upper()))


def recolour(path):
    mask = read(path)
    mask[:2, :3] = 77
    mask[5, 5] = 200
    Image.fromarray(mask).save(path)


def enlarge(path):
    mask = Image.fromarray(read(path))
    mask.resize((mask.width + 1, mask.height), Image.Resampling.NEAREST).save(path)


def to_rgb(path):
    Image.fromarray(read(path)).convert("RGB").save(path)


def to_16_bit(path):
    Image.fromarray(read(path).astype(np.uint16)).save(path)


def zero_end(path):
    """As an interrupted copy into a file of the full size leaves it."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


PLANTED = [
    ("masks/train_3.png", lambda path: path.unlink(), "files missing (1)", ""),
    ("images/train_2.jpg", lambda path: path.unlink(), "files missing (1)", ""),
    ("masks/val_1.png", rename, "file names in another form than listed (1)", "is not there; VAL_1.PNG is"),
    ("masks/train_3.png", enlarge, "masks of another size than their image (1)", ", its image "),
    ("masks/val_2.png", recolour, "masks with values that the format does not allow (1)", "holds 77, 200"),
    ("masks/val_2.png", to_rgb, "pictures of another kind than is read (1)", "has pixels of mode RGB"),
    ("masks/val_2.png", to_16_bit, "pictures of another kind than is read (1)", "has pixels of mode I;16"),
    ("masks/train_0.png", cut, "files that cannot be read (1)", "cannot be read"),
    ("masks/train_0.png", zero_end, "files that cannot be read (1)", "cannot be read"),
    ("images/train_0.jpg", cut, "files that cannot be read (1)", "truncated"),
    ("images/train_0.jpg", zero_end, "files that cannot be read (1)", "cannot be read"),
    ("images/train_1.png", cut, "files that cannot be read (1)", "cannot be read"),
    ("images/train_1.png", lambda path: path.write_bytes(b""), "files that cannot be read (1)", "is empty"),
    ("masks/val_0.png", lambda path: path.write_text("<html>"), "files that cannot be read (1)", "is no image"),
]


@pytest.mark.parametrize(("file", "plant", "message", "detail"), PLANTED)
def test_each_planted_fault_is_named_and_nothing_else(root, file, plant, message, detail):
    layout = folder_layout(root)
    plant(root / file)
    verification = verify(layout, None)
    (finding,) = not_ok(verification)
    assert finding.level == FAULT
    assert finding.subset == ("train" if "train" in file else "test")
    assert finding.message.startswith(message)
    assert [trouble.file for trouble in finding.files] == [str(root / file)]
    assert detail in finding.files[0].detail
    assert finding.remedy
    assert not verification.usable


def test_values_out_of_range_are_listed_beside_the_legal_ones(root):
    layout = folder_layout(root)
    for name in ("train_1", "train_4"):
        recolour(root / f"masks/{name}.png")
    (finding,) = not_ok(verify(layout, None))
    assert finding.message.endswith("(2): 77 in 2 masks, 200 in 2 masks")
    assert "allowed are 0..3, 255" in finding.remedy


def test_every_damaged_file_is_told(root):
    layout = folder_layout(root)
    for number in range(12):
        (root / f"masks/train_{number}.png").unlink()
    cut(root / "masks/val_0.png")
    missing, unreadable = not_ok(verify(layout, None))
    assert (missing.subset, len(missing.files)) == ("train", 12)
    assert (unreadable.subset, len(unreadable.files)) == ("test", 1)


def test_a_wrong_count_is_a_fault(root):
    layout = replace(folder_layout(root), expected={"train": 13, "test": 6})
    (finding,) = not_ok(verify(layout, None))
    assert (finding.level, finding.subset) == (FAULT, "train")
    assert finding.message == "has 12 images, the published dataset 13"


def test_a_class_without_a_pixel_is_a_warning(root):
    (root / "classes.txt").write_text("disc\nsquare\ntriangle\nstar\n")
    verification = verify(folder_layout(root), None)
    assert [(finding.level, finding.subset) for finding in not_ok(verification)] == [
        (WARNING, "test"),
        (WARNING, "train"),
    ]
    assert all("star" in finding.message for finding in not_ok(verification))
    assert verification.usable


def test_a_class_table_with_holes_is_a_fault(root):
    layout = folder_layout(root)
    table = layout.table.copy()
    table[2] = 1
    unreached, *_ = [
        finding for finding in verify(replace(layout, table=table), None).findings if finding.level == FAULT
    ]
    assert unreached.message == "classes that no mask value stands for: square"
    table[2] = 7
    messages = [f.message for f in verify(replace(layout, table=table), None).findings if f.level == FAULT]
    assert "mask values lead to classes without a name: [7]" in messages


def test_worker_processes_find_the_same(tmp_path):
    root = make_voc(tmp_path)
    layout = voc_layout(root)
    cut(root / "VOCdevkit/VOC2012/SegmentationClassAug/2010_000040.png")
    seen = []
    several = verify(layout, VOC, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert several == verify(layout, VOC)
    assert seen == [(done, 60) for done in range(1, 61)]


def test_class_counts_equal_an_independent_count(tmp_path):
    layout = voc_layout(make_voc(tmp_path))
    verification = verify(layout, None)
    for subset, pairs in (("train", layout.train), ("test", layout.test)):
        masks = [read(pair.mask) for pair in pairs]
        for row in verification.classes:
            assert row.images[subset] == sum(int((mask == row.class_id).any()) for mask in masks)
            assert row.pixels[subset] == sum(int((mask == row.class_id).sum()) for mask in masks)
    assert [row.class_id for row in verification.classes] == [*range(21), 255]
    assert verification.classes[15].name == "person"


def test_labels_of_cityscapes_are_counted_as_classes(tmp_path):
    make_cityscapes(tmp_path)
    config = CityscapesConfig(root=str(tmp_path))
    layout = Cityscapes.layout(config)
    values = np.concatenate([read(pair.mask).ravel() for pair in layout.train])
    by_name = {row.name: row for row in verify(layout, CITYSCAPES).classes}
    assert by_name["car"].class_id == 14
    assert by_name["car"].pixels["train"] == (values == 26).sum()
    domains = verify(CityscapesDomain.layout(config), None)
    assert domains.classes[0].name == "road"
    assert len(domains.classes) == 20
    assert sum(sum(images.values()) for images in domains.groups.values()) == 42


def steps_by_hand(pairs, split, rule):
    """Images per step, from the definitions and the masks alone."""
    first, increment = map(int, split.split("-"))
    steps = [set(range(1, first + 1)), *({*range(c, c + increment)} for c in range(first + 1, 21, increment))]
    contents = [set(np.unique(read(pair.mask)).tolist()) - {0, 255} for pair in pairs]
    counts = []
    for step, classes in enumerate(steps):
        seen = set().union(*steps[: step + 1])
        chosen = [content for content in contents if content & (seen if rule == "seen" else classes)]
        counts.append(sum(rule != "disjoint" or content <= seen for content in chosen))
    return tuple(counts)


def test_step_counts_equal_an_independent_count(tmp_path):
    layout = voc_layout(make_voc(tmp_path))
    steps = verify(layout, VOC).steps
    assert {row.split for row in steps} == {"19-1", "15-5", "15-1", "10-10", "10-5", "10-1", "5-3"}
    assert {(row.subset, row.rule) for row in steps} == {
        ("train", "overlap"), ("train", "disjoint"), ("test", "seen"), ("test", "overlap")
    }  # fmt: skip
    for row in steps:
        pairs = layout.train if row.subset == "train" else layout.test
        assert row.images == steps_by_hand(pairs, row.split, row.rule), row


@pytest.fixture
def known(tmp_path):
    """A VOC tree with counts that are "published" of this very tree."""
    layout = voc_layout(make_voc(tmp_path))
    published = {(row.subset, row.rule, row.split): row.images for row in verify(layout, VOC).steps}
    return layout, KnownCounts(
        splits=VOC.splits, published=published, images={"train": 40, "test": 20}, remedy="get train_aug"
    )


def test_counts_as_published(known):
    layout, counts = known
    verification = verify(layout, counts)
    assert not not_ok(verification)
    assert {row.verdict for row in verification.steps} == {AGREES}
    assert any("in all 22 counts" in finding.message for finding in verification.findings)


def test_counts_that_differ_name_the_split(known):
    layout, counts = known
    first, *rest = counts.published["train", "disjoint", "15-1"]
    wrong = {**counts.published, ("train", "disjoint", "15-1"): (first + 1, *rest)}
    verification = verify(layout, replace(counts, published=wrong))
    (finding,) = not_ok(verification)
    assert (finding.level, finding.subset) == (FAULT, "train")
    assert finding.message == "images per step are not as published: 15-1 disjoint"
    assert [row.split for row in verification.steps if row.verdict == DIFFERS] == ["15-1"]


def test_a_changed_mask_changes_the_counts(known):
    layout, counts = known
    mask = read(layout.train[0].mask)
    mask[mask == 1] = 20
    Image.fromarray(mask).save(layout.train[0].mask)
    (finding,) = not_ok(verify(layout, counts))
    assert "15-5 overlap" in finding.message


def test_voc_without_the_augmented_list_is_told_that_the_counts_do_not_apply(tmp_path, known):
    _, counts = known
    verification = verify(voc_layout(tmp_path, augmented=False), counts)
    warnings = [finding for finding in not_ok(verification) if "published counts" in finding.message]
    assert [(finding.level, finding.remedy) for finding in warnings] == [(WARNING, "get train_aug")]
    assert "of 40 images, the list has 20" in warnings[0].message
    assert {row.verdict for row in verification.steps if row.subset == "train"} == {OTHER_LIST}
    assert {row.verdict for row in verification.steps if row.subset == "test"} == {AGREES}
    assert verification.usable


def test_counts_with_a_damaged_mask_are_not_compared(known):
    layout, counts = known
    cut(layout.train[0].mask)
    verification = verify(layout, counts)
    assert [finding.files[0].kind for finding in not_ok(verification)] == ["unreadable"]
    assert {row.verdict for row in verification.steps if row.subset == "train"} == {OTHER_LIST}


def test_counts_of_another_rule_are_shown_and_never_a_fault(known):
    layout, counts = known
    wrong = {key: tuple(count + 1 for count in images) for key, images in counts.published.items()}
    verification = verify(layout, replace(counts, published=wrong, binding=False, note="another rule"))
    assert not not_ok(verification)
    assert {row.verdict for row in verification.steps} == {OTHER_RULE}
    assert verification.note == "another rule"


def test_published_counts_agree_with_each_other():
    """In the disjoint mode, and in MiB's partition of ADE20K, every image belongs to one step."""
    for (subset, rule, split), images in VOC.published.items():
        assert len(images) == parse_split(split, [str(c) for c in range(20)]).n_steps
        if rule == "disjoint":
            assert sum(images) == 10582
            overlap = VOC.published.get((subset, "overlap", split))
            assert overlap is None or all(a >= b for a, b in zip(overlap, images, strict=True))
        if rule == "seen":
            assert images[-1] == 1449
            assert list(images) == sorted(images)
    assert {sum(images) for images in ADE20K.published.values()} == {20196}
    assert set(KNOWN) == {"voc", "ade20k", "cityscapes"}
