"""Verdicts, canonical results, credit, and what time brings about, over real storage."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from server import settings
from server.domain.names import output_blob, public_blob
from server.domain.records import UploadRow
from server.errors import Refused
from server.ports import Database, Repositories
from server.services.quarantine import quarantine
from server.services.standings import Standings
from server.services.validation import Validation
from tests.support.model_vehicle import ModelVehicle
from tests.support.server_invariants import check_invariants
from tests.support.work_server import (
    DAY_S,
    KFLOP_PER_ROW,
    LEASE_S,
    ROWS,
    WorkServer,
    output_of,
    work_server,
)
from workunits.trust import digests
from workunits.values import Digest, LeaseId, Milliseconds
from workunits.wire import codec, limits, tensors
from workunits.wire.messages import Reply, Report, Unit

UNIT_CREDIT = ROWS * KFLOP_PER_ROW


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WorkServer]:
    with work_server(tmp_path) as made:
        yield made
        check_invariants(made.path)


def join(server: WorkServer, seed: int, wrong_by: float = 0.0) -> ModelVehicle:
    vehicle = ModelVehicle(seed, seed, wrong_by)
    request = vehicle.enrolment(name=f"owner {seed}", is_public=True)
    server.enrolments().enrol(request, digests.plain(b"e"), None)
    return vehicle


def talk(server: WorkServer, vehicle: ModelVehicle, units: int = 0) -> Reply:
    reply = vehicle.hear(server.answer([vehicle.request(units)])[0])
    assert isinstance(reply, Reply)
    return reply


def work(server: WorkServer, *fleet: ModelVehicle, units: int = 1) -> None:
    for vehicle in fleet:
        talk(server, vehicle, units)
        vehicle.compute()
        talk(server, vehicle)


def told(server: WorkServer, vehicle: ModelVehicle) -> list[str]:
    talk(server, vehicle)
    return [verdict.verdict for verdict in vehicle.verdicts]


def test_two_that_agree_are_valid_and_credited(server: WorkServer) -> None:
    batch = server.publish(3)
    fleet = [join(server, 1), join(server, 2)]
    work(server, *fleet, units=3)
    server.settle()
    for vehicle in fleet:
        assert told(server, vehicle) == ["valid"] * 3
        assert {verdict.kflop for verdict in vehicle.verdicts} == {UNIT_CREDIT}
        assert server.vehicle(vehicle.public_key).credit_kflop == 3 * UNIT_CREDIT
    assert server.batch(batch).state == "completed"
    with server.database.reading() as repos:
        outcomes = list(repos.units.canonical(batch.id))
    assert [outcome.state for outcome in outcomes] == ["done"] * 3
    wanted = [digests.of_tensors(output_of(index, ROWS)) for index in range(3)]
    assert [outcome.output for outcome in outcomes] == wanted


def test_one_result_waits_for_another(server: WorkServer) -> None:
    server.publish(1)
    vehicle = join(server, 1)
    work(server, vehicle)
    server.settle()
    assert told(server, vehicle) == []
    assert server.counts(1).state == "open"


def test_a_liar_costs_one_more_replica_and_gets_nothing(server: WorkServer) -> None:
    server.publish(1)
    liar, honest, third = join(server, 1, 5.0), join(server, 2), join(server, 3)
    work(server, liar, honest)
    server.settle()
    assert server.counts(1).replicas == 3
    work(server, third)
    server.settle()
    assert told(server, liar) == ["invalid"]
    assert told(server, honest) == told(server, third) == ["valid"]
    assert server.vehicle(liar.public_key).invalid == 1


def test_a_unit_on_which_nobody_agrees_fails(server: WorkServer) -> None:
    batch = server.publish(1)
    fleet = [join(server, seed, float(seed)) for seed in range(settings.REPLICAS_PER_UNIT)]
    for vehicle in fleet:
        work(server, vehicle)
        server.settle()
    assert server.counts(1).state == "failed"
    assert server.batch(batch).state == "failed"
    assert {tuple(told(server, vehicle)) for vehicle in fleet} == {("inconclusive",)}


def test_with_quorum_one_a_single_result_is_enough(server: WorkServer) -> None:
    batch = server.publish(1, quorum=1)
    vehicle = join(server, 1)
    work(server, vehicle)
    server.settle()
    assert server.batch(batch).state == "completed"
    assert told(server, vehicle) == ["valid"]


@pytest.mark.parametrize(("wrong_by", "verdict"), [(0.0, "valid"), (5.0, "invalid")])
def test_a_late_result_is_measured_against_the_canonical_one(
    server: WorkServer, wrong_by: float, verdict: str
) -> None:
    server.publish(1)
    late = join(server, 1, wrong_by)
    talk(server, late, 1)
    server.clock.pass_s(LEASE_S + 1)
    server.settle()
    work(server, join(server, 2), join(server, 3))
    server.settle()
    assert server.counts(1).state == "done"
    late.compute()
    assert talk(server, late).receipts[0].outcome == "taken"
    server.settle()
    assert told(server, late) == [verdict]


def test_half_a_lease_later_a_result_is_too_late(server: WorkServer) -> None:
    server.publish(1)
    late = join(server, 1)
    talk(server, late, 1)
    late.compute()
    server.clock.pass_s(LEASE_S * 3 // 2 + 1)
    server.settle()
    receipt = talk(server, late).receipts[0]
    assert (receipt.outcome, receipt.code) == ("not_needed", "too_late")


def test_an_owner_who_came_late_twice_has_one_voice(server: WorkServer) -> None:
    server.publish(1, quorum=1)
    vehicle = join(server, 1)
    talk(server, vehicle, 1)
    vehicle.compute()
    first = dict(vehicle.done)
    vehicle.done.clear()
    server.clock.pass_s(LEASE_S + 1)
    server.settle()
    talk(server, vehicle, 1)
    vehicle.done = first
    receipt = talk(server, vehicle).receipts[0]
    assert (receipt.outcome, receipt.code) == ("not_needed", "second_voice")


def test_a_replica_that_its_asker_may_not_have_is_left_for_others(server: WorkServer) -> None:
    """Found by the exactly-once machine: the window did not know of a voice that came late."""
    server.publish(1, quorum=3)
    late, other, *rest = (join(server, seed) for seed in range(4))
    talk(server, late, 1)
    late.compute()
    server.clock.pass_s(LEASE_S + 1)
    server.settle()
    server.start()
    # Now the window is read anew, and after it the late owner has a voice again.
    work(server, other)
    talk(server, late)
    assert talk(server, late, 5).leases == ()
    assert [len(talk(server, vehicle, 5).leases) for vehicle in rest] == [1, 1]


def test_rows_that_are_no_number_are_failed_rows_and_nobodys_fault(server: WorkServer) -> None:
    batch = server.publish(1)
    fleet = [join(server, 1), join(server, 2)]
    raw = tensors.encode(
        {
            "y": tensors.RawTensor(
                "float32", (ROWS, 1), struct.pack("<4f", 0.0, float("nan"), 2.0, float("inf"))
            )
        }
    )
    digest = digests.of_tensors(raw)
    for vehicle in fleet:
        [lease] = (lease.lease for lease in talk(server, vehicle, 1).leases)
        vehicle.payloads[digest] = raw
        vehicle.done[lease] = Report(
            lease=lease, outcome="done", output=digest, output_size=len(raw)
        )
        talk(server, vehicle)
    server.settle()
    assert told(server, fleet[0]) == ["valid"]
    assert server.batch(batch).rows_failed == 2


def test_an_output_that_is_gone_from_the_disk_is_replaced_by_one_more_replica(
    server: WorkServer,
) -> None:
    server.publish(1, quorum=1)
    vehicle, other = join(server, 1), join(server, 2)
    [lease] = (lease.lease for lease in talk(server, vehicle, 1).leases)
    raw = output_of(0, ROWS)
    digest = digests.of_tensors(raw)
    server.blobs.put(output_blob(digest), raw)
    with server.database.transaction() as repos:
        repos.uploads.put(UploadRow(lease, digest, len(raw), True, server.clock.now_ms()))
    vehicle.payloads[digest] = b""
    vehicle.done[lease] = Report(lease=lease, outcome="done", output=digest, output_size=len(raw))
    talk(server, vehicle)
    server.blobs.delete(output_blob(digest))
    server.settle()
    assert told(server, vehicle) == ["inconclusive"]
    work(server, other)
    server.settle()
    assert told(server, other) == ["valid"]


@pytest.mark.parametrize("is_put_aside", [False, True])
def test_two_that_agree_settle_a_unit_whose_third_output_is_gone_from_the_disk(
    server: WorkServer, is_put_aside: bool
) -> None:
    batch = server.publish(1)
    liar, *honest = (join(server, seed, wrong_by=5.0 * (seed == 1)) for seed in (1, 2, 3))
    work(server, liar, honest[0])
    if is_put_aside:
        with server.database.transaction() as repos:
            quarantine(repos, server.vehicle(liar.public_key), "it lies", server.clock.now_ms())
    server.settle()
    talk(server, honest[1], units=1)
    honest[1].compute()
    lost = digests.of_tensors(output_of(0, ROWS, wrong_by=5.0))
    with closing(sqlite3.connect(server.path)) as connection, connection:
        connection.execute("DELETE FROM payloads WHERE digest = ?", (lost,))
    talk(server, honest[1])
    server.settle()
    assert server.batch(batch).state == "completed"
    assert [told(server, vehicle) for vehicle in (liar, *honest)] == [
        ["inconclusive"], ["valid"], ["valid"],
    ]  # fmt: skip


def _report(server: WorkServer, vehicle: ModelVehicle) -> None:
    talk(server, vehicle)


def test_two_lost_leases_of_one_owner_are_one_voice_even_in_one_request(
    server: WorkServer,
) -> None:
    server.publish(1)
    vehicle = join(server, 1)
    for _ in range(2):
        talk(server, vehicle, 1)
        server.clock.pass_s(LEASE_S + 1)
        server.settle()
        server.clock.pass_s(-LEASE_S // 2)
    vehicle.compute()
    codes = [receipt.code for receipt in talk(server, vehicle).receipts]
    assert codes == [None, "second_voice"]


class Interrupted:
    """Implements the port `Database`: something happens just before the first transaction."""

    def __init__(self, database: Database, act: Callable[[], None]) -> None:
        self._database = database
        self._acts = [act]

    def transaction(self) -> AbstractContextManager[Repositories]:
        if self._acts:
            self._acts.pop()()
        return self._database.transaction()

    def reading(self) -> AbstractContextManager[Repositories]:
        return self._database.reading()

    def data_version(self) -> int:
        return self._database.data_version()


def test_a_unit_that_changes_while_it_is_compared_is_left_for_the_next_round(
    server: WorkServer,
) -> None:
    """A third result arrives, late, between the read and the write."""
    server.publish(1)
    late, one, two = (join(server, seed) for seed in range(3))
    talk(server, late, 1)
    late.compute()
    server.clock.pass_s(LEASE_S + 1)
    server.settle()
    work(server, one, two)
    database = Interrupted(server.database, lambda: _report(server, late))
    Validation(database, server.blobs).check(server.clock.now_ms())
    assert server.counts(1).tally.reported == 3
    server.settle()
    assert [told(server, vehicle) for vehicle in (late, one, two)] == [["valid"]] * 3


def test_a_result_that_is_withdrawn_while_it_is_compared_does_not_count(server: WorkServer) -> None:
    server.publish(1)
    one, two = join(server, 1), join(server, 2)
    work(server, one, two)

    def erase() -> None:
        server.enrolments().leave(one.departure(erase=True), digests.plain(b"leave"))

    Validation(Interrupted(server.database, erase), server.blobs).check(server.clock.now_ms())
    server.settle()
    assert server.counts(1).state == "open"
    assert (server.counts(1).tally.reported, server.counts(1).tally.ready) == (1, 1)


def test_a_large_output_is_compared_from_its_blob(server: WorkServer) -> None:
    server.publish(1, quorum=1)
    vehicle = join(server, 1)
    [lease] = (lease.lease for lease in talk(server, vehicle, 1).leases)
    raw = output_of(0, ROWS)
    digest = digests.of_tensors(raw)
    server.blobs.put(output_blob(digest), raw)
    with server.database.transaction() as repos:
        repos.uploads.put(UploadRow(lease, digest, len(raw), True, server.clock.now_ms()))
    vehicle.payloads[digest] = b""
    vehicle.done[lease] = Report(lease=lease, outcome="done", output=digest, output_size=len(raw))
    talk(server, vehicle)
    server.settle()
    assert told(server, vehicle) == ["valid"]


def test_a_cancelled_batch_aborts_what_is_held_and_settles_the_rest(server: WorkServer) -> None:
    batch = server.publish(4)
    reported, holding = join(server, 1), join(server, 2)
    work(server, reported)
    talk(server, holding, 3)
    with server.database.transaction() as repos:
        assert repos.batches.end(batch.id, "cancelled", server.clock.now_ms())
        assert not repos.batches.end(batch.id, "cancelled", server.clock.now_ms())
    server.settle()
    aborts = talk(server, holding, 3).aborts
    assert [abort.code for abort in aborts] == ["unit_cancelled"] * 3
    assert told(server, reported) == ["inconclusive"]
    with server.database.reading() as repos:
        states = {outcome.state for outcome in repos.units.canonical(batch.id)}
        assert repos.batches.unsettled(9) == []
    assert states == {"cancelled"}
    holding.compute()
    assert talk(server, holding).receipts == ()


def test_a_batch_past_its_deadline_expires_with_what_it_has(server: WorkServer) -> None:
    batch = server.publish(2, deadline_s=DAY_S)
    fleet = [join(server, 1), join(server, 2)]
    work(server, *fleet)
    server.settle()
    server.clock.pass_s(DAY_S + 1)
    server.settle()
    found = server.batch(batch)
    assert (found.state, found.units_done, found.units_failed) == ("expired", 1, 1)
    assert found.rows_failed == ROWS
    with server.database.reading() as repos:
        assert [one.failure for one in repos.units.canonical(batch.id)] == [None, "expired"]
    assert talk(server, fleet[0], 5).leases == ()


def test_a_unit_lost_too_often_fails(server: WorkServer) -> None:
    server.publish(1, deadline_s=90 * DAY_S)
    for seed in range(settings.REPLICAS_PER_UNIT - 1):
        talk(server, join(server, seed), 1)
        server.clock.pass_s(LEASE_S + 1)
        server.settle()
    assert server.counts(1).state == "failed"


def test_leftovers_are_swept(server: WorkServer) -> None:
    lease = LeaseId(b"l" * 16)
    vehicle = join(server, 1)
    vehicle.seq += 1
    vehicle.hear(server.answer([vehicle.request()])[0])
    talk(server, vehicle)
    with server.database.transaction() as repos:
        upload = UploadRow(lease, digests.plain(b""), 9, False, server.clock.now_ms())
        repos.uploads.put(upload)
        repos.joining.note_attempt(b"p", server.clock.now_ms())
    server.settle()
    with server.database.reading() as repos:
        assert repos.uploads.get(lease) is not None
        assert repos.joining.attempts(b"p", Milliseconds(0)) == 1
    server.clock.pass_s(8 * DAY_S)
    server.settle()
    assert server.uploads.leases == [lease]
    with server.database.reading() as repos:
        assert repos.uploads.get(lease) is None
        assert repos.joining.attempts(b"p", Milliseconds(0)) == 0


def test_credit_leaves_the_month_after_thirty_days_but_not_the_total(server: WorkServer) -> None:
    fleet = [join(server, 1), join(server, 2)]
    standings = Standings(server.database)
    for _ in range(2):
        server.publish(1)
        work(server, *fleet)
        server.settle()
        server.clock.pass_s(29 * DAY_S)
    server.settle()
    month = standings.page("30d", 1)
    total = standings.page("all", 1)
    assert [line.credit_kflop for line in month] == [UNIT_CREDIT] * 2
    assert [(line.rank, line.name) for line in total] == [(1, "owner 1"), (2, "owner 2")]
    assert [line.credit_kflop for line in total] == [2 * UNIT_CREDIT] * 2
    assert standings.page("all", 2) == []
    server.publish(1)
    work(server, *fleet)
    server.settle()
    assert [line.credit_kflop for line in standings.page("30d", 1)] == [2 * UNIT_CREDIT] * 2


@pytest.mark.parametrize(("period", "page"), [("year", 1), ("all", 0)])
def test_a_page_that_is_none_is_refused(server: WorkServer, period: str, page: int) -> None:
    with pytest.raises(Refused):
        Standings(server.database).page(period, page)


def test_totals_and_a_units_story_are_there_to_be_shown(server: WorkServer) -> None:
    batch = server.publish(1)
    work(server, join(server, 1), join(server, 2))
    server.settle()
    with server.database.reading() as repos:
        totals = repos.credit.totals()
        story = repos.units.story(batch.id, 0)
        assert repos.units.story(batch.id, 1) is None
    assert (totals.owners, totals.vehicles, totals.credit_kflop) == (2, 2, 2 * UNIT_CREDIT)
    assert story is not None
    assert [replica.state for replica in story.replicas] == ["valid", "valid"]
    assert story.unit.canonical_id in {replica.id for replica in story.replicas}


def _upload(server: WorkServer, vehicle: ModelVehicle, index: int) -> Digest:
    """The output of one held unit as a blob, and its report without the bytes."""
    held = [
        lease
        for lease in vehicle.holds.values()
        if codec.unpack(lease.unit, Unit, most=limits.PAYLOAD_BYTES).index == index
    ]
    raw = output_of(index, ROWS)
    digest = digests.of_tensors(raw)
    server.blobs.put(output_blob(digest), raw)
    with server.database.transaction() as repos:
        upload = UploadRow(held[0].lease, digest, len(raw), True, server.clock.now_ms())
        repos.uploads.put(upload)
    vehicle.payloads[digest] = b""
    vehicle.done[held[0].lease] = Report(
        lease=held[0].lease, outcome="done", output=digest, output_size=len(raw)
    )
    talk(server, vehicle)
    return digest


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_canonical_output_stops_nobody_else(
    server: WorkServer, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    batch = server.publish(2, quorum=1)
    late, first, other = join(server, 1, 5.0), join(server, 2), join(server, 3)
    talk(server, late, 1)
    server.clock.pass_s(LEASE_S + 1)
    server.settle()
    talk(server, first, 2)
    digest = _upload(server, first, 0)
    server.settle()
    server.blobs.delete(output_blob(digest))
    if damage is not None:
        server.blobs.put(output_blob(digest), damage)
    first.payloads.clear()
    first.compute()
    late.compute()
    for vehicle in (late, first, other):
        talk(server, vehicle)
    server.settle()
    assert server.batch(batch).state == "completed"
    with server.database.reading() as repos:
        story = repos.units.story(batch.id, 0)
        assert repos.units.to_check(9) == []
    assert story is not None
    ends = {(replica.state, replica.code) for replica in story.replicas}
    assert ("not_needed", "canonical_damaged") in ends
    assert told(server, late) == ["inconclusive"]
    assert caplog.text.count("canonical_damaged") == 1


def test_a_missing_manifest_holds_up_its_own_batch_until_it_is_back(
    server: WorkServer, caplog: pytest.LogCaptureFixture
) -> None:
    broken = server.publish(2, quorum=1)
    vehicle, other = join(server, 1), join(server, 2)
    talk(server, vehicle, 1)
    vehicle.compute()
    name = public_blob(broken.manifest)
    packed = server.blobs.read(name)
    server.blobs.delete(name)
    server.start()
    sound = server.publish(1, quorum=1)
    assert [receipt.outcome for receipt in talk(server, vehicle).receipts] == ["taken"]
    work(server, other, units=9)
    server.settle()
    assert (server.batch(broken).units_done, server.batch(sound).units_done) == (0, 1)
    assert caplog.text.count("is gone") == 2  # said once by each who looks
    server.blobs.put(name, packed)
    server.settle()
    assert server.batch(broken).units_done == 1
    work(server, other, units=9)
    server.settle()
    assert server.batch(broken).state == "completed"


@pytest.mark.parametrize("end", [ModelVehicle.fail, ModelVehicle.give_back])
def test_an_upload_that_no_report_can_name_any_more_is_swept(
    server: WorkServer, end: Callable[[ModelVehicle], None]
) -> None:
    server.publish(1)
    vehicle = join(server, 1)
    [lease] = (lease.lease for lease in talk(server, vehicle, 1).leases)
    digest = digests.plain(b"refused")
    server.blobs.put(output_blob(digest), b"bytes")
    with server.database.transaction() as repos:
        repos.uploads.put(UploadRow(lease, digest, 5, True, server.clock.now_ms()))
    server.settle()
    assert server.blobs.size(output_blob(digest)) == 5
    end(vehicle)
    talk(server, vehicle)
    server.settle()
    assert server.blobs.size(output_blob(digest)) is None
    assert server.uploads.leases == [lease]
