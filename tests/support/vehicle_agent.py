"""A whole agent in a folder: real store, shelf, child and driver, against a project in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tesla_at_home.adapters.clock import SystemClock, SystemRandomness
from tesla_at_home.adapters.runner import ChildRunner
from tesla_at_home.adapters.shelf import FileShelf
from tesla_at_home.adapters.store import Store
from tesla_at_home.agent.commands import Command
from tesla_at_home.agent.events import Event, Now
from tesla_at_home.agent.state import Identity
from tesla_at_home.driver import Driver
from tesla_at_home.errands import Errands
from tesla_at_home.outside import Inbox, Outside
from tesla_at_home.policy.signals import Heard, Reading, Signal
from tesla_at_home.ports import ConsentRecord, Membership
from tesla_at_home.settings import Settings, build
from tests.support.project_in_memory import TERMS, MemoryProject
from workunits.trust import digests, envelope, roles
from workunits.values import Milliseconds, OwnerId, SessionId
from workunits.wire.messages import Consent

HOME: dict[Signal, bool | float | None] = {
    "parked": True, "plugged_in": True, "home_wifi": True, "in_use": False, "metered": False,
    "charge_percent": 80.0, "temperature_c": 45.0,
}  # fmt: skip

HASTE: dict[str, object] = {
    "network.min_wait_s": 0.0,
    "network.backoff_first_s": 0.01,
    "network.backoff_most_s": 0.02,
    "network.no_work_first_s": 0.01,
    "network.no_work_most_s": 0.02,
    "network.transfer_first_s": 0.01,
    "network.transfer_most_s": 0.02,
    "limits.memory": 100.0,
    "limits.disk": 100.0,
}


@dataclass
class FakeVehicle:
    """A `VehicleSource` that says what the test tells it, also when steps and units are counted."""

    calm_s: float | None = 0.0
    values: dict[Signal, bool | float | None] = field(default_factory=lambda: dict(HOME))
    on_count: Callable[[int, int], None] | None = None
    post: Callable[[Heard], None] | None = None

    def start(self, post: Callable[[Heard], None]) -> None:
        self.post = post
        self.tell()

    def stop(self) -> None:
        self.post = None

    def count(self, steps: int, units: int) -> None:
        if self.on_count is not None:
            self.on_count(steps, units)

    def tell(self, **changed: bool | float | None) -> None:
        """Change signals and say all of them."""
        self.values = {name: changed.get(name, value) for name, value in self.values.items()}
        at_s = SystemClock().boot_s()
        said = tuple(Reading(s, v, "test", at_s, None) for s, v in self.values.items())
        if self.post is not None:
            self.post(Heard(said))


@dataclass
class Agent:
    """One vehicle's directory; every `driver` is a fresh process on it, as far as state goes."""

    directory: Path
    project: MemoryProject
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    values: dict[str, object] = field(default_factory=dict)
    vehicle: FakeVehicle = field(default_factory=FakeVehicle)
    clock: SystemClock = field(default_factory=SystemClock)
    runner: ChildRunner | None = None

    def join(self) -> None:
        """As `tesla-at-home join` would."""
        consent = Consent(terms=TERMS, version="1", at=Milliseconds(1), scopes=("compute",))
        member = Membership(
            "http://127.0.0.1", digests.of_key(self.public), "v", OwnerId(bytes(16)), "o",
            SessionId(SystemRandomness().token(16)), self.project.epoch,
        )  # fmt: skip
        with Store.create(self.directory) as store:
            store.join(member, ConsentRecord(consent), Milliseconds(1))

    @property
    def public(self) -> bytes:
        return envelope.public_bytes(self.key)

    @property
    def settings(self) -> Settings:
        return build(HASTE | self.values)

    @contextmanager
    def driver(self) -> Iterator[tuple[Driver, Inbox, Store]]:
        """The engine, ready to run; the store is closed afterwards."""
        inbox: Inbox = Inbox()
        shelf = FileShelf(self.directory)
        self.runner = ChildRunner(inbox.put, self.directory / "child.log")
        with Store.open(self.directory) as store:
            outside = Outside(
                clock=self.clock,
                randomness=SystemRandomness(),
                keeping=store,
                shelf=shelf,
                errands=Errands(self.project, self.project, self.project, shelf),
                runner=self.runner,
                source=self.vehicle,
                settings=lambda: self.settings,
            )
            identity = Identity(
                key=self.public,
                client="test/1",
                machine="test",
                seal=lambda request: envelope.seal(request, roles.WORK_REQUEST, self.key),
            )
            yield Driver(identity, self.settings, outside, inbox), inbox, store

    def run(self, timeout_s: float = 60.0) -> None:
        """Run until idle."""
        self.run_until(lambda driver: driver.machine.is_idle(), timeout_s)

    def run_until(self, is_enough: Callable[[Driver], bool], timeout_s: float = 60.0) -> None:
        """Run until the condition holds, looked at after every event; then end in order."""
        with self.driver() as (driver, _, _):
            check_always(driver)
            driver.run(lambda: is_enough(driver), timeout_s=timeout_s)


def check_always(driver: Driver) -> None:
    """Check the machine's invariants after every event."""
    machine = driver.machine
    handle = machine.handle

    def checked(event: Event, now: Now) -> list[Command]:
        commands = handle(event, now)
        machine.check_invariants()
        return commands

    machine.handle = checked  # type: ignore[method-assign]


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for something another process does; generous, because machines are slow."""
    ended = threading.Event()
    clock = SystemClock()
    ends_s = clock.monotonic_s() + timeout_s
    while not condition():
        assert clock.monotonic_s() < ends_s, "did not happen"
        ended.wait(0.01)
