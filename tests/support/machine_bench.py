"""The agent's machine on a bench: time moves when the test moves it, commands are kept, nothing runs.

Every event leaves the machine with its invariants checked and its changes written into a pretended
disk, from which `restart` makes the next machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from tesla_at_home.agent.books import Books, Facts, HeldUnit, Talk
from tesla_at_home.agent.commands import Command, Post
from tesla_at_home.agent.events import (
    Answered,
    ChildReady,
    Consented,
    Event,
    Need,
    Now,
    ProjectSeen,
    Proved,
    StepDone,
    Tick,
    UnitDone,
    UnitStarted,
)
from tesla_at_home.agent.machine import Machine
from tesla_at_home.agent.state import Identity
from tesla_at_home.agent.view import Entry
from tesla_at_home.policy.gates import GateView
from tesla_at_home.policy.signals import Heard, Reading, Signal
from tesla_at_home.settings import Settings, build
from workunits.trust import digests, envelope, roles
from workunits.values import BatchId, Digest, LeaseId, Milliseconds, Nonce, SessionId
from workunits.wire import codec
from workunits.wire.messages import (
    Abort,
    InputPart,
    Lease,
    Receipt,
    Reply,
    Resync,
    Unit,
    UnknownVehicle,
    UpgradeRequired,
    Verdict,
)

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
GOOD: dict[Signal, bool | float | None] = {
    "parked": True, "plugged_in": True, "home_wifi": True, "in_use": False, "metered": False,
    "charge_percent": 80.0, "temperature_c": 45.0,
}  # fmt: skip
Outcome = Literal["taken", "not_needed", "refused", "again"]
MODEL = Need("model", Digest(b"m" * 32), 10)
INPUT = Need("input", Digest(b"i" * 32), 5)


def lease_id(number: int) -> LeaseId:
    return LeaseId(number.to_bytes(16, "big"))


def offer(number: int, duration_s: int = 3600, part: Need = INPUT) -> Lease:
    unit = Unit(
        batch=BatchId(b"b" * 16),
        index=number,
        first_row=0,
        rows=40,
        inputs=(InputPart(scope="row", digest=part.digest, size=part.size),),
    )
    return Lease(
        lease=lease_id(number),
        manifest=Digest(b"M" * 32),
        unit=codec.pack(unit),
        proof=(),
        duration_s=duration_s,
        ticket=lease_id(number),
    )


def facts(number: int = 0, steps: int = 10) -> Facts:
    part = InputPart(scope="row", digest=INPUT.digest, size=INPUT.size)
    return Facts(
        batch=BatchId(b"b" * 16),
        index=number,
        rows=steps * 4,
        steps=steps,
        kflop=1,
        model=MODEL.digest,
        model_bytes=MODEL.size,
        model_name="sample",
        inputs=(part,),
    )


@dataclass
class Bench:
    """A machine and its surroundings. By default all is well, and the gate opens at once."""

    settings: dict[str, object] = field(default_factory=dict)
    calm_s: float = 0.0
    boot_s: float = 1000.0
    wall_ms: int = 1_800_000_000_000
    boot_id: str = "boot"
    commands: list[Command] = field(default_factory=list)
    books: Books = field(
        default_factory=lambda: Books(talk=Talk(session=SessionId(b"s" * 16), epoch=1))
    )
    units: dict[LeaseId, HeldUnit] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    gate: GateView | None = None
    tokens: int = 0

    def __post_init__(self) -> None:
        self.restart()

    # --- the machine and its disk ----------------------------------------------------------------

    def restart(self) -> None:
        """A fresh process on what the disk has."""
        identity = Identity(
            key=envelope.public_bytes(KEY),
            client="test/1",
            machine="test",
            seal=lambda request: envelope.seal(request, roles.WORK_REQUEST, KEY),
        )
        self.machine = Machine(
            identity, self.built(), self.books, list(self.units.values()), self.now(), self.calm_s
        )
        self.commands.clear()

    def built(self) -> Settings:
        return build({"network.min_wait_s": 0.0} | self.settings)

    def now(self) -> Now:
        self.tokens += 1
        return Now(
            wall_ms=Milliseconds(self.wall_ms),
            boot_s=self.boot_s,
            boot_id=self.boot_id,
            minute_of_day=600,
            draw=1.0,
            token=self.tokens.to_bytes(16, "big"),
        )

    def do(self, event: Event) -> list[Command]:
        """Handle one event; what it brought about."""
        commands = self.machine.handle(event, self.now())
        self.machine.check_invariants()
        changes = self.machine.take_changes()
        self.books = changes.books or self.books
        self.units |= {unit.lease: unit for unit in changes.units}
        for lease in changes.dropped:
            self.units.pop(lease, None)
        self.entries += changes.entries
        self.gate = changes.gate or self.gate
        self.commands += commands
        return commands

    def wait(self, seconds: float) -> list[Command]:
        """Time passes."""
        self.boot_s += seconds
        self.wall_ms += int(seconds * 1000)
        return self.do(Tick())

    def took(self, kind: type[Command]) -> list[Command]:
        """All commands of a kind so far; forgets them."""
        found = [command for command in self.commands if isinstance(command, kind)]
        self.commands = [command for command in self.commands if not isinstance(command, kind)]
        return found

    # --- what happens outside --------------------------------------------------------------------

    def tell(self, **changed: bool | float | None) -> list[Command]:
        """The vehicle says all its signals, some of them changed."""
        said = tuple(
            Reading(signal, changed.get(signal, value), "test", self.boot_s, None)
            for signal, value in GOOD.items()
        )
        return self.do(Heard(said))

    def begin(self, wish: int = 1) -> None:
        """Consent, a good vehicle, fresh metadata: the first request is under way.

        For more than one unit the speed must be known; then any unit in hand is work enough.
        """
        if wish > 1:
            self.settings |= {"work.units": wish, "work.buffer_days": 0.0001}
            self.books = replace(self.books, seconds_per_unit=10.0)
            self.restart()
        self.do(Consented(True))
        self.tell()
        self.do(ProjectSeen(is_fresh=True))

    def posted(self) -> Digest:
        """The digest of the request that is under way."""
        saved = self.machine.state.books.talk.saved
        assert saved is not None
        return saved.digest

    def reply(
        self,
        *,
        leases: tuple[Lease, ...] = (),
        receipts: tuple[Receipt, ...] = (),
        aborts: tuple[Abort, ...] = (),
        verdicts: tuple[Verdict, ...] = (),
        wait_s: int = 0,
        notice: str | None = None,
    ) -> list[Command]:
        """A signed reply to the request that is under way."""
        return self.do(
            Answered(
                Reply(
                    in_reply_to=self.posted(),
                    server_time=Milliseconds(self.wall_ms),
                    epoch=1,
                    wait_s=wait_s,
                    has_work=bool(leases),
                    leases=leases,
                    receipts=receipts,
                    aborts=aborts,
                    verdicts=verdicts,
                    notice=notice,
                )
            )
        )

    def resync(self) -> list[Command]:
        return self.do(
            Answered(
                Resync(
                    in_reply_to=self.posted(),
                    server_time=Milliseconds(self.wall_ms),
                    nonce=Nonce(b"n" * 16),
                    epoch=2,
                    last_seq=0,
                    last=digests.ZERO,
                )
            )
        )

    def unknown(self) -> list[Command]:
        answer = UnknownVehicle(in_reply_to=self.posted(), server_time=Milliseconds(self.wall_ms))
        return self.do(Answered(answer))

    def too_old(self) -> list[Command]:
        answer = UpgradeRequired(
            in_reply_to=self.posted(),
            server_time=Milliseconds(self.wall_ms),
            oldest=7,
            newest=9,
        )
        return self.do(Answered(answer))

    def prove(self, number: int, *missing: Need) -> list[Command]:
        return self.do(Proved(lease_id(number), facts(number), missing))

    def start(self, number: int, first_step: int = 0) -> None:
        self.do(ChildReady(lease_id(number), "CPUExecutionProvider", "1.20"))
        self.do(UnitStarted(lease_id(number), first_step))

    def step(self, number: int, step: int) -> list[Command]:
        return self.do(StepDone(lease_id(number), step, 100))

    def finish(self, number: int, size: int = 100) -> list[Command]:
        return self.do(UnitDone(lease_id(number), Digest(b"o" * 32), size))

    def lease_one(self, number: int = 1, duration_s: int = 3600) -> None:
        """From the beginning to a unit in the child."""
        if not self.took(Post):
            self.begin()
        self.took(Post)
        self.reply(leases=(offer(number, duration_s),))
        self.prove(number)
        self.start(number)

    def quiet(self) -> None:
        """The request under way, if any, is answered: no work."""
        if self.books.talk.state == "sending":
            self.reply()
        self.commands.clear()

    def state_of(self, number: int) -> str | None:
        unit = self.machine.state.units.get(lease_id(number))
        return None if unit is None else unit.state


def receipt(number: int, outcome: Outcome = "taken", code: str | None = None) -> Receipt:
    return Receipt(lease=lease_id(number), outcome=outcome, code=code)
