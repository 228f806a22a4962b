import struct

import numpy as np
import pytest

from bacs.data import Digits, DigitsConfig, check
from bacs.data.digit_source import load_pools
from bacs.errors import RequestError

PER_DIGIT = {"train": 20, "t10k": 5}


def write_idx(path, array):
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.fixture
def root(tmp_path):
    """MNIST as torchvision unpacks it, with noise for digits; every image differs."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in PER_DIGIT.items():
        labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), count))
        images = rng.integers(0, 256, size=(len(labels), 28, 28), dtype=np.uint8)
        images[:, 0, 0] = labels
        write_idx(raw / f"{name}-images-idx3-ubyte", images)
        write_idx(raw / f"{name}-labels-idx1-ubyte", labels)
    return tmp_path / "data"


def config(root, tmp_path, **settings):
    sizes = {"train_scenes": 6, "val_scenes": 3, "test_scenes": 4}
    return DigitsConfig(source="mnist", root=str(root), cache=str(tmp_path / "cache"), **(sizes | settings))


def test_scenes_from_mnist(root, tmp_path):
    data = Digits(config(root, tmp_path))
    assert data.train.images.shape == (6, 60, 60)
    assert len(data.test) == 4
    assert data.manifest != Digits(DigitsConfig(cache=str(tmp_path), train_scenes=6)).manifest


def test_train_and_val_share_mnist_train_and_test_has_its_own(root):
    pools = load_pools("mnist", str(root), digit_size=28, seed=0)
    for subset, count in {"train": 16, "val": 4, "test": 5}.items():
        assert np.bincount(pools[subset].digits).tolist() == [count] * 10
        assert (pools[subset].images[:, 0, 0] == pools[subset].digits).all()
    test = (root / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()
    assert all(image.tobytes() in test for image in pools["test"].images)
    train = {image.tobytes() for image in pools["train"].images}
    assert not train & {image.tobytes() for image in pools["val"].images}


def test_tiles_are_resized_on_request(root):
    assert load_pools("mnist", str(root), digit_size=20, seed=0)["val"].images.shape == (40, 20, 20)


def test_manifest_follows_the_files(root, tmp_path):
    before = Digits(config(root, tmp_path)).manifest
    path = root / "MNIST/raw/t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    changed = Digits(config(root, tmp_path)).manifest
    path.write_bytes(path.read_bytes()[:-1] + b"\x02")
    assert len({before, changed, Digits(config(root, tmp_path)).manifest}) == 3


def test_missing_files_are_named_with_the_remedy(root, tmp_path):
    (root / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(RequestError) as caught:
        Digits(config(root, tmp_path))
    (fault,) = caught.value.faults
    assert fault.where == "dataset.root"
    assert f"{root / 'MNIST' / 'raw'} lacks t10k-labels-idx1-ubyte" in fault.problem
    assert "dataset.download=true" in fault.remedy
    assert check(config(root, tmp_path, download=True)) == []


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", struct.pack(">HBBI", 0, 8, 1, 200)])
def test_damaged_file_is_named(root, tmp_path, content):
    path = root / "MNIST/raw/train-labels-idx1-ubyte"
    path.write_bytes(content)
    (fault,) = check(config(root, tmp_path, download=True))
    assert str(path) in fault.problem
    assert "delete that file" in fault.remedy


def test_images_and_labels_must_match_in_number(root, tmp_path):
    write_idx(root / "MNIST/raw/t10k-labels-idx1-ubyte", np.zeros(49, np.uint8))
    (fault,) = check(config(root, tmp_path))
    assert "has 50 images, but t10k-labels-idx1-ubyte has 49 labels" in fault.problem


def test_too_few_digits_for_every_subset(root, tmp_path):
    raw = root / "MNIST" / "raw"
    write_idx(raw / "train-images-idx3-ubyte", np.zeros((1, 28, 28), np.uint8))
    write_idx(raw / "train-labels-idx1-ubyte", np.zeros(1, np.uint8))
    with pytest.raises(RequestError, match="leaves no digit image for: val"):
        Digits(config(root, tmp_path))


def test_failed_download_is_a_request_error(tmp_path, monkeypatch):
    import torchvision.datasets

    def offline(root, download):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(torchvision.datasets, "MNIST", offline)
    with pytest.raises(RequestError, match="could not fetch MNIST: Error downloading") as caught:
        Digits(config(tmp_path / "nowhere", tmp_path, download=True))
    assert caught.value.faults[0].where == "dataset.download"
