"""One vehicle of a world: a real agent on its directory, without threads, a process or waiting.

The world says when its next event, transfer or step of computing happens (`tests.support.world`).
"""

from __future__ import annotations

import queue
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tesla_at_home.adapters.shelf import FileShelf
from tesla_at_home.adapters.store import Store
from tesla_at_home.agent.events import Tick
from tesla_at_home.agent.machine import Machine
from tesla_at_home.agent.state import Identity
from tesla_at_home.driver import Driver
from tesla_at_home.errands import Errands
from tesla_at_home.outside import Inbox, Outside, Posted
from tesla_at_home.policy.signals import Heard, Reading
from tesla_at_home.ports import Cancellation, ConsentRecord, Membership
from tesla_at_home.settings import Settings, build
from tesla_at_home.transfers import Lane
from tests.support.link import CONSENT, Link
from tests.support.site import Site
from tests.support.spool_runner import SpoolRunner
from tests.support.still_clock import StillClock
from tests.support.vehicle_agent import HOME
from tests.support.weather import Weather
from workunits.trust import digests, envelope, roles
from workunits.values import SessionId
from workunits.wire.messages import Envelope, ExistingOwner, NewOwner

# Small machines have small shares; the disk and memory of the test's are not the subject.
SETTINGS: Final[dict[str, object]] = {"limits.memory": 100.0, "limits.disk": 100.0}


@dataclass
class _Keys:
    """Implements the port `KeyStore`."""

    key: Ed25519PrivateKey

    @property
    def public(self) -> bytes:
        return envelope.public_bytes(self.key)

    def seal(self, value: msgspec.Struct, payload_type: str) -> Envelope:
        return envelope.seal(value, payload_type, self.key)


class _Randomness:
    """Implements the client's port `Randomness`; each world draws the same."""

    def __init__(self, seed: int) -> None:
        self._draws = random.Random(seed)

    def token(self, size: int) -> bytes:
        return self._draws.randbytes(size)

    def fraction(self) -> float:
        return self._draws.random()


class _Home:
    """A `VehicleSource` of a car that is always parked, plugged in and at home."""

    calm_s: float | None = 0.0

    def __init__(self, clock: StillClock) -> None:
        self._clock = clock

    def start(self, post: Callable[[Heard], None]) -> None:
        at_s = self._clock.boot_s()
        post(Heard(tuple(Reading(s, value, "test", at_s, None) for s, value in HOME.items())))

    def stop(self) -> None:
        pass

    def count(self, steps: int, units: int) -> None:
        pass


_Job = tuple[Callable[[Cancellation], Sequence[Posted]], Cancellation]


class _InlineLane(Lane[Posted]):
    """A lane without a thread: its jobs are done when the world says so."""

    def __init__(self, post: Callable[[Posted], None], jobs: list[_Job]) -> None:
        self._post = post
        self._shared = jobs

    def submit(self, job: Callable[[Cancellation], Sequence[Posted]]) -> None:
        self._shared.append((job, Cancellation()))

    def cancel(self) -> None:
        for _, cancel in self._shared:
            cancel.cancel()

    def close(self) -> None:
        self.cancel()


class Vehicle:
    """One vehicle's directory, and the process on it: `start`, `step`, then `end` or `kill`."""

    def __init__(
        self, directory: Path, number: int, owner: int, site: Site, weather: Weather
    ) -> None:
        self.directory = directory
        self.number = number
        self.clock = site.server.clock
        self.values: dict[str, object] = dict(SETTINGS)
        self.keys = _Keys(Ed25519PrivateKey.from_private_bytes(digests.plain(b"car %d" % number)))
        self.link = Link(site, weather, self.clock, self.keys)
        self.link.owner_code = f"owner-code-{owner:08d}"
        self.randomness = _Randomness(number)
        self.starts = 0

    def join(self, is_first: bool) -> None:
        """As `tesla-at-home join` would, over a link without faults."""
        session = SessionId(self.randomness.token(16))
        owner = NewOwner if is_first else ExistingOwner
        enrolled = self.link.enrol(owner(code=self.link.owner_code), session, Cancellation())
        member = Membership(
            "https://project.test", enrolled.vehicle, "car", enrolled.owner, enrolled.owner_name,
            session, enrolled.epoch,
        )  # fmt: skip
        with Store.create(self.directory) as store:
            store.join(member, ConsentRecord(CONSENT), self.clock.now_ms())

    @property
    def settings(self) -> Settings:
        return build(self.values)

    @property
    def machine(self) -> Machine:
        return self.driver.machine

    def start(self) -> None:
        """A fresh process on what the disk has."""
        self.starts += 1
        self._inbox = self.new_inbox()
        self._jobs: list[_Job] = []
        self.runner = self.new_runner()
        self.store = Store.open(self.directory)
        shelf = FileShelf(self.directory)
        outside = Outside(
            clock=self.clock,
            randomness=self.randomness,
            keeping=self.store,
            shelf=shelf,
            errands=Errands(self.link, self.link, self.link, shelf),
            runner=self.runner,
            source=_Home(self.clock),
            settings=lambda: self.settings,
        )
        identity = Identity(
            key=self.keys.public,
            client="test/1",
            machine="test",
            seal=lambda request: self.keys.seal(request, roles.WORK_REQUEST),
        )
        self.driver = Driver(
            identity, self.settings, outside, self._inbox,
            lambda name, post: _InlineLane(post, self._jobs),
        )  # fmt: skip
        self.driver.begin()

    def new_inbox(self) -> Inbox:
        return Inbox()

    def new_runner(self) -> SpoolRunner:
        return SpoolRunner(self._inbox.put)

    def step(self) -> bool:
        """The next event, transfer or step of computing; False if it only waits."""
        try:
            posted = self._inbox.get_nowait()
        except queue.Empty:
            return self._do_job() or self.runner.step()
        self.driver.take(posted)
        self.machine.check_invariants()
        return True

    def _do_job(self) -> bool:
        if not self._jobs:
            return False
        job, cancel = self._jobs.pop(0)
        for event in job(cancel):
            self._inbox.put(event)
        return True

    def wake(self) -> None:
        """Time has passed."""
        self._inbox.put(Tick())

    def end(self) -> None:
        """In order, as on SIGTERM."""
        self.driver.end()
        self.store.close()

    def kill(self) -> None:
        """As `kill -9`: nothing more is said or written."""
        self.store.close()

    def left_in_spool(self) -> list[str]:
        """Files that belong to no unit in hand."""
        spool = self.directory / "spool"
        kept = spool / "manifests"
        return sorted(
            path.name for path in spool.rglob("*") if path.is_file() and path.parent != kept
        )
