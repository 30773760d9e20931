"""What the engine needs from outside, as protocols; adapters implement them, tests fake them.

Threads: `Transport`, `Metadata.refresh` and `Enroller` are called from transfer threads and block;
everything else is called from the deciding thread and returns at once. A `VehicleSource` posts from
its own thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from tesla_at_home.agent.books import Books, HeldUnit
from tesla_at_home.agent.changes import Changes
from tesla_at_home.agent.events import Moved, Need, Order
from tesla_at_home.errors import Cancelled
from tesla_at_home.policy.signals import Heard
from workunits.values import Digest, KeyId, LeaseId, Milliseconds, OwnerId, SessionId
from workunits.wire.messages import Consent, Enrolled, Envelope, Program, Project, Scope


class Clock(Protocol):
    def now_ms(self) -> Milliseconds:
        """The wall clock; may be wrong and may jump. Shown to people, never waited on."""
        ...

    def boot_s(self) -> float:
        """Seconds since boot, sleep included (CLOCK_BOOTTIME): ages, waits and deadlines."""
        ...

    def boot_id(self) -> str:
        """Names this boot, so that seconds of another are not taken for this one's."""
        ...

    def monotonic_s(self) -> float:
        """Seconds in which this computer was awake: for lengths of computing."""
        ...

    def minute_of_day(self) -> int:
        """Local time of day, for the owner's hours."""
        ...


class Randomness(Protocol):
    def token(self, size: int) -> bytes:
        """`size` unguessable bytes."""
        ...

    def fraction(self) -> float:
        """A draw from [0, 1) for jitter."""
        ...


