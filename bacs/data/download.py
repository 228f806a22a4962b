"""Fetching large files over HTTP and unpacking them: continued after an interruption, complete or absent."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bacs.errors import RequestError

TIMEOUT_SECONDS = 60
"""Of silence, after which a transfer counts as interrupted."""
_CHUNK_BYTES = 1 << 20
_PARTIAL, _RANGE_REFUSED = 206, 416
_AGAIN = "start the command again: it goes on where it stopped"

Progress = Callable[[str, int, int], None]
"""Called with the name of a file, the bytes that are there and those it will have (0: unknown)."""
Opener = Callable[[urllib.request.Request], Any]
"""Sends a request and returns the response; raises as ``urllib`` does."""


class DownloadError(Exception):
    """The work failed: a server, a transfer or an archive. ``remedy`` says what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n    -> {self.remedy}"


class Checksum(NamedTuple):
    """Published checksum of a file."""

    algorithm: str
    digest: str


@dataclass(frozen=True, slots=True)
class _Transfer:
    """An answer that brings the bytes of a file from ``start`` on."""

    response: Any
    start: int
    total: int
    """Bytes of the whole file; 0 where the server does not say."""


def open_url(request: urllib.request.Request) -> Any:
    """The plain opener."""
    return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)  # noqa: S310 - the addresses are constants


def download(
    url: str,
    target: Path,
    *,
    checksum: Checksum | None = None,
    opener: Opener = open_url,
    progress: Progress | None = None,
) -> None:
    """Fetches ``url`` into ``target``, which is complete or absent; a file that is there already is only checked.

    What an interrupted transfer brought is kept beside it, under the ending ``.part``, and continued.

    Raises:
        RequestError: when the disk has no room for the file and for what is unpacked from it.
        DownloadError: when the server refuses, the transfer breaks off or the checksum does not agree.
    """
    if target.exists():
        _check(target, checksum, f"delete {target} and start the command again")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with _failures_told(url):
        transfer = _begin(url, part, opener)
        if transfer is not None:
            with transfer.response:
                require_space(target.parent, 2 * transfer.total - transfer.start)
                _receive(transfer, part, target.name, progress)
    try:
        _check(part, checksum, "start the command again: it is fetched anew")
    except DownloadError:
        part.unlink()
        raise
    part.rename(target)


def unpack(archive: Path, folder: str, root: Path) -> int:
    """Writes the files below ``folder`` of a zip archive to ``root``, each complete or absent.

    Files that are there already with their size are left alone, so an interrupted unpacking continues.

    Returns:
        The number of files written.

    Raises:
        RequestError: when the disk has no room.
        DownloadError: when the archive is damaged or would write outside ``root/folder``.
    """
    damaged = f"delete {archive} and start the command again"
    try:
        with zipfile.ZipFile(archive) as content:
            members = [member for member in content.infolist() if _is_wanted(member, folder)]
            if any(".." in Path(member.filename).parts for member in members):
                raise DownloadError(f"{archive} holds a file that would be written outside {root / folder}", damaged)
            absent = [member for member in members if not _is_there(root / member.filename, member.file_size)]
            require_space(root, sum(member.file_size for member in absent))
            for member in absent:
                _write_member(content, member, root / member.filename)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DownloadError(f"{archive} is damaged: {error}", damaged) from None
    return len(absent)


def require_space(folder: Path, n_bytes: int) -> None:
    """Raises RequestError where the disk of ``folder`` has less than ``n_bytes`` free."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise RequestError.of(
            "dataset.root",
            f"is {folder}, on a disk with {gigabytes(free)} free, but {gigabytes(n_bytes)} are needed",
            "make room, or give a folder on a larger disk",
        )


def gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"


def _begin(url: str, part: Path, opener: Opener) -> _Transfer | None:
    """Asks for what is missing; ``None`` where nothing is."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})  # noqa: S310
    try:
        response = opener(request)
    except urllib.error.HTTPError as error:
        if not start or error.code != _RANGE_REFUSED:
            raise
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return None
        part.unlink()  # longer than the file: of another version
        return _begin(url, part, opener)
    start = start if response.status == _PARTIAL else 0
    length = int(response.headers.get("Content-Length") or 0)
    return _Transfer(response, start, start + length if length else 0)


def _receive(transfer: _Transfer, part: Path, name: str, progress: Progress | None) -> None:
    done = transfer.start
    with part.open("ab" if transfer.start else "wb") as file:
        while chunk := transfer.response.read(_CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(name, done, transfer.total)
    if done < transfer.total:
        raise DownloadError(f"{name} broke off after {done:,} of {transfer.total:,} bytes", _AGAIN)


def _check(path: Path, checksum: Checksum | None, remedy: str) -> None:
    if checksum is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(checksum.algorithm, usedforsecurity=False)).hexdigest()
    if found != checksum.digest:
        problem = f"{path} has the {checksum.algorithm} checksum {found}, but {checksum.digest} is published"
        raise DownloadError(problem, remedy)


@contextmanager
def _failures_told(url: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        raise DownloadError(
            f"{url} answers {error.code} {error.reason}", "try later, or get the file by hand"
        ) from None
    except urllib.error.URLError as error:
        raise DownloadError(f"{url} cannot be reached: {error.reason}", f"check the network, then {_AGAIN}") from None
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{url} broke off: {str(error) or type(error).__name__}", _AGAIN) from None


def _is_wanted(member: zipfile.ZipInfo, folder: str) -> bool:
    return not member.is_dir() and member.filename.startswith(f"{folder}/")


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _write_member(content: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    try:
        with content.open(member) as source, draft.open("wb") as file:
            shutil.copyfileobj(source, file)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
