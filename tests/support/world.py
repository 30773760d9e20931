"""A whole project in one thread: real server services, real agents, and a link that tests break.

No HTTP, no child process and no waiting: one clock for all moves when nothing else is left to do, so a
run of weeks takes milliseconds and each run of a plan is the same. What befalls the link is
`tests.support.weather`'s choice; `World.check` says what must hold after whatever it was.

    with world(folder, planned({7: "lost"})) as here:
        here.publish()
        here.run()
        here.check()
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ClassVar, Final

from server.domain.names import output_blob
from tests.support.link import AgentKilled
from tests.support.server_invariants import check_invariants
from tests.support.site import Site
from tests.support.still_clock import StillClock
from tests.support.weather import Choice, Weather, fair
from tests.support.work_server import KFLOP_PER_ROW, ROWS, output_of
from tests.support.world_vehicle import Vehicle

__all__ = ["Vehicle", "World", "world"]

# Floats in a row of the wide toy: its inputs are fetched as blobs, its outputs uploaded.
WIDE: Final = 5000
# Owners of the vehicles: two, so that each unit can have two voices.
OWNERS: Final = (0, 1)
# An agent that does more than this without waiting spins.
_STEPS_AT_MOST: Final = 5_000
_WAITS_AT_MOST: Final = 2_000
_LONGEST_WAIT_S: Final = 6 * 3600.0
_MEMORY_DISK: Final = Path("/dev/shm")


class World:
    """The project, its vehicles, and the weather between them."""

    made_of: ClassVar[type[Vehicle]] = Vehicle

    def __init__(self, folder: Path, choose: Choice = fair, owners: Sequence[int] = OWNERS) -> None:
        self.clock = StillClock()
        self.weather = Weather()
        self.site = Site(folder, self.clock)
        self.server = self.site.server
        self.vehicles = [
            self.made_of(folder / f"car-{number}", number, owner, self.site, self.weather)
            for number, owner in enumerate(owners)
        ]
        for number, vehicle in enumerate(self.vehicles):
            vehicle.join(is_first=owners[number] not in owners[:number])
        # Joining is over: what is counted, and what may go wrong, begins now.
        self.weather.crossed.clear()
        self.weather.choose = choose
        for vehicle in self.vehicles:
            vehicle.start()

    def publish(self, small: int = 2, wide: int = 1, quorum: int = 2) -> None:
        """A batch whose payloads ride along, and one of blobs and uploads; units of two steps."""
        if small:
            self.site.publish(small, quorum=quorum)
        if wide:
            self.site.publish(wide, quorum=quorum, width=WIDE)

    def run(self) -> None:
        """Until every batch has ended, every verdict was told and every vehicle is idle."""
        for _ in range(_WAITS_AT_MOST):
            self.exhaust()
            self.server.settle()
            if self.is_over():
                return
            self.wait()
        raise AssertionError(f"comes to no end: {[v.machine.state.units for v in self.vehicles]}")

    def exhaust(self) -> None:
        """Until nothing happens without time going on; vehicles take turns."""
        for _ in range(_STEPS_AT_MOST):
            moved = [self._turn(vehicle) for vehicle in self.vehicles]
            if not any(moved):
                return
        raise AssertionError("a vehicle spins")

    def _turn(self, vehicle: Vehicle) -> bool:
        try:
            return vehicle.step()
        except AgentKilled:
            vehicle.kill()
            vehicle.start()
            return True

    def wait(self) -> None:
        """Time goes on to the next moment at which somebody is due."""
        now_s = self.clock.boot_s()
        due = [self._due_s(vehicle) for vehicle in self.vehicles]
        until_s = min([*due, now_s + _LONGEST_WAIT_S])
        self.clock.pass_s(max(0.001, until_s - now_s))
        for vehicle, at_s in zip(self.vehicles, due, strict=True):
            if at_s <= self.clock.boot_s():
                vehicle.wake()

    def _due_s(self, vehicle: Vehicle) -> float:
        at_s = vehicle.machine.next_wake_s()
        return self.clock.boot_s() + _LONGEST_WAIT_S if at_s is None else at_s

    def is_over(self) -> bool:
        """Whether nothing is left to do, and nothing to tell."""
        return all(vehicle.machine.is_idle() for vehicle in self.vehicles) and not self._one(
            "SELECT (SELECT count(*) FROM batches WHERE state = 'running')"
            " + (SELECT count(*) FROM replicas WHERE untold)"
        )

    # --- what must hold --------------------------------------------------------------------------

    def check(self) -> None:
        """Nothing is lost, nothing counted twice, and nothing left over."""
        self.check_work()
        self._check_credit()

    def check_work(self) -> None:
        """As `check`, without what vehicles have been told: a restored project has forgotten some."""
        self.weather.deliver_late()
        self.site.repeat_all()
        self.server.settle()
        check_invariants(self.server.path)
        self._check_answer()
        for vehicle in self.vehicles:
            assert vehicle.machine.is_idle()
            assert not vehicle.store.units()
            assert vehicle.left_in_spool() == []

    def answer(self) -> list[bytes]:
        """The canonical outputs of all units, in order."""
        found = []
        for batch in self.site.batches:
            assert self.server.batch(batch).state == "completed"
            with self.server.database.reading() as repos:
                units = list(repos.units.canonical(batch.id))
                assert all(unit.state == "done" for unit in units)
                names = [unit.output for unit in units if unit.output is not None]
                small = repos.payloads.read(names)
            assert len(names) == batch.units
            found += [small.get(n) or self.server.blobs.read(output_blob(n)) for n in names]
        return found

    def _check_answer(self) -> None:
        wanted = []
        for batch in self.site.batches:
            width = self.site.widths[batch.id]
            wanted += [output_of(index, ROWS, width=width) for index in range(batch.units)]
        assert self.answer() == wanted

    def _check_credit(self) -> None:
        valid = self._one("SELECT count(*) FROM replicas WHERE state = 'valid'")
        assert valid >= sum(batch.units * batch.quorum for batch in self.site.batches)
        assert self._one("SELECT sum(credit_kflop) FROM owners") == valid * ROWS * KFLOP_PER_ROW
        told = [vehicle.store.books().totals for vehicle in self.vehicles]
        assert sum(totals.units_valid for totals in told) == valid
        assert sum(totals.kflop for totals in told) == valid * ROWS * KFLOP_PER_ROW

    def _one(self, query: str) -> int:
        with closing(sqlite3.connect(self.server.path)) as connection:
            return int(connection.execute(query).fetchone()[0])

    def close(self) -> None:
        for vehicle in self.vehicles:
            vehicle.end()
        self.server.database.close()


@contextmanager
def world(
    folder: Path | None = None, choose: Choice = fair, owners: Sequence[int] = OWNERS
) -> Iterator[World]:
    """A world in `folder`, or in memory where the system has such a file system."""
    if folder is not None:
        made = World(folder, choose, owners)
        try:
            yield made
        finally:
            made.close()
        return
    parent = _MEMORY_DISK if _MEMORY_DISK.is_dir() else None
    with (
        tempfile.TemporaryDirectory(dir=parent) as name,
        world(Path(name), choose, owners) as made,
    ):
        yield made
