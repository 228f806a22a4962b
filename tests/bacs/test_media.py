"""Pictures show what they say, measurements are right, and neither disturbs the run."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from bacs.__main__ import main
from bacs.checkpoints import CheckpointFolder
from bacs.compose import compose
from bacs.config import RunConfig
from bacs.data import parse_domains, parse_split
from bacs.errors import RequestError
from bacs.events import EpochEnded, Picture, RunEnded, StepEnded, by_name
from bacs.media import save_picture
from bacs.media.charts import Mark, curve, scatter, ticks
from bacs.media.features import embed
from bacs.media.gallery import spread
from bacs.media.palette import colour_map, label_colours, ramp
from bacs.media.panel import LARGE, SMALL, draw_panel, tile_box
from bacs.run import ContinualRun
from tests.bacs.data.trees import make_voc
from tests.conftest import TINY

SPLIT = ["training.split=5-5", "training.iterations_per_epoch=5", "loss.detector_channels=6"]
LOGS = ["training.log_images=3", "training.log_prototypes=true", "training.log_drift=true"]
ALL = [*LOGS, "training.log_animation=true", "+ood=digits"]


@pytest.fixture
def everything(digits_cache):
    sizes = [text.replace("dataset.", "ood.") for text in TINY if text.startswith("dataset.")]
    return [*SPLIT, *ALL, *sizes, f"ood.cache={digits_cache}"]


def tile(panel: np.ndarray, index: int, size: tuple[int, int]) -> np.ndarray:
    """One tile of a panel at the size of its image (H, W), 3."""
    left, top, width, height = tile_box(index, size)
    found = panel[top : top + height, left : left + width]
    return found[:: height // size[0], :: width // size[1]]


# ---------------------------------------------------------------------- colours


def test_colours_are_those_of_voc():
    colours = colour_map()
    known = {0: (0, 0, 0), 1: (128, 0, 0), 4: (0, 0, 128), 7: (128, 128, 128), 8: (64, 0, 0), 15: (192, 128, 128)}
    known |= {20: (0, 64, 128), 255: (224, 224, 192)}
    assert {label: tuple(colours[label]) for label in known} == known
    assert len(np.unique(colours, axis=0)) == 256


def test_a_class_has_one_colour_in_every_split():
    names = tuple("abcdef")
    for shuffle in (False, True):
        split = parse_split("2-2", names, shuffle=shuffle, seed=3)
        colours = label_colours(split)
        for label in range(1, 7):
            assert tuple(colours[label]) == tuple(colour_map()[names.index(split.label_name(label, names)) + 1])
    assert split.class_order != tuple(range(1, 7))
    domains = label_colours(parse_domains("1-1", ("x", "y"), 4))
    assert np.array_equal(domains[:4], colour_map()[1:5])


def test_ramp_goes_from_dark_to_light():
    light = ramp(np.linspace(0, 1, 50)).astype(int).sum(axis=1)
    assert (np.diff(light) > 0).all()


# ---------------------------------------------------------------------- panels


@pytest.mark.parametrize("channels", [1, 3])
def test_panel_shows_image_truth_prediction_and_seen_probability(channels):
    rng = np.random.default_rng(0)
    size = (20, 30)
    image = rng.integers(0, 256, (*size, channels), dtype=np.uint8)
    truth, prediction = rng.choice([0, 2, 255], size), rng.choice([0, 3], size)
    seen = rng.random(size)
    colours, names = colour_map(), ["background", "cat", "dog", "eel", "fox"]
    panel = draw_panel(image, truth, prediction, seen, colours, names)
    assert tile_box(0, size)[2:] == (SMALL, SMALL * 20 // 30)
    assert np.array_equal(tile(panel, 0, size), np.broadcast_to(image, (*size, 3)))
    assert np.array_equal(tile(panel, 1, size), colours[truth])
    assert np.array_equal(tile(panel, 2, size), colours[prediction])
    assert np.array_equal(tile(panel, 3, size), ramp(seen))
    legend = {tuple(pixel) for pixel in panel[tile_box(0, size)[1] + tile_box(0, size)[3] :].reshape(-1, 3)}
    shown = {label: tuple(colours[label]) in legend for label in (0, 1, 2, 3, 4, 255)}
    assert shown == {0: True, 1: False, 2: True, 3: True, 4: False, 255: True}
    without = draw_panel(image, truth, prediction, None, colours, names)
    assert without.shape[1] < panel.shape[1]


def test_large_images_are_reduced_without_blending_classes():
    truth = np.random.default_rng(0).choice([1, 2], (40, 2 * LARGE))
    image = np.zeros((*truth.shape, 3), dtype=np.uint8)
    panel = draw_panel(image, truth, truth, None, colour_map(), ["background", "cat", "dog"])
    left, top, width, height = tile_box(1, truth.shape)
    assert (width, height) == (LARGE, 20)
    found = np.unique(panel[top : top + height, left : left + width].reshape(-1, 3), axis=0)
    assert {tuple(pixel) for pixel in found} == {tuple(colour_map()[1]), tuple(colour_map()[2])}


def test_chosen_images_show_every_class_and_stay():
    rng = np.random.default_rng(0)
    presence = rng.random((30, 6)) < 0.2
    ranks = rng.permutation(30)
    chosen = spread(presence, ranks, 6)
    assert presence[chosen].any(axis=0).all()
    assert len(set(chosen)) == len(chosen) == 6
    assert spread(presence[:, :4], ranks, 6)[:4] == chosen[:4]  # later classes do not push the first images out
    assert set(spread(presence, ranks, 100)) == set(np.flatnonzero(presence.any(axis=1)))
    apart = spread(np.eye(9, dtype=bool), np.arange(9), 3)
    assert apart == [0, 4, 8]
    assert spread(presence, ranks, 0) == []


# ---------------------------------------------------------------------- whole runs


def finished(run: ContinualRun) -> tuple[list[Picture], dict[tuple[str, int], float]]:
    pictures = [event for event in run.events() if isinstance(event, Picture)]
    return pictures, {(p.metric, p.x): p.value for p in run.points if not p.metric.startswith("time/")}


def test_looking_changes_nothing_and_comes_before_the_end_of_the_step(tiny_config, tiny_digits, everything):
    plain = ContinualRun(tiny_config(*SPLIT), tiny_digits)
    _, expected = finished(plain)
    run = ContinualRun(tiny_config(*everything), tiny_digits)
    events = list(run.events())
    told = {(p.metric, p.x): p.value for p in run.points if not p.metric.startswith("time/")}
    extra = {name.split("/")[0] for name, _ in told.keys() - expected.keys()}
    assert extra == {"prototypes", "drift", "ood"}
    assert {key: told[key] for key in expected} == expected
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, run.model.state_dict()[name]), name
    kinds = [f"{event.name[:5]} {event.step}" if isinstance(event, Picture) else type(event).__name__
             for event in events]  # fmt: skip
    images = ["EpochEnded", "EpochEnded", *["image {0}"] * 3, "proto {0}"]
    steps = [[kind.format(step) for kind in images] for step in (0, 1)]
    steps[1][-1:] = ["backg 1", "proto 1", "drift 1"]
    assert kinds == [*steps[0], "StepEnded", *steps[1], "StepEnded", "RunEnded"]
    assert all(e.image.dtype == np.uint8 and e.image.shape[2] == 3 for e in events if isinstance(e, Picture))


def test_panels_hold_the_labels_and_the_predictions_of_the_step(tiny_config, tiny_digits):
    run = ContinualRun(tiny_config(*SPLIT, "training.log_images=2", "training.shuffle_classes=true"), tiny_digits)
    size, checked = (32, 32), 0
    for event in run.events():
        if not isinstance(event, Picture) or event.name == "background-shift":
            continue
        row = int(event.name.removeprefix("image-"))
        scene, mask = tiny_digits.test.read(np.array([row]), None)
        seen_ids = [class_id for classes in run.split.steps[: event.step + 1] for class_id in classes]
        colours = colour_map()
        truth = np.where(np.isin(mask[0], seen_ids), mask[0], 0)
        assert np.isin(seen_ids, mask[0]).any()
        assert np.array_equal(tile(event.image, 0, size)[..., 0], scene[0, 0])
        assert np.array_equal(tile(event.image, 1, size), colours[truth])
        with torch.no_grad(), run.numerics.autocast():
            guess = run.model(run.stream.to_device(scene)).logits.argmax(dim=1)[0].numpy()
        ids = np.array([0, *run.split.class_order])
        assert np.array_equal(tile(event.image, 2, size), colours[ids[guess]])
        checked += 1
    assert checked == 4


@pytest.mark.parametrize("method", ["bacs", "crossentropy"])
def test_resumed_at_every_epoch_shows_the_same(tiny_config, tiny_digits, tmp_path, everything, method):
    """Without a teacher, too: the reference features come from the model of the finished step."""
    overrides = everything
    if method == "crossentropy":
        kept = ["training.split", "training.iterations", "training.log_i", "training.log_d", "training.log_a"]
        overrides = ["loss=crossentropy", *(text for text in everything if text.startswith(tuple(kept)))]
    config = tiny_config(*overrides)
    expected, values = finished(ContinualRun(config, tiny_digits))
    assert ("drift/features", 3) in values
    assert ("drift/features", 4) in values
    pictures: list[Picture] = []
    folder = CheckpointFolder(tmp_path, "same")
    last = None
    while not isinstance(last, RunEnded):
        run = ContinualRun(config, tiny_digits)
        run.restore(CheckpointFolder(tmp_path, "same").latest())
        events = run.events()
        while isinstance(last := next(events), Picture):
            pictures.append(last)
        if isinstance(last, EpochEnded | StepEnded):
            folder.save(run.snapshot())
    assert {(p.metric, p.x): p.value for p in run.points if not p.metric.startswith("time/")} == values
    assert [(p.step, p.name) for p in pictures] == [(p.step, p.name) for p in expected]
    for one, other in zip(pictures, expected, strict=True):
        assert np.array_equal(one.image, other.image), one.name


def test_drift_switched_on_in_mid_step_measures_the_rest(tiny_config, tiny_digits):
    before = ContinualRun(tiny_config(*SPLIT), tiny_digits)
    snapshots = []
    for event in before.events():
        if isinstance(event, StepEnded) or (isinstance(event, EpochEnded) and event.step == 1):
            snapshots.append(copy.deepcopy(before.snapshot()))
        if len(snapshots) == 2:
            break
    run = ContinualRun(tiny_config(*SPLIT, "training.log_drift=true"), tiny_digits)
    run.restore(snapshots)
    _, values = finished(run)
    assert [x for name, x in values if name == "drift/features"] == [4]


# ---------------------------------------------------------------------- measurements


def test_drift_is_the_change_of_unit_features_since_the_step_before(tiny_config, tiny_digits):
    fixed = ["training.log_drift=true", "training.mixed_precision=false"]
    run = ContinualRun(tiny_config(*SPLIT, "training.iterations_per_epoch=4", *fixed), tiny_digits)
    view = run.stream.training_view(0)
    features = []

    def look() -> None:
        twin = copy.deepcopy(run.model).eval()
        with torch.no_grad():
            found = twin(run.stream.batch(view, np.arange(len(view))).images).bottleneck
        features.append(found / found.norm(dim=1, keepdim=True).clamp_min(1e-12))

    for event in run.events():
        if isinstance(event, StepEnded) and event.step == 0:
            look()
        if isinstance(event, EpochEnded) and event.step == 1:
            look()
            told = by_name(event.points)["drift/features"]
            by_image = (features[-1] - features[0]).abs().mean(dim=(1, 2, 3))
    chosen = run.media._drift._images
    assert chosen.shape[0] == 10
    every = run.stream.batch(view, np.arange(len(view))).images
    match = (chosen[:, None] == every[None]).flatten(2).all(dim=2)
    assert (match.sum(dim=1) == 1).all()
    assert told > 0
    assert told == pytest.approx(float(by_image[match.int().argmax(dim=1)].mean()), rel=1e-4)


def test_a_long_step_keeps_measurements_at_equal_distances_and_the_means_of_all(tiny_config, tiny_digits, monkeypatch):
    config = tiny_config(*SPLIT, "training.iterations_per_epoch=13", "training.log_drift=true")
    runs = []
    for most in (2000, 3):
        monkeypatch.setattr("bacs.media.drift.DRAWN", most)
        runs.append(ContinualRun(config, tiny_digits))
        list(runs[-1].events())
    means = [[(p.x, p.value) for p in run.points if p.metric == "drift/features"] for run in runs]
    assert [x for x, _ in means[0]] == [3, 4]
    assert means[0] == means[1]
    every, kept = (run.media.state()["drift"] for run in runs)
    assert [done for done, _ in every] == [4, 8, 12, 16, 20, 24]
    assert kept == [every[2], every[5]]


@pytest.mark.parametrize("grain", ["step", "class"])
def test_l1_distances_are_those_of_class_means_over_validation(tiny_config, tiny_digits, grain):
    run = ContinualRun(tiny_config(*SPLIT, "training.log_prototypes=true", f"loss.prototypes={grain}"), tiny_digits)
    ended = next(event for event in run.events() if isinstance(event, StepEnded))
    told = {name: value for name, value in by_name(ended.points).items() if name.startswith("prototypes/")}
    assert set(told) == {f"prototypes/l1/{name}" for name in "01234"}
    view = run.stream.seen_view("val", 0)
    batch = run.stream.batch(view, np.arange(len(view)))
    with torch.no_grad(), run.numerics.autocast():
        projected = run.model.detector.project(run.model(batch.images).bottleneck).double()
    stride = 32 // projected.shape[-1]
    small = batch.labels[:, ::stride, ::stride]
    prototypes = run.model.detector.prototypes.values.double()
    for label in range(1, 6):
        where = small == label
        mean = torch.stack([channel[where].mean() for channel in projected.unbind(dim=1)])
        prototype = prototypes[label - 1 if grain == "class" else 0]
        expected = functional.l1_loss(mean, prototype, reduction="sum")
        assert told[f"prototypes/l1/{label - 1}"] == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 12])
def test_few_points_can_be_placed_and_stay_where_they_are(count):
    points = np.random.default_rng(0).normal(size=(count, 1))
    places = embed(points, 7)
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()
    assert np.array_equal(places, embed(points, 7))
    if count > 1:
        assert len(np.unique(places.round(6), axis=0)) == count


# ---------------------------------------------------------------------- charts


@pytest.mark.parametrize("high", [1e-6, 0.03, 1.0, 7.0, 12345.0])
def test_ticks_are_round_and_cover_the_axis(high):
    marks = ticks(0, high)
    assert marks[0] == 0
    assert 4 <= len(marks) <= 11
    assert high - marks[-1] < marks[1]
    assert f"{marks[1]:.0e}"[0] in "125"
    assert all(value == int(value) for value in ticks(0, high, whole=True))


def test_charts_draw_their_points_and_stand_equal_values():
    red = (200, 10, 10)
    chart = scatter("title", [Mark(0, 0, "one", red), Mark(0, 0, "two", (10, 200, 10), "diamond")])
    assert (chart.reshape(-1, 3) == (10, 200, 10)).all(axis=1).any()
    assert (scatter("title", [Mark(3, 3, "one", red)]).reshape(-1, 3) == red).all(axis=1).any()
    flat = curve("title", "x", "y", [(0, 0.0), (4, 0.0)], [])
    steep = curve("title", "x", "y", [(0, 0.0), (4, 1.0)], [])
    assert flat.shape == steep.shape == (480, 640, 3)
    assert not np.array_equal(flat, steep)


# ---------------------------------------------------------------------- whole images, configuration, command line


def test_full_evaluation_draws_original_pixels_in_colour(tmp_path):
    root = make_voc(tmp_path / "voc", side=40)
    dataset = ["dataset=voc", f"dataset.root={root}", f"dataset.cache={tmp_path}", "dataset.crop_size=24"]
    training = ["training.device=cpu", "training.threads=1", "training.log_images=2", "training.split=15-5"]
    values = compose("config", [*dataset, *training, "dataset.evaluation=full", "network.width=4"])
    run = ContinualRun(RunConfig.from_dict(values))
    run.model.grow(run.split.heads[0], "random")
    view = run.stream.seen_view("test", 0)
    for picture in run.media._gallery.pictures(0, run.model):
        (position,) = np.flatnonzero(view.indices == int(picture.name.removeprefix("image-")))
        image, labels = view.whole(int(position))
        size = (labels.shape[1], labels.shape[2])
        assert np.array_equal(tile(picture.image, 0, size), image[0].permute(1, 2, 0))
        assert np.array_equal(tile(picture.image, 1, size), label_colours(run.split)[labels[0]])
        assert (labels == 255).any()


def test_prototypes_need_a_detector(tiny_values):
    with pytest.raises(RequestError, match=r"training.log_prototypes: draws prototypes, but .*CrossEntropy has none"):
        RunConfig.from_dict(tiny_values("loss=crossentropy", "training.log_prototypes=true"))
    RunConfig.from_dict(tiny_values("loss=crossentropy", "training.log_prototypes=true", "training.bg_detector=true"))


def test_pictures_are_written_whole_and_over_each_other(tmp_path):
    for value in (3, 9):
        path = save_picture(tmp_path, Picture("map", 2, np.full((4, 5, 3), value, dtype=np.uint8)))
    assert path == tmp_path / "step-2" / "map.png"
    assert [found.name for found in path.parent.iterdir()] == ["map.png"]
    assert np.array_equal(np.array(Image.open(path)), np.full((4, 5, 3), 9))


@pytest.mark.parametrize("checkpoints", [True, False])
def test_command_line_says_where_pictures_are(tmp_path, digits_cache, monkeypatch, capsys, checkpoints):
    monkeypatch.chdir(tmp_path)
    options = ["loss=crossentropy", "training.mode=joint", "training.log_images=1", "training.exp_name=mine"]
    small = [text for text in TINY if not text.startswith("loss.")]
    asked = ["training.ckpt_dir=kept"] if checkpoints else []
    assert main([*small, f"dataset.cache={digits_cache}", *options, *asked]) == 0
    folder = tmp_path / "kept/mine/pictures" if checkpoints else tmp_path / "runs/pictures/mine"
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.png")]
    assert len(files) == 1
    assert files[0].startswith("step-0/image-")
    told = capsys.readouterr().out
    assert told.count("pictures:") == 1
    assert (str(folder) if checkpoints else "runs/pictures/mine") in told
