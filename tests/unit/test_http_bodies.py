"""Room for request bodies: one bound for all, given back whatever happens."""

from __future__ import annotations

import asyncio

import pytest
from litestar.types import HTTPReceiveMessage

from server.errors import Busy
from server.http import bodies
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


async def read(room: bodies.Room, sent: Sent, most: int = 1000) -> bytes:
    with room.share() as share:
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
