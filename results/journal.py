"""The journal of a sweep: one append-only JSONL file, each line flushed to the disk before `append` returns.

It is the truth. Studies, early-stopping rungs, tracking runs and tables are rebuilt from it.

Kinds and their fields (besides ``seq``, ``time`` in unix seconds, ``kind``):

==========  ====================================================================================
created     sweep, uid, config, space, versions, driver, warm: [{sweep, splits, seeds, params, values}, ...],
            code {fingerprint, commit, dirty, code: {module: digest}, libraries}
resumed     driver, repaired_bytes (of a half-written last line that was cut off), code as above,
            allow_other_code, where the user let it go on under other code
suggested   trial (key), number, role (trial | joint | finetune), split, seed, params, config, tags
placed      trial, config (of a trial whose resources or folders were edited)
started     trial, attempt (1-based), host, pid, origin {fingerprint, commit, dirty, libraries, devices, mixed}
reported    trial, step (1-based), epoch, points: [[metric, x, value, time in unix seconds], ...],
            stop {step, epoch, reason, audited} where early stopping objects to what these points say:
            a `stopped` follows, or, if it is audited, the trial goes on
stopped     trial, reason
finished    trial, final {metric: value}, seconds
failed      trial, cause, reason, traceback, will_retry, charged
reopened    trial
edited      changes: {dotted key: [old, new]}
ended       status (finished | failed | interrupted), bound, edited_code (files that were edited while it ran)
==========  ====================================================================================

Any trial record may carry ``tags`` and ``notes`` (texts), which are added to the trial's. `results.records`
describes a line.

Every change of the file is found when it is read, by the lines' checksums and numbers, but for one: a file that
lost its end is no different from an older journal, or from one whose last write was cut short. It does not change
what a sweep comes to: trials that are missing are suggested again, with the same parameters and keys, and go on from
their own checkpoints, which hold every point. Only a failure, an edit or a time stamp can be lost with the end.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from results.errors import ResultsError, StorageRefusedError, WorkFailedError
from results.patience import Patience, refusal
from results.records import Record, decode_line, encode_line, is_torn, is_unwritten
from results.writer_lock import WriterLock, is_held

_RESERVED = {"seq", "time", "kind", "crc"}
_DISK_HINT = "free or repair that storage, then `resume` the sweep; nothing that was written is lost"
_REMEMBERED_BYTES = 4096


class Journal:
    """The one writer of a journal. Safe to share between threads; readers use `read_journal`.

    Opening an existing journal goes on where it ends; a last line torn by a crash is cut off first
    (``repaired_bytes`` says how much, 0 when nothing was torn). That line was never acknowledged.

    Storage that refuses a write is waited for, up to `results.patience.PATIENCE_SECONDS`; the caller stands still
    meanwhile. Half a line is taken back, so that no later line can follow it, and the file is opened anew, because
    a failed flush says nothing about which bytes arrived.
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
        self._patience = Patience(self.path)
        self._is_suspect = False  # the last write failed
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultsError(
                f"cannot create {self.path.parent}: {error.strerror}", "choose another storage folder"
            ) from error
        self._lock = WriterLock(_lock_path(self.path))
        try:
            self._fd, self._seq, self._end = self._open_and_repair()
            self._last = os.pread(self._fd, _REMEMBERED_BYTES, max(0, self._end - _REMEMBERED_BYTES))
        except BaseException:
            self._lock.release()
            raise

    def append(self, kind: str, **fields: Any) -> Record:
        """Write one record and return it as a reader will see it (tuples become lists, keys strings).

        When it returns, the line is on the disk.

        Raises:
            StorageRefusedError: the disk stayed full or broken for too long. The journal stays readable, and
                may be appended to again: the next call tries once.
            ResultsError: the journal was closed, or someone else changed or removed the file.
        """
        clash = _RESERVED & fields.keys()
        if clash:
            raise ValueError(f"{sorted(clash)} are set by the journal, not by its caller")
        with self._mutex:
            if self._fd < 0:
                raise ResultsError(f"{self.path} was closed", "open the journal again")
            record = {"seq": self._seq + 1, "time": self._clock(), "kind": kind, **fields}
            line = encode_line(record)
            self._write(line)
            self._seq += 1
        written = decode_line(line[:-1])
        assert written is not None
        return written

    def hurry(self) -> None:
        """From now on, storage that refuses is not waited for. Callable from a signal handler."""
        self._patience.is_over = True

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

    def _open_and_repair(self) -> tuple[int, int, int]:
        """Returns: the file descriptor, the last used ``seq`` and the size."""
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
        except OSError as error:
            os.close(fd)
            raise StorageRefusedError(refusal(self.path, error), _DISK_HINT) from error
        except BaseException:
            os.close(fd)
            raise
        return fd, len(records), end

    def _write(self, line: bytes) -> None:
        """Until it is on the disk."""
        while True:
            try:
                self._write_once(line)
            except OSError as error:
                self._is_suspect = True
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self._end)
                if not self._patience.after(error):
                    raise StorageRefusedError(refusal(self.path, error), _DISK_HINT) from error
            else:
                self._patience.succeeded()
                return

    def _write_once(self, line: bytes) -> None:
        if self._is_suspect:
            self._reopen()
        found = os.fstat(self._fd)
        if found.st_nlink == 0 or found.st_size != self._end:
            raise self._changed()
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        os.fsync(self._fd)
        self._end += len(line)
        self._last = (self._last + line)[-_REMEMBERED_BYTES:]

    def _reopen(self) -> None:
        """Takes the file up again where the last acknowledged line ends."""
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            if os.pread(fd, len(self._last), self._end - len(self._last)) != self._last:
                raise self._changed()
            os.ftruncate(fd, self._end)
            os.fsync(fd)
        except BaseException:
            os.close(fd)
            raise
        with contextlib.suppress(OSError):
            os.close(self._fd)
        self._fd, self._is_suspect = fd, False

    def _changed(self) -> WorkFailedError:
        return WorkFailedError(
            f"{self.path} was changed or removed by someone else while this process was writing it",
            "restore the file from a copy if it is gone, see that nobody else writes it, then `resume` the sweep",
        )


def read_journal(path: Path | str, offset: int = 0, first_seq: int | None = None) -> tuple[list[Record], int]:
    """The complete records from a byte offset on, and the offset to go on from.

    A last line that is half written or torn is left for the next call. Needs no lock.

    Args:
        path: the journal.
        offset: where an earlier call left off.
        first_seq: of the record that must stand there; default 1 at offset 0, else any.

    Raises:
        ResultsError: there is no journal, a line is damaged or not the one that must stand there (its number
            is given), or ``offset`` is not the start of a line.
    """
    path = Path(path)
    data = _read_from(path, offset)
    lines = data.split(b"\n")
    half_written = lines.pop()  # empty when the data ends with a newline
    records: list[Record] = []
    end = offset
    expected = 1 if offset == 0 else first_seq
    for index, line in enumerate(lines):
        record = decode_line(line)
        if record is None and index == len(lines) - 1 and not half_written and is_unwritten(line):
            break
        if record is None or record["seq"] != (expected or record["seq"]):
            raise _damaged(path, end)
        records.append(record)
        expected = record["seq"] + 1
        end += len(line) + 1
    if half_written and not is_torn(half_written, expected):
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
