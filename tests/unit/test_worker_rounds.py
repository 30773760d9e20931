"""A worker's rounds: woken, repeated while there is more, and not ended by a failure."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from server.workers.rounds import Rounds

NEVER_S = 3600.0


class Work:
    """So many rounds of work; tells when it has run out."""

    def __init__(self, rounds: int, fault: Exception | None = None) -> None:
        self.left = rounds
        self.fault = fault
        self.done = 0
        self.idle = threading.Semaphore(0)

    def do_round(self) -> bool:
        self.done += 1
        self.left -= 1
        if self.left > 0:
            return True
        self.idle.release()
        if self.fault is not None:
            raise self.fault
        return False


@contextmanager
def rounds_of(work: Work, every_s: float = NEVER_S) -> Iterator[Rounds]:
    rounds = Rounds("test", work.do_round, every_s)
    rounds.start()
    try:
        yield rounds
    finally:
        rounds.stop()


def test_it_goes_on_while_there_is_more() -> None:
    work = Work(5)
    with rounds_of(work):
        assert work.idle.acquire(timeout=10)
    assert work.done == 5


def test_waking_brings_another_round() -> None:
    work = Work(1)
    with rounds_of(work) as rounds:
        assert work.idle.acquire(timeout=10)
        rounds.wake()
        assert work.idle.acquire(timeout=10)


def test_it_comes_by_itself_after_a_while() -> None:
    work = Work(1)
    with rounds_of(work, every_s=0.001):
        assert all(work.idle.acquire(timeout=10) for _ in range(3))


def test_a_failed_round_is_logged_and_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    work = Work(1, ValueError("no disk"))
    with rounds_of(work) as rounds:
        assert work.idle.acquire(timeout=10)
        rounds.wake()
        assert work.idle.acquire(timeout=10)
    assert "round_failed worker=test" in caplog.text


def test_stopping_before_the_start_is_no_matter() -> None:
    Rounds("test", lambda: False, NEVER_S).stop()
