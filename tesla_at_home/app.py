"""Joins the adapters to the driver: `run`, and what reading commands see.

The only place where the vehicle's parts meet; decides nothing. Loads neither numpy nor onnxruntime:
those live in the child.
"""

from __future__ import annotations

import contextlib
import functools
import platform
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from tesla_at_home.adapters import files, joining, orders, repair, settings_file, store_file
from tesla_at_home.adapters.clock import SystemClock, SystemRandomness
from tesla_at_home.adapters.enrolment import Enrolling, client_version
from tesla_at_home.adapters.exchange import HttpLimits
from tesla_at_home.adapters.keystore import FileKeys
from tesla_at_home.adapters.metadata import TufMetadata
from tesla_at_home.adapters.runner import ChildRunner
from tesla_at_home.adapters.schedule import Ticks
from tesla_at_home.adapters.shelf import FileShelf
from tesla_at_home.adapters.store import REPAIRED, Store
from tesla_at_home.adapters.transport import HttpTransport
from tesla_at_home.adapters.vehicle.sources import open_sources
from tesla_at_home.agent.books import HeldUnit
from tesla_at_home.agent.changes import after_order
from tesla_at_home.agent.state import Identity
from tesla_at_home.agent.view import Entry, Quarantined, UnitView, View
from tesla_at_home.announcing import Announcing
from tesla_at_home.driver import Driver
from tesla_at_home.errands import Errands
from tesla_at_home.errors import (
    BadScript,
    BadSetting,
    NotAvailableYet,
    StoreDamaged,
    UnknownVehicle,
)
from tesla_at_home.outside import End, Inbox, Outside, Wake
from tesla_at_home.ports import Clock, Keeping, VehicleSource
from tesla_at_home.settings import Settings
from workunits.trust import roles

# Ages and deadlines are watched by the driver itself; ticks are for memory and lost orders.
_TICK_S: Final = 5.0
_INTERRUPTED: Final = 130
_OK: Final = 0
# Of the agent with another program that writes: the gate must close within a quarter of a second.
_PATIENCE_S: Final = 0.1


