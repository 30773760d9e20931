"""Mains, battery and heat as Linux tells them in sysfs; reads files, starts nothing.

Decides what a strange entry means: a mouse's battery is none of ours, a file that cannot be read is
"no value", and a charger that says "online" beside a battery that says "Discharging" is unknown.
Source: kernel ABI sysfs-class-power, sysfs-class-thermal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tesla_at_home.policy.signals import Signal, parse_number

_CHARGERS: Final = frozenset({"Mains", "USB", "Wireless"})
_BATTERY: Final = "Battery"
# `scope` of what is attached to the computer, such as a mouse.
_PERIPHERAL: Final = "Device"
# Outside this a sensor is broken; the kernel hands such values on.
_COLDEST_C: Final = -40.0
_HOTTEST_C: Final = 150.0


@dataclass(frozen=True, slots=True)
class PowerSupply:
    """One entry of /sys/class/power_supply."""

    kind: str
    online: float | None
    status: str
    capacity: float | None


def look(root: Path) -> dict[Signal, bool | float | None]:
    """What sysfs under `root` says: plugged in always, charge and temperature where there are any."""
    supplies = power_supplies(root)
    said: dict[Signal, bool | float | None] = {"plugged_in": is_plugged_in(supplies)}
    batteries = [s for s in supplies if s.kind == _BATTERY]
    if batteries:
        said["charge_percent"] = _charge(batteries)
    heat_c = temperatures_c(root)
    if heat_c:
        said["temperature_c"] = max(heat_c)
    return said


def power_supplies(root: Path) -> list[PowerSupply]:
    """The computer's own power supplies; what belongs to a peripheral is left out."""
    folders = sorted((root / "sys/class/power_supply").glob("*"))
    own = [f for f in folders if _text(f / "scope") != _PERIPHERAL]
    return [
        PowerSupply(
            _text(f / "type"), _number(f / "online"), _text(f / "status"), _number(f / "capacity")
        )
        for f in own
    ]


def is_plugged_in(supplies: Iterable[PowerSupply]) -> bool | None:
    """Whether the computer runs from the mains; None where it does not say, or contradicts itself."""
    found = list(supplies)
    online = [s.online for s in found if s.kind in _CHARGERS]
    if not online or None in online:
        return None
    # 1 is a fixed and 2 a programmable supply.
    has_mains = any(online)
    is_draining = any(s.status == "Discharging" for s in found if s.kind == _BATTERY)
    return None if has_mains and is_draining else has_mains


def temperatures_c(root: Path) -> list[float]:
    """All thermal zones that give a possible value."""
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
    found = [_number(zone / "temp") for zone in zones]
    celsius = [milli / 1000 for milli in found if milli is not None]
    return [c for c in celsius if _COLDEST_C < c < _HOTTEST_C]


def _charge(batteries: list[PowerSupply]) -> float | None:
    """The emptiest battery; None if one does not say."""
    known = [b.capacity for b in batteries if b.capacity is not None]
    return min(known) if len(known) == len(batteries) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    return parse_number(_text(path))
