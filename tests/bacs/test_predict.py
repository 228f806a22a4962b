"""``python -m bacs predict``: the masks are the model's own, in the ids of the dataset; nothing else is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from bacs import predictor
from bacs.__main__ import main
from bacs.bundle import load_bundle, save_bundle
from bacs.checkpoints import CheckpointFolder
from bacs.data import Digits, DomainSplit, parse_split
from bacs.data.pixels import decode_picture
from bacs.evaluation import sliding
from bacs.events import StepEnded
from bacs.media.palette import colour_map, mask_palette
from bacs.model_record import ModelRecord
from bacs.predict import parser, read_image
from bacs.predictor import Predictor
from bacs.run import ContinualRun

SIZE = 32


@pytest.fixture(scope="module")
def trained(tiny_config, tiny_digits, tmp_path_factory):
    """(checkpoints, finished run) of a stream in shuffled order, so that labels are not class ids."""
    config = tiny_config("training.split=5-5", "training.shuffle_classes=true", "training.epochs=4")
    run = ContinualRun(config, tiny_digits)
    folder = CheckpointFolder(tmp_path_factory.mktemp("checkpoints"), "run")
    for event in run.events():
        if isinstance(event, StepEnded):
            folder.save(run.snapshot())
    return folder.folder, run


@pytest.fixture
def scenes(trained, tmp_path):
    """Six test scenes as files."""
    _, run = trained
    pixels, _ = run.data.test.read(np.arange(6), None)
    for number, image in enumerate(pixels[:, 0].numpy()):
        Image.fromarray(image).save(tmp_path / f"scene-{number}.png")
    return pixels, [tmp_path / f"scene-{number}.png" for number in range(6)]


def logits_of(run: ContinualRun, pixels: torch.Tensor) -> torch.Tensor:
    run.model.eval()
    with torch.no_grad(), run.numerics.autocast():
        return run.model(run.stream.to_device(pixels)).logits.float()


def ids(run: ContinualRun, logits: torch.Tensor) -> np.ndarray:
    return np.array([0, *run.split.class_order])[logits.argmax(dim=1)[0].numpy()]


def test_masks_are_those_of_the_run_in_class_ids_with_colours(trained, scenes, tmp_path, monkeypatch, capsys):
    checkpoints, run = trained
    pixels, paths = scenes
    monkeypatch.setattr(Digits, "__init__", lambda *_: pytest.fail("the dataset is not needed"))
    out = tmp_path / "masks"
    assert main(["predict", str(checkpoints / "stage-001"), *map(str, paths), "--out", str(out)]) == 0
    told = capsys.readouterr().out.splitlines()
    found = set()
    for number, path in enumerate(paths):
        with Image.open(out / path.name) as mask:
            assert (mask.mode, mask.size) == ("P", (SIZE, SIZE))
            assert np.array_equal(
                np.array(mask.getpalette()).reshape(-1, 3), colour_map()[: len(mask.getpalette()) // 3]
            )
            values = np.array(mask)
            shown = np.array(mask.convert("RGB"))
        assert np.array_equal(values, ids(run, logits_of(run, pixels[number : number + 1])))
        assert np.array_equal(shown, colour_map()[values])
        shares = {str(i - 1) if i else "background": (values == i).mean() for i in np.unique(values)}
        most = max(shares, key=lambda name: shares[name])
        assert told[number].startswith(f"{path} -> {out / path.name}  {most}: {100 * shares[most]:.1f} %")
        assert told[number].count("%") == len(shares)
        found |= set(np.unique(values).tolist())
    assert len(told) == len(paths)
    assert len(found) > 1


def test_earlier_stages_know_their_classes_only(trained, scenes, tmp_path):
    checkpoints, run = trained
    predictor = Predictor.load(checkpoints / "stage-000")
    assert predictor.record.split == run.split
    known = {0, *run.split.steps[0]}
    for path in scenes[1]:
        assert set(np.unique(predictor(read_image(path, 1)))) <= known


@pytest.mark.parametrize("size", [(50, 71), (20, 90), (17, 9), (33, 32)])
def test_larger_images_are_covered_by_windows_of_the_training_size(trained, size):
    checkpoints, run = trained
    image = np.random.default_rng(0).integers(0, 256, (*size, 1), dtype=np.uint8)
    high, wide = (min(side, SIZE) for side in size)
    total = torch.zeros(1, 11, *size)
    count = torch.zeros(size)
    for top in [*range(0, size[0] - high, high * 2 // 3), size[0] - high]:
        for left in [*range(0, size[1] - wide, wide * 2 // 3), size[1] - wide]:
            part = torch.from_numpy(image[None, top : top + high, left : left + wide, 0])[None]
            total[..., top : top + high, left : left + wide] += logits_of(run, part)
            count[top : top + high, left : left + wide] += 1
    found = Predictor.load(checkpoints / "stage-001")(image)
    assert found.shape == size
    assert (found == ids(run, total / count)).mean() > 0.999  # ties aside


def test_colour_and_grey_pictures_become_what_the_network_needs(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([grey] * 3)).save(tmp_path / "colour.png")
    Image.fromarray(np.dstack([grey] * 3 + [grey * 0])).save(tmp_path / "clear.png")
    for name in ("grey", "colour", "clear"):
        assert np.array_equal(read_image(tmp_path / f"{name}.png", 1)[..., 0], grey), name
        assert np.array_equal(read_image(tmp_path / f"{name}.png", 3), np.dstack([grey] * 3)), name


def test_options_are_frozen():
    options = {a.dest: (a.option_strings, a.nargs, str(a.default)) for a in parser()._actions if a.dest != "help"}
    assert options == {
        "bundle": ([], None, "None"),
        "images": ([], "+", "None"),
        "out": (["--out"], None, "runs/predictions"),
        "max_pixels": (["--max-pixels"], None, "178956970"),
        "plugins": (["--plugins"], None, "[]"),
    }


def test_wrong_requests_are_told_together_before_anything_is_done(trained, scenes, tmp_path, capsys):
    checkpoints, _ = trained
    (tmp_path / "other").mkdir()
    twin = shutil.copy(scenes[1][0], tmp_path / "other" / "scene-0.png")
    arguments = ["predict", str(checkpoints), str(tmp_path / "absent.png"), str(scenes[1][0]), str(twin)]
    assert main([*arguments, "--out", str(tmp_path / "masks")]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "3 fault(s)" in told
    for words in (
        "is no checkpoint",
        "stage-000",
        "stage-001",
        "absent.png, which is no file",
        "that of another image",
    ):
        assert words in told
    assert main(["predict", str(checkpoints / "stage-001"), str(scenes[1][0]), "--out", str(tmp_path)]) == 2
    assert "would replace" in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()


def test_damaged_checkpoints_and_images_fail_with_their_names(trained, scenes, tmp_path, capsys):
    checkpoints, _ = trained
    stage, out = checkpoints / "stage-001", tmp_path / "masks"
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.zeros((1, 1), dtype=np.uint8)).save(tmp_path / "dot.png")
    bad = [str(tmp_path / name) for name in ("text.png", "deep.png", "dot.png")]
    assert main(["predict", str(stage), *bad, str(scenes[1][0]), "--out", str(out)]) == 1
    told = capsys.readouterr().err
    assert "text.png: cannot be read" in told
    assert "deep.png: has pixels of mode I;16" in told
    assert "dot.png: " in told
    assert [path.name for path in out.iterdir()] == ["scene-0.png"], "the other images are done"
    broken = tmp_path / "stage-001"
    shutil.copytree(stage, broken)
    (broken / "tensors.pt").write_bytes(b"half")
    assert main(["predict", str(broken), str(scenes[1][0]), "--out", str(out)]) == 1
    assert "the checksum does not match" in capsys.readouterr().err
    save_bundle(broken, {}, {"step": 0})
    assert main(["predict", str(broken), str(scenes[1][0]), "--out", str(out)]) == 1
    assert "holds no model" in capsys.readouterr().err


def test_a_checkpoint_cannot_name_code_from_elsewhere(trained, scenes, tmp_path, capsys):
    tensors, meta = load_bundle(trained[0] / "stage-001")
    meta["model"]["config"]["network"]["_target_"] = "os.system"
    save_bundle(tmp_path / "evil", tensors, meta)
    assert main(["predict", str(tmp_path / "evil"), str(scenes[1][0]), "--out", str(tmp_path / "masks")]) == 2
    assert "must start with bacs." in capsys.readouterr().err


def test_records_survive_json_and_load_no_pretrained_weights(trained):
    _, run = trained
    record = ModelRecord.of(run.config, run.data, run.split)
    assert ModelRecord.from_state(json.loads(json.dumps(record.state()))) == record
    domains = ModelRecord(record.config, DomainSplit(((1, 2), (3,)), "2-1", 2), ("a", "b"), 1, (0.0,), (1.0,), (8, 9))
    assert ModelRecord.from_state(json.loads(json.dumps(domains.state()))) == domains
    network = {"_target_": "bacs.networks.DeepLabV3", "depth": 50}
    absent = {"pretrained_backbone": True, "backbone_weights_path": "absent.pth"}
    split = parse_split("1-1", ("a", "b"))
    changed = record.config | {"network": network | absent}
    colour = ModelRecord(changed, split, ("a", "b"), 3, (0.5,) * 3, (0.5,) * 3, (16, 16))
    mask = Predictor(colour, colour.build(1))(np.zeros((20, 30, 3), dtype=np.uint8))
    assert mask.shape == (20, 30)
    assert set(np.unique(mask)) <= {0, 1, 2}


def test_palette_of_masks_in_streams_without_background():
    palette = mask_palette(DomainSplit(((1,), (2,)), "1-1", 3))
    assert np.array_equal(palette[:3], colour_map()[1:4])
    assert np.array_equal(mask_palette(parse_split("1-1", ("a", "b"))), colour_map())


def forged(meta, field, value):
    """A record with another value in a field; ``...``: without the field."""
    *groups, last = field.split(".")
    section = meta
    for group in groups:
        section = section[group]
    if value is ...:
        del section[last]
    else:
        section[last] = value
    return meta


FIELDS = [
    *(("model." + name, value) for name in ("config", "split", "class_names", "channels", "mean", "std", "window")
      for value in (..., None, 7, "text", [], {}, [[]])),
    *(("model.split." + name, value) for name in ("steps", "name") for value in (..., None, 7, {})),
    ("model.split.steps", [[1, 1], [2]]),
    ("model.split.steps", [[0]]),
    ("model.split.steps", [[99]]),
    ("model.split.n_classes", 3),
    ("model.split.n_classes", "3"),
    ("model.mean", [float("nan")]),
    ("model.std", [0.0]),
    ("model.std", [1.0, 1.0]),
    ("model.window", [0, 8]),
    ("model.window", [8]),
    ("model.channels", 2),
    ("model.extra", 1),
    *(("model.config." + group, value) for group in ("network", "loss", "training", "compat")
      for value in (..., 7, [])),
    ("model.config.plugins", 7),
    *(("step", value) for value in (..., None, "0", 2, -1, True)),
    ("model", 7),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), FIELDS)
def test_a_record_with_a_wrong_field_is_one_fault(trained, scenes, tmp_path, capsys, field, value):
    tensors, meta = load_bundle(trained[0] / "stage-001")
    save_bundle(tmp_path / "forged", tensors, forged(meta, field, value))
    out = tmp_path / "masks"
    assert main(["predict", str(tmp_path / "forged"), str(scenes[1][0]), "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert f"{tmp_path / 'forged' / 'meta.json'}: " in told
    assert field.split(".")[-1].split("_")[0] in told
    assert "    -> " in told
    assert not out.exists()


def test_tensors_of_another_model_are_told(trained, scenes, tmp_path, capsys):
    tensors, meta = load_bundle(trained[0] / "stage-001")
    for other in ({}, {"network.stem.0.weight": torch.zeros(1)}, [1], 5):
        save_bundle(tmp_path / "forged", {**tensors, "model": other}, meta)
        assert main(["predict", str(tmp_path / "forged"), str(scenes[1][0]), "--out", str(tmp_path / "masks")]) == 1
        assert "its tensors are not those of its model" in capsys.readouterr().err


@pytest.mark.parametrize("strip", [1, 2**16, 2**28])
def test_strips_give_the_mask_of_the_whole(trained, monkeypatch, strip):
    checkpoints, _ = trained
    found = Predictor.load(checkpoints / "stage-001")
    image = np.random.default_rng(1).integers(0, 256, (70, 150, 1), dtype=np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.no_grad():
        wanted = sliding(pixels / 255, lambda part: found._model(part).logits, (SIZE, SIZE)).argmax(dim=1)[0]
    monkeypatch.setattr(predictor, "_STRIP_BYTES", strip)
    ids = np.array(found.record.split.label_ids)[wanted.numpy()]
    assert (found(image) == ids).mean() > 0.999  # ties aside


MEASURED = """
import resource, sys
from bacs import predictor
from bacs.__main__ import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(code)
"""


def test_a_large_picture_is_cut_before_it_is_computed(trained, tmp_path):
    """Its logits alone would have 275 MB, thrice."""
    Image.new("L", (2500, 2500)).save(tmp_path / "large.png")
    Image.new("L", (64, 64)).save(tmp_path / "small.png")
    peaks = []
    for name in ("small", "large"):
        words = ["predict", str(trained[0] / "stage-001"), str(tmp_path / f"{name}.png"), "--out", str(tmp_path / "m")]
        command = [sys.executable, "-c", MEASURED, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.rsplit("peak ", 1)[1]))
    assert peaks[1] - peaks[0] < 200, peaks


def test_pictures_above_the_limit_are_refused(trained, scenes, tmp_path, capsys):
    words = ["predict", str(trained[0] / "stage-001"), str(scenes[1][0]), "--out", str(tmp_path / "m"), "--max-pixels"]
    assert main([*words, "1023"]) == 2
    assert "has 1,024 pixels, but at most 1,023 are read" in " ".join(capsys.readouterr().err.split())
    assert main([*words, "1024"]) == 0
    assert Image.MAX_IMAGE_PIXELS is not None


def test_folders_that_cannot_be_made_are_refused_before_the_model_is_read(trained, scenes, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "full" / "scene-0.png").mkdir(parents=True)
    for out in ("/proc/x", "/dev/null", tmp_path / "file" / "x", tmp_path / ("a" * 300), tmp_path / "full", "a\0b"):
        assert main(["predict", str(trained[0] / "stage-001"), str(scenes[1][0]), "--out", str(out)]) == 2
        told = capsys.readouterr().err
        assert told.count("--out: is ") == 1
        assert "give a folder that you may write to" in told


@pytest.mark.parametrize("file", ["image", "meta.json", "tensors.pt"])
def test_pipes_are_refused(trained, scenes, tmp_path, capsys, file):
    stage = shutil.copytree(trained[0] / "stage-001", tmp_path / "stage")
    image = tmp_path / "pipe.png" if file == "image" else scenes[1][0]
    pipe = image if file == "image" else stage / file
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    assert main(["predict", str(stage), str(image), "--out", str(tmp_path / "m")]) == (1 if file == "tensors.pt" else 2)
    assert str(pipe if file != "meta.json" else stage) in capsys.readouterr().err


def test_colour_pictures_are_decoded_as_in_training(tmp_path):
    path = tmp_path / "photo.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).convert("CMYK").save(path, quality=60)
    assert np.array_equal(read_image(path, 3), decode_picture(str(path)))
    Image.fromarray(noise).save(path, format="BMP")
    assert np.array_equal(read_image(path, 3), noise)
