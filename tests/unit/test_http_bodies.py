"""Bodies: one bound for all and one for each network, given back whatever happens; and no drip."""

from __future__ import annotations

import asyncio

import pytest
from litestar.types import HTTPReceiveMessage

from server.errors import Busy
from server.http import bodies
from server.http.problems import BodyTooSlow
from workunits.errors import LimitExceeded


class Sent:
    """A client's body, piece by piece; after the last one there may be more that never comes."""

    def __init__(self, *pieces: bytes, ends: bool = True) -> None:
        self._pieces = list(pieces)
        self._ends = ends
        self.is_read = asyncio.Event()

    async def receive(self) -> HTTPReceiveMessage:
        if not self._pieces:
            self.is_read.set()
            await asyncio.Event().wait()
        piece = self._pieces.pop(0)
        more = bool(self._pieces) or not self._ends
        return {"type": "http.request", "body": piece, "more_body": more}


async def read(
    room: bodies.Room, sent: Sent, most: int = 1000, host: str | None = "127.0.0.1"
) -> bytes:
    with room.share(host) as share:
        return await bodies.whole(sent.receive, most, share)


def test_unfinished_bodies_count_and_are_given_back() -> None:
    async def meet() -> None:
        room = bodies.Room(100)
        slow = Sent(b"x" * 40, b"x" * 40, ends=False)
        waiting = asyncio.create_task(read(room, slow))
        await slow.is_read.wait()
        assert await read(room, Sent(b"y" * 20)) == b"y" * 20
        for _ in range(3):
            with pytest.raises(Busy):
                await read(room, Sent(b"y" * 10, b"y" * 11))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert len(await read(room, Sent(b"y" * 100))) == 100

    asyncio.run(meet())


def test_a_body_past_its_own_limit_gives_its_room_back() -> None:
    async def meet() -> None:
        room = bodies.Room(100)
        for _ in range(3):
            with pytest.raises(LimitExceeded):
                await read(room, Sent(b"x" * 50, b"x" * 50), most=60)
        assert len(await read(room, Sent(b"y" * 100))) == 100

    asyncio.run(meet())


@pytest.mark.parametrize("host", ["203.0.113.7", "2001:db8::7", None, "not an address"])
def test_no_network_keeps_the_others_out(host: str | None) -> None:
    async def meet() -> None:
        room = bodies.Room(100)
        neighbours = {"203.0.113.7": "203.0.113.99", "2001:db8::7": "2001:db8::ffff"}
        slow = Sent(b"x" * 20, ends=False)
        waiting = asyncio.create_task(read(room, slow, host=host))
        await slow.is_read.wait()
        with pytest.raises(Busy, match="network"):
            await read(room, Sent(b"y" * 6), host=neighbours.get(host or "", host))
        assert await read(room, Sent(b"y" * 25), host="198.51.100.1") == b"y" * 25
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert await read(room, Sent(b"y" * 25), host=host) == b"y" * 25

    asyncio.run(meet())


def test_no_home_with_many_networks_keeps_the_others_out() -> None:
    async def meet() -> None:
        room = bodies.Room(100)
        slow = [Sent(b"x" * 25, ends=False) for _ in range(2)]
        waiting = [
            asyncio.create_task(read(room, one, host=f"2001:db8:0:{number}00::7"))
            for number, one in enumerate(slow)
        ]
        for one in slow:
            await one.is_read.wait()
        with pytest.raises(Busy, match="network"):
            await read(room, Sent(b"y"), host="2001:db8:0:900::7")
        assert await read(room, Sent(b"y" * 25), host="198.51.100.1") == b"y" * 25
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await read(room, Sent(b"y" * 25), host="2001:db8:0:900::7") == b"y" * 25

    asyncio.run(meet())


class Dripping:
    """A client that sends a byte at a time, `size` of them, or for ever."""

    def __init__(self, size: int | None = None) -> None:
        self._left = size

    async def receive(self) -> HTTPReceiveMessage:
        await asyncio.sleep(0)
        if self._left is not None:
            self._left -= 1
        return {"type": "http.request", "body": b"x", "more_body": self._left != 0}


async def upload(sent: Dripping, piece_bytes: int) -> int:
    found = bodies.pieces(sent.receive, 10**9, piece_s=0.05, piece_bytes=piece_bytes)
    return sum([len(piece) async for piece in found])


def test_an_upload_that_drips_is_ended() -> None:
    with pytest.raises(BodyTooSlow):
        asyncio.run(upload(Dripping(), piece_bytes=10**9))


def test_an_upload_may_end_with_little() -> None:
    assert asyncio.run(upload(Dripping(50), piece_bytes=1000)) == 50
