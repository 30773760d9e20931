"""Request bodies, taken in with their limits while they stream.

Decides how much and how long is read. What the bytes mean is decided after them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from litestar.types import Receive

from server import settings
from server.domain.networks import provider_of
from server.errors import Busy
from server.http.networks import network_of
from server.http.problems import BodyTooSlow, WrongContentType
from workunits.errors import LimitExceeded

MESSAGE_TYPE: Final = "application/vnd.tesla-at-home+msgpack"
# 8 MiB over a home uplink of 4 Mbit/s; whoever needs longer for a message is broken or hostile.
MESSAGE_S: Final = 30.0
# In so long an upload brings at least so much, or its end: half of what the vehicle itself gives up
# at. It comes back and goes on where it stood.
PIECE_S: Final = 30.0
PIECE_BYTES: Final = 1024
# Of the room, for the callers of one network: four of the largest messages at once.
_NETWORK_SHARE: Final = 0.25
# And for those of one provider, whose customers may each have many networks.
_PROVIDER_SHARE: Final = 0.5

Headers = Iterable[tuple[bytes, bytes]]


class Gone(Exception):
    """The client went away in the middle of its request: there is nobody to answer."""


class Room:
    """The memory for the bodies of messages, one for all callers. Used from one event loop.

    No network (`server.http.networks`) gets more than a part of it, nor does a provider, so that
    none keeps all others out; this computer itself is not counted.
    """

    def __init__(
        self, most_bytes: int = settings.BODIES_BYTES, *, is_behind_proxy: bool = False
    ) -> None:
        self._free_bytes = most_bytes
        self._most_for_one = int(most_bytes * _NETWORK_SHARE)
        self._most_for_provider = int(most_bytes * _PROVIDER_SHARE)
        self._taken: Counter[str] = Counter()
        self._is_behind_proxy = is_behind_proxy

    @contextmanager
    def share(self, host: str | None) -> Iterator[Share]:
        """A caller's part of it, given back at the end."""
        share = Share(self, network_of(host, is_behind_proxy=self._is_behind_proxy))
        try:
            yield share
        finally:
            self._give_back(share)

    def take(self, network: str | None, more: int) -> None:
        """Raise `Busy` if there is no room for `more` bytes."""
        if more > self._free_bytes:
            raise Busy(
                "more is being sent to this server than it can hold; send it again in a moment"
            )
        rings = self._rings(network)
        if any(self._taken[name] + more > most for name, most in rings.items()):
            raise Busy(
                "more is being sent from this network than there is room for; send it again "
                "in a moment"
            )
        self._taken.update(dict.fromkeys(rings, more))
        self._free_bytes -= more

    def _rings(self, network: str | None) -> dict[str, int]:
        """What its network and its provider may have: one home has many networks under IPv6."""
        if network is None:
            return {}
        provider = provider_of(network)
        rings = {} if provider is None else {provider: self._most_for_provider}
        return rings | {network: self._most_for_one}

    def _give_back(self, share: Share) -> None:
        self._free_bytes += share.bytes
        for name in self._rings(share.network):
            self._taken[name] -= share.bytes
            if not self._taken[name]:
                del self._taken[name]


class Share:
    """What one body takes of a `Room`."""

    def __init__(self, room: Room, network: str | None) -> None:
        self._room = room
        self.network = network
        self.bytes = 0

    def grow(self, more: int) -> None:
        """Raises `Busy` as `Room.take` does."""
        self._room.take(self.network, more)
        self.bytes += more


def header(headers: Headers, name: bytes) -> str | None:
    """The first header called `name` (lower case)."""
    for key, value in headers:
        if key == name:
            return value.decode("latin-1")
    return None


def expect_message_type(content_type: str | None, encoding: str | None) -> None:
    """Raise `WrongContentType` unless the body is a message, not compressed."""
    kind = (content_type or "").split(";")[0].strip().lower()
    if kind != MESSAGE_TYPE:
        raise WrongContentType(
            f"send the body as {MESSAGE_TYPE}, not {repr(kind[:80]) if kind else 'without type'}"
        )
    if encoding not in (None, "", "identity"):
        raise WrongContentType("send the body without a content encoding")


def expect_length(declared: str | None, most: int) -> None:
    """Raise `LimitExceeded` if the header already says that too much is coming."""
    if declared is not None and declared.isdecimal() and int(declared) > most:
        raise LimitExceeded(f"body: {declared[:20]} bytes announced, at most {most}")


async def whole(receive: Receive, most: int, share: Share, seconds: float = MESSAGE_S) -> bytes:
    """The whole body, held in `share`.

    Raises:
        Busy: there is no room for it.
        LimitExceeded: more than `most` bytes came; the rest was not read.
        BodyTooSlow: it took longer than `seconds`.
        Gone: the client went away.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        piece, more = await _soon(receive, until - loop.time())
        size += len(piece)
        if size > most:
            raise LimitExceeded(f"body: more than {most} bytes")
        share.grow(len(piece))
        parts.append(piece)
    return b"".join(parts)


async def pieces(
    receive: Receive, most: int, piece_s: float = PIECE_S, piece_bytes: int = PIECE_BYTES
) -> AsyncIterator[bytes]:
    """The body piece by piece; raises as `whole` does, before a piece beyond `most` is given.

    Only the time in which the client is waited for counts, not that of our own disk.
    """
    loop = asyncio.get_running_loop()
    size, more = 0, True
    left_s, came = piece_s, 0
    while more:
        began_s = loop.time()
        piece, more = await _soon(receive, left_s)
        left_s, came = left_s - (loop.time() - began_s), came + len(piece)
        if came >= piece_bytes:
            left_s, came = piece_s, 0
        size += len(piece)
        if size > most:
            raise LimitExceeded(f"body: more than {most} bytes")
        if piece:
            yield piece


async def _soon(receive: Receive, seconds: float) -> tuple[bytes, bool]:
    try:
        async with asyncio.timeout(seconds):
            event = await receive()
    except TimeoutError:
        raise BodyTooSlow("the request's body stopped coming; send it again") from None
    if event["type"] != "http.request":
        raise Gone
    return event["body"], event["more_body"]
