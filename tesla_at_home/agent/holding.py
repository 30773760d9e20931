"""Leases: how they come, what a receipt or an abort does, and when they are given back.

Decides the end of every unit. Computing is `computing`'s, files are `fetching`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from tesla_at_home.agent import computing, patience
from tesla_at_home.agent.acceptance import inputs_of
from tesla_at_home.agent.books import HeldUnit, Totals
from tesla_at_home.agent.commands import Prove, Sweep
from tesla_at_home.agent.events import OfferRefused
from tesla_at_home.agent.state import State
from tesla_at_home.agent.tables import IN_CHILD, PENDING
from workunits.values import LeaseId, Milliseconds
from workunits.wire import limits
from workunits.wire.messages import Abort, Lease, Receipt, Report, Verdict

# Faults that a newer look at the project's metadata may mend: a model added, a key replaced.
_MAY_BE_NEWS: Final = frozenset({"untrusted", "bad_signature", "not_authorised"})


def restart(state: State) -> None:
    """A fresh process: what was in a child or on the way begins again, from the spool."""
    for unit in state.in_order(("leased", "fetching", "ready", "computing", "stopped")):
        state.move(unit.lease, "restarted", "the agent started")
        state.command(Prove(unit.lease))
    for unit in state.in_order(("uploading",)):
        state.move(unit.lease, "restarted", "the agent started")
    if not state.books.talk.is_renewed:
        sweep(state)


def sweep(state: State) -> None:
    """Remove files of units that are not held; in a new session not before the project has said
    what is."""
    inputs = {digest for unit in state.units.values() for digest in inputs_of(unit.offer)}
    state.command(Sweep(frozenset(state.units), frozenset(inputs)))


def take_leases(
    state: State, offers: Sequence[Lease], server_time: Milliseconds, most: int
) -> bool:
    """Leases in a reply: at most `most` new ones are kept, others go back at once.

    Says whether one of them is new and can be begun.

    One in hand that was sent again gets its new time, but never another unit (PROTOCOL 8.5). What goes
    past `limits.HOLDING` cannot even be spoken of; the project takes such a lease back when its time
    is over. A server whose clock is ahead of what is believed here gives no longer leases for it.
    """
    from_ms = min(server_time, state.lease_now())
    before = frozenset(state.units)
    for offer in offers:
        deadline_ms = Milliseconds(from_ms + offer.duration_s * 1000)
        held = state.units.get(offer.lease)
        if held is not None:
            if _is_same(held.offer, offer):
                state.edit(offer.lease, deadline_ms=deadline_ms)
        elif len(state.units) < limits.HOLDING:
            _take(state, offer, deadline_ms, is_wanted=most > 0)
            most -= 1
    return any(_can_begin(state, lease) for lease in state.units.keys() - before)


def _is_same(held: Lease, offer: Lease) -> bool:
    return (held.unit, held.manifest) == (offer.unit, offer.manifest)


def _can_begin(state: State, lease: LeaseId) -> bool:
    unit = state.units[lease]
    return unit.outcome is None and state.lease_now() < unit.deadline_ms


def _take(state: State, offer: Lease, deadline_ms: Milliseconds, is_wanted: bool) -> None:
    line = f"{state.now.wall_ms} leased for {offer.duration_s} s"
    state.add_unit(HeldUnit(offer=offer, state="leased", deadline_ms=deadline_ms, story=(line,)))
    if is_wanted:
        state.command(Prove(offer.lease))
    else:
        computing.give_back(
            state, offer.lease, patience.NOT_ASKED_FOR, "the vehicle did not ask for so much"
        )


def on_refused(state: State, event: OfferRefused) -> None:
    """A lease that does not check out goes back, and the owner is told.

    What may be news gets one look at the project's metadata first (`hearing.on_project`).
    """
    unit = state.units.get(event.lease)
    if unit is None or unit.state != "leased":
        return
    if event.code in _MAY_BE_NEWS and event.lease not in state.looked_for:
        state.unproved.add(event.lease)
        return
    refuse(state, event.lease, event.code, event.detail)


def refuse(state: State, lease: LeaseId, code: str, why: str) -> None:
    """Return a lease that is not to be begun, and tell the owner."""
    detail = why[: limits.TEXT_CHARS]
    state.move(lease, "refused", detail, outcome="returned", code=code, detail=detail)
    state.note("lease_refused", detail, lease=lease, reason=code)
    state.change_books(fault=f"a lease was refused: {detail}")
    patience.came_to_nothing(state)


def take_receipt(state: State, receipt: Receipt) -> None:
    """The project's answer to one report."""
    unit = state.units.get(receipt.lease)
    if unit is None or unit.state not in ("to_report", "quarantined"):
        return
    if receipt.outcome == "again":
        if unit.state == "to_report" and unit.outcome == "done":
            state.move(receipt.lease, "payload_missing", "the project lacks the payload")
            # Sent once more, but not for ever as fast as the link allows.
            state.upload_failed(receipt.lease)
        return
    said = receipt.detail or receipt.code or receipt.outcome
    _count(state, unit)
    state.note(
        f"unit_{unit.outcome or 'returned'}",
        f"reported: {said}" if receipt.outcome != "refused" else f"report refused: {said}",
        lease=receipt.lease,
        reason=receipt.code,
    )
    state.move(receipt.lease, "receipted", said)


