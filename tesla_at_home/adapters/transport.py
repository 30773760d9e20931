"""HTTP to one project: messages, blobs that go on where they stopped, uploads, plain pages.

Moves bytes and trusts none of them; the paths are those of PROTOCOL 10. What counts as an answer at
all is decided in `exchange`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

import msgspec

from tesla_at_home.adapters.exchange import Exchange, HttpLimits, Sending, Traffic
from tesla_at_home.agent.events import Moved
from tesla_at_home.errors import ClientError, NotThere, Unreachable
from tesla_at_home.ports import Cancellation
from workunits.values import Digest, LeaseId, show
from workunits.wire import limits

MESSAGE: Final = "application/vnd.tesla-at-home+msgpack"
_JSON: Final = "application/json"
_PAGE_BYTES: Final = limits.MIB
# An ETag (RFC 9110, 8.8.3) that can be said again in a header as it was heard.
_ETAG: Final = re.compile(rb"[\x21-\x7e]{1,256}")


class _Upload(msgspec.Struct):
    """How much of an upload the server has."""

    received: int
    size: int | None = None
    complete: bool = False


class HttpTransport:
    """The port `Transport` over requests, and the reads that commands need besides."""

    def __init__(self, base_url: str, *, user_agent: str, bounds: HttpLimits | None = None) -> None:
        self.base_url = check_base_url(base_url)
        self._user_agent = user_agent
        self._bounds = bounds or HttpLimits()
        # A proxy from the environment cannot reach this computer's own loopback.
        self._through_proxies = not is_loopback(self.base_url)
        self._traffic = Traffic()

    def take_moved(self) -> Moved:
        """See `ports.Transport`."""
        down, up = self._traffic.take()
        return Moved(down=down, up=up)

    def post(self, path: str, body: bytes, *, cancel: Cancellation) -> bytes:
        """See `ports.Transport`."""
        with self._open("POST", path, cancel, {"Content-Type": MESSAGE}, body) as answer:
            answer.raise_refusal()
            answer.expect(MESSAGE)
            return answer.read(limits.MESSAGE_BYTES)

    def page(self, path: str, *, cancel: Cancellation | None = None) -> bytes:
        """A JSON answer for people's commands, such as the leaderboard."""
        with self._open("GET", path, cancel or Cancellation(), {"Accept": _JSON}) as answer:
            answer.raise_refusal()
            answer.expect(_JSON)
            return answer.read(_PAGE_BYTES)

    def server_clock(self, path: str) -> datetime | None:
        """What the server's clock says, by the Date of its answer: unsigned, good for advice only."""
        with self._open("GET", path, Cancellation()) as answer:
            try:
                said = parsedate_to_datetime(answer.header("Date"))
            except ValueError:
                return None
            # HTTP knows one zone, also where it is not written.
            return said if said.tzinfo is not None else said.replace(tzinfo=UTC)

    def pieces(self, path: str, *, cancel: Cancellation) -> Iterator[bytes]:
        """A file in pieces, without an end of its own: the caller keeps the limit.

        Raises `NotThere` where the server says that it has none.
        """
        with self._open("GET", path, cancel) as answer:
            if answer.status in (403, 404):
                raise NotThere(f"{path}: the server has no such file")
            answer.raise_refusal()
            _refuse_page(answer)
            yield from answer.pieces()

    def fetch(
        self,
        path: str,
        to: Path,
        *,
        size: int,
        cancel: Cancellation,
        on_bytes: Callable[[int], None],
        is_exact: bool = True,
    ) -> None:
        """See `ports.Transport`; the server's ETag lies beside `to` until the file is whole."""
        part = _Part(to, size, is_exact)
        if part.has == size:
            return
        with self._open("GET", path, cancel, part.resuming(), is_resumable=True) as answer:
            if answer.status == 416:
                part.discard()
                raise Unreachable(
                    f"{path}: what was fetched so far fits nothing there; again from the start"
                )
            answer.raise_refusal()
            _refuse_page(answer)
            part.take(answer, on_bytes)

    def upload(
        self,
        lease: LeaseId,
        ticket: bytes,
        source: Path,
        *,
        digest: Digest,
        size: int,
        cancel: Cancellation,
        on_bytes: Callable[[int], None],
    ) -> None:
        """See `ports.Transport`."""
        path = f"/v1/uploads/{show(lease)}"
        ticketed = {"Authorization": f"Ticket {show(ticket)}"}
        has = self._received(path, ticketed, cancel)
        if has.complete:
            return
        with _reading(source) as file:
            file.seek(min(max(0, has.received), size))
            rest = Sending(file, size - file.tell(), on_bytes)
            headers = ticketed | {
                "Content-Type": "application/octet-stream",
                "Upload-Offset": str(file.tell()),
                "Upload-Length": str(size),
                "Upload-Digest": show(digest),
            }
            body = rest if len(rest) else b""
            with self._open("PATCH", path, cancel, headers, body, is_resumable=True) as answer:
                standing = _standing(answer)
        if not standing.complete:
            raise Unreachable(f"the project says it has {standing.received} of {size} bytes")

    def _received(self, path: str, headers: Mapping[str, str], cancel: Cancellation) -> _Upload:
        with self._open("GET", path, cancel, headers) as answer:
            return _standing(answer)

    def _open(
        self,
        method: str,
        path: str,
        cancel: Cancellation,
        headers: Mapping[str, str] | None = None,
        body: bytes | Sending | None = None,
        *,
        is_resumable: bool = False,
    ) -> Exchange:
        return Exchange(
            method,
            self.base_url + path,
            cancel=cancel,
            bounds=self._bounds,
            headers={"User-Agent": self._user_agent, **(headers or {})},
            body=body,
            through_proxies=self._through_proxies,
            is_resumable=is_resumable,
            traffic=self._traffic,
        )


