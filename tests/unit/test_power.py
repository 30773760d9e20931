"""Mains, battery and heat from a sysfs that a test has written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tesla_at_home.adapters import power
from tesla_at_home.adapters.vehicle.stationary import StationaryComputer
from tesla_at_home.policy.signals import Heard, Readings, Signal
from tests.support.still_clock import StillClock


class Sysfs:
    """Writes entries below a root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def supply(self, name: str, kind: str, **facts: object) -> None:
        self._write(self.root / "sys/class/power_supply" / name, {"type": kind, **facts})

    def zone(self, number: int, temp: object) -> None:
        self._write(self.root / f"sys/class/thermal/thermal_zone{number}", {"temp": temp})

    @staticmethod
    def _write(folder: Path, facts: dict[str, object]) -> None:
        folder.mkdir(parents=True)
        for name, value in facts.items():
            (folder / name).write_text(f"{value}\n")


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path)


def test_a_computer_that_lists_nothing_is_not_known_to_be_plugged_in(tmp_path: Path) -> None:
    assert power.look(tmp_path) == {"plugged_in": None}


@pytest.mark.parametrize(("online", "wanted"), [(1, True), (2, True), (0, False), ("", None)])
def test_mains_say_whether_it_is_plugged_in(online: object, wanted: object, sysfs: Sysfs) -> None:
    sysfs.supply("AC", "Mains", online=online)
    assert power.look(sysfs.root)["plugged_in"] is wanted


def test_one_charger_that_delivers_is_enough(sysfs: Sysfs) -> None:
    sysfs.supply("AC", "Mains", online=0)
    sysfs.supply("usb-c", "USB", online=1)
    assert power.look(sysfs.root)["plugged_in"] is True


def test_a_peripherals_battery_is_none_of_ours(sysfs: Sysfs) -> None:
    sysfs.supply("AC", "Mains", online=1)
    sysfs.supply("mouse", "Battery", scope="Device", capacity=3, status="Discharging")
    assert power.look(sysfs.root) == {"plugged_in": True}


def test_a_listed_battery_counts(sysfs: Sysfs) -> None:
    sysfs.supply("AC", "Mains", online=1)
    sysfs.supply("BAT0", "Battery", capacity=81, status="Charging")
    sysfs.supply("BAT1", "Battery", capacity=64, status="Not charging")
    assert power.look(sysfs.root) == {"plugged_in": True, "charge_percent": 64.0}


def test_a_battery_that_does_not_say_makes_the_charge_unknown(sysfs: Sysfs) -> None:
    sysfs.supply("BAT0", "Battery", capacity=81)
    sysfs.supply("BAT1", "Battery", status="Unknown")
    assert power.look(sysfs.root)["charge_percent"] is None


def test_online_beside_a_draining_battery_is_a_contradiction(sysfs: Sysfs) -> None:
    sysfs.supply("AC", "Mains", online=1)
    sysfs.supply("BAT0", "Battery", capacity=81, status="Discharging")
    assert power.look(sysfs.root)["plugged_in"] is None


def test_the_hottest_possible_zone_counts(sysfs: Sysfs) -> None:
    for number, temp in enumerate((41_000, 67_500, -274_000, 999_000, "N/A")):
        sysfs.zone(number, temp)
    assert power.look(sysfs.root)["temperature_c"] == 67.5


def _listen(root: Path) -> Readings:
    posted: list[Heard] = []
    source = StationaryComputer(StillClock(), root)
    assert source.calm_s is None
    source.start(posted.append)
    source.count(1, 1)
    source.stop()
    readings = Readings()
    for heard in posted:
        readings = readings.heard(heard)
    return readings


def test_a_stationary_computer_declares_what_nobody_measures(tmp_path: Path) -> None:
    readings = _listen(tmp_path)
    now_s = StillClock().at_s
    asked: tuple[Signal, ...] = ("parked", "in_use", "charge_percent", "plugged_in")
    beliefs = [readings.believe(signal, now_s) for signal in asked]
    assert [b.value for b in beliefs] == [True, False, None, None]
    assert [b.is_not_applicable for b in beliefs] == [False, False, True, False]
    assert beliefs[3].why_unknown == "sysfs does not know"


def test_a_listed_battery_counts_over_the_owners_word(sysfs: Sysfs) -> None:
    sysfs.supply("BAT0", "Battery", capacity=12, status="Discharging")
    belief = _listen(sysfs.root).believe("charge_percent", StillClock().at_s)
    assert (belief.value, belief.is_not_applicable) == (12.0, False)


def test_what_is_measured_grows_old(sysfs: Sysfs) -> None:
    sysfs.supply("AC", "Mains", online=1)
    readings = _listen(sysfs.root)
    assert readings.believe("plugged_in", StillClock().at_s).value is True
    assert readings.believe("plugged_in", StillClock().at_s + 3.5).value is None
