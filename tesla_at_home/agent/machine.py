"""The agent: events in, commands out.

Decides everything the vehicle does, from the state and one event at a time; performs nothing, knows no
clock and no chance but those in `Now`. What each part decides stands in `computing`, `holding`,
`fetching`, `mending`, `talking` and `hearing`, the tables in `tables`, the gate in `policy.gates`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from tesla_at_home.agent import computing, fetching, hearing, holding, mending, talking
from tesla_at_home.agent.books import Books, HeldUnit
from tesla_at_home.agent.changes import Changes, after_order
from tesla_at_home.agent.commands import Command, Leave
from tesla_at_home.agent.events import (
    Answered,
    ChildGone,
    ChildReady,
    Consented,
    EnrolledAgain,
    Event,
    Fetched,
    FetchFailed,
    ManifestMissing,
    Moved,
    Now,
    OfferRefused,
    Ordered,
    OutputLost,
    ProjectSeen,
    Proved,
    Rechecked,
    Refused,
    Room,
    StepDone,
    Tick,
    Unanswered,
    UnitDone,
    UnitFailed,
    UnitStarted,
    Uploaded,
    UploadFailed,
)
from tesla_at_home.agent.state import Identity, State
from tesla_at_home.agent.tables import IN_CHILD
from tesla_at_home.policy.budget import Left, left, used_up
from tesla_at_home.policy.deadlines import clock_off_s
from tesla_at_home.policy.gates import Gate, Inputs, Rules, evaluate
from tesla_at_home.policy.signals import Heard
from tesla_at_home.settings import Settings, parse_hours
from workunits.wire.limits import HOLDING


class Machine:
    """The whole agent, from what the disk kept. `handle` is the only way to change it."""

    def __init__(
        self,
        identity: Identity,
        settings: Settings,
        books: Books,
        units: Iterable[HeldUnit],
        now: Now,
        calm_s: float | None = None,
    ) -> None:
        held = {unit.lease: unit for unit in units}
        self.state = State(identity, settings, books, held, calm_s, now)
        talking.restart(self.state)
        holding.restart(self.state)

    def handle(self, event: Event, now: Now) -> list[Command]:
        """What is to be done after `event`; `take_changes` says what is to be written first."""
        state = self.state
        state.now = now
        state.wakes.clear()
        _HANDLERS[type(event)](state, event)
        _advance(state)
        commands, state.commands = state.commands, []
        return commands

    def take_changes(self) -> Changes:
        """What changed since the last time, to be written in one transaction."""
        return self.state.take_changes()

    def next_wake_s(self) -> float | None:
        """When, on the boot clock, something is due without any event."""
        state = self.state
        ends = [*state.wakes]
        for at_s in (state.gate.opens_at_s, state.readings.next_expiry_s(state.now.boot_s)):
            if at_s is not None:
                ends.append(at_s)
        ends += [
            state.now.boot_s + (c.until_ms - state.trusted_now()) / 1000
            for c in state.gate.conditions
            if c.until_ms is not None and not c.is_met
        ]
        return min(ends, default=None)

    def left_today(self) -> Left:
        """What a transfer that begins now may move."""
        state, limits = self.state, self.state.settings.limits
        now_ms = state.trusted_now()
        return left(state.books.used, now_ms, down_mb=limits.down_mb, up_mb=limits.up_mb)

    def is_idle(self) -> bool:
        """Nothing held, nothing to send, and the project had no work (`run --until-idle`)."""
        state = self.state
        is_empty = all(unit.state == "quarantined" for unit in state.units.values())
        talk = state.books.talk
        is_quiet = talk.state == "idle" and talk.nonce is None and not talk.is_renewed
        return is_empty and is_quiet and (state.had_no_work or state.books.is_finishing)

    def check_invariants(self) -> None:
        """Raise `AssertionError` if the state contradicts itself; tests call it after every event."""
        state = self.state
        in_child = [u for u in state.units.values() if u.state in IN_CHILD]
        assert len(in_child) <= 1, "two units in the child"
        assert not in_child or state.child is not None, "a unit in no child"
        for unit in in_child:
            is_computing = unit.state == "computing"
            assert is_computing == state.gate.is_open, "computing and gate disagree"
        talk = state.books.talk
        has_saved = talk.state in ("saved", "sending")
        assert (talk.saved is not None) == has_saved, "saved request and exchange disagree"
        assert len(state.units) <= HOLDING, "more is held than can be spoken of"
        assert sum(u.state == "uploading" for u in state.units.values()) <= 1, "two uploads"
        leased = {u.lease for u in state.units.values() if u.state == "leased"}
        assert state.unproved <= leased, "a lease that is settled waits for a look"
        for lease, needs in state.missing.items():
            assert needs, "waits for nothing"
            assert state.units[lease].state in ("leased", "fetching"), "waits and does not"
        for unit in state.units.values():
            assert unit.state != "dropped", "a dropped unit is held"
            is_ended = unit.state in ("to_report", "quarantined", "computed", "uploading")
            assert is_ended == (unit.outcome is not None), "outcome and state disagree"


def _advance(state: State) -> None:
    """Everything that follows from the state and the time, whatever the event was."""
    was_open, was_ours = state.gate.is_open, state.gate.link_is_ours()
    state.put_gate(_evaluate(state))
    computing.gate_moved(state, was_open)
    fetching.link_moved(state, was_ours)
    holding.give_back_late(state)
    computing.advance(state)
    fetching.advance(state)
    talking.advance(state)


def _evaluate(state: State) -> Gate:
    now, limits = state.now, state.settings.limits
    now_ms = state.trusted_now()
    inputs = Inputs(
        readings=state.readings,
        rules=_rules(state),
        has_consent=state.has_consent,
        paused_until_ms=state.books.paused_until_ms,
        used_up=used_up(state.books.used, now_ms, down_mb=limits.down_mb, up_mb=limits.up_mb),
        clock_off_s=clock_off_s(state.books.signed, now.wall_ms, now.boot_s, now.boot_id),
        now_ms=now_ms,
        boot_s=now.boot_s,
        minute_of_day=now.minute_of_day,
    )
    return evaluate(state.gate, inputs)


def _rules(state: State) -> Rules:
    gate = state.settings.gate
    return Rules(
        charge_floor=gate.charge_floor,
        charge_margin=gate.charge_margin,
        temperature_c=gate.temperature,
        temperature_resume_c=gate.temperature_resume,
        heat_hold_s=gate.heat_hold_s,
        calm_s=gate.calm_s if state.calm_s is None else state.calm_s,
        hours=parse_hours(gate.hours),
        clock_off_s=gate.clock_off_s,
    )


def _on_heard(state: State, event: Heard) -> None:
    state.readings = state.readings.heard(event)


def _on_consented(state: State, event: Consented) -> None:
    state.has_consent = event.holds


def _on_room(state: State, event: Room) -> None:
    state.free_disk = event.free_bytes
    state.cached_models = event.models
    state.cached_manifests = event.manifests


def _on_ordered(state: State, event: Ordered) -> None:
    if event.settings is not None:
        state.settings = event.settings
    if event.order.kind == "leave":
        computing.kill(state, "you leave")
        state.command(Leave())
        return
    after = after_order(state.books, event.order)
    if after != state.books:
        state.put_books(after)
        state.note("ordered", event.order.kind)


_HANDLERS: Final[dict[type, Callable[[State, Any], None]]] = {
    Heard: _on_heard,
    Tick: computing.on_tick,
    Ordered: _on_ordered,
    Consented: _on_consented,
    Room: _on_room,
    ProjectSeen: hearing.on_project,
    Answered: hearing.on_answered,
    Refused: hearing.on_refused,
    Unanswered: hearing.on_unanswered,
    EnrolledAgain: hearing.on_enrolled,
    Proved: fetching.on_proved,
    ManifestMissing: fetching.on_manifest_missing,
    OfferRefused: holding.on_refused,
    Fetched: fetching.on_fetched,
    FetchFailed: fetching.on_fetch_failed,
    Rechecked: mending.on_rechecked,
    Uploaded: fetching.on_uploaded,
    UploadFailed: fetching.on_upload_failed,
    OutputLost: mending.on_output_lost,
    Moved: fetching.on_moved,
    ChildReady: computing.on_ready,
    UnitStarted: computing.on_started,
    StepDone: computing.on_step,
    UnitDone: computing.on_done,
    UnitFailed: mending.on_failed,
    ChildGone: computing.on_gone,
}
