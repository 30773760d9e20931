"""One HTTP exchange with a server that may be slow, hostile, or a captive portal in its place.

Decides what still counts as an answer: limits hold while bytes arrive, a redirect or a page in the
place of an answer is an outage, and whoever cancels from another thread closes the socket. What an
answer means is `transport`'s business.

Each exchange has a connection of its own. A vehicle speaks every ten minutes, so keeping one open
saves nothing, and closing the socket is then exactly the cancelling of this exchange.
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import inf
from types import TracebackType
from typing import IO, Final
from urllib.parse import urlsplit

import msgspec
import requests
from urllib3.exceptions import HTTPError

from tesla_at_home.adapters.guard import Guard, guarding, session
from tesla_at_home.errors import Told, Unreachable
from tesla_at_home.ports import Cancellation
from workunits.wire import limits

PROBLEM: Final = "application/problem+json"
_PIECE_BYTES: Final = 64 * limits.KIB
# An unsigned word keeps a vehicle away no longer than a signed one may: leases do not wait.
_WAIT_S: Final = limits.WAIT_SECONDS
# What OpenSSL says of a peer that speaks no TLS at all.
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
# Whole, or the part that was asked for; others, such as an empty 204, would pass for an empty file.
_ANSWERS: Final = (200, 206)
# More than any length; Python itself refuses to read numbers of thousands of digits.
_LENGTH_DIGITS: Final = 18


@dataclass(frozen=True)
class HttpLimits:
    """How long and how much an exchange may take before it is an outage."""

    connect_s: float = 10.0  # a home link that needs longer drops what comes after, too
    silence_s: float = 60.0  # the server may wait for its disk, not for ever
    stall_s: float = 300.0  # a window in which fewer than `stall_bytes` moved ends the exchange
    stall_bytes: int = 16 * limits.KIB  # below 55 bytes/s a file would outlive its lease
    # Messages and metadata, one at a time, keep all others waiting: 8 MiB in this time is 2.3 KB/s.
    whole_s: float = 3600.0
    problem_bytes: int = 64 * limits.KIB


class _Problem(msgspec.Struct):
    """What is read of a problem document (RFC 9457); the rest of it is for other readers."""

    code: str = "unknown"
    title: str = ""
    detail: str = ""


class Exchange:
    """A response whose body has not been read yet; use it as a context manager."""

    def __init__(
        self,
        method: str,
        url: str,
        *,
        cancel: Cancellation,
        bounds: HttpLimits,
        headers: Mapping[str, str] | None = None,
        body: bytes | Sending | None = None,
        through_proxies: bool = True,
        is_resumable: bool = False,
        traffic: Traffic | None = None,
    ) -> None:
        self._traffic = traffic or Traffic()
        if isinstance(body, bytes) and body:
            body = Sending(io.BytesIO(body), len(body))
        self._request = requests.Request(method, url, headers=dict(headers or {}), data=body)
        self._bounds = bounds
        self._cancel = cancel
        whole_s = inf if is_resumable else bounds.whole_s
        self._guard = Guard(bounds.stall_s, bounds.stall_bytes, whole_s)
        self._session = session()
        self._proxies = {} if through_proxies else {"no_proxy": "*"}
        if isinstance(body, Sending):
            body.hearers += [self._guard.moved, self._traffic.went]

    def __enter__(self) -> Exchange:
        with contextlib.ExitStack() as opened:
            opened.callback(self._session.close)
            opened.enter_context(self._cancel.closing(self._guard.cancel))
            opened.callback(self._guard.finish)
            self._guard.start()
            self._answer = self._send()
            opened.callback(self._answer.close)
            self._refuse_what_is_no_answer()
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()

    @property
    def status(self) -> int:
        return self._answer.status_code

    def header(self, name: str) -> str:
        """A header's value, empty where it is missing."""
        return self._answer.headers.get(name, "")

    def length(self) -> int | None:
        """What the server says the body's length is."""
        said = self.header("Content-Length")
        if not (said.isascii() and said.isdigit()):
            return None
        if len(said) > _LENGTH_DIGITS:
            raise Unreachable(f"{self._where()} announces a length of {len(said)} digits")
        return int(said)

    def expect(self, *content_types: str) -> None:
        """Raise `Unreachable` unless the answer says that it is one of these."""
        said = self.header("Content-Type").partition(";")[0].strip().lower()
        if said not in content_types:
            raise Unreachable(
                f"{self._where()} answered with {_plain(said) or 'no content type'} in the place "
                f"of {content_types[0]} (a captive portal or a proxy?)"
            )

    def pieces(self) -> Iterator[bytes]:
        """The body in pieces of at most 64 KiB, as they come and never inflated."""
        while piece := self._piece():
            self._guard.moved(len(piece))
            self._traffic.came(len(piece))
            yield piece
        self._guard.check()

    def read(self, most: int) -> bytes:
        """The whole body; one longer than `most` bytes is an outage and is never held."""
        said = self.length()
        if said is not None and said > most:
            raise Unreachable(f"{self._where()} announces {said} bytes; at most {most} are taken")
        body = bytearray()
        for piece in self.pieces():
            body += piece
            if len(body) > most:
                raise Unreachable(f"{self._where()} sends more than {most} bytes")
        return bytes(body)

    def raise_refusal(self) -> None:
        """Raise for every status from 400: `Told` for a problem document, else `Unreachable`."""
        if self.status < 400:
            return
        if not self.header("Content-Type").lower().startswith(PROBLEM):
            raise Unreachable(
                f"{self._where()} answered {self.status} (not in the project's words)"
            )
        try:
            problem = msgspec.json.decode(self.read(self._bounds.problem_bytes), type=_Problem)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Unreachable(f"{self._where()} answered {self.status} (not readable)") from None
        detail = _plain(problem.detail or problem.title) or "no reason given"
        raise Told(self.status, _plain(problem.code), detail, self._retry_after_s())

    def _send(self) -> requests.Response:
        prepared = self._session.prepare_request(self._request)
        url = str(prepared.url)
        settings = self._session.merge_environment_settings(url, self._proxies, True, None, None)
        times = (self._bounds.connect_s, self._bounds.silence_s)
        before = guarding.set(self._guard)
        try:
            with self._outage():
                return self._session.send(prepared, timeout=times, **settings)
        finally:
            guarding.reset(before)

    def _piece(self) -> bytes:
        """What has come, without waiting for a full piece: a slow link is no silent one."""
        with self._outage():
            piece: bytes = self._answer.raw.read1(_PIECE_BYTES, decode_content=False)
            return piece

    def _refuse_what_is_no_answer(self) -> None:
        if 300 <= self.status < 400:
            raise Unreachable(f"{self._where()} redirects elsewhere (a captive portal?)")
        if self.status < 300 and self.status not in _ANSWERS:
            raise Unreachable(f"{self._where()} answered {self.status} in the place of an answer")
        if self.header("Content-Encoding").lower() not in ("", "identity"):
            raise Unreachable(f"{self._where()} sends a compressed answer that nobody asked for")

    def _retry_after_s(self) -> int | None:
        """`Retry-After` as seconds; a date counts from the server's own `Date`."""
        said = self.header("Retry-After").strip()
        if said.isascii() and said.isdigit():
            return min(int(said[:9]), _WAIT_S)
        try:
            wait = parsedate_to_datetime(said) - parsedate_to_datetime(self.header("Date"))
        except (TypeError, ValueError, OverflowError):
            return None
        return min(max(0, int(wait.total_seconds())), _WAIT_S)

    @contextlib.contextmanager
    def _outage(self) -> Iterator[None]:
        """Foreign errors of the link as `Unreachable`."""
        try:
            yield
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            self._guard.check()
            raise Unreachable(f"{self._where()}: {_reason(error)}") from None

    def _where(self) -> str:
        """The server; the path says nothing to an owner."""
        parts = urlsplit(str(self._request.url))
        return f"{parts.scheme}://{parts.netloc}"


