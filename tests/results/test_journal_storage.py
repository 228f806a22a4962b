"""A journal on storage that refuses: really full, really limited, failing to flush, changed by someone else."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
import time

import pytest

import results.patience
from results import Journal, ResultsError, journal, read_journal
from results.errors import StorageRefusedError

BIG = "x" * 9000
"""Longer than the pages that a file system has already given to the file."""

LIMITED = """
import resource, sys, threading, time
from results import Journal, patience
patience.FIRST_PAUSE_SECONDS = 0.05
with Journal(sys.argv[1]) as journal:
    journal.append("edited", changes={"number": 0})
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    thread = threading.Thread(target=journal.append, args=("edited",), kwargs={"changes": {"filler": "x" * 5000}})
    thread.start()
    thread.join(1.0)
    assert thread.is_alive()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    thread.join(60)
    journal.append("edited", changes={"number": 2})
"""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(results.patience, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(results.patience, "LONGEST_PAUSE_SECONDS", 0.1)


def numbers(path):
    return [record["changes"]["number"] for record in read_journal(path)[0]]


def test_a_full_disk_is_waited_for_and_nothing_is_lost(small_disk, quick, caplog):
    path = small_disk.folder / "journal.jsonl"
    with Journal(path) as opened:
        opened.append("edited", changes={"number": 0})
        small_disk.fill()

        def append():
            for number in (1, 2):
                opened.append("edited", changes={"number": number, "filler": BIG})

        thread = threading.Thread(target=append)
        thread.start()
        while not caplog.records:
            assert thread.is_alive()
            time.sleep(0.05)
        time.sleep(0.3)
        assert thread.is_alive()
        assert numbers(path) == [0]  # readable meanwhile
        small_disk.free()
        thread.join(60)
        assert opened.append("edited", changes={"number": 3})["seq"] == 4
    assert numbers(path) == [0, 1, 2, 3]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert f"cannot write {path}: No space left on device, 0 MiB" in told[0]
    assert "takes writes again" in told[1]


def test_patience_ends_with_one_clear_error_and_the_journal_stays_whole(small_disk, quick, monkeypatch):
    monkeypatch.setattr(results.patience, "PATIENCE_SECONDS", 0.3)
    path = small_disk.folder / "journal.jsonl"
    with Journal(path) as opened:
        opened.append("edited", changes={"number": 0})
        small_disk.fill()
        with pytest.raises(StorageRefusedError) as caught:
            opened.append("edited", changes={"number": 1, "filler": BIG})
        for words in (str(path), "No space left", "0 MiB", "inodes free", "free or repair", "resume"):
            assert words in str(caught.value)
        monkeypatch.setattr(results.patience, "PATIENCE_SECONDS", 3600)
        monkeypatch.setattr(opened._patience, "is_over", True)
        with pytest.raises(StorageRefusedError):
            opened.append("edited", changes={"number": 1, "filler": BIG})
        small_disk.free()
        assert opened.append("edited", changes={"number": 2})["seq"] == 2
    assert numbers(path) == [0, 2]


def test_hurry_ends_the_waiting(small_disk, quick, caplog):
    path = small_disk.folder / "journal.jsonl"
    errors = []
    with Journal(path) as opened:
        small_disk.fill()

        def append():
            try:
                opened.append("edited", changes={"filler": BIG})
            except StorageRefusedError as error:
                errors.append(error)

        thread = threading.Thread(target=append)
        thread.start()
        while not caplog.records:
            time.sleep(0.05)
        opened.hurry()
        thread.join(60)
    assert len(errors) == 1


def test_a_journal_on_storage_without_a_byte_or_read_only_is_refused_with_the_reason(small_disk):
    (small_disk.folder / "journal.jsonl").touch()
    small_disk.fill()
    with pytest.raises(ResultsError, match="No space left"):
        Journal(small_disk.folder / "journal.jsonl")
    small_disk.free()
    small_disk.remount("ro")
    with pytest.raises(ResultsError, match="Read-only file system"):
        Journal(small_disk.folder / "journal.jsonl")
    small_disk.remount("rw")
    with Journal(small_disk.folder / "journal.jsonl") as opened:
        opened.append("edited", changes={})


def test_a_limit_on_file_sizes_is_waited_for(tmp_path, spawn):
    path = tmp_path / "journal.jsonl"
    process = spawn("-c", LIMITED, path, stderr=subprocess.PIPE)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert b"File too large" in errors
    assert [record["seq"] for record in read_journal(path)[0]] == [1, 2, 3]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_after_a_failed_flush_the_file_is_opened_anew_and_the_line_written_again(tmp_path, monkeypatch, quick, code):
    path = tmp_path / "journal.jsonl"
    real_fsync, real_open, refusals, opened_again = os.fsync, os.open, [code] * 3, []

    def fsync(fd):
        if refusals:
            raise OSError(refusals.pop(), "Input/output error")
        real_fsync(fd)

    def open_noted(name, *rest):
        opened_again.append(name)
        return real_open(name, *rest)

    with Journal(path) as opened:
        opened.append("edited", changes={"number": 0})
        monkeypatch.setattr(journal.os, "fsync", fsync)
        monkeypatch.setattr(journal.os, "open", open_noted)
        opened.append("edited", changes={"number": 1})
        opened.append("edited", changes={"number": 2})
        assert opened_again == [path] * 3
    assert numbers(path) == [0, 1, 2]


def test_a_refusal_that_cannot_pass_is_not_waited_for(tmp_path, monkeypatch):
    with Journal(tmp_path / "journal.jsonl") as opened:
        with monkeypatch.context() as patch:

            def refuse(fd, data):
                raise OSError(errno.EACCES, "Permission denied")

            patch.setattr(journal.os, "write", refuse)
            with pytest.raises(StorageRefusedError, match="Permission denied"):
                opened.append("edited", changes={})
        opened.append("edited", changes={})


def test_a_journal_that_someone_else_changes_or_removes_is_not_written_any_more(tmp_path):
    for name, harm in (
        ("longer", lambda path: path.open("ab").write(b"{}\n")),
        ("shorter", lambda path: os.truncate(path, 10)),
        ("removed", lambda path: path.unlink()),
        ("moved", lambda path: (shutil.copy(path, path.with_suffix(".copy")), path.unlink())),
    ):
        path = tmp_path / name
        with Journal(path) as opened:
            opened.append("edited", changes={})
            harm(path)
            with pytest.raises(ResultsError, match="changed or removed by someone else"):
                opened.append("edited", changes={})


def test_a_file_put_in_its_place_while_storage_was_away_is_found(tmp_path, monkeypatch, quick):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as opened:
        opened.append("edited", changes={"number": 0})

        def replaced(fd):
            monkeypatch.undo()
            path.write_bytes(b"y" * opened._end)
            raise OSError(errno.ESTALE, "Stale file handle")

        monkeypatch.setattr(journal.os, "fsync", replaced)
        monkeypatch.setattr(results.patience, "FIRST_PAUSE_SECONDS", 0.05)
        with pytest.raises(ResultsError, match="changed or removed"):
            opened.append("edited", changes={"number": 1})