def run(
    directory: Path,
    *,
    until_idle: bool = False,
    timeout_s: float | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """Run the agent of `directory` until it is told to end; the exit code.

    `tell` hears one line for each important change.

    Raises:
        ClientError: one line for the owner: not joined, already running, a bad setting, no idleness
        within `timeout_s`.
    """
    store_file.expect_joined(directory)
    settings = settings_file.read(directory)
    code: int | None = None
    with orders.locked(directory):
        while code is None:
            try:
                code = _run(directory, settings, tell, until_idle, timeout_s)
            except StoreDamaged as damage:
                code = _mend(directory, damage, tell, timeout_s)
    return code


def _run(
    directory: Path,
    settings: Settings,
    tell: Callable[[str], None],
    until_idle: bool,
    timeout_s: float | None,
) -> int:
    with Store.open(directory, patience_s=_PATIENCE_S) as store:
        store.check()
        store.copy()
        inbox: Inbox = Inbox()
        socket = orders.OrderSocket(directory, lambda: inbox.put(Wake()))
        ticks = Ticks(lambda: inbox.put(Wake()), _TICK_S)
        announcing = Announcing(store, SystemClock(), tell)
        try:
            driver = _driver(directory, store, settings, inbox, announcing)
            with _signals(inbox) as caught:
                announcing.begin(directory)
                ticks.start()
                is_enough = driver.machine.is_idle if until_idle else lambda: False
                driver.run(is_enough, timeout_s=timeout_s)
            announcing.end()
            return _code(caught)
        finally:
            ticks.stop()
            socket.close()


def _mend(
    directory: Path, damage: StoreDamaged, tell: Callable[[str], None], timeout_s: float | None
) -> int | None:
    """Begin a new database, at once or after a while; the exit code where the agent was ended."""
    clock, inbox = SystemClock(), Inbox()
    wait_s = repair.wait_s(directory, clock)
    if timeout_s is not None and wait_s > timeout_s:
        raise damage
    with _signals(inbox) as caught, contextlib.suppress(queue.Empty):
        if wait_s:
            tell(
                "the agent's database is damaged, and not for the first time today: nothing is "
                f"computed for {wait_s:g} s"
            )
            inbox.get(timeout=wait_s)
            return _code(caught)
    tell(repair.mend(directory, damage, clock, SystemRandomness()))
    return None


def mend_if_damaged(directory: Path) -> None:
    """For commands that change something, while no agent runs: begin a new database where it must be.

    Raises:
        AlreadyRunning: an agent does, which will see to it.
    """
    try:
        with Store.open(directory) as store:
            store.check()
    except StoreDamaged as damage:
        with orders.locked(directory):
            repair.mend(directory, damage, SystemClock(), SystemRandomness())


def view(directory: Path) -> View:
    """What `status` and `why` show, whether or not an agent runs."""
    is_running = orders.is_running(directory)
    with Store.open(directory, is_writer=False) as store:
        member, books, units = store.membership(), store.books(), store.units()
        gate, repaired = store.gate(), store.last(REPAIRED)
        # What was ordered a moment ago counts, also before the agent has taken it.
        books = functools.reduce(after_order, store.waiting_orders(), books)
    held = [unit for unit in units if unit.state != "quarantined"]
    return View(
        url=member.url,
        vehicle_name=member.vehicle_name,
        owner_name=member.owner_name,
        is_running=is_running,
        is_finishing=books.is_finishing,
        paused_until_ms=books.paused_until_ms,
        gate=gate,
        units=tuple(_unit_view(unit) for unit in held),
        quarantined=tuple(
            Quarantined(unit.lease, unit.code or "", unit.detail or "", unit.settled_ms)
            for unit in units
            if unit.state == "quarantined"
        ),
        totals=books.totals,
        notice=books.notice,
        fault=files.trouble(directory) or books.fault,
        repaired=repaired,
        last_contact_ms=books.last_contact_ms,
        next_contact_ms=books.next_contact_ms,
    )


def history(directory: Path, most: int = 200) -> list[Entry]:
    """The last lines of the history, oldest first."""
    with Store.open(directory, is_writer=False) as store:
        return store.history(most)


def _driver(
    directory: Path, store: Store, settings: Settings, inbox: Inbox, keeping: Keeping
) -> Driver:
    keys = FileKeys.open(directory)
    clock = SystemClock()
    bounds = HttpLimits(stall_s=settings.network.stall_s)
    version = client_version()
    transport = HttpTransport(store.membership().url, user_agent=version, bounds=bounds)
    metadata = TufMetadata(directory / joining.METADATA, transport)
    shelf = FileShelf(directory)
    enroller = Enrolling(directory, transport, keys, metadata)
    source = _source(directory, settings, clock)
    outside = Outside(
        clock=clock,
        randomness=SystemRandomness(),
        keeping=keeping,
        shelf=shelf,
        errands=Errands(transport, metadata, enroller, shelf),
        runner=ChildRunner(inbox.put, directory / "child.log"),
        source=source,
        settings=lambda: settings_file.read(directory),
    )
    identity = Identity(
        key=keys.public,
        client=version,
        machine=platform.machine(),
        seal=lambda request: keys.seal(request, roles.WORK_REQUEST),
    )
    return Driver(identity, settings, outside, inbox)


def _source(directory: Path, settings: Settings, clock: Clock) -> VehicleSource:
    """What tells the vehicle's state.

    Raises:
        BadSetting: a source that was written into the file by hand, and is none.
    """
    try:
        return open_sources(
            settings.vehicle.sources, clock, lambda: settings_file.read(directory).network.home
        )
    except (BadScript, UnknownVehicle, NotAvailableYet) as error:
        raise BadSetting(
            f"{directory / settings_file.FILE_NAME}: vehicle.sources: {error}; mend the line or "
            "remove it"
        ) from None


@contextmanager
def _signals(inbox: Inbox) -> Iterator[set[int]]:
    """While inside, SIGTERM and Ctrl-C end the agent in order; says which came."""
    caught: set[int] = set()

    def end(number: int, frame: FrameType | None) -> None:
        caught.add(number)
        inbox.put(End())

    numbers = (signal.SIGTERM, signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _code(caught: set[int]) -> int:
    return _INTERRUPTED if signal.SIGINT in caught else _OK


def _unit_view(unit: HeldUnit) -> UnitView:
    facts = unit.facts
    return UnitView(
        lease=unit.lease,
        model_name="" if facts is None else facts.model_name,
        index=0 if facts is None else facts.index,
        rows=0 if facts is None else facts.rows,
        state=unit.state,
        steps_done=unit.steps_done,
        steps=0 if facts is None else facts.steps,
        deadline_ms=unit.deadline_ms,
        provider=None if unit.runtime is None else unit.runtime.provider,
        story=unit.story,
    )
