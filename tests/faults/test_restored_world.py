"""A project restored from a backup while its vehicles go on: each unit still has one canonical result.

The backup is taken at one crossing of the link and comes back at a later one, so that whatever was said
in between is known to the vehicles alone. A vehicle's own directory goes back to a copy, too.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from server.services.restoring import begin_epoch
from server.storage import snapshots
from server.storage.database import SqliteDatabase
from tests.support.model_vehicle import ModelVehicle
from tests.support.site import Site
from tests.support.still_clock import StillClock
from tests.support.weather import Crossing, Fault
from tests.support.world import Vehicle, World, world
from workunits.trust import digests, roles

PAIRS = 3
SEED = 3


def put_back(site: Site, backup: Path) -> None:
    """As `tesla-at-home-server restore` does, and a start of the server after it."""
    path = site.server.path
    site.server.database.close()
    for journal in ("-wal", "-shm"):
        path.with_name(path.name + journal).unlink(missing_ok=True)
    shutil.copyfile(backup, path)
    with SqliteDatabase(path) as database:
        begin_epoch(database, site.server.clock.now_ms())
    site.reopen()


class Disaster:
    """The choice of a weather in which nothing goes wrong but this."""

    def __init__(self, backup_at: int, restore_at: int) -> None:
        self.backup_at, self.restore_at = backup_at, restore_at
        self.was_restored = False

    def befalls(self, here: World) -> None:
        self.here = here
        here.weather.choose = self

    def __call__(self, number: int, crossing: Crossing) -> Fault | None:
        if number == self.backup_at:
            self.back_up()
        if number != self.restore_at:
            return None
        self.was_restored = True
        return self.restore()

    def back_up(self) -> None:
        snapshots.copy(self.here.server.path, self.here.server.folder / "backup.sqlite3")

    def restore(self) -> Fault | None:
        put_back(self.here.site, self.here.server.folder / "backup.sqlite3")
        return None


class VehicleDisaster(Disaster):
    """The vehicle that speaks at that crossing ends, and begins again in an old copy of its directory."""

    def back_up(self) -> None:
        for vehicle in self.here.vehicles:
            shutil.copytree(vehicle.directory, copy_of(vehicle))
            self._goes_back(vehicle, vehicle.start)

    def restore(self) -> Fault | None:
        return "agent_killed"

    def _goes_back(self, vehicle: Vehicle, start: Callable[[], None]) -> None:
        def start_on_the_copy() -> None:
            shutil.rmtree(vehicle.directory)
            copy_of(vehicle).rename(vehicle.directory)
            vehicle.__dict__.pop("start")
            start()

        vehicle.__dict__["start"] = start_on_the_copy


def copy_of(vehicle: Vehicle) -> Path:
    return vehicle.directory.with_name(f"{vehicle.directory.name}-copy")


def play(disaster: Disaster) -> None:
    with world() as here:
        disaster.befalls(here)
        here.publish(small=3)
        here.run()
        here.check_work()
        assert disaster.was_restored


def undisturbed() -> int:
    """How many crossings there are when nothing goes wrong."""
    with world() as here:
        here.publish(small=3)
        here.run()
        return len(here.weather.crossed)


def run(seconds: float, seed: int) -> Counter[str]:
    """Disasters as they are drawn, for `make soak`; how many of which kind were mended."""
    draw = random.Random(seed)
    crossings = undisturbed()
    ends_s = time.monotonic() + seconds
    played: Counter[str] = Counter()
    while time.monotonic() < ends_s:
        kind, name = draw.choice(((Disaster, "projects"), (VehicleDisaster, "vehicles")))
        backup_at, restore_at = sorted(draw.sample(range(crossings), 2))
        play(kind(backup_at, restore_at))
        played[f"{name} put back to an older copy"] += 1
    return played


@pytest.fixture(scope="module")
def crossings() -> int:
    return undisturbed()


def drawn(count: int, pairs: int) -> list[tuple[int, int]]:
    draw = random.Random(SEED)
    found = [sorted(draw.sample(range(count), 2)) for _ in range(pairs)]
    return [(first, second) for first, second in found]


def test_a_backup_of_any_moment_comes_back_at_any_other(crossings: int) -> None:
    for backup_at, restore_at in drawn(crossings, PAIRS):
        play(Disaster(backup_at, restore_at))


def test_a_vehicle_that_goes_back_to_an_old_copy_of_its_directory(crossings: int) -> None:
    for backup_at, restore_at in drawn(crossings, PAIRS):
        play(VehicleDisaster(backup_at, restore_at))


def test_a_vehicle_that_joined_since_joins_again_and_keeps_its_work(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        here.publish(small=3, wide=0)
        backup = tmp_path / "backup.sqlite3"
        snapshots.copy(here.server.path, backup)
        late = Vehicle(tmp_path / "car-9", 9, 7, here.site, here.weather)
        late.join(is_first=True)
        late.start()
        here.vehicles.append(late)
        while not late.machine.state.units:
            assert late.step()
        put_back(here.site, backup)
        here.run()
        here.check_work()
        assert late.machine.state.books.talk.epoch > 1
        kinds = [entry.kind for entry in late.store.history(100)]
        assert "unknown_vehicle" in kinds
        assert "joined" in kinds


def test_a_request_from_the_lost_time_is_not_taken_for_the_next(tmp_path: Path) -> None:
    """The network gives it once more; its vehicle has had the answer, and would never hear of a lease."""
    site = Site(tmp_path, StillClock())
    site.publish(3)
    car = ModelVehicle(0, 0, 0.0)
    site.server.enrolments().enrol(car.enrolment(), digests.plain(b"e"), None)
    snapshots.copy(site.server.path, tmp_path / "backup.sqlite3")
    raw = car.request()
    [answer] = site.server.answer([raw])
    car.hear(answer)
    assert car.holds
    put_back(site, tmp_path / "backup.sqlite3")
    [again] = site.server.answer([raw])
    assert again.envelope.payload_type == roles.RESYNC
    assert site.server.vehicle(car.public_key).seq == 0
    site.server.database.close()


def test_a_directory_that_runs_on_two_computers_is_quarantined_and_its_owner_told(
    tmp_path: Path,
) -> None:
    with world(tmp_path, owners=(0, 1, 2)) as here:
        here.publish(small=6, wide=0)
        one = here.vehicles[0]
        here.exhaust()
        one.end()
        shutil.copytree(one.directory, tmp_path / "clone")
        one.start()
        clone = Vehicle(tmp_path / "clone", 0, 0, here.site, here.weather)
        clone.randomness = type(clone.randomness)(99)
        clone.start()
        here.vehicles.append(clone)
        here.run()
        here.publish(small=6, wide=0)
        here.run()
        here.check_work()
        row = here.server.vehicle(one.keys.public)
        assert row.state == "quarantined"
        notices = [vehicle.store.books().notice or "" for vehicle in (one, clone)]
        assert any("speaks from two places" in notice for notice in notices)
