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
from tesla_at_home.agent.state import State
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

# The project's metadata are signed anew within a day; a key that is withdrawn counts within this.
LOOK_AGAIN_S: Final = 3600.0
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
    if state.unproved:
        _look(state)
        return
    talk = state.books.talk
    if talk.state == "idle" and not _has_to_speak(state):
        return
    if not state.is_due(state.exchange.retry_s) or _looks_first(state):
        return
    _SPEAK[talk.state](state)


def _looks_first(state: State) -> bool:
    """Whether the project's metadata are brought up to date before anything is said."""
    seen_s = state.project_seen_s
    if seen_s is not None and state.now.boot_s < seen_s + LOOK_AGAIN_S:
        return False
    _look(state)
    return True


def _look(state: State) -> None:
    """Bring the project's metadata up to date."""
    state.errand = "look"
    state.command(LookAtProject())


def _has_to_speak(state: State) -> bool:
    if _reportable(state) and state.is_due(state.report_at_s):
        return True
    if state.books.talk.nonce is not None and state.is_due(state.report_at_s):
        return True
    return _wants_work(state) or _is_contact_due(state)


def _wants_work(state: State) -> bool:
    return _may_take_work(state) and _ask(state).units > 0 and state.is_due(state.work_at_s)


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
    return ask(
        len(state.in_order(PENDING)),
        state.books.seconds_per_unit,
        low_days=work.buffer_days,
        more_days=work.buffer_more_days,
        most_units=min(work.units, limits.HOLDING - len(state.units)),
    )


def _make(state: State) -> None:
    talk = state.books.talk
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
        asks_for_work=wish is not None and wish.units > 0,
    )
    state.put_talk("made", replace(talk, saved=saved, refused_code=None, refused_times=0))
    _send(state)


def _wish(state: State) -> Wish | None:
    if not _may_take_work(state) or not state.is_due(state.wait_until_s):
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
