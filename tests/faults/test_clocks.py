"""Clocks that are wrong, on either side, and that jump while everything runs: nothing is lost or doubled.

A vehicle counts its leases on the boot clock, so that its wall clock decides nothing but whether it
computes; a project's clock decides how long leases last, and what it did while it was wrong is as good as
any other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from server import settings
from tests.support.model_vehicle import ModelVehicle
from tests.support.server_invariants import check_invariants
from tests.support.still_clock import StillClock
from tests.support.weather import Crossing, Fault
from tests.support.work_server import LEASE_S, work_server
from tests.support.world import Vehicle, World, world
from workunits.trust import digests
from workunits.values import Milliseconds
from workunits.wire import limits

HOUR_S = 3600
DAY_S = 86_400
# From before the epoch to a year ahead; 1970 is what a computer without a battery begins with.
OFF_S = {"an hour back": -HOUR_S, "a day ahead": DAY_S, "a year ahead": 365 * DAY_S, "1970": None}


@dataclass
class WrongClock:
    """Implements both sides' port `Clock`: the world's time, with a wall clock that is off."""

    world: StillClock
    off_ms: int = 0

    def now_ms(self) -> Milliseconds:
        return Milliseconds(self.world.wall_ms + self.off_ms)

    def set_off(self, off_s: int | None) -> None:
        """None: at the epoch."""
        self.off_ms = -self.world.wall_ms if off_s is None else off_s * 1000

    def boot_s(self) -> float:
        return self.world.boot_s()

    def boot_id(self) -> str:
        return self.world.boot_id()

    def monotonic_s(self) -> float:
        return self.world.monotonic_s()

    def minute_of_day(self) -> int:
        return self.world.minute_of_day()


def with_wrong_clock(vehicle: Vehicle) -> WrongClock:
    """The vehicle's process begins again, on a computer whose clock a test may set."""
    vehicle.end()
    clock = WrongClock(vehicle.clock)
    vehicle.__dict__["clock"] = clock
    vehicle.start()
    return clock


# Moments are crossings of the link: before the first lease is heard (0), while one is computed, and
# before it is reported (14).
def at(moment: int, act: Callable[[], None]) -> Callable[[int, Crossing], Fault | None]:
    """A weather in which nothing goes wrong; `act` happens at one crossing."""

    def choose(number: int, crossing: Crossing) -> Fault | None:
        if number == moment:
            act()
        return None

    return choose


def run_for(here: World, hours: float) -> None:
    ends_s = here.clock.boot_s() + hours * HOUR_S
    while here.clock.boot_s() < ends_s:
        here.exhaust()
        here.wait()


@pytest.mark.parametrize(("off", "moment"), list(zip(OFF_S, (5, 0, 14, 14), strict=True)))
def test_a_vehicles_clock_jumps_and_is_set_right(off: str, moment: int) -> None:
    with world() as here:
        clock = with_wrong_clock(here.vehicles[0])
        here.weather.choose = at(moment, lambda: clock.set_off(OFF_S[off]))
        here.publish(small=2, wide=0)
        # Shorter than a lease: it is no reason to give anything back.
        run_for(here, hours=0.5)
        clock.set_off(0)
        here.run()
        here.check()
        assert here.vehicles[0].store.books().totals.units_returned == 0


@pytest.mark.parametrize("off", OFF_S)
def test_while_it_is_wrong_the_owner_reads_how_to_mend_it(off: str) -> None:
    with world(owners=(0, 1, 2)) as here:
        vehicle = here.vehicles[0]
        clock = with_wrong_clock(vehicle)
        clock.set_off(OFF_S[off])
        here.publish(small=2, wide=0)
        run_for(here, hours=2)
        # The others saw to it that nothing waits for this one.
        here.server.settle()
        assert here.answer()
        gate = vehicle.machine.state.gate.view()
        assert not gate.is_open
        assert "clock and the project's differ by" in gate.sentence
        assert "sudo timedatectl set-ntp true" in gate.sentence


def test_a_clock_that_begins_wrong_and_a_reboot_in_between(tmp_path: Path) -> None:
    """As a computer without a battery: 1970 at each start, right when the network has told it."""
    with world(tmp_path) as here:
        vehicle = here.vehicles[0]
        clock = with_wrong_clock(vehicle)
        here.publish(small=2, wide=0)
        while not vehicle.machine.state.units:
            assert vehicle.step()
        vehicle.kill()
        clock.set_off(None)
        clock.world.at_s += 60
        vehicle.start()
        here.exhaust()
        clock.set_off(0)
        here.run()
        here.check()


@pytest.mark.parametrize(("off_s", "moment"), [(-HOUR_S, 5), (DAY_S, 5), (DAY_S, 14)])
def test_the_projects_clock_jumps_and_is_set_right(off_s: int, moment: int) -> None:
    with world() as here:
        clock = WrongClock(here.clock)
        here.server.__dict__["clock"] = clock
        here.site.reopen()
        here.weather.choose = at(moment, lambda: clock.set_off(off_s))
        here.publish(small=2, wide=1)
        run_for(here, hours=2)
        clock.set_off(0)
        here.run()
        here.check()
        with closing(sqlite3.connect(here.server.path)) as connection:
            days = connection.execute("SELECT sum(kflop) FROM owner_days").fetchone()
            assert days == connection.execute("SELECT sum(kflop) FROM ledger").fetchone()


def test_a_lease_that_is_sent_again_after_the_clock_was_set_back_is_one_that_can_be_read(
    tmp_path: Path,
) -> None:
    """What is left of it looks like a year; a reply with such a lease would be refused as a whole."""
    with work_server(tmp_path) as server:
        server.publish(1)
        car = ModelVehicle(0, 0)
        server.enrolments().enrol(car.enrolment(), digests.plain(b"e"), None)
        [answer] = server.answer([car.request()])
        car.hear(answer)
        server.clock.pass_s(-365 * DAY_S)
        car.holds.clear()
        car.begin_session(salt=b"another")
        for _ in range(2):
            [answer] = server.answer([car.request()])
            car.hear(answer)
        [lease] = car.holds.values()
        assert lease.duration_s <= min(LEASE_S, limits.LEASE_SECONDS)
        check_invariants(server.path)


def test_a_clock_ahead_forgets_nothing_that_counts(tmp_path: Path) -> None:
    """A retired session is forgotten early; the vehicle finds back as any other does."""
    with work_server(tmp_path) as server:
        server.publish(2)
        car = ModelVehicle(0, 0)
        server.enrolments().enrol(car.enrolment(), digests.plain(b"e"), None)
        [answer] = server.answer([car.request()])
        car.hear(answer)
        server.clock.pass_s(settings.RETIRED_SESSIONS_KEPT_MS / 1000 + 1)
        server.settle()
        server.clock.pass_s(-settings.RETIRED_SESSIONS_KEPT_MS / 1000 - 1)
        car.compute()
        [answer] = server.answer([car.request()])
        car.hear(answer)
        assert not car.done
        assert server.vehicle(car.public_key).state == "active"
        check_invariants(server.path)
