"""A scheduler that has the project's online key and means no good, towards an agent's machine.

Plays whole days in no time: whatever the machine commands is answered as the attack says, and then
time moves to the machine's next wake. Counts what the machine did, so that a test can say how much of
the link and of the computer an attack can cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tesla_at_home.agent.commands import (
    Command,
    EnrolAgain,
    Fetch,
    LookAtProject,
    Post,
    Prove,
    RunUnit,
    Upload,
)
from tesla_at_home.agent.events import (
    Answered,
    EnrolledAgain,
    Event,
    Fetched,
    OfferRefused,
    ProjectSeen,
    Uploaded,
)
from tests.support.machine_bench import Bench, offer
from workunits.trust import digests
from workunits.values import Milliseconds, OwnerId
from workunits.wire.messages import Enrolled, Lease, Reply

HOUR_MS = 3_600_000
# What the metadata that were signed last vouch for: a day of life and a day of grace.
VOUCHED_MS = 48 * HOUR_MS
_MOST_EVENTS = 5_000


@dataclass
class HostileScheduler:
    """Answers the machine on `bench`; replace an `on_...` to attack, the others are honest."""

    bench: Bench
    on_post: Callable[[], None] = lambda: None
    on_prove: Callable[[Prove], Event] = lambda c: OfferRefused(c.lease, "bad_proof", "no such")
    on_fetch: Callable[[Fetch], Event] = lambda c: Fetched(c.need)
    on_run: Callable[[RunUnit], None] = lambda c: None
    on_upload: Callable[[Upload], Event] = lambda c: Uploaded(c.lease)
    looks_fresh: bool = True
    done: Counter[str] = field(default_factory=Counter)
    leases: int = 1000  # the last that was made up
    faults: set[str] = field(default_factory=set)  # all that `why` ever told

    def play(self, hours: float) -> Counter[str]:
        """So many hours of this; how often the machine commanded what."""
        self.done.clear()
        ends_s = self.bench.boot_s + hours * 3600
        for _ in range(_MOST_EVENTS):
            if self.bench.commands:
                self._perform(self.bench.commands.pop(0))
                continue
            wake_s = self.bench.machine.next_wake_s()
            at_s = ends_s if wake_s is None else min(max(wake_s, self.bench.boot_s), ends_s)
            is_over = at_s >= ends_s
            self.bench.wait(at_s - self.bench.boot_s)
            if is_over:
                return self.done
        raise AssertionError(f"the agent spins: {dict(self.done)}")

    def reply(self, **changed: object) -> None:
        """A reply to the request under way, with nothing in it but what is given."""
        values: dict[str, object] = {
            "in_reply_to": self.bench.posted(),
            "server_time": Milliseconds(self.bench.wall_ms),
            "epoch": 1,
            "wait_s": 0,
            "has_work": True,
        }
        self.bench.do(Answered(Reply(**(values | changed))))  # type: ignore[arg-type]

    def new_lease(self) -> Lease:
        """A lease that was never heard of before."""
        self.leases += 1
        return offer(self.leases)

    def _perform(self, command: Command) -> None:
        self.done[type(command).__name__] += 1
        self.faults.add(self.bench.books.fault or "")
        match command:
            case Post():
                self.on_post()
            case LookAtProject():
                until_ms = Milliseconds(self.bench.wall_ms + VOUCHED_MS)
                self.bench.do(ProjectSeen(self.looks_fresh, until_ms=until_ms))
            case EnrolAgain():
                self.bench.do(EnrolledAgain(command.session, self._enrolled()))
            case Prove():
                self.bench.do(self.on_prove(command))
            case Fetch():
                self.bench.do(self.on_fetch(command))
            case Upload():
                self.bench.do(self.on_upload(command))
            case RunUnit():
                self.on_run(command)

    def _enrolled(self) -> Enrolled:
        return Enrolled(
            in_reply_to=digests.ZERO,
            server_time=Milliseconds(self.bench.wall_ms),
            vehicle=digests.of_key(b""),
            owner=OwnerId(bytes(16)),
            owner_name="o",
            epoch=1,
        )
