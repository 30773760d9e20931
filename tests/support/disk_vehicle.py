"""A world of one vehicle whose disk fails: single calls, all calls from one on, no room, a power cut.

The project is real and its disk is sound; what is broken is below the vehicle's own folder, from the
first byte that joining writes. The agent that dies of it is started again, as a supervisor would.
Runs in a process that `disk_faults` was preloaded into.
"""

from __future__ import annotations

import errno
import queue
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import ClassVar, Final

from tesla_at_home.adapters import store_copy
from tesla_at_home.adapters.keystore import FileKeys
from tesla_at_home.adapters.store import Store
from tesla_at_home.agent.events import ChildGone, UnitFailed
from tesla_at_home.errors import ClientError, NotJoined, StoreDamaged
from tesla_at_home.outside import Inbox, Posted
from tests.support import power_cut
from tests.support.disk_faults import Disk, Fault
from tests.support.link import CONSENT, AgentKilled
from tests.support.power_cut import Snapshot
from tests.support.spool_runner import SpoolRunner
from tests.support.still_clock import StillClock
from tests.support.world import Vehicle, World

# One fault kills once; whoever needs more starts than this does not get over it.
_STARTS_AT_MOST: Final = 6
# A full disk has room again after the agent has asked so often.
_FULL_FOR: Final = 3
_DEADLY: Final = frozenset({Fault.GONE, Fault.TORN})


@dataclass(frozen=True)
class Plan:
    """What meets which call; `cut`: the kill is a power cut, and says what the disk kept."""

    faults: tuple[tuple[int, Fault], ...] = ()  # counted from the beginning of joining
    later: tuple[tuple[int, Fault], ...] = ()  # counted from the start after the first end
    cut: Random | None = None

    @property
    def is_deadly(self) -> bool:
        return any(fault in _DEADLY for _, fault in self.faults + self.later)


class _Inbox(queue.SimpleQueue[Posted]):
    """Waiting for the disk takes no time: the clock goes on, and a full disk has room at last."""

    def __init__(self, clock: StillClock, disk: Disk, is_deadly: bool) -> None:
        super().__init__()
        self._clock = clock
        self._disk = disk
        self._is_deadly = is_deadly
        self._waited = 0

    def get(self, block: bool = True, timeout: float | None = None) -> Posted:
        if self._is_deadly:
            raise AgentKilled
        self._waited += 1
        if self._waited >= _FULL_FOR:
            self._disk.mend()
        self._clock.pass_s(timeout or 0.0)
        raise queue.Empty


class _Runner(SpoolRunner):
    """What the child says of a disk: no room is one attempt, anything else is its end."""

    def step(self) -> bool:
        job = self._job
        try:
            return super().step()
        except OSError as error:
            self.kill()
            assert job is not None
            if error.errno == errno.ENOSPC:
                self._post(UnitFailed(job.lease, "disk_full", "no space left on device"))
            else:
                self._post(ChildGone("ended with 1"))
            return True


class DiskVehicle(Vehicle):
    """Its folder is watched from its first byte on."""

    plan: ClassVar[Plan] = Plan()

    def join(self, is_first: bool) -> None:
        self.disk = Disk.here()
        self.directory.mkdir(mode=0o700)
        self._begun = Snapshot.of(self.directory)
        self.disk.watch(self.directory, records=self.plan.cut is not None)
        for at, fault in self.plan.faults:
            self.disk.arm(at, fault)
        self._later = self.plan.later
        self._ended_with = 0  # faults, before the last power cut
        self._survived = 0  # faults that the process on it did not outlive
        self._survive(lambda: self._join(is_first))

    def _join(self, is_first: bool) -> None:
        self.keys = self.link._keys = FileKeys.open_or_create(self.directory)  # type: ignore[assignment]
        with suppress(NotJoined), Store.open(self.directory) as store:
            self.session = store.membership().session
            return
        super().join(is_first)
        with Store.open(self.directory) as store:
            self.session = store.membership().session

    def start(self) -> None:
        self._survive(super().start)

    def new_inbox(self) -> Inbox:
        return _Inbox(self.clock, self.disk, self.plan.is_deadly)

    def new_runner(self) -> SpoolRunner:
        return _Runner(self._inbox.put)

    def step(self) -> bool:
        try:
            found = super().step()
        except StoreDamaged:
            raise
        except (OSError, ClientError):
            raise AgentKilled from None  # it said so in one line, and ended
        if self.plan.is_deadly and self.disk.injected() > self._survived:
            raise AgentKilled
        return found

    def kill(self) -> None:
        self._bury()

    def _survive(self, act: Callable[[], None]) -> None:
        for _ in range(_STARTS_AT_MOST):
            try:
                return act()
            except StoreDamaged:
                raise
            except (AgentKilled, OSError, ClientError):
                self._bury()
        raise AssertionError("does not get over one fault")

    def _bury(self) -> None:
        """Nothing of the process is left; what the disk kept is what the next one finds."""
        if hasattr(self, "store"):
            self.store.close()
        if self.plan.cut is not None and self.disk.injected() > self._survived:
            self._cut_power(self.plan.cut)
        self.disk.mend()
        later, self._later = self._later, ()
        for at, fault in later:
            self.disk.arm(at, fault)
        self._survived = self.disk.injected()

    def _cut_power(self, draw: Random) -> None:
        calls = self.disk.log()
        self.disk.unwatch()
        after = self.directory.with_name("after")
        power_cut.rebuild(self._begun, calls, draw, after)
        shutil.rmtree(self.directory)
        after.rename(self.directory)
        self._begun = Snapshot.of(self.directory)
        self._ended_with += self.disk.injected()
        self.disk.watch(self.directory, records=True)

    def faults_met(self) -> int:
        """How many there were, in this folder and in those that power cuts have ended."""
        return self._ended_with + self.disk.injected()

    def start_again(self) -> None:
        self.end()
        self.start()


class DiskWorld(World):
    """One owner, whose every result counts."""

    made_of = DiskVehicle

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, owners=(0,))

    def publish(self, small: int = 2, wide: int = 1, quorum: int = 1) -> None:
        """Units that ride along, and one with a blob for its input and an uploaded output."""
        super().publish(small, wide, quorum)

    def check(self) -> None:
        (vehicle,) = self.vehicles
        assert isinstance(vehicle, DiskVehicle)
        if vehicle.faults_met():
            # What a disk did not let go of is swept by the next process.
            vehicle.start_again()
            self.run()
        super().check()
        record = vehicle.store.consent()
        assert record is not None
        assert (record.consent, record.withdrawn_ms) == (CONSENT, None)
        # A fault costs time, and never what was said: the exchange goes on in its session.
        assert vehicle.store.books().talk.session == vehicle.session
        copy = store_copy.read(vehicle.directory)
        assert copy is None or copy.consents == (record,)
        vehicle.store.check()
