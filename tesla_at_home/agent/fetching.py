"""Files: which a unit waits for, which goes over the link next, and when a failure is tried again.

One down, one up at a time. Work is fetched while the gate is open; finished outputs go up whenever
the link is ours. Digests are checked by the driver before it says `Fetched`.
"""

from __future__ import annotations

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
from tesla_at_home.agent.state import Lane, State
from tesla_at_home.policy.backoff import delay_s
from workunits.values import LeaseId


def link_moved(state: State, was_ours: bool) -> None:
    """Close what is open when the link is no longer ours to use."""
    if was_ours and not state.gate.link_is_ours():
        state.command(CancelTransfers())


def on_proved(state: State, event: Proved) -> None:
    unit = state.units.get(event.lease)
    if unit is None or unit.state != "leased":
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
    state.down = Lane()
    for lease in [name for name, needs in state.missing.items() if event.need in needs]:
        _arrived(state, lease, event.need)


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
    if not event.was_cancelled:
        _failed(state, state.down)
        state.change_books(fault=f"a file could not be fetched: {event.detail}")


def on_uploaded(state: State, event: Uploaded) -> None:
    state.up = Lane()
    if _is_uploading(state, event.lease):
        state.move(event.lease, "uploaded", "the project has the output")


def on_upload_failed(state: State, event: UploadFailed) -> None:
    if _is_uploading(state, event.lease):
        state.move(event.lease, "upload_ended", event.detail)
    if not event.was_cancelled:
        _failed(state, state.up)
        state.change_books(fault=f"an output could not be sent: {event.detail}")


def on_moved(state: State, event: Moved) -> None:
    used = state.books.used.add(state.trusted_now(), down=event.down, up=event.up)
    state.change_books(used=used)


def advance(state: State) -> None:
    """Start the next transfer each way."""
    if not state.gate.link_is_ours():
        return
    _fetch_next(state)
    _upload_next(state)


def _fetch_next(state: State) -> None:
    if state.fetching is not None or not state.gate.is_open or not state.missing:
        return
    if not state.is_due(state.down.retry_s):
        return
    waiting = [u.lease for u in state.in_order(("leased", "fetching")) if u.lease in state.missing]
    # The smallest first: a unit whose model is here begins while another's model comes.
    needs = state.missing[waiting[0]]
    state.fetching = min(needs, key=lambda need: (need.size, need.digest))
    state.command(Fetch(state.fetching))


def _upload_next(state: State) -> None:
    if state.in_order(("uploading",)) or not (waiting := state.in_order(("computed",))):
        return
    if state.is_due(state.up.retry_s):
        state.move(waiting[0].lease, "upload_started", "goes up")
        state.command(Upload(waiting[0].lease))


def _failed(state: State, lane: Lane) -> None:
    network = state.settings.network
    lane.failures += 1
    lane.retry_s = state.now.boot_s + delay_s(
        lane.failures,
        first_s=network.transfer_first_s,
        most_s=network.transfer_most_s,
        draw=state.now.draw,
    )


def _is_uploading(state: State, lease: LeaseId) -> bool:
    unit = state.units.get(lease)
    return unit is not None and unit.state == "uploading"
