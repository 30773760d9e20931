"""What this disk lost or damaged: fetched or put together again, a few times, and then given back.

A digest that is wrong here is the disk's fault and never the unit's: what was computed is kept in the
spool, and no unit fails by it. The driver looks which file it was.
"""

from __future__ import annotations

from typing import Final

from tesla_at_home.agent import acceptance, computing, patience
from tesla_at_home.agent.books import HeldUnit
from tesla_at_home.agent.commands import Prove, Recheck
from tesla_at_home.agent.events import OutputLost, Rechecked, UnitFailed
from tesla_at_home.agent.state import State
from workunits.errors import BadDigest

# A disk that damages one unit more often would do so for ever.
MENDS_AT_MOST: Final = 3
FILE_MISSING: Final = "file_missing"
DISK_FULL: Final = "disk_full"
_DAMAGED: Final = frozenset({BadDigest.code, FILE_MISSING})


def on_failed(state: State, event: UnitFailed) -> None:
    """A failure that names a local file is mended; any other is the unit's, but for a full disk."""
    if event.code == DISK_FULL and computing.is_in_child(state, event.lease):
        computing.give_back(state, event.lease, event.code, event.detail)
        state.change_books(fault=f"{event.detail}; make room on this disk")
        patience.came_to_nothing(state)
        return
    if event.code not in _DAMAGED or not computing.is_in_child(state, event.lease):
        computing.on_failed(state, event)
        return
    unit = state.units[event.lease]
    state.note("unit_interrupted", event.detail, lease=event.lease, reason=event.code)
    if _is_hopeless(state, unit, event.detail):
        return
    computing.take_out(state, unit.lease, event.detail)
    state.move(unit.lease, "damaged", event.detail, mended=unit.mended + 1)
    _recheck(state, unit, event.detail)


def _recheck(state: State, unit: HeldUnit, detail: str) -> None:
    """Its files are looked at, and units that would run on the same model wait for that."""
    assert unit.facts is not None
    others = [
        other.lease
        for other in state.in_order(("ready",))
        if other.facts is not None and other.facts.model == unit.facts.model
    ]
    for lease in others:
        state.move(lease, "damaged", detail)
    needs = (acceptance.manifest_of(unit.offer), *acceptance.files_of(unit.facts))
    state.command(Recheck((unit.lease, *others), needs))


def on_rechecked(state: State, event: Rechecked) -> None:
    for lease in event.leases:
        if lease in state.units and state.units[lease].state == "leased":
            state.command(Prove(lease))


def on_output_lost(state: State, event: OutputLost) -> None:
    """The child puts the output together again, from the steps in the spool."""
    unit = state.units.get(event.lease)
    if unit is None or unit.state != "uploading":
        return
    state.up.pop(event.lease, None)
    detail = "the output was damaged on this disk"
    if _is_hopeless(state, unit, detail):
        return
    state.move(
        event.lease,
        "output_lost",
        detail,
        outcome=None,
        output=None,
        output_size=0,
        mended=unit.mended + 1,
    )


def _is_hopeless(state: State, unit: HeldUnit, detail: str) -> bool:
    if unit.mended < MENDS_AT_MOST:
        return False
    computing.give_back(state, unit.lease, "disk_damaged", detail)
    return True
