"""Vehicles in quarantine and out of it: by the operator, or because a key speaks from two places.

Such a vehicle gets no work; its reports are taken. Its results without a verdict lose their voice and
wait: their units get other replicas, and what the others agree on judges and credits them too. So it
decides nothing, and an honest owner loses nothing. Released, its results have their voice again.
"""

from __future__ import annotations

from collections.abc import Sequence

from server.domain import lifecycle
from server.domain.brake import Brake
from server.domain.quorum import is_due
from server.domain.records import VehicleRow
from server.domain.work import HeldRow, VerdictGiven
from server.errors import Conflict
from server.ports import Repositories
from server.services.settling import Ended, see_to_units
from workunits.values import Milliseconds


def quarantine(repos: Repositories, vehicle: VehicleRow, reason: str, now: Milliseconds) -> None:
    """Raises Conflict: it is in quarantine already, or has left."""
    if vehicle.state != "active":
        raise Conflict(f"the vehicle {vehicle.name} is {vehicle.state}; nothing was changed")
    new = lifecycle.after(lifecycle.VEHICLE, vehicle.state, "quarantine")
    repos.vehicles.set_state(vehicle.id, vehicle.state, new, reason)
    waiting = _waiting(repos, vehicle)
    repos.replicas.judge([_moved(row, "set_aside") for row in waiting])
    see_to_units(repos, {row.unit_id: Ended() for row in waiting}, now)


def release(repos: Repositories, vehicle: VehicleRow) -> None:
    """Out of quarantine, and without the brake: whoever mended it begins like new.

    Raises:
        Conflict: it has left, or nothing holds it back.
    """
    if vehicle.state == "quarantined":
        new = lifecycle.after(lifecycle.VEHICLE, vehicle.state, "release")
        repos.vehicles.set_state(vehicle.id, vehicle.state, new, None)
        repos.vehicles.forget_signs(vehicle.id)
        _give_voice(repos, _waiting(repos, vehicle))
    elif vehicle.state != "active":
        raise Conflict(f"the vehicle {vehicle.name} is {vehicle.state}; nothing was changed")
    elif repos.vehicles.brakes([vehicle.id])[vehicle.id] == Brake():
        raise Conflict(f"nothing holds the vehicle {vehicle.name} back; nothing was changed")
    repos.vehicles.set_brakes({vehicle.id: Brake()})


def _waiting(repos: Repositories, vehicle: VehicleRow) -> list[HeldRow]:
    """Its results in units that are not settled; in settled ones nobody has a voice any more."""
    return [row for row in repos.replicas.undecided_of([vehicle.id]) if row.unit_state == "open"]


def _give_voice(repos: Repositories, rows: Sequence[HeldRow]) -> None:
    repos.replicas.judge([_moved(row, "restore") for row in rows])
    units = {row.unit_id: row for row in rows}
    waiting = repos.replicas.results_counted(sorted(units))
    batches = repos.batches.by_ids(sorted({row.batch_id for row in rows}))
    repos.units.ask_check(
        [
            unit
            for unit, row in units.items()
            if is_due(row.unit_state, waiting[unit], batches[row.batch_id].quorum)
        ]
    )


def _moved(row: HeldRow, event: str) -> VerdictGiven:
    return VerdictGiven(
        id=row.id,
        vehicle_id=row.vehicle_id,
        old=row.state,
        new=lifecycle.after(lifecycle.REPLICA, row.state, event),
        residual=None,
        kflop=0,
        is_final=False,
    )
