"""The threads that write: past their bound everybody is told so, and nobody who reads waits."""

from __future__ import annotations

import asyncio
import threading

import pytest

from server.errors import Busy
from server.http.writers import Writers


async def fill(writers: Writers, most: int, may_go: threading.Event) -> None:
    entered = threading.Event()

    def write(number: int) -> int:
        entered.set()
        assert may_go.wait(10)
        return number

    tasks = [asyncio.create_task(writers.run(write, number)) for number in range(most)]
    assert await asyncio.to_thread(entered.wait, 10)
    with pytest.raises(Busy):
        await writers.run(write, most)
    # A read takes no place among those who wait for the writer.
    assert await asyncio.to_thread(lambda: "read") == "read"
    may_go.set()
    assert await asyncio.gather(*tasks) == list(range(most))
    assert await writers.run(write, number=7) == 7


def test_past_the_bound_it_is_busy_and_later_not() -> None:
    writers = Writers(threads=1, most=3)
    asyncio.run(fill(writers, 3, threading.Event()))
    writers.close()


def test_what_goes_wrong_is_told_and_gives_its_place_back() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    async def three_times(writers: Writers) -> None:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await writers.run(fail)

    writers = Writers(threads=1, most=1)
    asyncio.run(three_times(writers))
    writers.close()
