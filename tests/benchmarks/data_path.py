"""Images a second that one core reads, with and without decoded copies: ``python -m tests.benchmarks.data_path``.

Counted in CPU time of one thread, so a busy machine changes little. Files are in the page cache, which leaves out the
disk; the painted images compress worse than photographs, which makes decoding slower by up to a half.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bacs.data.cityscapes import Cityscapes, CityscapesConfig
from bacs.data.class_index import value_presence
from bacs.data.file_dataset import FileDataset, contents_hash
from bacs.data.file_scenes import FileScenes
from bacs.data.layout import Layout, Pair, identity_table
from bacs.data.voc import VOC, VOCConfig
from tests.bacs.data import trees

CROP = 512
ROUNDS = 3
MANIFEST_FILES = 20_000


def per_second(read: Callable[[], int]) -> float:
    """Items by CPU second; the best of a few rounds, the first of which warms up."""
    rates = []
    for _ in range(1 + ROUNDS):
        started = time.process_time()
        items = read()
        rates.append(items / (time.process_time() - started))
    return max(rates[1:])


def crops(scenes: FileScenes) -> Callable[[], int]:
    rows = np.arange(len(scenes))
    return lambda: sum(len(scenes.read(rows[i : i + 4], rows[i : i + 4])[0]) for i in range(0, len(rows), 4))


def compare(title: str, data: Callable[[bool], FileDataset]) -> None:
    """Random crops, decoded each time and from copies, in turn."""
    print(f"\n{title}, random crops of {CROP}")
    first = per_second(crops(data(False).train))
    copied = per_second(crops(data(True).train))
    print(f"  decoded each time  {first:8.1f} images/s")
    print(f"  decoded copies     {copied:8.1f} images/s   {copied / first:5.2f}x")


def manifest_seconds(folder: Path) -> float:
    """Wall seconds to hash the names and sizes of ``MANIFEST_FILES`` files."""
    folder.mkdir()
    paths = [folder / f"{number:06d}.png" for number in range(MANIFEST_FILES)]
    for path in paths:
        path.touch()
    pairs = tuple(Pair(a.stem, a, b) for a, b in zip(paths[::2], paths[1::2], strict=True))
    layout = Layout(class_names=("a",), train=pairs, test=(), table=identity_table(1), legal=frozenset([0, 1]))
    started = time.perf_counter()
    contents_hash("benchmark", layout, folder)
    return time.perf_counter() - started


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, one thread")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        voc = trees.make_voc(place / "voc", train=40, augmented=0, val=1, side=375)
        city = trees.make_cityscapes(place / "cityscapes", per_city=4, cities=["aachen", "ulm", "munster"], height=1024)
        common = {"cache": name, "crop_size": CROP, "val_share": 0.0}
        compare(
            "VOC-sized JPEG (375 x 375..562)",
            lambda copies: VOC(VOCConfig(root=str(voc), decode_cache=copies, **common)),
        )
        compare(
            "Cityscapes-sized PNG (1024 x 2048)",
            lambda copies: Cityscapes(CityscapesConfig(root=str(city), decode_cache=copies, **common)),
        )
        masks = sorted(city.glob("gtFine/*/*/*_labelIds.png"))
        print(f"\nclass index of Cityscapes-sized masks {per_second(lambda: len(value_presence(masks))):8.1f} masks/s")
        print(f"manifest of {MANIFEST_FILES} files {manifest_seconds(place / 'many'):8.2f} s")


if __name__ == "__main__":
    main()
