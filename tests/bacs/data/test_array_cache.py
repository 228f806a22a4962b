import threading

import numpy as np
import pytest

from bacs.data.array_cache import load_or_make


def test_made_once_then_mapped(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"a": np.arange(6).reshape(2, 3), "b": np.ones(2, bool)}

    for _ in range(2):
        arrays = load_or_make(tmp_path / "deep" / "x", ["a", "b"], make)
        assert isinstance(arrays["a"], np.memmap)
        assert not arrays["a"].flags.writeable
        assert arrays["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert len(calls) == 1
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x"]


def truncate(folder):
    path = folder / "a.npy"
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder):
    path = folder / "a.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def delete(folder):
    (folder / "a.npy").unlink()


def no_index(folder):
    (folder / "checksums.json").unlink()


def torn_index(folder):
    (folder / "checksums.json").write_text('{"a": "')


def foreign_index(folder):
    (folder / "checksums.json").write_text("[]")


def emptied(folder):
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize("damage", [truncate, flip, delete, no_index, torn_index, foreign_index, emptied])
def test_damaged_folder_is_made_anew(tmp_path, damage):
    folder = tmp_path / "x"
    load_or_make(folder, ["a"], lambda: {"a": np.arange(3)})
    damage(folder)
    assert load_or_make(folder, ["a"], lambda: {"a": np.arange(3)})["a"].tolist() == [0, 1, 2]
    again = load_or_make(folder, ["a"], lambda: pytest.fail("was repaired already"))
    assert again["a"].tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("damaged", [False, True])
def test_writers_that_finish_together_agree(tmp_path, damaged):
    folder = tmp_path / "x"
    if damaged:
        load_or_make(folder, ["a"], lambda: {"a": np.arange(3)})
        flip(folder)
    n_writers = 8
    barrier = threading.Barrier(n_writers, timeout=30)
    results = []

    def work():
        first = [True]

        def make():
            if first.pop() if first else False:
                barrier.wait()
            return {"a": np.arange(1000)}

        results.append(load_or_make(folder, ["a"], make)["a"])

    threads = [threading.Thread(target=work) for _ in range(n_writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == n_writers
    assert all(np.array_equal(result, np.arange(1000)) for result in results)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_failure_to_make_leaves_nothing(tmp_path):
    def make():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        load_or_make(tmp_path / "x", ["a"], make)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_never_holds_the_arrays_is_an_error(tmp_path):
    with pytest.raises(OSError, match="damaged again"):
        load_or_make(tmp_path / "x", ["a"], lambda: {"b": np.arange(3)})
