"""uvicorn's HTTP/1.1 protocol with the bounds that it lacks.

Bytes of head, and time to send it; time to take an answer. Between two requests the time runs too,
whatever comes then: uvicorn would stop its own timer at the first byte. How long a body may take is
decided in `bodies`.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.http import unread
from server.http.problems import CONTENT_TYPE, Problem, problem

# Four times what a browser with a full cookie jar sends; nginx has 32 KiB in all as well.
HEAD_BYTES: Final = 32 * 1024
HEADERS: Final = 100
# For each head from its first byte, and for the first one from the connection.
HEAD_S: Final = 15.0

_TOO_LARGE: Final = problem(
    431, "head_too_large", "the address and headers of the request are too large"
)
_NOT_HTTP: Final = problem(400, "not_http", "this is not an HTTP request")


class HeadTooLarge(Exception):
    """Ends the parsing of a request; never leaves this module."""


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a head that grows too large, hangs up on one that never ends and on who reads nothing."""

    _head_bytes = 0
    _refusal = _NOT_HTTP
    _head_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        self._is_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Much waits for the client to read it."""
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        self._is_read()
        super().resume_writing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._await_reading()  # what is left of an answer holds a closing connection open

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for long; what was not read until now may never be."""
        super().timeout_keep_alive_handler()
        self._await_reading()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_untimed():
            # The rest of a body that is not wanted any more, or nothing at all: only the head of
            # another request keeps the connection.
            self._await_head()

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        if self._head_timer is None:
            self._await_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_is_here()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when parsing ended, for whichever reason."""
        self._head_is_here()
        self.transport.write(_as_http(self._refusal))
        self.transport.close()

    def _is_untimed(self) -> bool:
        """Whether everything was answered, and no timer would ever end the connection."""
        return (
            (self.cycle is None or self.cycle.response_complete)
            and self.timeout_keep_alive_task is None
            and self._head_timer is None
            and not self.transport.is_closing()
        )

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self._hang_up)

    def _hang_up(self) -> None:
        self.transport.close()
        self._await_reading()

    def _await_reading(self) -> None:
        """Look again after a while, and end it if hardly anything was taken meanwhile."""
        self._is_read()
        waits = unread.unread_bytes(self.transport)
        self._read_timer = self.loop.call_later(unread.READ_S, self._expect_taken, waits)

    def _expect_taken(self, waited_bytes: int) -> None:
        if unread.is_taken(waited_bytes, unread.unread_bytes(self.transport)):
            self._await_reading()
        else:
            unread.drop(self.transport)

    def _is_read(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _head_is_here(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _count(self, more: int) -> None:
        self._head_bytes += more
        if self._head_bytes > HEAD_BYTES or len(self.headers) >= HEADERS:
            self._refusal = _TOO_LARGE
            raise HeadTooLarge


def _as_http(refusal: Problem) -> bytes:
    body = refusal.body()
    head = (
        f"HTTP/1.1 {refusal.status} {refusal.title}\r\ncontent-type: {CONTENT_TYPE}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