class _Part:
    """A file that is being fetched: how much is there, of which version, and what may follow."""

    def __init__(self, path: Path, size: int, is_exact: bool) -> None:
        self._path = path
        self._etag_path = path.with_name(path.name + ".etag")
        self._size = size
        self._is_exact = is_exact
        self.has = path.stat().st_size if path.exists() else 0
        if self.has > size or not is_exact:
            self.discard()

    def resuming(self) -> dict[str, str]:
        """Headers that ask for the rest, if it is still the rest of the same thing."""
        etag = self._etag_path.read_bytes() if self.has and self._etag_path.exists() else b""
        if not _ETAG.fullmatch(etag):
            self.discard()
            return {}
        return {"Range": f"bytes={self.has}-", "If-Range": etag.decode("ascii")}

    def take(self, answer: Exchange, on_bytes: Callable[[int], None]) -> None:
        """Write the body behind what is there (206), or anew (200), up to the size."""
        start = self._start(answer)
        said = answer.length()
        if not self._is_exact:
            # Only the most is known. The server says how much it is, and the digest if that is all.
            self._size = min(self._size, self._size if said is None else said)
        if said is not None and said != self._size - start:
            self.discard()
            raise Unreachable(f"{self._path.name}: {said + start} bytes there, {self._size} signed")
        with _writing(self._path) as file:
            file.truncate(start)
            file.seek(start)
            # As it came: what cannot be said again is found out when it is to be said.
            self._etag_path.write_bytes(answer.header("ETag").encode(errors="replace"))
            for piece in answer.pieces():
                if file.tell() + len(piece) > self._size:
                    raise Unreachable(f"{self._path.name}: more than the {self._size} bytes signed")
                file.write(piece)
                on_bytes(len(piece))
            file.flush()
            os.fsync(file.fileno())
            arrived = file.tell()
        if arrived < self._size and (self._is_exact or said is not None):
            raise Unreachable(f"{self._path.name}: ends after {arrived} of {self._size} bytes")
        self._etag_path.unlink(missing_ok=True)

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)
        self._etag_path.unlink(missing_ok=True)
        self.has = 0

    def _start(self, answer: Exchange) -> int:
        if answer.status != 206:
            return 0
        if answer.header("Content-Range") != f"bytes {self.has}-{self._size - 1}/{self._size}":
            self.discard()
            raise Unreachable(f"{self._path.name}: another part came than was asked for")
        return self.has


def _standing(answer: Exchange) -> _Upload:
    """How far an upload is; nothing else in its place counts, such as a captive portal's page."""
    answer.raise_refusal()
    answer.expect(_JSON)
    try:
        return msgspec.json.decode(answer.read(_PAGE_BYTES), type=_Upload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unreachable("what came is not an upload's state") from None


def check_base_url(text: str) -> str:
    """The project's address without its last slash.

    Raises:
        ClientError: not https (http is for this computer alone), or more than an address.
    """
    try:
        parts = urlsplit(text.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise ClientError(f"{text!r} is no address of a project; it looks like https://example.org")
    if parts.username or parts.password:
        raise ClientError("an address with a user or a password in it is not taken")
    if parts.query or parts.fragment:
        raise ClientError(f"{text!r}: leave out what follows '?' or '#'")
    if parts.scheme == "http" and not _is_this_computer(host):
        raise ClientError(
            f"{text!r} is not encrypted; use https:// (http is for a project on this computer)"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def is_loopback(base_url: str) -> bool:
    """Whether the address can only mean this computer."""
    return _is_this_computer(urlsplit(base_url).hostname or "")


def _is_this_computer(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_page(answer: Exchange) -> None:
    said = answer.header("Content-Type").lower()
    if said.startswith(("text/html", "application/xhtml")):
        raise Unreachable("a web page came in the place of a file (a captive portal?)")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise Unreachable(f"{path.name}: {error.strerror}") from None


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[IO[bytes]]:
    """A file to be written at any place; a full disk is an outage like another, tried again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with path.open("r+b") as file:
            yield file
    except OSError as error:
        raise Unreachable(f"{path.name}: {error.strerror}") from None