def _count(state: State, unit: HeldUnit) -> None:
    totals = state.books.totals
    if unit.outcome == "done":
        totals = replace(totals, units_reported=totals.units_reported + 1)
    elif unit.outcome == "failed":
        totals = replace(totals, units_failed=totals.units_failed + 1)
    else:
        totals = replace(totals, units_returned=totals.units_returned + 1)
    state.change_books(totals=totals)


def take_verdict(state: State, verdict: Verdict) -> None:
    """What validation said; inconclusive ones are heard of again."""
    totals: Totals = state.books.totals
    if verdict.verdict == "valid":
        totals = replace(
            totals,
            units_valid=totals.units_valid + 1,
            # A project may claim any number; one past all limits could not be written down.
            kflop=min(totals.kflop + verdict.kflop, limits.INTEGER),
        )
    elif verdict.verdict == "invalid":
        totals = replace(totals, units_invalid=totals.units_invalid + 1)
    state.change_books(totals=totals)
    state.note("verdict", verdict.verdict, lease=verdict.lease, reason=verdict.verdict)


def take_abort(state: State, abort: Abort) -> None:
    """The project does not need the unit any more."""
    unit = state.units.get(abort.lease)
    if unit is None:
        return
    computing.take_out(state, abort.lease, f"aborted: {abort.code}")
    state.move(abort.lease, "aborted", abort.code)
    state.note("unit_aborted", f"aborted by the project: {abort.code}", lease=abort.lease)


def give_back_late(state: State) -> None:
    """Return what can no longer make its deadline, so that another vehicle may have it."""
    now_ms = state.lease_now()
    ahead_ms = 0.0
    per_unit_ms = (state.books.seconds_per_unit or 0.0) * 1000
    for unit in state.in_order((*PENDING, "computed")):
        _wake_at_deadline(state, unit, now_ms)
        if now_ms >= unit.deadline_ms:
            computing.give_back(state, unit.lease, "deadline", "its time is over")
            continue
        if unit.state == "computed":
            continue
        ahead_ms += per_unit_ms
        # What was begun is finished: a late result is still taken for a while.
        if unit.state not in IN_CHILD and now_ms + ahead_ms > unit.deadline_ms:
            computing.give_back(
                state, unit.lease, "deadline", "cannot be computed in the time left"
            )
            ahead_ms -= per_unit_ms


def _wake_at_deadline(state: State, unit: HeldUnit, now_ms: Milliseconds) -> None:
    state.is_due(state.now.boot_s + max(0, unit.deadline_ms - now_ms) / 1000)


def report(unit: HeldUnit) -> Report:
    """What is said of a unit that is to be reported."""
    if unit.outcome == "done":
        return Report(
            lease=unit.lease,
            outcome="done",
            output=unit.output,
            output_size=unit.output_size,
            runtime=unit.runtime,
            compute_ms=unit.compute_ms,
        )
    return Report(
        lease=unit.lease,
        outcome=unit.outcome or "returned",
        code=unit.code,
        detail=unit.detail,
        compute_ms=unit.compute_ms,
    )
