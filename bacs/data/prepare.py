"""Gets a dataset: downloads what may be downloaded, and says what is left to do by hand."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bacs.data.cityscapes_site import SITE, CityscapesSite, Credentials
from bacs.data.download import Checksum, DownloadError, Progress, download, unpack
from bacs.data.voc import AUGMENTED_LISTS, AUGMENTED_MASKS
from bacs.errors import RequestError

Told = Callable[[str], None]
"""Called with a sentence about what was done."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A published archive, and what must be there once it is unpacked."""

    file: str
    folder: str
    """The folder of ``dataset.root`` that it unpacks to."""
    contents: Mapping[str, int]
    """Number of files by pattern below ``folder``."""

    def missing(self, root: Path) -> list[str]:
        """What is not there, with numbers; empty where the archive is unpacked completely."""
        found = {pattern: sum(1 for _ in (root / self.folder).glob(pattern)) for pattern in self.contents}
        return [
            f"{self.folder}/{pattern}: {found[pattern]:,} of {count:,}"
            for pattern, count in self.contents.items()
            if found[pattern] < count
        ]


VOC = Archive(
    "VOCtrainval_11-May-2012.tar",
    "VOCdevkit/VOC2012",
    {"JPEGImages/*.jpg": 17125, "SegmentationClass/*.png": 2913, "ImageSets/Segmentation/*.txt": 3},
)
VOC_BY_HAND = """For the published protocol with 10,582 training images, put there by hand:
  {voc}/SegmentationClassAug/<image>.png
      a mask for every image of train_aug: those of VOC and of the Semantic Boundaries Dataset (Hariharan et al.
      2011) as grey images whose pixels are class ids 0..20, 255
  {voc}/ImageSets/Segmentation/train_aug.txt
      the names of the 10,582 images, one a line
Both come under these names with many published segmentation codes. Without them VOC's own 1,464 training images are
used, and published numbers are not comparable."""

ADE20K = Archive(
    "ADEChallengeData2016.zip",
    "ADEChallengeData2016",
    {
        "images/training/*.jpg": 20210,
        "annotations/training/*.png": 20210,
        "images/validation/*.jpg": 2000,
        "annotations/validation/*.png": 2000,
    },
)
ADE20K_URL = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
ADE20K_CHECKSUM = Checksum("sha1", "219e1696abb36c8ba3a3afe7fb2f4b4606a897c7")
"""The address is not encrypted, so only the checksum tells that the file is the published one."""

CITYSCAPES = {
    1: Archive(
        "gtFine_trainvaltest.zip",
        "gtFine",
        {"train/*/*_gtFine_labelIds.png": 2975, "val/*/*_gtFine_labelIds.png": 500},
    ),
    3: Archive(
        "leftImg8bit_trainvaltest.zip",
        "leftImg8bit",
        {"train/*/*_leftImg8bit.png": 2975, "val/*/*_leftImg8bit.png": 500},
    ),
}
"""By the number of the package on the Cityscapes site."""

FOLDER_BY_HAND = """A dataset of your own is put together by hand in {root}:
  images/<name>.jpg or .png
  masks/<name>.png    grey or palette images whose pixels are class ids: 0 background, 1..V, 255 ignored
  classes.txt         the names of the classes 1..V, one a line
  train.txt, val.txt  the names of the images of each subset, one a line, without ending"""


def prepare(name: str, root: Path, told: Told, progress: Progress | None = None) -> str:
    """Gets the dataset ``name`` into ``root``; what is there already is not fetched again.

    Args:
        name: of the dataset's configuration.
        root: ``dataset.root``; made where it is absent.
        told: called with each thing that was done.
        progress: called while a file is fetched.

    Returns:
        What is left to do by hand; empty where nothing is.

    Raises:
        RequestError: for a dataset without a source, missing or wrong credentials, and a disk that is too small.
        DownloadError: when a server or a transfer fails, or an archive is damaged.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remedy = "give a folder that can be written to"
        raise RequestError.of("dataset.root", f"is {root}, which cannot be made: {error.strerror}", remedy) from None
    if name == "voc":
        return prepare_voc(root, told, progress)
    if name == "ade20k":
        prepare_ade20k(root, told, progress)
        return ""
    if name in ("cityscapes", "cityscapes_domain"):
        prepare_cityscapes(root, told, progress)
        return ""
    if name == "folder":
        return FOLDER_BY_HAND.format(root=root)
    known = "voc, ade20k, cityscapes, cityscapes_domain, folder"
    raise RequestError.of(
        "dataset", f"is {name!r}, of which nothing is to be fetched", f"there are sources of: {known}"
    )


def prepare_voc(root: Path, told: Told, progress: Progress | None = None, archive: Archive = VOC) -> str:
    """VOC 2012 trainval; torchvision knows its address and checksum."""
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    if archive.missing(root):
        source = DATASET_YEAR_DICT["2012"]
        path = root / archive.file
        download(source["url"], path, checksum=Checksum("md5", source["md5"]), progress=progress)
        try:
            with tarfile.open(path) as content:
                content.extractall(root, filter="data")  # refuses members and links that lead out of the folder
        except (OSError, tarfile.TarError) as error:
            raise DownloadError(f"{path} cannot be unpacked: {error}", f"delete {path} and start again") from None
        _require_complete(root, archive)
    told(_ready(root, archive))
    voc = root / archive.folder
    augmented = (voc / AUGMENTED_MASKS).is_dir() and any((voc / name).is_file() for name in AUGMENTED_LISTS)
    return "" if augmented else VOC_BY_HAND.format(voc=voc)


def prepare_ade20k(
    root: Path,
    told: Told,
    progress: Progress | None = None,
    archive: Archive = ADE20K,
    url: str = ADE20K_URL,
    checksum: Checksum | None = ADE20K_CHECKSUM,
) -> None:
    """The SceneParsing benchmark of ADE20K."""
    if archive.missing(root):
        download(url, root / archive.file, checksum=checksum, progress=progress)
        unpack(root / archive.file, archive.folder, root)
        _require_complete(root, archive)
    told(_ready(root, archive))


def prepare_cityscapes(
    root: Path,
    told: Told,
    progress: Progress | None = None,
    packages: Mapping[int, Archive] = CITYSCAPES,
    site: str = SITE,
) -> None:
    """Masks and images of Cityscapes, by the user's login; archives that lie in ``root`` already need none."""
    wanted = {number: archive for number, archive in packages.items() if archive.missing(root)}
    absent = {number: archive for number, archive in wanted.items() if not (root / archive.file).exists()}
    if absent:
        session = CityscapesSite(Credentials.from_environment(os.environ), site)
        for number, archive in absent.items():
            session.download(number, root / archive.file, progress)
    for archive in wanted.values():
        unpack(root / archive.file, archive.folder, root)
        _require_complete(root, archive)
    for archive in packages.values():
        told(_ready(root, archive))


def _require_complete(root: Path, archive: Archive) -> None:
    missing = archive.missing(root)
    if missing:
        path = root / archive.file
        remedy = f"delete {path} and start the command again"
        raise DownloadError(f"{path} is unpacked, but lacks {'; '.join(missing)}", remedy)


def _ready(root: Path, archive: Archive) -> str:
    path = root / archive.file
    archive_told = f"; {path} is no longer needed" if path.exists() else ""
    return f"{root / archive.folder} is complete{archive_told}"
