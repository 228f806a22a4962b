"""What every dataset promises to the views of the steps, the loaders and the key of a step."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from bacs.components import Component
from bacs.contracts.base import Contract, explained, in_another_process, listed, require
from bacs.contracts.values import other_values
from bacs.data import IGNORE, Scenes, SegmentationData
from bacs.errors import Fault, RequestError
from bacs.schema import acts_from

SUBSETS = ("train", "val", "test")
_EVALUATIONS = ("crop_val", "full")
_NEEDS = "give what it needs: settings = {...} in the subclass of the contract, or --set KEY=VALUE"


class DatasetContract(Contract):
    """Tests of a class that makes a :class:`bacs.data.SegmentationData`."""

    group = "dataset"
    sample: ClassVar[int] = 40
    """Images of each subset that are looked at, spread over it."""

    @pytest.fixture(scope="class")
    @classmethod
    def cache(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("cache")

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, allowed: None, cache: Path) -> SegmentationData:
        with explained(f"opening {cls.target} with {cls.settings}", _NEEDS):
            return _opened(cls.beside(cache))

    @classmethod
    def beside(cls, cache: Path, **changes: Any) -> Component:
        """The class, with a temporary folder for its key ``cache``, if it has one."""
        names = {field.name for field in dataclasses.fields(cls.component().factory.Config)}
        own = {"cache": str(cache)} if "cache" in names - cls.settings.keys() else {}
        return cls.component(**own, **changes)

    def test_check_says_what_is_wrong_and_what_to_do(self, cache: Path) -> None:
        with explained(f"reading the settings of {self.target}", _NEEDS):
            component = self.beside(cache)
        faults = _faults_of(component)
        require(not faults, "check() refuses these settings:\n" + "\n".join(map(str, faults)), _NEEDS)
        for name, value in _other_settings(component, acting=False).items():
            _faults_of(self.beside(cache, **{name: value}))

    def test_classes_are_told_before_anything_is_opened(self, data: SegmentationData, cache: Path) -> None:
        component = self.beside(cache)
        told, names = component.factory.classes(component.settings), data.class_names
        problem = f"classes(config) says {listed(told)}, class_names of the opened dataset {listed(names)}"
        require(tuple(told) == tuple(names), problem, "let both come from the same list, in the order of the ids")
        require(len(names) > 0, "class_names is empty", "name the foreground classes: class id = position + 1")
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, f"class_names has {listed(twice)} more than once", "give each class a name of its own")
        require(len(names) < IGNORE, f"there are {len(names)} classes", "255 is the ignored label: at most 254")

    def test_channels_mean_and_std_agree(self, data: SegmentationData) -> None:
        counts = {"channels": data.channels, "mean": len(data.mean), "std": len(data.std)}
        counts["the class itself (channels)"] = self.component().factory.channels
        images, _ = data.train.read_whole(0)
        counts["read_whole()"] = images.shape[1]
        problem = f"numbers of channels differ: {', '.join(f'{count} in {name}' for name, count in counts.items())}"
        require(len(set(counts.values())) == 1, problem, "give mean and std a number per channel of the images")
        require(data.channels in (1, 3), f"channels is {data.channels}", "1 for grey, 3 for colour images")
        require(min(data.std) > 0, f"std is {data.std}, but images are divided by it", "give numbers above 0")

    def test_every_subset_has_images(self, data: SegmentationData) -> None:
        for subset in ("train", "test"):
            require(len(getattr(data, subset)) > 0, f"{subset} is empty", f"give it images: {_NEEDS}")
        rule = f"evaluation is {data.evaluation!r}, but must be one of {_EVALUATIONS}"
        require(data.evaluation in _EVALUATIONS, rule, "say crop_val where the fixed view counts as the image")
        if len(data.val) == 0:
            pytest.skip("val is empty: nothing can be chosen with these settings, no hyper-parameter and no winner")

    def test_domains_and_groups_belong_together(self, data: SegmentationData) -> None:
        for subset, scenes in _subsets(data):
            group, n_domains = scenes.group, len(data.domains)
            if group is None:
                remedy = "give each image the position of its domain in group, or leave domains empty"
                require(n_domains == 0, f"domains has {n_domains} names, but group of {subset} is None", remedy)
                continue
            problem = f"group of {subset} is {group.dtype} {group.shape}, with values {np.unique(group)[:6]}"
            problem += f", for {len(scenes)} images of {n_domains} domains"
            fits = group.shape == (len(scenes),) and group.dtype == np.int64 and np.isin(group, range(n_domains)).all()
            require(fits, problem, "give int64 (N,), 0-based positions in domains; None where there are none")

    def test_presence_is_that_of_the_masks(self, data: SegmentationData) -> None:
        n_labels = _n_labels(data)
        for subset, scenes in _subsets(data):
            presence = scenes.presence
            problem = f"presence of {subset} is {presence.dtype} {presence.shape}"
            remedy = f"give bool ({len(scenes)}, {n_labels}): for each image whether its mask has a pixel of each id"
            require(presence.shape == (len(scenes), n_labels) and presence.dtype == np.bool_, problem, remedy)
            for row in self._rows(scenes):
                _, mask = scenes.read_whole(int(row))
                said, found = np.flatnonzero(presence[row]).tolist(), sorted(set(mask.unique().tolist()) - {IGNORE})
                problem = f"presence of image {row} of {subset} names the ids {said}, but its whole mask has {found}"
                require(
                    said == found, problem, "make it of the same masks, at their full size, 0 (background) included"
                )

    def test_views_have_the_promised_form(self, data: SegmentationData) -> None:
        for subset, scenes in _subsets(data):
            rows = self._rows(scenes)
            for draws in (rows + 7, None):
                images, labels = scenes.read(rows, draws)
                how = f"read() of {subset} with draws {'of int64' if draws is not None else 'None'}"
                _require_pixels(data, how, images, labels)
                problem = f"{how} gives {tuple(images.shape[-2:])}, but window is {tuple(data.window)}"
                require(tuple(images.shape[-2:]) == tuple(data.window), problem, "make both the same (h, w)")
                require(
                    len(images) == len(rows), f"{how} gives {len(images)} of {len(rows)} images", "one for each row"
                )

    def test_whole_images_have_the_promised_form(self, data: SegmentationData) -> None:
        for subset, scenes in _subsets(data):
            for row in self._rows(scenes):
                how = f"read_whole({row}) of {subset}"
                images, labels = scenes.read_whole(int(row))
                _require_pixels(data, how, images, labels)
                require(len(images) == 1, f"{how} gives {len(images)} images", "give (1, C, H, W) and (1, H, W)")

    def test_a_view_depends_on_row_and_draw_alone(self, data: SegmentationData) -> None:
        remedy = "cut and flip by np.random.default_rng(draw) of that image, by nothing that was read or drawn before"
        for subset, scenes in _subsets(data):
            rows = self._rows(scenes)
            for draws, how in ((rows + 7, "a draw"), (np.full(len(rows), 3), "one draw"), (None, "draws=None")):
                together = views_of(scenes, rows, draws)
                parts = [(rows[i : i + 1], None if draws is None else draws[i : i + 1]) for i in range(len(rows))]
                backwards = views_of(scenes, rows[::-1].copy(), None if draws is None else draws[::-1].copy())[::-1]
                alone = [views_of(scenes, *part)[0] for part in parts]
                for where, views in (("in the opposite order", backwards), ("alone", alone)):
                    other = [row for row, one, two in zip(rows, together, views, strict=True) if one != two]
                    problem = (
                        f"with {how}, images {listed(other)} of {subset} are other bytes when they are read {where}"
                    )
                    require(not other, problem, remedy)

    def test_views_are_the_same_in_another_process(self, data: SegmentationData) -> None:
        remedy = "hold paths, plain values and arrays (no open files, no lambdas): workers of a loader get a copy"
        sets = [(scenes, self._rows(scenes)) for _, scenes in _subsets(data)]
        asked = [(scenes, rows, draws) for scenes, rows in sets for draws in (rows + 7, None)]
        with explained("reading in a process that got a pickled copy of the images", remedy):
            there = in_another_process(_all_views_of, asked)
        same = there == _all_views_of(asked)
        require(same, "equal rows and draws give other bytes in another process", "draw from the seed alone, by NumPy")

    def test_subsets_are_disjoint(self, data: SegmentationData) -> None:
        seen: dict[str, str] = {}
        for subset, scenes in _subsets(data):
            for row in self._rows(scenes):
                place, pixels = f"image {row} of {subset}", _hash(*scenes.read_whole(int(row)))
                twin = seen.setdefault(pixels, place)
                problem = f"{place} is, pixel by pixel, {twin}"
                remedy = "no image may be in two subsets: what is chosen or reported must not have been trained on"
                require(twin.split()[-1] == subset, problem, remedy)

    def test_the_manifest_tells_data_apart(self, data: SegmentationData, cache: Path) -> None:
        component = self.beside(cache)
        right = isinstance(data.manifest, str) and data.manifest
        require(right, f"manifest is {data.manifest!r}", "make it a hash of all that decides the bytes, as hex digits")
        again = _opened(component).manifest
        problem = f"opened twice with the same settings, it has the manifests {data.manifest} and {again}"
        require(data.manifest == again, problem, "hash what decides the bytes, no time, path or order of a listing")
        for name, value in _other_settings(component, acting=True).items():
            if (other := _opened_if_legal(self.beside(cache, **{name: value}), f"{name}={value!r}")) is None:
                continue
            problem = f"{name}={value!r} gives other data under the same manifest {data.manifest}"
            remedy = f"hash {name} too: by the manifest runs tell whether they share a step. Or, if it is not meant to "
            remedy += "change anything, declare it acts_from=None"
            require(other.manifest != data.manifest or _facts(other) == _facts(data), problem, remedy)

    @classmethod
    def _rows(cls, scenes: Scenes) -> NDArray[np.int64]:
        return np.unique(np.linspace(0, len(scenes) - 1, min(len(scenes), cls.sample)).astype(np.int64))


def views_of(scenes: Scenes, rows: NDArray[np.int64], draws: NDArray[np.int64] | None) -> list[str]:
    """A hash of each view."""
    return [_hash(image, mask) for image, mask in zip(*scenes.read(rows, draws), strict=True)]


def _all_views_of(asked: list[tuple[Scenes, NDArray[np.int64], NDArray[np.int64] | None]]) -> list[list[str]]:
    torch.set_num_threads(1)
    return [views_of(*request) for request in asked]


def _hash(*tensors: Tensor) -> str:
    parts = (f"{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes() for tensor in tensors)
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _subsets(data: SegmentationData) -> Iterator[tuple[str, Scenes]]:
    """Those that have images."""
    yield from ((subset, getattr(data, subset)) for subset in SUBSETS if len(getattr(data, subset)) > 0)


def _n_labels(data: SegmentationData) -> int:
    """Streams of domains have no background: there label = position of the class."""
    return len(data.class_names) + (not data.domains)


def _require_pixels(data: SegmentationData, how: str, images: Tensor, labels: Tensor) -> None:
    form = f"{images.dtype} {tuple(images.shape)} and {labels.dtype} {tuple(labels.shape)}"
    fits = images.dim() == 4 and images.shape[1] == data.channels and labels.shape == images[:, 0].shape
    right = fits and images.dtype == labels.dtype == torch.uint8
    require(right, f"{how} gives {form}", f"give uint8 images (B, {data.channels}, H, W) and uint8 labels (B, H, W)")
    wrong = sorted(set(labels.unique().tolist()) - {*range(_n_labels(data)), IGNORE})
    problem = f"{how} gives the labels {listed(wrong)}, but there are {len(data.class_names)} classes"
    require(not wrong, problem, "map every mask value to a class id, or to 255 (ignored)")


def _opened(component: Component) -> SegmentationData:
    data: SegmentationData = component.factory(component.settings)
    return data


def _opened_if_legal(component: Component, change: str) -> SegmentationData | None:
    if _faults_of(component):
        return None
    with explained(f"opening with {change}, which check() accepts,", "let check() refuse it: return a Fault"):
        try:
            return _opened(component)
        except RequestError:
            return None


def _faults_of(component: Component) -> list[Fault]:
    with explained(f"check({component.settings})", "return a list of bacs.errors.Fault, and raise nothing"):
        faults: list[Fault] = component.factory.check(component.settings)
    problem = f"check() returns {faults!r}"
    whole = isinstance(faults, list) and all(isinstance(f, Fault) and f.problem and f.remedy for f in faults)
    require(
        whole, problem, "return a list of bacs.errors.Fault, each with what is wrong and what to do; [] for nothing"
    )
    return faults


def _other_settings(component: Component, *, acting: bool) -> dict[str, Any]:
    """Another value for each field, or only for each that can change a result."""
    schema = type(component.settings)
    names = [name for name, step in acts_from(schema).items() if step is not None or not acting]
    return other_values(component.settings, names, "dataset")


def _facts(data: SegmentationData) -> list[Any]:
    """All that a run reads of a dataset; of the pixels those of a few images."""
    facts: list[Any] = [
        data.class_names,
        data.domains,
        data.evaluation,
        data.window,
        data.channels,
        data.mean,
        data.std,
    ]
    for _, scenes in _subsets(data):
        rows = np.arange(0, len(scenes), max(1, len(scenes) // 8))
        facts += [len(scenes), scenes.presence.tolist(), None if scenes.group is None else scenes.group.tolist()]
        facts += [views_of(scenes, rows, rows + 7), views_of(scenes, rows, None)]
        facts += [_hash(*scenes.read_whole(int(row))) for row in rows]
    return facts
