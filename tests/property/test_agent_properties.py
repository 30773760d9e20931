"""The agent's machine under any order of events that a world can bring: nothing is lost or done twice.

A small world answers the machine's commands late, out of order, or not at all; the process may end
between any two events, and goes on from what it had written.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tesla_at_home.agent.commands import (
    Command,
    ContinueChild,
    EnrolAgain,
    Fetch,
    Forget,
    KillChild,
    LookAtProject,
    Post,
    Prove,
    RunUnit,
    StopChild,
    Upload,
)
from tesla_at_home.agent.events import (
    ChildGone,
    Consented,
    EnrolledAgain,
    Event,
    Fetched,
    FetchFailed,
    Need,
    OfferRefused,
    Order,
    Ordered,
    ProjectSeen,
    Refused,
    StepDone,
    Unanswered,
    UnitDone,
    Uploaded,
    UploadFailed,
)
from tests.support.machine_bench import INPUT, MODEL, Bench, lease_id, offer
from workunits.trust import digests
from workunits.values import Digest, LeaseId, Milliseconds, OwnerId
from workunits.wire import codec
from workunits.wire.messages import Abort, Enrolled, Receipt, WorkRequest

STEPS = 3


class World(RuleBasedStateMachine):
    """Performs commands as a driver would, but when hypothesis says so."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(settings={"work.units": 4})
        self.leased = 0
        self.settled: dict[LeaseId, str] = {}
        self.running: LeaseId | None = None
        self.is_stopped = False
        self.done = 0
        self.open: list[Command] = []
        self.bytes: set[bytes] = set()
        self.files: set[Need] = set()
        self.last_seq = 0
        self.session: bytes | None = None
        self.do(Consented(True))
        self.bench.commands.clear()
        self.perform(self.bench.tell())

    def do(self, event: Event) -> None:
        self.perform(self.bench.do(event))

    def perform(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case RunUnit(lease):
                    assert self.running is None, "two units in the child"
                    assert self.files == {MODEL, INPUT}, "begun without its files"
                    self.running, self.is_stopped, self.done = lease, False, 0
                case StopChild():
                    self.is_stopped = True
                case ContinueChild():
                    self.is_stopped = False
                case KillChild():
                    self.running = None
                case Forget(lease, inputs):
                    assert lease in self.settled, "forgotten without a word of the project"
                    self.files -= {need for need in self.files if need.digest in inputs}
                case Post() | LookAtProject() | EnrolAgain() | Fetch() | Upload() | Prove():
                    self.open.append(command)
                case _:
                    pass

    def take(self, kind: type[Command]) -> Command | None:
        found = next((c for c in self.open if isinstance(c, kind)), None)
        if found is not None:
            self.open.remove(found)
        return found

    # --- the world ------------------------------------------------------------------------------

    @rule(parked=st.booleans(), home=st.sampled_from([True, False, None]))
    def drive(self, parked: bool, home: bool | None) -> None:
        self.perform(self.bench.tell(parked=parked, home_wifi=home))

    @rule()
    def come_home(self) -> None:
        self.perform(self.bench.tell())

    @rule(seconds=st.sampled_from([1, 60, 700, 3700, 15_000]))
    def wait(self, seconds: int) -> None:
        self.perform(self.bench.wait(seconds))

    @rule(kind=st.sampled_from(["pause", "resume", "finish"]))
    def order(self, kind: str) -> None:
        assert kind in ("pause", "resume", "finish")
        self.do(Ordered(Order(kind=kind)))  # type: ignore[arg-type]

    @rule(is_fresh=st.sampled_from([True, True, False]))
    def look(self, is_fresh: bool) -> None:
        if self.take(LookAtProject):
            self.do(ProjectSeen(is_fresh))

    @rule(refuse=st.sampled_from([None, None, None, "bad_proof", "untrusted"]))
    def prove(self, refuse: str | None) -> None:
        command = self.take(Prove)
        if not isinstance(command, Prove):
            return
        number = int.from_bytes(command.lease, "big")
        if refuse:
            self.do(OfferRefused(command.lease, refuse, "no"))
        else:
            missing = sorted({MODEL, INPUT} - self.files, key=lambda need: need.kind)
            self.perform(self.bench.prove(number, *missing))

    @rule(fails=st.booleans())
    def fetch(self, fails: bool) -> None:
        command = self.take(Fetch)
        if isinstance(command, Fetch):
            need = command.need
            if not fails:
                self.files.add(need)
            self.do(FetchFailed(need, "no") if fails else Fetched(need))

    @rule(fails=st.booleans())
    def upload(self, fails: bool) -> None:
        command = self.take(Upload)
        if isinstance(command, Upload):
            lease = command.lease
            self.do(UploadFailed(lease, "no") if fails else Uploaded(lease))

    @precondition(lambda self: self.running is not None and not self.is_stopped)
    @rule(size=st.sampled_from([10, 10**6]))
    def compute(self, size: int) -> None:
        assert self.running is not None
        if self.done < STEPS:
            self.done += 1
            self.do(StepDone(self.running, self.done - 1, 1000))
            return
        lease, self.running = self.running, None
        self.do(UnitDone(lease, Digest(b"o" * 32), size))

    @precondition(lambda self: self.running is not None)
    @rule()
    def crash(self) -> None:
        self.running = None
        self.do(ChildGone("was killed by SIGKILL"))

    @rule(
        times=st.integers(1, 15),
        size=st.sampled_from([10, 10, 10**6]),
        outcome=st.sampled_from(["taken", "taken", "again"]),
        abort=st.booleans(),
    )
    def all_goes_well(self, times: int, size: int, outcome: str, abort: bool) -> None:
        """As a good night goes, for a while: without this, chance alone rarely gets anything done."""
        for _ in range(times):
            if self.running is not None and not self.is_stopped:
                self.compute(size)
            elif self.open:
                self.succeed(self.open[0], outcome, abort)
            else:
                self.do(Ordered(Order(kind="resume")))
                self.come_home()
                self.wait(3700)

    def succeed(self, command: Command, outcome: str, abort: bool) -> None:
        match command:
            case LookAtProject():
                self.look(is_fresh=True)
            case Prove():
                self.prove(refuse=False)
            case Fetch():
                self.fetch(fails=False)
            case Upload():
                self.upload(fails=False)
            case EnrolAgain():
                self.enrol(fails=False)
            case _:
                self.reply(leases=3, outcome=outcome, abort=abort)

    # --- the project ----------------------------------------------------------------------------

    def request(self, post: Command) -> WorkRequest:
        assert isinstance(post, Post)
        payload = post.saved.sealed.payload
        request = codec.unpack(payload, WorkRequest, most=10**6)
        if request.session != self.session:
            assert (request.seq, request.previous) == (1, digests.ZERO)
        elif payload not in self.bytes:
            assert request.seq == self.last_seq + 1, "a number was left out or used twice"
        self.bytes.add(payload)
        for report in request.reports:
            assert report.lease not in self.settled, "reported after the project settled it"
        return request

    @rule(
        leases=st.integers(0, 3),
        outcome=st.sampled_from(["taken", "taken", "not_needed", "refused", "again"]),
        abort=st.booleans(),
    )
    def reply(self, leases: int, outcome: str, abort: bool) -> None:
        post = self.take(Post)
        if post is None:
            return
        request = self.request(post)
        self.session, self.last_seq = request.session, request.seq
        receipts = []
        for report in request.reports:
            receipts.append(Receipt(lease=report.lease, outcome=outcome))  # type: ignore[arg-type]
            if outcome != "again":
                self.settled[report.lease] = outcome
        aborts = [lease for lease in request.holding if lease not in self.settled][: int(abort)]
        self.settled |= dict.fromkeys(aborts, "aborted")
        wanted = 0 if request.wish is None else request.wish.units
        given = [offer(self.leased + n + 1) for n in range(min(leases, wanted))]
        self.leased += len(given)
        self.perform(
            self.bench.reply(
                leases=tuple(given),
                receipts=tuple(receipts),
                aborts=tuple(Abort(lease=lease, code="cancelled") for lease in aborts),
            )
        )

    @rule(what=st.sampled_from(["lost", "refused", "untrusted", "resync", "unknown", "too_old"]))
    def confuse(self, what: str) -> None:
        post = self.take(Post)
        if post is None:
            return
        self.request(post)
        match what:
            case "lost":
                self.do(Unanswered("no link"))
            case "refused":
                self.do(Refused("malformed_message", "no", None, is_final=True))
            case "untrusted":
                self.do(Unanswered("a stranger", is_untrusted=True))
            case "resync":
                self.perform(self.bench.resync())
            case "unknown":
                self.perform(self.bench.unknown())
            case _:
                self.perform(self.bench.too_old())

    @rule(fails=st.booleans())
    def enrol(self, fails: bool) -> None:
        command = self.take(EnrolAgain)
        if not isinstance(command, EnrolAgain):
            return
        if fails:
            self.do(Unanswered("no link"))
            return
        enrolled = Enrolled(
            in_reply_to=digests.ZERO,
            server_time=Milliseconds(self.bench.wall_ms),
            vehicle=digests.of_key(b""),
            owner=OwnerId(bytes(16)),
            owner_name="o",
            epoch=1,
        )
        self.do(EnrolledAgain(command.session, enrolled))

    # --- the process ----------------------------------------------------------------------------

    @rule()
    def end_and_start(self) -> None:
        self.running, self.open = None, []
        self.bench.restart()
        self.do(Consented(True))
        self.perform(self.bench.tell())

    @invariant()
    def nothing_computes_behind_a_closed_gate(self) -> None:
        if not self.bench.machine.state.gate.is_open:
            assert self.running is None or self.is_stopped

    @invariant()
    def nothing_is_lost(self) -> None:
        """Each lease is in hand, or the project said a last word about it."""
        for number in range(1, self.leased + 1):
            lease = lease_id(number)
            assert (lease in self.bench.machine.state.units) != (lease in self.settled)

    @invariant()
    def the_disk_is_what_the_machine_knows(self) -> None:
        state = self.bench.machine.state
        assert self.bench.units == state.units
        assert self.bench.books == state.books


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
