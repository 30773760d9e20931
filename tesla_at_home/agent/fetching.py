"""Files: which a unit waits for, which goes over the link next, and when a failure is tried again.

One down, one up at a time. Work is fetched while the gate is open; finished outputs go up whenever
the link is ours. Each file and each output waits for itself after a failure, so that one that never
arrives keeps no other. Digests are checked by the driver before it says `Fetched`.
"""

from __future__ import annotations

from typing import Final

from tesla_at_home.agent import computing, holding, patience, room
from tesla_at_home.agent.commands import CancelTransfers, Fetch, Prove, Upload
from tesla_at_home.agent.events import (
    Fetched,
    FetchFailed,
    ManifestMissing,
    Moved,
    Need,
    Proved,
    Uploaded,
    UploadFailed,
)
from tesla_at_home.agent.state import State, Tries
from workunits.values import LeaseId

# A blob may be a moment late behind the lease that names it; one that is absent so often is not there.
ABSENT_AT_MOST: Final = 3


def link_moved(state: State, was_ours: bool) -> None:
    """Close what is open when the link is no longer ours to use."""
    if was_ours and not state.gate.link_is_ours():
        state.command(CancelTransfers())


def on_proved(state: State, event: Proved) -> None:
    unit = state.units.get(event.lease)
    if unit is None or unit.state != "leased":
        return
    wanted = room.disk_bytes([*state.facts_in_use(), event.facts])
    if event.most_bytes is not None and wanted > event.most_bytes:
        detail = f"would take {wanted} bytes of this disk, more than limits.disk allows"
        holding.refuse(state, event.lease, "disk_full", detail)
        return
    state.move(event.lease, "proved", "proves into its manifest", facts=event.facts)
    if event.missing:
        state.missing[event.lease] = set(event.missing)
    else:
        state.move(event.lease, "complete", "all files are here")


def on_manifest_missing(state: State, event: ManifestMissing) -> None:
    if event.lease in state.units:
        state.missing[event.lease] = {event.need}


def on_fetched(state: State, event: Fetched) -> None:
    state.fetching = None
    state.down.pop(event.need, None)
    for lease in _waiting_for(state, event.need):
        _arrived(state, lease, event.need)


def _waiting_for(state: State, need: Need) -> list[LeaseId]:
    return [lease for lease, needs in state.missing.items() if need in needs]


def _arrived(state: State, lease: LeaseId, need: Need) -> None:
    unit = state.units[lease]
    state.missing[unit.lease].discard(need)
    if state.missing[unit.lease]:
        return
    del state.missing[unit.lease]
    if unit.state == "leased":
        state.command(Prove(unit.lease))
    else:
        state.move(unit.lease, "complete", "all files are here")


def on_fetch_failed(state: State, event: FetchFailed) -> None:
    state.fetching = None
    leases = _waiting_for(state, event.need)
    if event.was_cancelled or not leases:
        return
    state.change_books(fault=f"a file could not be fetched: {event.detail}")
    tries = state.down.setdefault(event.need, Tries())
    state.transfer_failed(tries, event.retry_after_s or 0)
    tries.absent += event.is_absent
    if tries.absent < ABSENT_AT_MOST:
        return
    for lease in leases:
        computing.give_back(
            state, lease, "file_missing", f"the project lacks a file: {event.detail}"
        )
    # A project that hands out what cannot be computed is asked less and less.
    patience.came_to_nothing(state)


def on_uploaded(state: State, event: Uploaded) -> None:
    if _is_uploading(state, event.lease):
        state.move(event.lease, "uploaded", "the project has the output")


def on_upload_failed(state: State, event: UploadFailed) -> None:
    if not _is_uploading(state, event.lease):
        return
    state.move(event.lease, "upload_ended", event.detail)
    if not event.was_cancelled:
        state.upload_failed(event.lease, event.retry_after_s or 0)
        state.change_books(fault=f"an output could not be sent: {event.detail}")


def on_moved(state: State, event: Moved) -> None:
    if event == Moved():
        return
    used = state.books.used.add(state.trusted_now(), down=event.down, up=event.up)
    state.change_books(used=used)


def advance(state: State) -> None:
    """Start the next transfer each way."""
    if not state.gate.link_is_ours():
        return
    _fetch_next(state)
    _upload_next(state)


def _fetch_next(state: State) -> None:
    if state.fetching is not None or not state.gate.is_open:
        return
    needed = {need for needs in state.missing.values() for need in needs}
    state.down = {need: tries for need, tries in state.down.items() if need in needed}
    for unit in state.in_order(("leased", "fetching")):
        needs = [need for need in state.missing.get(unit.lease, ()) if _may_fetch(state, need)]
        if needs:
            # The smallest first: a unit whose model is here begins while another's model comes.
            state.fetching = min(needs, key=lambda need: (need.size, need.digest))
            state.command(Fetch(state.fetching))
            return


def _may_fetch(state: State, need: Need) -> bool:
    tries = state.down.get(need)
    return tries is None or state.is_due(tries.retry_s)


def _upload_next(state: State) -> None:
    if state.in_order(("uploading",)):
        return
    for unit in state.in_order(("computed",)):
        tries = state.up.get(unit.lease)
        if tries is None or state.is_due(tries.retry_s):
            state.move(unit.lease, "upload_started", "goes up")
            state.command(Upload(unit.lease))
            return


def _is_uploading(state: State, lease: LeaseId) -> bool:
    unit = state.units.get(lease)
    return unit is not None and unit.state == "uploading"
