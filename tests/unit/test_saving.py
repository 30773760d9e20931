"""A disk that takes nothing for a while: nothing computes or is said, and then all goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tesla_at_home.adapters.store import Store
from tesla_at_home.agent.changes import Changes
from tesla_at_home.agent.events import Tick
from tesla_at_home.agent.view import Entry
from tesla_at_home.announcing import Announcing
from tesla_at_home.errors import CannotSave, ClientError, StoreDamaged
from tesla_at_home.outside import End, Inbox, Outside, Wake
from tesla_at_home.ports import Keeping
from tesla_at_home.saving import EndedUnsaved, Saving
from tests.support.still_clock import StillClock
from tests.unit.test_client_store import MEMBER, RECORD
from workunits.values import Milliseconds

CHANGES = Changes(entries=(Entry(1, "kind", "text"),))


class FailingStore(Store):
    """Fails as often as it is told to, with an error of the test's choice."""

    error: ClientError = CannotSave("full, says the test")
    left = 0
    on_failure: Callable[[int], None] | None = None

    def save(self, changes: Changes) -> None:
        if self.left:
            self.left -= 1
            if self.on_failure is not None:
                self.on_failure(self.left)
            raise self.error
        super().save(changes)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.store = FailingStore.create(folder)
        self.store.join(MEMBER, RECORD, Milliseconds(5))
        self.said: list[str] = []
        self.held = 0
        self.inbox: Inbox = Inbox()
        self.announcing = Announcing(self.store, StillClock(), self.said.append)
        self.saving = Saving(_outside(self.announcing), self.inbox, self.hold)

    def hold(self) -> None:
        self.held += 1

    def texts(self) -> list[str]:
        return [entry.text for entry in self.store.history() if entry.kind == "kind"]


class _Clock(StillClock):
    """Goes on with every look, so that no wait takes the test's time."""

    def boot_s(self) -> float:
        self.pass_s(100.0)
        return super().boot_s()


class _Randomness:
    def token(self, size: int) -> bytes:
        return bytes(size)

    def fraction(self) -> float:
        return 0.5


def _outside(keeping: Keeping) -> Outside:
    return Outside(
        clock=_Clock(), randomness=_Randomness(), keeping=keeping,
        shelf=None, errands=None, runner=None, source=None, settings=None,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_sound_disk_holds_nothing_up(bench: Bench) -> None:
    assert bench.saving.keep(CHANGES) is False
    assert (bench.held, bench.texts(), bench.said) == (0, ["text"], [])


def test_the_same_changes_are_saved_once_when_the_disk_takes_them(bench: Bench) -> None:
    bench.store.left = 7
    assert bench.saving.keep(CHANGES) is True
    assert (bench.held, bench.texts()) == (1, ["text"])
    assert len(bench.said) == 2
    assert "nothing is computed, because nothing can be saved: full, says the test" in bench.said[0]
    assert "saved again" in bench.said[1]


def test_a_program_that_held_it_for_a_moment_is_not_spoken_of(bench: Bench) -> None:
    bench.store.left = 1
    assert bench.saving.keep(CHANGES) is True
    assert bench.said == []


def test_ending_does_not_wait_for_the_disk(bench: Bench) -> None:
    bench.store.left = 10**6
    bench.saving = Saving(_real_time(bench.announcing), bench.inbox, bench.hold)
    bench.inbox.put(End())
    with pytest.raises(EndedUnsaved):
        bench.saving.keep(CHANGES)
    bench.saving.keep_the_last(CHANGES)
    assert bench.texts() == []


def test_what_is_posted_meanwhile_comes_afterwards_in_its_order(bench: Bench) -> None:
    first, second = Tick(1, 1), Tick(2, 2)
    for posted in (first, Wake(), second):
        bench.inbox.put(posted)
    bench.saving = Saving(_real_time(bench.announcing), bench.inbox, bench.hold)
    bench.store.left = 1
    assert bench.saving.keep(CHANGES)
    assert [bench.saving.late() for _ in range(3)] == [first, second, None]


def test_damage_is_not_waited_for(bench: Bench) -> None:
    bench.store.left, bench.store.error = 1, StoreDamaged("damaged, says the test")
    with pytest.raises(StoreDamaged):
        bench.saving.keep(CHANGES)
    assert bench.held == 0


def _real_time(keeping: Keeping) -> Outside:
    """Waits for a tenth of a second, in which what lies in the inbox is taken."""
    from dataclasses import replace

    return replace(_outside(keeping), clock=StillClock())
