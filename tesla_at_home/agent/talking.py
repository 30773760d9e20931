"""The exchange with the project: when to speak, and what to say.

A request is written down before it is sent and sent again, byte for byte, until a signed answer comes
(PROTOCOL 8, DECISIONS A). What an answer changes stands in `hearing`.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from tesla_at_home.agent import holding
from tesla_at_home.agent.books import SavedRequest
from tesla_at_home.agent.commands import EnrolAgain, LookAtProject, Post
from tesla_at_home.agent.state import State, Tries
from tesla_at_home.agent.tables import PENDING
from tesla_at_home.policy.budget import Ask, ask
from workunits.trust import digests
from workunits.values import LeaseId, Seconds
from workunits.wire import limits
from workunits.wire.messages import (
    PROTOCOL_VERSION,
    Wish,
    WorkRequest,
)

# A vehicle that only computes asks this often whether its units were recalled (DESIGN 6).
CONTACT_S: Final = 6 * 3600.0
_SECONDS_AT_MOST: Final = Seconds(limits.LEASE_SECONDS)


def restart(state: State) -> None:
    """A fresh process: what was being sent is sent again."""
    if state.books.talk.state == "sending":
        state.put_talk("failed", state.books.talk)


def advance(state: State) -> None:
    """Speak, if there is something to say and it is time."""
    if state.is_exchange_busy() or not state.gate.link_is_ours():
        return
    talk = state.books.talk
    has_to = talk.state != "idle" or _has_to_speak(state)
    speaks = has_to and state.is_due(max(state.exchange.retry_s, state.quiet_until_s))
    if _is_look_due(state, speaks):
        state.errand = "look"
        state.command(LookAtProject())
    elif speaks:
        _SPEAK[talk.state](state)


def _is_look_due(state: State, speaks: bool) -> bool:
    """Whether the project's metadata are looked at now.

    Before anything is said, and while the gate is open also by itself: metadata that went stale
    leave nothing to say, and only another look can change that.
    """
    if state.unproved and not state.look.failures:
        return True
    is_wanted = speaks or state.gate.is_open or bool(state.unproved)
    return is_wanted and state.is_due(state.look.retry_s)


def _has_to_speak(state: State) -> bool:
    if _asks_the_time(state):
        return True
    if _reportable(state) and state.is_due(state.report_at_s):
        return True
    if _is_new_session(state) and state.is_due(state.report_at_s):
        return True
    return _wants_work(state) or _is_contact_due(state)


def _is_new_session(state: State) -> bool:
    """What the project leased before it comes with the first reply."""
    talk = state.books.talk
    return talk.nonce is not None or talk.is_renewed


def _asks_the_time(state: State) -> bool:
    """While only a clock keeps the gate closed: it may be the project's, and then set right by now."""
    if not _is_clock_in_doubt(state):
        state.clock = Tries()
        return False
    return state.is_due(max(state.clock.retry_s, state.report_at_s))


def _is_clock_in_doubt(state: State) -> bool:
    failing = state.gate.failing()
    return failing is not None and failing.name == "clock"


def _wants_work(state: State) -> bool:
    at_s = max(state.work_at_s, state.wait_until_s)
    return _may_take_work(state) and _ask(state).units > 0 and state.is_due(at_s)


def _may_take_work(state: State) -> bool:
    # Whether the metadata are fresh is known only once they were looked at.
    may_be_fresh = state.is_project_fresh or state.project_seen_s is None
    return state.gate.is_open and may_be_fresh and not state.books.is_finishing


def _is_contact_due(state: State) -> bool:
    last_ms = state.books.last_contact_ms
    if last_ms is None or not state.in_order():
        return False
    return state.is_due(state.now.boot_s + CONTACT_S - (state.now.wall_ms - last_ms) / 1000)


def _reportable(state: State) -> list[LeaseId]:
    """The reports of the next request: all, or one alone while a refused one is looked for."""
    leases = [unit.lease for unit in state.in_order(("to_report",))]
    alone = [lease for lease in state.books.talk.alone if lease in leases]
    return alone[:1] or leases[: limits.REPORTS_PER_REQUEST]


def _ask(state: State) -> Ask:
    work = state.settings.work
    pending = len(state.in_order(PENDING))
    if state.is_wary and pending:
        return Ask(0, 0)
    return ask(
        pending,
        state.books.seconds_per_unit,
        low_days=work.buffer_days,
        more_days=work.buffer_more_days,
        most_units=min(1 if state.is_wary else work.units, limits.HOLDING - len(state.units)),
    )


def _make(state: State) -> None:
    network, talk = state.settings.network, state.books.talk
    if _is_clock_in_doubt(state):
        state.clock.failed(
            state.now, first_s=network.backoff_first_s, most_s=network.backoff_most_s
        )
    reports = tuple(_reportable(state))
    wish = _wish(state)
    request = WorkRequest(
        protocol=PROTOCOL_VERSION,
        key=state.identity.key,
        epoch=talk.epoch,
        session=talk.session,
        seq=talk.seq + 1,
        previous=talk.previous,
        client=state.identity.client,
        nonce=talk.nonce,
        holding=tuple(sorted(state.units)),
        reports=tuple(holding.report(state.units[lease]) for lease in reports),
        wish=wish,
    )
    sealed = state.identity.seal(request)
    saved = SavedRequest(
        sealed=sealed,
        digest=digests.of_request(sealed.payload),
        reports=reports,
        wished=0 if wish is None else wish.units,
        holding=request.holding,
    )
    state.put_talk("made", replace(talk, saved=saved, refused_code=None, refused_times=0))
    _send(state)


def _wish(state: State) -> Wish | None:
    if not _may_take_work(state) or not state.is_due(state.wait_until_s):
        return None
    # Else work rides along with reports, whenever there are any.
    if state.is_wary and not state.is_due(state.work_at_s):
        return None
    wanted = _ask(state)
    child = state.child
    return Wish(
        seconds=min(wanted.seconds, _SECONDS_AT_MOST),
        units=min(wanted.units, limits.LEASES_PER_REPLY),
        free_disk=state.free_disk,
        models=state.cached_models[: limits.CACHED],
        manifests=state.cached_manifests[: limits.CACHED],
        runtime=None if child is None else child.runtime,
    )


def _send(state: State) -> None:
    talk = state.books.talk
    assert talk.saved is not None
    state.put_talk("sent", talk)
    state.command(Post(talk.saved))


def _enrol(state: State) -> None:
    state.errand = "enrol"
    state.command(EnrolAgain(state.books.talk.session))


def _ask_again(state: State) -> None:
    state.put_talk("asked_again", state.books.talk)
    if _has_to_speak(state):
        _make(state)


_SPEAK: Final = {"idle": _make, "saved": _send, "enrolling": _enrol, "outdated": _ask_again}
