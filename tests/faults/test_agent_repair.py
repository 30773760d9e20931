"""The vehicle's database or files damaged at any moment: found, set aside, and every unit done once."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tesla_at_home.adapters import repair, store_copy
from tesla_at_home.adapters.store import FILE_NAME, REPAIRED, Store
from tesla_at_home.agent.events import Order
from tesla_at_home.errors import StoreDamaged
from tests.support.world import Vehicle, World

# A vehicle's life has some sixty steps; every so many of them is a moment.
_MOMENTS = range(1, 60, 6)
_MEMORY_DISK = Path("/dev/shm")


class Repaired(World):
    """What a database counted goes with it: totals begin anew from the copy."""

    def _check_credit(self) -> None:
        valid = self._one("SELECT count(*) FROM replicas WHERE state = 'valid'")
        assert valid == sum(batch.units * batch.quorum for batch in self.site.batches)
        told = [vehicle.store.books().totals.units_valid for vehicle in self.vehicles]
        assert sum(told) <= valid

    def step_until(self, moment: int) -> Vehicle:
        """The next `moment` steps of the only vehicle."""
        left = moment
        while left > 0:
            moved = [self._turn(vehicle) for vehicle in self.vehicles]
            left -= sum(moved)
            if not any(moved):
                if self.is_over():
                    break
                self.wait()
        return self.vehicles[0]


@contextmanager
def repaired() -> Iterator[Repaired]:
    parent = _MEMORY_DISK if _MEMORY_DISK.is_dir() else None
    with tempfile.TemporaryDirectory(dir=parent) as name:
        here = Repaired(Path(name), owners=(0,))
        try:
            here.publish(quorum=1)
            yield here
        finally:
            here.close()


def garble(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] + b"\xa5" * (len(raw) - len(raw) // 2))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    if raw:
        raw[len(raw) * 2 // 3] ^= 0x5A
    path.write_bytes(raw)


def cut(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) * 2 // 3])


def restart(vehicle: Vehicle) -> None:
    """As `run` begins: looked through first, and mended where it must be."""
    try:
        with Store.open(vehicle.directory) as store:
            store.check()
            store.copy()
    except StoreDamaged as damage:
        repair.mend(vehicle.directory, damage, vehicle.clock, vehicle.randomness)
    vehicle.start()


@pytest.mark.parametrize("moment", _MOMENTS)
def test_a_damaged_database_costs_no_unit_and_no_step(moment: int) -> None:
    with repaired() as here:
        vehicle = here.step_until(moment)
        session = vehicle.store.books().talk.session
        done = vehicle.runner.steps_computed
        vehicle.kill()
        garble(vehicle.directory / FILE_NAME)
        restart(vehicle)
        here.run()
        here.check()
        assert vehicle.store.last(REPAIRED) is not None
        assert vehicle.store.books().talk.session != session
        # What the spool has is not computed again: two steps for each of three units, as ever.
        assert done + vehicle.runner.steps_computed == 6


def test_work_comes_back_also_to_an_owner_who_takes_no_more() -> None:
    with repaired() as here:
        vehicle = here.step_until(30)
        assert vehicle.store.units()
        vehicle.kill()
        with Store.open(vehicle.directory) as store:
            store.apply_order(Order(kind="finish"))
        garble(vehicle.directory / FILE_NAME)
        restart(vehicle)
        assert vehicle.machine.state.books.is_finishing
        for _ in range(100):
            here.exhaust()
            if vehicle.machine.is_idle():
                break
            here.wait()
        here.server.settle()
        assert here._one("SELECT count(*) FROM replicas WHERE state = 'valid'") == 3
        assert vehicle.left_in_spool() == []


def test_a_second_damage_right_after_the_first_is_no_other_case() -> None:
    with repaired() as here:
        for moment in (20, 3, 9):
            vehicle = here.step_until(moment)
            vehicle.kill()
            garble(vehicle.directory / FILE_NAME)
            restart(vehicle)
        here.run()
        here.check()
        assert len(repair.set_aside(vehicle.directory)) == repair.KEPT


@pytest.mark.parametrize("damage", [garble, empty, flip, cut, Path.unlink])
@pytest.mark.parametrize("moment", _MOMENTS[2::4])
def test_any_damaged_file_of_a_unit_comes_again(
    moment: int, damage: Callable[[Path], None]
) -> None:
    with repaired() as here:
        vehicle = here.step_until(moment)
        vehicle.kill()
        files = [path for path in (vehicle.directory / "spool").rglob("*") if path.is_file()]
        random.Random(moment).shuffle(files)
        for path in files[: max(1, len(files) // 2)]:
            damage(path)
        empty(store_copy.path_in(vehicle.directory))
        restart(vehicle)
        here.run()
        here.check()
        assert vehicle.store.last(REPAIRED) is None
        assert store_copy.read(vehicle.directory) is not None
