"""Leases: how they come, what a receipt or an abort does, and when they are given back.

Decides the end of every unit. Computing is `computing`'s, files are `fetching`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from tesla_at_home.agent import computing
from tesla_at_home.agent.books import HeldUnit, Totals
from tesla_at_home.agent.commands import Prove
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


def take_leases(
    state: State, offers: Sequence[Lease], server_time: Milliseconds, most: int
) -> None:
    """Leases in a reply: at most `most` new ones are kept, others go back at once.

    One in hand that was sent again gets its new time. What goes past `limits.HOLDING` cannot even be
    spoken of; the project takes such a lease back when its time is over.
    """
    for offer in offers:
        deadline_ms = Milliseconds(server_time + offer.duration_s * 1000)
        if offer.lease in state.units:
            state.edit(offer.lease, deadline_ms=deadline_ms)
        elif len(state.units) < limits.HOLDING:
            _take(state, offer, deadline_ms, is_wanted=most > 0)
            most -= 1


def _take(state: State, offer: Lease, deadline_ms: Milliseconds, is_wanted: bool) -> None:
    line = f"{state.now.wall_ms} leased for {offer.duration_s} s"
    state.add_unit(HeldUnit(offer=offer, state="leased", deadline_ms=deadline_ms, story=(line,)))
    if is_wanted:
        state.command(Prove(offer.lease))
    else:
        give_back(state, offer.lease, "not_asked_for", "the vehicle did not ask for so much")


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
    detail = event.detail[: limits.TEXT_CHARS]
    state.move(event.lease, "refused", detail, outcome="returned", code=event.code, detail=detail)
    state.note("lease_refused", detail, lease=event.lease, reason=event.code)
    state.change_books(fault=f"a lease was refused: {detail}")


def take_receipt(state: State, receipt: Receipt) -> None:
    """The project's answer to one report."""
    unit = state.units.get(receipt.lease)
    if unit is None or unit.state not in ("to_report", "quarantined"):
        return
    if receipt.outcome == "again":
        if unit.state == "to_report" and unit.outcome == "done":
            state.move(receipt.lease, "payload_missing", "the project lacks the payload")
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
            totals, units_valid=totals.units_valid + 1, kflop=totals.kflop + verdict.kflop
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
            give_back(state, unit.lease, "deadline", "its time is over")
            continue
        if unit.state == "computed":
            continue
        ahead_ms += per_unit_ms
        # What was begun is finished: a late result is still taken for a while.
        if unit.state not in IN_CHILD and now_ms + ahead_ms > unit.deadline_ms:
            give_back(state, unit.lease, "deadline", "cannot be computed in the time left")
            ahead_ms -= per_unit_ms


def _wake_at_deadline(state: State, unit: HeldUnit, now_ms: Milliseconds) -> None:
    state.is_due(state.now.boot_s + max(0, unit.deadline_ms - now_ms) / 1000)


def give_back(state: State, lease: LeaseId, code: str, why: str) -> None:
    """The unit is not to be computed here: the next request returns it."""
    why = why[: limits.TEXT_CHARS]
    computing.take_out(state, lease, why)
    state.move(lease, "returned", why, outcome="returned", code=code, detail=why)


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
