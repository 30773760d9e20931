"""What the demo shows at its end, and whether all of it holds.

Reads the database and the answer file; decides what counts as success.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.demo.digits import Digits
from server.demo.fleet import LIAR
from server.domain.records import BatchRow, OwnerRow, VehicleRow
from server.http import wording
from server.ports import Repositories
from workunits.values import BatchId, KeyId

# Below this the answer would not be the model's, whatever the vehicles said.
ACCURACY_FLOOR = 0.9


@dataclass(frozen=True)
class Outcome:
    """The figures of one run."""

    units_valid: int
    units: int
    accuracy: float
    accuracy_unseen: float
    caught: int  # the liar's results with verdict invalid
    fooled: int  # the liar's results that became canonical
    resumed: int
    credit: tuple[tuple[str, int, int, int], ...]  # owner, valid, invalid, kFLOP
    answer: Path

    @property
    def holds(self) -> bool:
        return (
            self.units_valid == self.units
            and self.accuracy >= ACCURACY_FLOOR
            and self.caught > 0
            and self.fooled == 0
            and self.resumed > 0
        )

    def lines(self) -> list[str]:
        """The lines that scripts may look for."""
        return [
            f"units valid {self.units_valid}/{self.units}",
            f"accuracy {self.accuracy:.3f} (on images it was not trained on: "
            f"{self.accuracy_unseen:.3f})",
            f"false results caught {self.caught}",
            f"interrupted units resumed {self.resumed}",
            *(f"credit {name} {wording.credit(kflop)}" for name, _, _, kflop in self.credit),
            f"answer {self.answer}",
        ]


def judge(
    storage: Repositories, batch: BatchRow, digits: Digits, answer: Path, resumed: int
) -> Outcome:
    """The outcome of `batch`, whose answer lies at `answer`."""
    owners = storage.owners.list()
    vehicles = {owner.id: storage.vehicles.of_owner(owner.id) for owner in owners}
    liars = {v.id for owner in owners if owner.name == LIAR for v in vehicles[owner.id]}
    right = np.load(answer)["label"] == digits.labels
    return Outcome(
        units_valid=batch.units_done,
        units=batch.units,
        accuracy=float(right.mean()),
        accuracy_unseen=float(right[~digits.was_trained_on].mean()),
        caught=sum(v.invalid for found in vehicles.values() for v in found if v.id in liars),
        fooled=_canonical_of(storage, batch.id, batch.units, liars),
        resumed=resumed,
        credit=tuple(_line(owner, vehicles[owner.id]) for owner in _by_credit(owners)),
        answer=answer,
    )


def _canonical_of(storage: Repositories, batch: BatchId, units: int, liars: set[KeyId]) -> int:
    found = 0
    for index in range(units):
        story = storage.units.story(batch, index)
        if story is None:
            continue
        accepted = [r for r in story.replicas if r.id == story.unit.canonical_id]
        found += sum(replica.vehicle_id in liars for replica in accepted)
    return found


def _by_credit(owners: list[OwnerRow]) -> list[OwnerRow]:
    return sorted(owners, key=lambda owner: (-owner.credit_kflop, owner.name))


def _line(owner: OwnerRow, vehicles: list[VehicleRow]) -> tuple[str, int, int, int]:
    valid = sum(vehicle.valid for vehicle in vehicles)
    invalid = sum(vehicle.invalid for vehicle in vehicles)
    return owner.name, valid, invalid, owner.credit_kflop
