"""From `--vehicle` texts to sources: which kinds there are, and which are still to come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from tesla_at_home.adapters.network import NetworkManagerSource
from tesla_at_home.adapters.vehicle.combined import CombinedSources
from tesla_at_home.adapters.vehicle.script import HOME, Script
from tesla_at_home.adapters.vehicle.scripted import ScriptedVehicle, read_script
from tesla_at_home.adapters.vehicle.stationary import NAME as STATIONARY
from tesla_at_home.adapters.vehicle.stationary import StationaryComputer
from tesla_at_home.errors import NotAvailableYet, UnknownVehicle
from tesla_at_home.ports import Clock, VehicleSource

SCRIPTED: Final = "scripted:"
SCRIPTED_HOME: Final = "scripted:home"
_LATER: Final = ("linux", "teslamate:", "wall-connector:", "fleet:", "ble:", "homeassistant:")


def check(spec: str) -> str:
    """The text as it is kept: a script's path is made whole, so that `run` finds it from anywhere.

    Raises:
        UnknownVehicle: no such kind. BadScript: a script that cannot be read. NotAvailableYet.
    """
    if spec in (STATIONARY, SCRIPTED_HOME):
        return spec
    if spec.startswith(SCRIPTED):
        path = Path(spec.removeprefix(SCRIPTED)).expanduser().resolve()
        read_script(path)
        return f"{SCRIPTED}{path}"
    if any(spec == later or (later.endswith(":") and spec.startswith(later)) for later in _LATER):
        raise NotAvailableYet(f"{spec}: not available yet")
    raise UnknownVehicle(
        f"{spec!r} is none; there are {STATIONARY}, scripted:FILE and {SCRIPTED_HOME}"
    )


def open_sources(
    specs: Sequence[str],
    clock: Clock,
    trusted_networks: Callable[[], Iterable[str]],
    *,
    root: Path = Path("/"),
    bus: str = "SYSTEM",
) -> VehicleSource:
    """All sources that the texts name, as one; none of them has begun to speak.

    `trusted_networks` is asked each time the network is looked at. `root` and `bus` are this
    computer's own unless a test says otherwise.
    """
    found: list[VehicleSource] = []
    for number, spec in enumerate(specs):
        check(spec)
        if spec == STATIONARY:
            found.append(StationaryComputer(clock, root))
            found.append(NetworkManagerSource(clock, trusted_networks, bus=bus))
        else:
            name = spec if spec not in specs[:number] else f"{spec} ({number + 1})"
            found.append(ScriptedVehicle(_script(spec), clock, _shown(name)))
    return CombinedSources(found)


def _script(spec: str) -> Script:
    return HOME if spec == SCRIPTED_HOME else read_script(Path(spec.removeprefix(SCRIPTED)))


def _shown(name: str) -> str:
    """A source's name for people: the file, without the folders above it."""
    return f"{SCRIPTED}{Path(name.removeprefix(SCRIPTED)).name}"
