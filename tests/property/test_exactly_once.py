"""Whatever the network, the disk and thieves do: each result counts once, nothing is lost.

A few model vehicles work against the real services and storage while messages are lost, doubled and
held back, the server's disk fails at any statement, its memory is lost, vehicles go back to an old
copy or are cloned. The invariants of the database hold after every step.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.errors import Conflict, Outage, Refused
from server.services.quarantine import quarantine, release
from tests.support.model_vehicle import ModelVehicle
from tests.support.server_invariants import check_invariants
from tests.support.work_server import LEASE_S, WorkServer, work_server
from workunits.trust import digests, roles
from workunits.trust import envelope as dsse
from workunits.values import Digest, KeyId, LeaseId
from workunits.wire import codec
from workunits.wire.messages import Message, Reply, Unit

# Two vehicles of one owner, so that one owner's two voices are tried too; one of them lies.
FLEET = ((0, 0, 0.0), (1, 0, 0.0), (2, 1, 0.0), (3, 2, 0.0), (4, 3, 5.0))
UNITS = 8

vehicles = st.integers(0, len(FLEET) - 1)


class ExactlyOnce(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.server: WorkServer = self.stack.enter_context(work_server(Path(folder)))
        self.fleet = [ModelVehicle(seed, owner, lie) for seed, owner, lie in FLEET]
        self.copies: dict[int, ModelVehicle] = {}
        self.clones: list[ModelVehicle] = []
        self.sent: list[bytes] = []
        self.replies: dict[Digest, bytes] = {}
        self.given: dict[LeaseId, tuple[bytes, int]] = {}
        self.left: set[int] = set()

    @initialize()
    def begin(self) -> None:
        self.server.publish(UNITS)
        self.server.publish(2, quorum=1)
        for vehicle in self.fleet:
            how = "existing" if vehicle.seed == 1 else "new"
            self.server.enrolments().enrol(vehicle.enrolment(how=how), digests.plain(b"e"), None)

    @rule(place=vehicles, units=st.integers(0, 3), hears=st.booleans())
    def speak(self, place: int, units: int, hears: bool) -> None:
        """One exchange; when it does not hear the answer, it sends the same again next time."""
        vehicle = self.fleet[place]
        [answer] = self.deliver([vehicle.request(units)])
        if hears:
            vehicle.hear(answer)

    @rule(places=st.lists(vehicles, min_size=2, max_size=6), units=st.integers(1, 2))
    def speak_together(self, places: list[int], units: int) -> None:
        """Requests that arrive together, some of them twice."""
        raws = [self.fleet[place].request(units) for place in places]
        for place, answer in zip(places, self.deliver(raws), strict=True):
            if self.fleet[place].saved is not None:
                self.fleet[place].hear(answer)

    @rule(place=vehicles)
    def compute(self, place: int) -> None:
        self.fleet[place].compute()

    @rule(place=vehicles, returns=st.booleans())
    def give_up(self, place: int, returns: bool) -> None:
        vehicle = self.fleet[place]
        if returns:
            vehicle.give_back()
        else:
            vehicle.fail()

    @rule(data=st.data())
    def repeat_old(self, data: st.DataObject) -> None:
        """The network gives an old message once more."""
        if self.sent:
            self.deliver([data.draw(st.sampled_from(self.sent))])

    @rule(place=vehicles, units=st.integers(0, 2), statement=st.integers(1, 40))
    def disk_fails(self, place: int, units: int, statement: int) -> None:
        raw = self.fleet[place].request(units)
        self.server.faults.fail_at(statement)
        try:
            [answer] = self.deliver([raw])
        except Outage:
            return
        finally:
            self.server.faults.work_again()
        self.fleet[place].hear(answer)

    @rule(statement=st.integers(1, 30))
    def disk_fails_behind(self, statement: int) -> None:
        self.server.faults.fail_at(statement)
        try:
            self.server.settle()
        except Outage:
            pass
        finally:
            self.server.faults.work_again()

    @rule()
    def restart(self) -> None:
        self.server.start()

    @rule()
    def settle(self) -> None:
        self.server.settle()

    @rule(minutes=st.sampled_from((1, 30, 61, 89, 91, 24 * 60)))
    def time_passes(self, minutes: int) -> None:
        self.server.clock.pass_s(minutes * 60)

    @rule(first=st.booleans())
    def cancel(self, first: bool) -> None:
        """The submitter calls a batch back, and hands in another."""
        with self.server.database.transaction() as repos:
            batches = repos.batches.running(9)
            if batches:
                batch = batches[0 if first else -1]
                repos.batches.end(batch.id, "cancelled", self.server.clock.now_ms())
        self.server.publish(3)

    @rule()
    def leave_and_join_again(self) -> None:
        """Owner 3 erases everything and comes back with a new key."""
        vehicle = self.fleet[-1]
        self.server.enrolments().leave(
            vehicle.departure(erase=True), digests.plain(b"leave %d" % vehicle.seed)
        )
        self.left.add(vehicle.seed)
        self.fleet[-1] = ModelVehicle(vehicle.seed + 1000, vehicle.owner, vehicle.wrong_by)
        self.server.enrolments().enrol(self.fleet[-1].enrolment(), digests.plain(b"e"), None)

    @rule(data=st.data(), owner=st.integers(0, 4))
    def somebody_knocks(self, data: st.DataObject, owner: int) -> None:
        """Old enrolments are sent again, and keys that are here or have left try other owners."""
        known = {vehicle.seed for vehicle in self.fleet} | self.left
        seed = data.draw(st.sampled_from(sorted(known)))
        try:
            asked = ModelVehicle(seed, owner).enrolment()
            self.server.enrolments().enrol(asked, digests.plain(b"e"), None)
        except Refused:
            return
        assert seed not in self.left

    @rule()
    def leave_without_erasing(self) -> None:
        """Owner 2 goes on with a new key."""
        vehicle = self.fleet[3]
        self.server.enrolments().leave(vehicle.departure(), digests.plain(b"go %d" % vehicle.seed))
        self.left.add(vehicle.seed)
        self.fleet[3] = ModelVehicle(vehicle.seed + 2000, vehicle.owner)
        asked = self.fleet[3].enrolment(how="existing")
        self.server.enrolments().enrol(asked, digests.plain(b"e"), None)

    @rule(place=vehicles, holds_back=st.booleans())
    def operator_acts(self, place: int, holds_back: bool) -> None:
        """A vehicle is put into quarantine or released, by a person who may not know how it stands."""
        with self.server.database.transaction() as repos:
            key = digests.of_key(self.fleet[place].public_key)
            row = repos.vehicles.by_ids([key])[key]
            with suppress(Conflict):
                if holds_back:
                    quarantine(repos, row, "by the operator", self.server.clock.now_ms())
                else:
                    release(repos, row)

    @rule(place=vehicles)
    def back_up(self, place: int) -> None:
        self.copies[place] = self.fleet[place].copy()

    @rule(place=vehicles)
    def restore(self, place: int) -> None:
        """The vehicle goes on from an old copy of its disk."""
        copy = self.copies.get(place)
        if copy is not None and copy.seed == self.fleet[place].seed:
            self.fleet[place] = copy.copy()

    @rule(place=vehicles)
    def clone(self, place: int) -> None:
        self.clones.append(self.fleet[place].copy())

    @rule(data=st.data())
    def clone_speaks(self, data: st.DataObject) -> None:
        if self.clones:
            clone = data.draw(st.sampled_from(self.clones))
            [answer] = self.deliver([clone.request(1)])
            if answer.envelope.payload_type != roles.UNKNOWN_VEHICLE:
                clone.hear(answer)
                clone.compute()

    @invariant()
    def database_is_whole(self) -> None:
        check_invariants(self.server.path)

    def deliver(self, raws: list[bytes]) -> list[Message]:
        answers = self.server.answer(raws)
        for raw, answer in zip(raws, answers, strict=True):
            self.sent.append(raw)
            if answer.envelope.payload_type == roles.REPLY:
                self.look_at(raw, answer)
        del self.sent[:-30]
        return answers

    def look_at(self, raw: bytes, answer: Message) -> None:
        """The same request, the same bytes; no lease to two vehicles, no unit twice at once."""
        request = roles.accept_request(dsse.unpack_message(raw).envelope)
        payload = dsse.unpack_message(raw).envelope.payload
        packed = codec.pack(answer.envelope)
        assert self.replies.setdefault(digests.of_request(payload), packed) == packed
        reply = codec.unpack(answer.envelope.payload, Reply, most=2**20)
        key = digests.of_key(request.key)
        assert len({lease.lease for lease in reply.leases}) == len(reply.leases)
        for lease in reply.leases:
            self.look_at_lease(key, lease.lease, lease.unit)
        assert {receipt.lease for receipt in reply.receipts} == {
            report.lease for report in request.reports
        }

    def look_at_lease(self, key: KeyId, lease: LeaseId, body: bytes) -> None:
        unit = codec.unpack(body, Unit, most=4096)
        assert self.given.setdefault(lease, (key, unit.index)) == (key, unit.index)

    def teardown(self) -> None:
        """Left alone, honest vehicles finish everything, whatever happened before."""
        try:
            self.finish()
        finally:
            self.stack.close()

    def finish(self) -> None:
        helpers = [ModelVehicle(100 + number, 100 + number) for number in range(3)]
        for helper in helpers:
            self.server.enrolments().enrol(helper.enrolment(), digests.plain(b"h"), None)
        for _ in range(40):
            for helper in helpers:
                helper.hear(self.deliver([helper.request(10)])[0])
                helper.compute()
            self.server.settle()
            with self.server.database.reading() as repos:
                if not repos.batches.running(1):
                    break
            self.server.clock.pass_s(LEASE_S / 2)
        check_invariants(self.server.path)
        with self.server.database.reading() as repos:
            assert all(batch.state != "running" for batch in repos.batches.list())


ExactlyOnce.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    # Shrinking a run against a disk takes minutes; a found failure becomes a plain test instead.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
TestExactlyOnce = ExactlyOnce.TestCase
