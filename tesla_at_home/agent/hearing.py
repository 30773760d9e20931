"""The exchange with the project: what an answer changes, and how long to wait after a failure.

Signatures are checked by the driver before an answer gets here. Only a signed answer lets go of the
saved request (DECISIONS A.1); what was said stands in `talking`.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from tesla_at_home.agent import holding, patience
from tesla_at_home.agent.books import SavedRequest, Talk
from tesla_at_home.agent.commands import Prove
from tesla_at_home.agent.events import (
    Answered,
    EnrolledAgain,
    ProjectSeen,
    Refused,
    Unanswered,
)
from tesla_at_home.agent.state import State, Tries
from tesla_at_home.policy.backoff import delay_s
from workunits.values import LeaseId, SessionId
from workunits.wire import limits
from workunits.wire.messages import (
    PROTOCOL_VERSION,
    Reply,
    Resync,
    UnknownVehicle,
    UpgradeRequired,
)

# Two unsigned refusals may be a broken proxy; the third time it is about what we say.
REFUSED_AT_MOST: Final = 3
# Who refused it unsigned may have been a proxy, or a server that was mended since.
TRY_AGAIN_MS: Final = 86_400_000
# The project's metadata are signed anew within a day; a key that is withdrawn counts within this.
LOOK_AGAIN_S: Final = 3600.0


def on_project(state: State, event: ProjectSeen) -> None:
    state.errand = None
    state.is_project_fresh = event.is_fresh
    state.vouched_until_ms = event.until_ms
    if event.fault is not None:
        state.change_books(fault=event.fault)
    if event.was_cancelled:
        return  # as due as before, once the link is ours again
    state.project_seen_s = state.now.boot_s
    _plan_look(state, event)
    if event.fault is None:
        _prove_again(state)


def _plan_look(state: State, event: ProjectSeen) -> None:
    if event.is_fresh and event.fault is None:
        state.look = Tries(retry_s=state.now.boot_s + LOOK_AGAIN_S)
        return
    network = state.settings.network
    state.look.failed(state.now, first_s=network.backoff_first_s, most_s=network.backoff_most_s)


def _prove_again(state: State) -> None:
    """Leases that waited for a look."""
    state.looked_for = (state.looked_for & state.units.keys()) | state.unproved
    for lease in sorted(state.unproved):
        state.command(Prove(lease))
    state.unproved.clear()


def on_answered(state: State, event: Answered) -> None:
    """A signed answer: the saved request has done its work."""
    if state.books.talk.state != "sending":
        return
    state.exchange = Tries()
    now = state.now
    state.change_books(
        signed=state.books.signed.heard(
            state.vouched(event.answer.server_time),
            wall_ms=now.wall_ms,
            boot_s=now.boot_s,
            boot_id=now.boot_id,
        ),
        last_contact_ms=now.wall_ms,
        fault=None,
    )
    answer = event.answer
    if isinstance(answer, Reply):
        _on_reply(state, answer)
    elif isinstance(answer, Resync):
        _on_resync(state, answer)
    elif isinstance(answer, UnknownVehicle):
        _on_unknown(state)
    else:
        _on_upgrade(state, answer)


def _take_notice(state: State, notice: str | None) -> None:
    """Its coming and going are history; in between its numbers change with every reply."""
    before = state.books.notice
    state.change_books(notice=notice)
    if state.books.notice is not None and before is None:
        state.note("project_notice", state.books.notice)
    elif before is not None and state.books.notice is None:
        state.note("project_notice", "no longer")


def _on_reply(state: State, reply: Reply) -> None:
    talk = state.books.talk
    saved = talk.saved
    assert saved is not None
    answered = replace(
        talk, seq=talk.seq + 1, previous=saved.digest, saved=None, nonce=None, epoch=reply.epoch
    )
    answered = replace(answered, refused_code=None, refused_times=0, is_renewed=False)
    state.put_talk("replied", answered)
    _take_notice(state, reply.notice)
    state.renewals = 0
    # Leases first: what they share with a unit that is now forgotten stays on disk.
    most = limits.HOLDING if talk.is_renewed else saved.wished
    has_work = holding.take_leases(state, reply.leases, reply.server_time, most)
    for receipt in reply.receipts:
        if receipt.lease in saved.reports:
            holding.take_receipt(state, receipt)
    for verdict in reply.verdicts:
        holding.take_verdict(state, verdict)
    for abort in reply.aborts:
        holding.take_abort(state, abort)
    if talk.is_renewed:
        holding.sweep(state)
    left = [lease for lease in talk.alone if lease in state.units]
    state.change_books(talk=replace(state.books.talk, alone=(*left, *_tried_again(state))))
    _plan(state, reply, saved, has_work)


def _tried_again(state: State) -> list[LeaseId]:
    """Reports that were set aside a day ago: each alone, so that it can spoil no other."""
    now_ms = state.now.wall_ms
    found = [u for u in state.units.values() if u.state == "quarantined"]
    leases = sorted(u.lease for u in found if abs(now_ms - u.settled_ms) >= TRY_AGAIN_MS)
    for lease in leases:
        state.move(lease, "tried_again", "reported once more")
    return leases


def _plan(state: State, reply: Reply, saved: SavedRequest, has_work: bool) -> None:
    """When to speak next."""
    now_s = state.now.boot_s
    network = state.settings.network
    state.wait_until_s = now_s + reply.wait_s
    state.quiet_until_s = now_s + network.min_wait_s
    state.report_at_s = max(state.quiet_until_s, patience.report_again_s(state, saved, reply))
    if not saved.wished:
        return
    state.had_no_work = not reply.leases
    if has_work:
        patience.some_work(state)
        state.work_at_s = now_s + max(reply.wait_s, network.min_wait_s)
    else:
        patience.no_work(state, at_least_s=reply.wait_s)
    state.change_books(next_contact_ms=int(state.now.wall_ms + (state.work_at_s - now_s) * 1000))


def _on_resync(state: State, resync: Resync) -> None:
    session = SessionId(state.now.token)
    talk = Talk(session=session, epoch=resync.epoch, nonce=resync.nonce, is_renewed=True)
    state.put_talk("resync", replace(talk, state="sending"))
    state.note("resync", "the project asked to start a new session")
    _renew(state)


def _on_unknown(state: State) -> None:
    session = SessionId(state.now.token)
    talk = Talk(session=session, epoch=state.books.talk.epoch, state="sending")
    state.put_talk("unknown_vehicle", talk)
    state.note("unknown_vehicle", "the project does not know this vehicle any more; joining again")
    _renew(state)


def _renew(state: State) -> None:
    """One more new session: two sides that never agree must not spin."""
    state.renewals += 1
    if state.renewals > 1:
        _back_off(state, state.renewals - 1)


def _on_upgrade(state: State, answer: UpgradeRequired) -> None:
    state.put_talk("upgrade_required", replace(state.books.talk, saved=None))
    remedy = (
        "update tesla-at-home; what was computed is kept"
        if answer.newest >= PROTOCOL_VERSION
        else "the project must be updated, or an older tesla-at-home installed"
    )
    fault = (
        f"the project speaks protocol {answer.oldest} to {answer.newest}, this client "
        f"{PROTOCOL_VERSION}: {remedy}"
    )
    state.change_books(fault=fault)
    state.exchange.retry_s = state.now.boot_s + state.settings.network.no_work_most_s


def on_enrolled(state: State, event: EnrolledAgain) -> None:
    state.errand = None
    if state.books.talk.state != "enrolling":
        return
    state.exchange = Tries()
    talk = Talk(session=event.session, epoch=event.enrolled.epoch, is_renewed=True)
    state.put_talk("enrolled", talk)
    state.note("joined", "joined again with the same key; held work is kept")


def on_unanswered(state: State, event: Unanswered) -> None:
    state.errand = None
    _failed(state)
    if event.was_cancelled:
        return
    state.change_books(fault=event.detail)
    _back_off(state, state.exchange.failures + 1)
    if event.is_untrusted:
        # A key may have been replaced: look at the metadata before the next try.
        state.look.retry_s = min(state.look.retry_s, state.exchange.retry_s)


def on_refused(state: State, event: Refused) -> None:
    state.errand = None
    _failed(state)
    state.change_books(fault=f"the project refused the request: {event.detail}")
    _back_off(state, state.exchange.failures + 1, at_least_s=event.retry_after_s or 0)
    talk = state.books.talk
    if not event.is_final or talk.saved is None:
        return
    times = talk.refused_times + 1 if talk.refused_code == event.code else 1
    state.change_books(talk=replace(talk, refused_code=event.code, refused_times=times))
    if times >= REFUSED_AT_MOST and talk.saved.reports:
        _split(state, talk.saved, event)


def _split(state: State, saved: SavedRequest, event: Refused) -> None:
    """Report one by one to find the report that is refused; the one alone is set aside."""
    alone = saved.reports
    if len(alone) == 1:
        lease = alone[0]
        state.move(
            lease,
            "quarantined",
            event.detail,
            code=event.code,
            detail=event.detail[: limits.TEXT_CHARS],
            settled_ms=state.now.wall_ms,
        )
        state.note("report_quarantined", event.detail, lease=lease, reason=event.code)
        alone = tuple(other for other in state.books.talk.alone if other != lease)
    talk = replace(state.books.talk, saved=None, alone=alone, refused_code=None, refused_times=0)
    # The number was not used (DECISIONS A.1): the next request carries it again.
    state.change_books(talk=replace(talk, state="sending"))
    state.put_talk("split", state.books.talk)


def _failed(state: State) -> None:
    if state.books.talk.state in ("sending", "enrolling"):
        state.put_talk("failed", state.books.talk)


def _back_off(state: State, failures: int, at_least_s: float = 0.0) -> None:
    network = state.settings.network
    wait_s = delay_s(
        failures,
        first_s=network.backoff_first_s,
        most_s=network.backoff_most_s,
        draw=state.now.draw,
        at_least_s=at_least_s,
    )
    state.exchange.failures = failures
    state.exchange.retry_s = state.now.boot_s + wait_s
    state.change_books(
        next_contact_ms=int(state.now.wall_ms + (state.exchange.retry_s - state.now.boot_s) * 1000)
    )
