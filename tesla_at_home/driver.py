"""One thread that takes events, lets the machine decide, writes down what changed, and performs.

Save, then speak: a command is performed only after what it follows from is on disk; those that take
computing or the link away are performed at once. Decides nothing itself; threads beside it post
events and nothing else.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from typing import Final, assert_never

from tesla_at_home.agent import room
from tesla_at_home.agent.commands import (
    URGENT,
    CancelTransfers,
    Command,
    ContinueChild,
    Count,
    EnrolAgain,
    Fetch,
    Forget,
    KillChild,
    Leave,
    LookAtProject,
    Post,
    Prove,
    Recheck,
    RunUnit,
    StopChild,
    Sweep,
    Upload,
)
from tesla_at_home.agent.events import (
    Consented,
    Event,
    Fetched,
    Now,
    Order,
    Ordered,
    Rechecked,
    Tick,
    UnitFailed,
)
from tesla_at_home.agent.machine import Machine
from tesla_at_home.agent.mending import FILE_MISSING
from tesla_at_home.agent.state import Identity
from tesla_at_home.errands import rides_along
from tesla_at_home.errors import CannotSave, ClientError, Untrusted
from tesla_at_home.outside import End, Inbox, Outside, Posted, Seen, Wake
from tesla_at_home.ports import ProjectView
from tesla_at_home.preparing import Preparing
from tesla_at_home.saving import EndedUnsaved, Saving
from tesla_at_home.settings import Settings
from tesla_at_home.transfers import Lane
from workunits.values import LeaseId

# The longest sleep without any event: APScheduler's ticks may have stopped (DESIGN 5).
_LONGEST_SLEEP_S: Final = 30.0
_TOKEN_BYTES: Final = 16
_log = logging.getLogger("tesla_at_home.agent")


class Driver:
    """Runs one agent until it is ended, or idle where that is asked for."""

    def __init__(
        self,
        identity: Identity,
        settings: Settings,
        outside: Outside,
        inbox: Inbox,
        lane: Callable[[str, Callable[[Posted], None]], Lane[Posted]] = Lane,
    ) -> None:
        self._outside = outside
        self._inbox = inbox
        self._settings = settings
        self._preparing = Preparing(outside.shelf, outside.errands.metadata)
        self._view: ProjectView | None = None
        self._unproved: list[LeaseId] = []
        self._inner: list[Event] = []  # what performing itself brought about
        self._saving = Saving(outside, inbox, self._hold_still)
        self._is_over = False
        keeping = outside.keeping
        self._machine = Machine(
            identity, settings, keeping.books(), keeping.units(), self._now(), outside.source.calm_s
        )
        self._exchange, self._down, self._up = (
            lane(name, inbox.put) for name in ("exchange", "down", "up")
        )

    @property
    def machine(self) -> Machine:
        return self._machine

    def run(
        self, is_enough: Callable[[], bool] = lambda: False, *, timeout_s: float | None = None
    ) -> None:
        """Until `End`, a leave, or until it `is_enough`, which is asked after every event.

        Raises:
            ClientError: that took longer than `timeout_s`.
        """
        clock = self._outside.clock
        ends_s = None if timeout_s is None else clock.boot_s() + timeout_s
        try:
            self.begin()
            while not self._is_over and not is_enough():
                self.take(self._wait(ends_s))
                if ends_s is not None and clock.boot_s() >= ends_s:
                    raise ClientError(f"not idle after {timeout_s:g} s; see `tesla-at-home why`")
        except EndedUnsaved:
            _log.info("ended while nothing could be saved: what was saved before holds")
        finally:
            self.end()

    # --- events ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """What is done once, before the first event."""
        self._look_at_held()
        # Consent first: the gate that the owner sees must not speak of it before it was asked for.
        self._handle(self._consented())
        self._handle(self._preparing.room())
        self._take_orders()
        self._outside.source.start(self._inbox.put)

    def _wait(self, ends_s: float | None) -> Posted:
        if (late := self._saving.late()) is not None:
            return late
        now_s = self._outside.clock.boot_s()
        until_s = now_s + _LONGEST_SLEEP_S
        for at_s in (self._machine.next_wake_s(), ends_s):
            if at_s is not None:
                until_s = min(until_s, at_s)
        try:
            return self._inbox.get(timeout=max(0.0, until_s - now_s))
        except queue.Empty:
            return self._tick()

    def take(self, posted: Posted) -> None:
        """One thing that was posted, and all that it brings about."""
        match posted:
            case BaseException():
                raise posted
            case End():
                self._is_over = True
            case Wake():
                self._take_orders()
                # What a transfer under way has moved counts although a kill may be next.
                self._handle(self._outside.errands.transport.take_moved())
                self._handle(self._tick())
            case Seen():
                self._take_view(posted)
            case Fetched() | Rechecked():
                self._handle(self._preparing.room())
                self._handle(posted)
            case _:
                self._handle(posted)

    def _handle(self, event: Event) -> None:
        """One event and all that it brings about."""
        self._handle_one(event)
        while self._inner:
            self._handle_one(self._inner.pop(0))

    def _handle_one(self, event: Event) -> None:
        commands = self._machine.handle(event, self._now())
        for command in commands:
            if isinstance(command, URGENT):
                self._perform(command)
        self._save()
        for command in commands:
            if not isinstance(command, URGENT):
                self._perform(command)

    def _save(self) -> None:
        changes = self._machine.take_changes()
        if changes and self._saving.keep(changes):
            self._go_on()
        for entry in changes.entries:
            _log.info("%s: %s", entry.kind, entry.text)

    def _hold_still(self) -> None:
        self._perform(CancelTransfers())
        self._outside.runner.stop()

    def _go_on(self) -> None:
        unit = self._machine.state.in_child()
        if unit is not None and unit.state == "computing":
            self._outside.runner.go_on()

    def _take_orders(self) -> None:
        for order in self._waiting_orders():
            settings = self._reloaded() if order.kind == "reload" else None
            self._settings = settings or self._settings
            self._handle(Ordered(order, settings))
        self._handle(self._consented())

    def _reloaded(self) -> Settings | None:
        try:
            return self._outside.settings()
        except ClientError as error:
            _log.warning("the settings stay as they were: %s", error)
            return None

    def _waiting_orders(self) -> list[Order]:
        try:
            return self._outside.keeping.take_orders()
        except CannotSave:
            return []  # they stay there, and the next tick asks again

    def _take_view(self, seen: Seen) -> None:
        self._view = seen.view or self._view
        self._handle(self._consented())
        unproved, self._unproved = self._unproved, []
        for lease in unproved:
            self._prove(lease)
        self._handle(seen.event)

    def _look_at_held(self) -> None:
        try:
            self._view = self._outside.errands.metadata.held(self._machine.state.trusted_now())
        except Untrusted as error:
            _log.warning("the project's metadata on disk: %s", error)

    # --- what the machine is told about this computer --------------------------------------------

    def _now(self) -> Now:
        clock, randomness = self._outside.clock, self._outside.randomness
        return Now(
            wall_ms=clock.now_ms(),
            boot_s=clock.boot_s(),
            boot_id=clock.boot_id(),
            minute_of_day=clock.minute_of_day(),
            draw=randomness.fraction(),
            token=randomness.token(_TOKEN_BYTES),
        )

    def _tick(self) -> Tick:
        most_bytes = self._preparing.memory_bytes(self._settings)
        return Tick(self._outside.runner.memory_bytes(), most_bytes)

    def _consented(self) -> Consented:
        try:
            record = self._outside.keeping.consent()
        except CannotSave:
            return Consented(False)  # unknown is closed; asked again with the next tick
        if record is None or record.withdrawn_ms is not None:
            return Consented(False)
        is_current = self._view is None or self._view.project.terms.digest == record.consent.terms
        return Consented(is_current)

    # --- performing ------------------------------------------------------------------------------

    def _perform(self, command: Command) -> None:
        match command:
            case StopChild():
                self._outside.runner.stop()
            case KillChild():
                self._outside.runner.kill()
            case CancelTransfers():
                for lane in (self._exchange, self._down, self._up):
                    lane.cancel()
            case ContinueChild():
                self._outside.runner.go_on()
            case RunUnit():
                self._run_unit(command.lease)
            case Prove():
                self._prove(command.lease)
            case Sweep():
                self._outside.shelf.sweep(command.leases, command.inputs)
            case Forget():
                self._outside.shelf.forget(command.lease, command.inputs)
                if self._preparing.evict_manifests(self._machine.state.manifests_in_use()):
                    self._inner.append(self._preparing.room())
            case Count():
                self._outside.source.count(command.steps, command.units)
            case Leave():
                self._is_over = True
            case _:
                self._send(command)

    def _send(self, command: Fetch | Recheck | Upload | LookAtProject | Post | EnrolAgain) -> None:
        errands = self._outside.errands
        now, left = self._machine.state.trusted_now(), self._machine.left_today()
        match command:
            case Fetch(need):
                state = self._machine.state
                units_take = room.units_bytes(state.facts_in_use())
                most = self._preparing.most_bytes(self._settings) - units_take
                keep = state.models_in_use()
                self._down.submit(lambda cancel: errands.fetch(need, most, keep, left.down, cancel))
            case Recheck(leases, needs):
                self._down.submit(lambda cancel: errands.recheck(leases, needs))
            case Upload(lease):
                unit = self._machine.state.units[lease]
                self._up.submit(lambda cancel: errands.upload(unit, left.up, cancel))
            case LookAtProject():
                self._exchange.submit(lambda cancel: [Seen(*errands.look(now, cancel))])
            case EnrolAgain(session):
                self._exchange.submit(lambda cancel: errands.enrol(session, now, cancel))
            case Post(saved):
                project = None if self._view is None else self._view.project
                units = [self._machine.state.units[lease] for lease in saved.reports]
                outputs = [unit for unit in units if rides_along(unit)]
                self._exchange.submit(
                    lambda cancel: errands.post(saved, outputs, project, now, cancel)
                )
            case _:
                assert_never(command)

    def _prove(self, lease: LeaseId) -> None:
        unit = self._machine.state.units.get(lease)
        if unit is None:
            return
        if self._view is None:
            self._unproved.append(lease)
            return
        self._inner.append(
            self._preparing.judge(
                unit, self._view, self._machine.state.trusted_now(), self._settings
            )
        )

    def _run_unit(self, lease: LeaseId) -> None:
        unit = self._machine.state.units[lease]
        try:
            self._outside.runner.run(self._preparing.job(unit, self._settings))
        except OSError as error:
            detail = f"a file of the unit cannot be read: {error.strerror}"
            self._inner.append(UnitFailed(lease, FILE_MISSING, detail))

    def end(self) -> None:
        """Nothing computes and nothing is lost when this returns."""
        self._outside.source.stop()
        self._outside.runner.stop()
        self._outside.runner.close()
        for lane in (self._exchange, self._down, self._up):
            lane.close()
        self._saving.keep_the_last(self._machine.take_changes())
