"""The journal of a sweep: one append-only JSONL file, each line flushed to the disk before `append` returns.

It is the truth. Studies, early-stopping rungs, tracking runs and tables are rebuilt from it.

Kinds and their fields (besides ``seq``, ``time`` in unix seconds, ``kind``):

==========  ====================================================================================
created     sweep, uid, config, versions
resumed     driver
suggested   trial (key), number, role (trial | joint | finetune), split, seed, params, config, tags
started     trial, attempt (1-based), host, pid
reported    trial, step (1-based), epoch, points: [[metric, x, value, time in unix seconds], ...]
stopped     trial, reason
finished    trial, final {metric: value}, seconds
failed      trial, cause, reason, traceback, will_retry, charged
reopened    trial
edited      changes
ended       status (finished | failed | interrupted)
==========  ====================================================================================

Any trial record may carry ``tags``, which are added to the trial's. `results.records` describes a line.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from results.errors import ResultsError
from results.records import Record, decode_line, encode_line, hides_record
from results.writer_lock import WriterLock, is_held

_RESERVED = {"seq", "time", "kind", "crc"}
_DISK_HINT = "free or repair the disk, then `resume` the sweep"


class Journal:
    """The one writer of a journal. Safe to share between threads; readers use `read_journal`.

    Opening an existing journal goes on where it ends; a last line torn by a crash is cut off first
    (``repaired_bytes`` says how much, 0 when nothing was torn). That line was never acknowledged.
    """

    def __init__(self, path: Path | str, *, clock: Callable[[], float] = time.time) -> None:
        """Open for writing, creating the file and its folder where needed.

        Raises:
            ResultsError: another process writes it, a line before the last is damaged, or the folder is
                not writable.
        """
        self.path = Path(path)
        self.repaired_bytes = 0
        self._clock = clock
        self._mutex = threading.Lock()
        self._broken = ""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultsError(
                f"cannot create {self.path.parent}: {error.strerror}", "choose another storage folder"
            ) from error
        self._lock = WriterLock(_lock_path(self.path))
        try:
            self._fd, self._seq = self._open_and_repair()
        except BaseException:
            self._lock.release()
            raise

    def append(self, kind: str, **fields: Any) -> Record:
        """Write one record and return it as a reader will see it (tuples become lists, keys strings).

        When it returns, the line is on the disk.

        Raises:
            ResultsError: the disk is full or broken (the journal stays readable), or it was closed.
        """
        clash = _RESERVED & fields.keys()
        if clash:
            raise ValueError(f"{sorted(clash)} are set by the journal, not by its caller")
        with self._mutex:
            self._check_usable()
            record = {"seq": self._seq + 1, "time": self._clock(), "kind": kind, **fields}
            line = encode_line(record)
            self._write(line)
            self._seq += 1
        written = decode_line(line[:-1])
        assert written is not None
        return written

    def close(self) -> None:
        """Give the file and its lock back. Twice is once."""
        with self._mutex:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_and_repair(self) -> tuple[int, int]:
        """Returns: the file descriptor and the last used ``seq``."""
        is_new = not self.path.exists()
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ResultsError(
                f"cannot write {self.path}: {error.strerror}", "check the owner and the mode of the file"
            ) from error
        try:
            records, end = read_journal(self.path)
            self.repaired_bytes = os.fstat(fd).st_size - end
            if self.repaired_bytes:
                os.ftruncate(fd, end)
                os.fsync(fd)
            if is_new:
                _fsync_folder(self.path.parent)
        except BaseException:
            os.close(fd)
            raise
        return fd, len(records)

    def _check_usable(self) -> None:
        if self._fd < 0:
            raise ResultsError(f"{self.path} was closed", "open the journal again")
        if self._broken:
            raise ResultsError(self._broken, _DISK_HINT)

    def _write(self, line: bytes) -> None:
        """One write, one fsync. Half a line is taken back, so that no later line can follow it."""
        end = os.fstat(self._fd).st_size
        try:
            if os.write(self._fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            message = f"cannot append to {self.path}: {error.strerror}"
            try:
                os.ftruncate(self._fd, end)
            except OSError:
                self._broken = message
            raise ResultsError(message, _DISK_HINT) from error
        try:
            os.fsync(self._fd)
        except OSError as error:
            # A failed fsync says nothing about which bytes arrived; only a fresh opening can tell.
            self._broken = f"cannot flush {self.path}: {error.strerror}"
            raise ResultsError(self._broken, _DISK_HINT) from error


def read_journal(path: Path | str, offset: int = 0) -> tuple[list[Record], int]:
    """The complete records from a byte offset on, and the offset to go on from.

    A last line that is half written or torn is left for the next call. Needs no lock.

    Raises:
        ResultsError: there is no journal, a line before the last is damaged (its number is given), or
            ``offset`` is not the start of a line.
    """
    path = Path(path)
    data = _read_from(path, offset)
    lines = data.split(b"\n")
    half_written = lines.pop()  # empty when the data ends with a newline
    records: list[Record] = []
    end = offset
    expected = 1 if offset == 0 else None  # a reader that goes on does not know the number of its first line
    for index, line in enumerate(lines):
        record = decode_line(line)
        if record is None and index == len(lines) - 1 and not half_written and not hides_record(line):
            break
        if record is None or record["seq"] != (expected or record["seq"]):
            raise _damaged(path, end)
        records.append(record)
        expected = record["seq"] + 1
        end += len(line) + 1
    if hides_record(half_written):
        raise _damaged(path, end)
    return records, end


def is_being_written(path: Path | str) -> bool:
    """Whether a living process has the journal open for writing (on file systems whose locks reach all hosts)."""
    return is_held(_lock_path(Path(path)))


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _read_from(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, offset - 1))
            data = file.read()
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror}", "check the name of the sweep") from error
    if offset == 0:
        return data
    if data[:1] != b"\n":
        raise ResultsError(f"{path}: byte {offset} is not the start of a line", "read the journal again from the start")
    return data[1:]


def _damaged(path: Path, offset: int) -> ResultsError:
    with path.open("rb") as file:
        number = file.read(offset).count(b"\n") + 1
    return ResultsError(
        f"{path}: line {number} is damaged (its checksum or its number is wrong)",
        f"restore the file from a copy, or keep only its first {number - 1} lines and `resume`; "
        "trials continue from their own checkpoints",
    )


def _fsync_folder(folder: Path) -> None:
    """Make the new file's name itself survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
