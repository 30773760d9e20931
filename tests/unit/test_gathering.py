"""Gathering: one transaction for many, the guilty one alone gets the error, nothing after the bound."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from server.errors import Busy, Refused
from server.http.gathering import Gathering


class Ledger:
    """Answers n with 2n, all or nothing; can be held back, and refuses odd numbers."""

    def __init__(self) -> None:
        self.commits: list[list[int]] = []
        self.tries: list[list[int]] = []
        self.entered = threading.Event()
        self.may_commit = threading.Event()
        self.may_commit.set()

    def answer_all(self, questions: Sequence[int]) -> list[int]:
        self.entered.set()
        self.may_commit.wait(10)
        self.tries.append(list(questions))
        if odd := [n for n in questions if n % 2]:
            raise Refused(f"{odd[0]} is odd")
        self.commits.append(list(questions))
        return [2 * n for n in questions]

    @contextmanager
    def held(self) -> Iterator[None]:
        """The writer is stuck in its first transaction inside this block."""
        self.may_commit.clear()
        try:
            yield
        finally:
            self.may_commit.set()


async def first_one_in(ledger: Ledger, gathering: Gathering[int, int]) -> asyncio.Task[int]:
    """A question that the writer has already taken, alone."""
    task = asyncio.create_task(gathering.ask(0))
    assert await asyncio.to_thread(ledger.entered.wait, 10)
    return task


@contextmanager
def gathering_of(
    ledger: Ledger, most_waiting: int = 100, most_together: int = 100
) -> Iterator[Gathering[int, int]]:
    gathering: Gathering[int, int] = Gathering(
        ledger.answer_all, most_waiting=most_waiting, most_together=most_together
    )
    gathering.start()
    try:
        yield gathering
    finally:
        ledger.may_commit.set()
        gathering.close()


def test_what_arrives_during_a_commit_shares_the_next_one() -> None:
    ledger = Ledger()

    async def scenario(gathering: Gathering[int, int]) -> list[int]:
        with ledger.held():
            first = await first_one_in(ledger, gathering)
            others = [asyncio.create_task(gathering.ask(n)) for n in (2, 4, 6)]
            await asyncio.sleep(0)
        return [await first, *[await other for other in others]]

    with gathering_of(ledger) as gathering:
        assert asyncio.run(scenario(gathering)) == [0, 4, 8, 12]
    assert ledger.commits == [[0], [2, 4, 6]]


def test_only_the_guilty_one_gets_the_error() -> None:
    ledger = Ledger()

    async def scenario(gathering: Gathering[int, int]) -> list[int | BaseException]:
        with ledger.held():
            await first_one_in(ledger, gathering)
            others = [asyncio.create_task(gathering.ask(n)) for n in (2, 3, 4)]
            await asyncio.sleep(0)
        return await asyncio.gather(*others, return_exceptions=True)

    with gathering_of(ledger) as gathering:
        two, three, four = asyncio.run(scenario(gathering))
    assert (two, four) == (4, 8)
    assert isinstance(three, Refused)
    assert str(three) == "3 is odd"
    assert ledger.commits == [[0], [2], [4]]
    assert ledger.tries == [[0], [2, 3, 4], [2], [3], [4]]


def test_an_answer_comes_after_its_commit_and_not_before() -> None:
    ledger = Ledger()

    async def scenario(gathering: Gathering[int, int]) -> bool:
        with ledger.held():
            task = await first_one_in(ledger, gathering)
            await asyncio.sleep(0)
            was_early = task.done()
        await task
        return was_early

    with gathering_of(ledger) as gathering:
        assert asyncio.run(scenario(gathering)) is False


def test_beyond_the_bound_is_busy_and_changes_nothing() -> None:
    ledger = Ledger()

    async def scenario(gathering: Gathering[int, int]) -> None:
        with ledger.held():
            first = await first_one_in(ledger, gathering)
            waiting = [asyncio.create_task(gathering.ask(n)) for n in (2, 4)]
            await asyncio.sleep(0)
            with pytest.raises(Busy):
                await gathering.ask(6)
        await asyncio.gather(first, *waiting)

    with gathering_of(ledger, most_waiting=2) as gathering:
        asyncio.run(scenario(gathering))
        assert gathering.tally.turned_away == 1
    assert sorted(n for commit in ledger.commits for n in commit) == [0, 2, 4]


def test_one_transaction_takes_no_more_than_its_share() -> None:
    ledger = Ledger()

    async def scenario(gathering: Gathering[int, int]) -> None:
        with ledger.held():
            first = await first_one_in(ledger, gathering)
            waiting = [asyncio.create_task(gathering.ask(2 * n)) for n in range(7)]
            await asyncio.sleep(0)
        await asyncio.gather(first, *waiting)

    with gathering_of(ledger, most_together=3) as gathering:
        asyncio.run(scenario(gathering))
    assert [len(commit) for commit in ledger.commits] == [1, 3, 3, 1]


def test_closing_answers_what_was_taken_and_takes_no_more() -> None:
    ledger = Ledger()
    gathering: Gathering[int, int] = Gathering(ledger.answer_all)
    gathering.start()

    async def scenario() -> list[int]:
        with ledger.held():
            first = await first_one_in(ledger, gathering)
            second = asyncio.create_task(gathering.ask(2))
            await asyncio.sleep(0)
            gathering.refuse_more()
            with pytest.raises(Busy):
                await gathering.ask(4)
        await asyncio.to_thread(gathering.close)
        return [await first, await second]

    assert asyncio.run(scenario()) == [0, 4]
    assert ledger.commits == [[0], [2]]


def test_whoever_went_away_does_not_keep_the_others_from_their_answer() -> None:
    ledger = Ledger()

    async def scenario(gathering: Gathering[int, int]) -> int:
        with ledger.held():
            gone = await first_one_in(ledger, gathering)
            stays = asyncio.create_task(gathering.ask(2))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
        return await stays

    with gathering_of(ledger) as gathering:
        assert asyncio.run(scenario(gathering)) == 4
    assert ledger.commits == [[0], [2]]


def test_what_was_committed_is_told_and_what_failed_is_not() -> None:
    told: list[list[int]] = []
    ledger = Ledger()
    gathering: Gathering[int, int] = Gathering(
        ledger.answer_all, after=lambda questions: told.append(list(questions))
    )
    gathering.start()

    async def scenario() -> None:
        await gathering.ask(2)
        with pytest.raises(Refused):
            await gathering.ask(3)

    asyncio.run(scenario())
    gathering.close()
    assert told == [[2]]
