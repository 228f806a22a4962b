"""Downloads from the Cityscapes site, by the user's own login."""

from __future__ import annotations

import http.client
import http.cookiejar
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from bacs.data.download import TIMEOUT_SECONDS, Checksum, DownloadError, Progress, download
from bacs.errors import Fault, RequestError

SITE = "https://www.cityscapes-dataset.com"
USERNAME, PASSWORD = "CITYSCAPES_USERNAME", "CITYSCAPES_PASSWORD"

_ACCEPTED = (302, 303)
"""Answers to a right login: a redirection to another page."""
_REFUSED = (200, 401, 403)
"""Answers to a wrong one: mostly the form again."""
_LOGIN_FIRST = (301, 302, 303, 401, 403)
"""Answers to who asks for a file without a login."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A login of the Cityscapes site. The password is part of no text that this program writes."""

    username: str
    password: str = field(repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Credentials:
        """Raises: RequestError: naming every variable that is missing."""
        missing = [name for name in (USERNAME, PASSWORD) if not environment.get(name)]
        if missing:
            remedy = (
                f"register at {SITE}, then set both variables; or download the archives in a browser and put them "
                "into dataset.root as they are"
            )
            raise RequestError(
                [Fault(name, "is not set, but the Cityscapes site asks for a login", remedy) for name in missing]
            )
        return cls(environment[USERNAME], environment[PASSWORD])


class _LoggedOutError(Exception):
    """The site sends a page or its login in the place of a file."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirections tell whether a login was accepted; followed, they would hide it."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        return None


class CityscapesSite:
    """A session. It logs in when the first file is asked for, and again where the site has forgotten it."""

    def __init__(self, credentials: Credentials, site: str = SITE) -> None:
        self._credentials = credentials
        self._site = site
        self._logged_in = False
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._director = urllib.request.build_opener(cookies, _NoRedirect())

    def download(self, package: int, target: Path, progress: Progress | None = None) -> None:
        """Fetches a package; see :func:`bacs.data.download.download`.

        Raises:
            RequestError: when the login is refused, or may not have this package.
            DownloadError: when the transfer fails.
        """
        for _ in range(2):
            if not self._logged_in:
                self._log_in()
            try:
                self._fetch(package, target, progress)
                return
            except _LoggedOutError:
                self._logged_in = False
        raise RequestError.of(
            USERNAME,
            f"is logged in, but the site does not hand out {target.name}",
            f"accept its terms of use on {self._site}/downloads/ in a browser, then start the command again",
        )

    def _log_in(self) -> None:
        url = f"{self._site}/login/"
        form = {"username": self._credentials.username, "password": self._credentials.password, "submit": "Login"}
        try:
            self._answer("/login/")  # sets the cookie of the session
            answer = self._answer("/login/", urlencode(form).encode())
        except (OSError, http.client.HTTPException) as error:
            raise DownloadError(f"{url} cannot be reached: {error}", "check the network, then start again") from None
        if answer not in (*_ACCEPTED, *_REFUSED):
            raise DownloadError(f"{url} answers {answer}", "start again later")
        self._logged_in = answer in _ACCEPTED
        if not self._logged_in:
            remedy = f"set {USERNAME} and {PASSWORD} to a login that works on {url} in a browser"
            raise RequestError.of(
                USERNAME, f"is {self._credentials.username!r}, and the site refuses this login", remedy
            )

    def _answer(self, page: str, form: bytes | None = None) -> int:
        """Status of a page."""
        try:
            with self._open(page, form) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def _fetch(self, package: int, target: Path, progress: Progress | None) -> None:
        url = f"{self._site}/file-handling/?packageID={package}"
        download(url, target, checksum=self._checksum(package), opener=self._send_for_file, progress=progress)

    def _checksum(self, package: int) -> Checksum | None:
        """As the site publishes it; ``None`` where it does not, then the checks inside the archive must do."""
        try:
            with self._open(f"/md5-sum/?packageID={package}") as response:
                found = re.search(r"\b[0-9a-f]{32}\b", response.read().decode("utf-8", "replace"))
        except (OSError, http.client.HTTPException):
            return None
        return Checksum("md5", found[0]) if found else None

    def _send_for_file(self, request: urllib.request.Request) -> Any:
        try:
            response = self._send(request)
        except urllib.error.HTTPError as error:
            if error.code in _LOGIN_FIRST:
                raise _LoggedOutError from None
            raise
        if response.headers.get_content_type() == "text/html":
            response.close()
            raise _LoggedOutError
        return response

    def _open(self, page: str, form: bytes | None = None) -> Any:
        return self._send(urllib.request.Request(f"{self._site}{page}", data=form))  # noqa: S310 - https, see SITE

    def _send(self, request: urllib.request.Request) -> Any:
        return self._director.open(request, timeout=TIMEOUT_SECONDS)