class Cancellation:
    """Ends a transfer from another thread: what it holds open is closed under it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closers: list[Callable[[], None]] = []
        self._is_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        return self._is_cancelled

    def cancel(self) -> None:
        """End it: closes what is open, and all that comes later raises `Cancelled`."""
        with self._lock:
            self._is_cancelled = True
            closers, self._closers = self._closers, []
        for close in closers:
            close()

    @contextmanager
    def closing(self, close: Callable[[], None]) -> Iterator[None]:
        """While inside, `cancel` calls `close` (a socket's shutdown), from the cancelling thread."""
        with self._lock:
            if self._is_cancelled:
                raise Cancelled("cancelled: the network is not ours to use now")
            self._closers.append(close)
        try:
            yield
        finally:
            with self._lock:
                if close in self._closers:
                    self._closers.remove(close)

    def check(self) -> None:
        """Raise `Cancelled` once `cancel` was called."""
        if self._is_cancelled:
            raise Cancelled("cancelled: the network is not ours to use now")


class Transport(Protocol):
    """HTTP to one project. Bytes only: trusts nothing, decides nothing.

    Every method raises `Unreachable` (no answer that counts), `Told` (a problem document) or
    `Cancelled`.
    """

    def post(self, path: str, body: bytes, *, cancel: Cancellation) -> bytes:
        """The body of the 200 answer, at most `limits.MESSAGE_BYTES`."""
        ...

    def fetch(
        self,
        path: str,
        to: Path,
        *,
        size: int,
        cancel: Cancellation,
        on_bytes: Callable[[int], None],
        is_exact: bool = True,
    ) -> None:
        """Bring `path` to the file `to`; goes on behind what `to` holds.

        It has `size` bytes, or, where that is not `is_exact`, at most so many.

        `on_bytes` is told each piece's length, and may raise to end it. The caller checks the digest.
        """
        ...

    def upload(
        self,
        lease: LeaseId,
        ticket: bytes,
        source: Path,
        *,
        digest: Digest,
        size: int,
        cancel: Cancellation,
        on_bytes: Callable[[int], None],
    ) -> None:
        """Bring the file to `/v1/uploads/{lease}`; goes on behind what the server has."""
        ...

    def take_moved(self) -> Moved:
        """What came down and went up since this was last asked, also for what failed.

        Counts every exchange with the project, the metadata's too, in whichever thread it is.
        """
        ...


@dataclass(frozen=True, slots=True)
class ProjectView:
    """Who may sign what, as TUF says; stale: 24 h past expiry, no new work may be taken."""

    project: Project
    is_fresh: bool
    until_ms: Milliseconds | None = None  # when it becomes stale


class Metadata(Protocol):
    """The project's TUF repository, pinned at `join`."""

    def held(self, trusted_now: Milliseconds) -> ProjectView:
        """What the disk holds, without asking anybody. Raises `Untrusted` when it is damaged."""
        ...

    def refresh(self, trusted_now: Milliseconds, *, cancel: Cancellation) -> ProjectView:
        """Bring it up to date. Raises `Unreachable`, `Untrusted`."""
        ...

    def model_size(self, digest: Digest) -> int:
        """Bytes of the model that is a TUF target with this plain SHA-256.

        Raises `Untrusted` where no target names it.
        """
        ...


class KeyStore(Protocol):
    @property
    def public(self) -> bytes:
        """The vehicle's 32 public key bytes."""
        ...

    def seal(self, value: msgspec.Struct, payload_type: str) -> Envelope:
        """`value`, signed with the vehicle's key."""
        ...


class Enroller(Protocol):
    def again(
        self, session: SessionId, trusted_now: Milliseconds, *, cancel: Cancellation
    ) -> Enrolled:
        """Enrol this same key anew, with the consent and owner on record, after `unknown_vehicle`.

        Raises `Unreachable`, `Told`, `Untrusted`.
        """
        ...


class VehicleSource(Protocol):
    """Tells signals. Posts from its own thread, at `start` at the latest once per signal it knows."""

    @property
    def calm_s(self) -> float | None:
        """Overrides `gate.calm_s` where not None (scripted vehicles)."""
        ...

    def start(self, post: Callable[[Heard], None]) -> None: ...

    def stop(self) -> None: ...

    def count(self, steps: int, units: int) -> None:
        """Steps and units done since the start of `run`, for scripts that wait for them."""
        ...


@dataclass(frozen=True, slots=True)
class Membership:
    """Which project this directory belongs to; written by `join`, session and epoch by the agent."""

    url: str
    vehicle: KeyId
    vehicle_name: str
    owner: OwnerId
    owner_name: str
    session: SessionId
    epoch: int


@dataclass(frozen=True, slots=True)
class ConsentRecord:
    """What the owner agreed to, and whether they still do."""

    consent: Consent
    withdrawn_ms: Milliseconds | None = None


class InputFile(msgspec.Struct, frozen=True):
    """A tensor payload on disk; the child checks the digest before it uses it."""

    path: str
    scope: Scope
    digest: Digest


class Job(msgspec.Struct, frozen=True):
    """All that the child needs for one unit."""

    lease: LeaseId
    model: str  # path
    model_name: str
    program: Program
    rows: int
    inputs: tuple[InputFile, ...]
    spool: str  # path
    output: str  # path
    first_step: int
    threads: int
    duty: float  # percent
    checkpoint_s: float
    memory_bytes: int = 0  # what the child may take; 0: as much as there is


class Bounds(msgspec.Struct, frozen=True):
    """What the child's process may touch and take, for as long as it lives."""

    reads: tuple[str, ...]  # folders
    writes: tuple[str, ...]  # folders, one at least: the first is the child's own
    memory_bytes: int
    file_bytes: int


class Measure(msgspec.Struct, frozen=True):
    """One thing that keeps the child's process in its place, and whether it took effect."""

    name: str
    holds: bool
    detail: str  # what holds, or why it does not


class Runner(Protocol):
    """The child process. Posts `ChildReady`, `UnitStarted`, `StepDone`, `UnitDone`, `UnitFailed`,
    and `ChildGone` when it ends without having been told to."""

    def run(self, job: Job) -> None:
        """Compute a unit, in the child that has its model or a new one; returns at once."""
        ...

    def stop(self) -> None:
        """SIGSTOP to its group: nothing computes when this returns."""
        ...

    def go_on(self) -> None: ...

    def kill(self) -> None:
        """End it and what it started; also one that is stopped. Posts nothing."""
        ...

    def close(self) -> None:
        """Kill it, and end what runs beside it."""
        ...

    def memory_bytes(self) -> int: ...


class Shelf(Protocol):
    """Files by digest: models, inputs, manifests; and the spool of each unit."""

    def path(self, need: Need) -> Path: ...

    def use(self, need: Need) -> Path:
        """Its path; counts as a use, for what is evicted first."""
        ...

    def has(self, need: Need) -> bool: ...

    def part(self, need: Need) -> Path:
        """Where a file grows before its digest is known to be right."""
        ...

    def accept(self, need: Need) -> None:
        """The grown part becomes the file, if its digest is right. Raises `BadDigest`."""
        ...

    def put(self, need: Need, raw: bytes) -> None:
        """Durable when it returns."""
        ...

    def read(self, need: Need) -> bytes: ...

    def recheck(self, need: Need) -> None:
        """Forget the file if it is not any more what it was when it came."""
        ...

    def held(self, kind: Literal["manifest", "model"]) -> tuple[Digest, ...]:
        """What is there, most recently used first."""
        ...

    def spool(self, lease: LeaseId) -> Path: ...

    def output(self, lease: LeaseId) -> Path: ...

    def has_output(self, lease: LeaseId, digest: Digest) -> bool:
        """Whether the output is there, and still what the child put there; reads it through."""
        ...

    def begin(self, lease: LeaseId) -> int:
        """The first step to compute, behind those in the spool; a damaged one is set aside."""
        ...

    def forget(self, lease: LeaseId, inputs: Iterable[Digest]) -> None:
        """Remove the unit's files; what a disk does not let go of is left to a later `sweep`."""
        ...

    def sweep(self, leases: Container[LeaseId], inputs: Container[Digest]) -> None:
        """Remove the files of all units but `leases`, and all inputs but these."""
        ...

    def evict(self, keep: Container[Digest], most_bytes: int) -> None:
        """Remove models used least recently until all take at most `most_bytes`."""
        ...

    def evict_manifests(self, keep: Container[Digest], most: int) -> bool:
        """Remove manifests used least recently until `most` are left; whether any went."""
        ...

    def free_bytes(self) -> int: ...

    def disk_bytes(self) -> int: ...


class Keeping(Protocol):
    """Where the agent's books are kept; see `adapters.store.Store`."""

    def books(self) -> Books: ...

    def units(self) -> list[HeldUnit]: ...

    def membership(self) -> Membership: ...

    def consent(self) -> ConsentRecord | None: ...

    def save(self, changes: Changes) -> None: ...

    def take_orders(self) -> list[Order]: ...