class Traffic:
    """Bytes of bodies that came and went in exchanges of any thread, whatever became of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._down = 0
        self._up = 0

    def came(self, count: int) -> None:
        with self._lock:
            self._down += count

    def went(self, count: int) -> None:
        with self._lock:
            self._up += count

    def take(self) -> tuple[int, int]:
        """Down and up since this was last asked."""
        with self._lock:
            taken = self._down, self._up
            self._down = self._up = 0
        return taken


class Sending:
    """The rest of a file as a request's body: counted, and never in memory as a whole."""

    def __init__(self, file: IO[bytes], length: int, *hearers: Callable[[int], None]) -> None:
        self._file = file
        self._left = length
        self._length = length
        self.hearers = list(hearers)  # who hears of each piece's length

    def __len__(self) -> int:
        return self._length

    def read(self, most: int = -1) -> bytes:
        piece = self._file.read(self._left if most < 0 else min(most, self._left))
        self._left -= len(piece)
        for tell in self.hearers:
            tell(len(piece))
        return piece


def _plain(text: str) -> str:
    """A stranger's words, fit for a terminal: one line, nothing but printable characters."""
    return "".join(c if c.isprintable() else " " for c in text)[: limits.TEXT_CHARS].strip()


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words; libraries wrap it in their own objects' names."""
    if isinstance(error, requests.exceptions.SSLError):
        is_other = any(word in str(error) for word in _NO_TLS)
        return "no TLS there" if is_other else "its TLS certificate does not check out"
    if _was_caused_by(error, socket.gaierror):
        return "no such host, or no network to look it up"
    if _was_caused_by(error, ConnectionRefusedError):
        return "no connection: nothing listens there; is the server running?"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.exceptions.Timeout | TimeoutError):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "no connection" if "establish" in str(error) else "the connection broke"
    return "the connection broke"


def _was_caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kind):
        cause = cause.__cause__ or cause.__context__
    return cause is not None
