"""What a bad disk, a bad clock, missing files and a project without measure do to the agent's machine."""

from __future__ import annotations

import pytest

from tesla_at_home.agent.commands import (
    CancelTransfers,
    Fetch,
    KillChild,
    LookAtProject,
    Post,
    Prove,
    Recheck,
    RunUnit,
    Upload,
)
from tesla_at_home.agent.events import (
    Answered,
    ChildGone,
    Consented,
    FetchFailed,
    Need,
    OfferRefused,
    OutputLost,
    ProjectSeen,
    Rechecked,
    Unanswered,
    UnitFailed,
    UploadFailed,
)
from tesla_at_home.agent.fetching import ABSENT_AT_MOST
from tesla_at_home.agent.mending import MENDS_AT_MOST
from tests.support.machine_bench import INPUT, MODEL, Bench, lease_id, offer, receipt
from workunits.values import Digest, Milliseconds
from workunits.wire import codec, limits
from workunits.wire.messages import Reply, WorkRequest

MANIFEST = Need("manifest", Digest(b"M" * 32), limits.PAYLOAD_BYTES)
YEAR_MS = 365 * 86_400_000


@pytest.fixture
def bench() -> Bench:
    return Bench()


def request_of(bench: Bench) -> WorkRequest:
    saved = bench.machine.state.books.talk.saved
    assert saved is not None
    return codec.unpack(saved.sealed.payload, WorkRequest, most=10**6)


# --- looking at the project's metadata ------------------------------------------------------------


def test_an_idle_agent_with_stale_metadata_looks_again_and_again(bench: Bench) -> None:
    bench.do(Consented(True))
    bench.tell()
    assert bench.do(ProjectSeen(is_fresh=False, fault="no link")) == []
    assert bench.wait(59) == []
    assert bench.wait(1) == [LookAtProject()]
    assert bench.do(ProjectSeen(is_fresh=False)) == []
    assert bench.wait(119) == []
    assert bench.wait(1) == [LookAtProject()]
    bench.do(ProjectSeen(is_fresh=True))
    assert bench.took(Post)


def test_a_failed_look_at_metadata_that_are_still_fresh_is_tried_again_soon(bench: Bench) -> None:
    bench.do(Consented(True))
    bench.tell()
    bench.do(ProjectSeen(is_fresh=True, fault="no link"))
    assert bench.took(Post)
    bench.reply()
    assert bench.wait(60) == [LookAtProject()]


def test_a_look_that_was_cut_is_made_when_the_link_is_back(bench: Bench) -> None:
    bench.do(Consented(True))
    bench.tell()
    assert bench.tell(home_wifi=False) == [CancelTransfers()]
    assert bench.do(ProjectSeen(is_fresh=False, was_cancelled=True)) == []
    assert bench.tell() == [LookAtProject()]


def test_an_open_gate_looks_every_hour_and_a_closed_one_does_not(bench: Bench) -> None:
    bench.lease_one(duration_s=10**6)
    bench.commands.clear()
    assert bench.wait(3599) == []
    assert bench.wait(1) == [LookAtProject()]
    bench.do(ProjectSeen(is_fresh=True))
    bench.tell(parked=False)
    bench.commands.clear()
    bench.wait(3600)
    assert not bench.took(LookAtProject)


def test_a_lease_waits_for_a_look_that_succeeds(bench: Bench) -> None:
    bench.begin()
    bench.reply(leases=(offer(1),))
    assert bench.do(OfferRefused(lease_id(1), "untrusted", "no model")) == [LookAtProject()]
    assert bench.do(ProjectSeen(is_fresh=True, fault="no link")) == []
    assert bench.state_of(1) == "leased"
    assert bench.wait(60) == [LookAtProject()]
    assert bench.do(ProjectSeen(is_fresh=True)) == [Prove(lease_id(1))]


# --- clocks -------------------------------------------------------------------------------------


def answer(bench: Bench, ahead_ms: int) -> None:
    reply = Reply(
        in_reply_to=bench.posted(),
        server_time=Milliseconds(bench.wall_ms + ahead_ms),
        epoch=1,
        wait_s=0,
        has_work=False,
    )
    bench.do(Answered(reply))


def say_the_time_until(bench: Bench, hours: int, ahead_ms: int) -> int:
    """How many requests came while the project's clock is `ahead_ms` ahead."""
    posts = 0
    for _ in range(hours):
        bench.wait(3600)
        if bench.took(LookAtProject):
            bench.do(ProjectSeen(is_fresh=True))
        if bench.took(Post):
            posts += 1
            answer(bench, ahead_ms)
            bench.took(Post)
    return posts


def test_a_project_whose_clock_jumped_once_is_asked_again_and_believed(bench: Bench) -> None:
    bench.begin()
    bench.took(Post)
    answer(bench, YEAR_MS)
    assert bench.gate is not None
    assert bench.gate.reason == "clock"
    assert "differ by 365 days" in bench.gate.sentence
    assert bench.machine.state.trusted_now() == bench.wall_ms
    (again,) = bench.took(Post)  # at once, without a wish
    assert request_of(bench).wish is None
    assert isinstance(again, Post)
    answer(bench, 0)
    assert bench.machine.state.gate.is_open


def test_a_jump_that_was_confirmed_is_corrected_too(bench: Bench) -> None:
    bench.begin()
    bench.took(Post)
    answer(bench, YEAR_MS)
    bench.took(Post)
    answer(bench, YEAR_MS)
    assert say_the_time_until(bench, 24, YEAR_MS) >= 2
    assert bench.books.signed.doubt is None
    assert bench.machine.state.trusted_now() > bench.wall_ms
    assert say_the_time_until(bench, 24, 0) >= 1
    assert bench.machine.state.gate.is_open
    assert bench.machine.state.trusted_now() == bench.wall_ms


def test_asking_for_the_time_backs_off(bench: Bench) -> None:
    bench.begin()
    answer(bench, YEAR_MS)
    bench.took(Post)
    answer(bench, YEAR_MS)
    assert not bench.took(Post)
    bench.wait(59)
    assert not bench.took(Post)
    bench.wait(1)
    assert bench.took(Post)
    answer(bench, YEAR_MS)
    bench.wait(119)
    assert not bench.took(Post)


def test_a_car_that_is_away_does_not_ask_for_the_time(bench: Bench) -> None:
    bench.begin()
    answer(bench, YEAR_MS)
    answer(bench, YEAR_MS)
    bench.tell(parked=False)
    bench.commands.clear()
    bench.wait(4 * 3600)
    assert bench.commands == []


# --- outputs ------------------------------------------------------------------------------------


def compute_large(bench: Bench, *numbers: int) -> None:
    bench.begin(wish=5)
    bench.reply(leases=tuple(offer(number, 10**6) for number in numbers))
    for number in numbers:
        bench.prove(number)
    for number in numbers:
        bench.start(number)
        bench.finish(number, size=10**6)
    bench.quiet()


def test_an_output_that_the_disk_damaged_is_put_together_again(bench: Bench) -> None:
    compute_large(bench, 1)
    commands = bench.do(OutputLost(lease_id(1)))
    assert RunUnit(lease_id(1)) in commands
    assert bench.units[lease_id(1)].output is None
    bench.start(1, first_step=10)
    assert Upload(lease_id(1)) in bench.finish(1, size=10**6)


def test_an_output_that_is_damaged_every_time_goes_back(bench: Bench) -> None:
    compute_large(bench, 1)
    for _ in range(MENDS_AT_MOST):
        bench.do(OutputLost(lease_id(1)))
        bench.start(1, first_step=10)
        bench.finish(1, size=10**6)
    bench.quiet()
    bench.do(OutputLost(lease_id(1)))
    assert bench.units[lease_id(1)].code == "disk_damaged"
    assert bench.state_of(1) == "to_report"
    bench.do(OutputLost(lease_id(1)))
    bench.do(OutputLost(lease_id(9)))


def test_an_upload_that_fails_keeps_no_other(bench: Bench) -> None:
    compute_large(bench, 1, 2)
    assert bench.do(UploadFailed(lease_id(1), "500")) == [Upload(lease_id(2))]
    assert bench.do(UploadFailed(lease_id(2), "500")) == []
    assert bench.wait(119) == []
    assert bench.wait(1) == [Upload(lease_id(1))]


def test_an_upload_that_was_cut_goes_on_at_once(bench: Bench) -> None:
    compute_large(bench, 1)
    bench.tell(home_wifi=False)
    assert bench.do(UploadFailed(lease_id(1), "cancelled", was_cancelled=True)) == []
    assert Upload(lease_id(1)) in bench.tell()


def test_what_held_units_need_is_known(bench: Bench) -> None:
    compute_large(bench, 1)
    assert bench.machine.state.models_in_use() == {MODEL.digest}
    assert bench.machine.state.manifests_in_use() == {MANIFEST.digest}


def test_what_is_known_of_an_upload_goes_with_its_unit(bench: Bench) -> None:
    compute_large(bench, 1)
    bench.do(UploadFailed(lease_id(1), "500"))
    bench.wait(10**6)
    bench.do(ProjectSeen(is_fresh=True))
    bench.reply(receipts=(receipt(1),))
    assert bench.machine.state.up == {}


# --- fetched files ------------------------------------------------------------------------------

OTHER = Need("input", Digest(b"Y" * 32), 50)


def test_a_file_that_cannot_be_fetched_keeps_no_other(bench: Bench) -> None:
    bench.begin(wish=5)
    bench.reply(leases=(offer(1), offer(2)))
    assert bench.prove(1, INPUT) == [Fetch(INPUT)]
    bench.prove(2, OTHER)
    assert bench.do(FetchFailed(INPUT, "stalled")) == [Fetch(OTHER)]
    assert bench.do(FetchFailed(OTHER, "stalled")) == []
    assert bench.wait(120) == [Fetch(INPUT)]


def test_a_file_that_the_project_lacks_gives_its_units_back(bench: Bench) -> None:
    bench.begin(wish=5)
    bench.reply(leases=(offer(1), offer(2), offer(3)))
    bench.prove(1, INPUT)
    bench.prove(2, INPUT)
    bench.prove(3, OTHER)
    bench.commands.clear()
    for _ in range(ABSENT_AT_MOST):
        bench.do(FetchFailed(INPUT, "404", is_absent=True))
        bench.wait(360)
    assert [bench.units[lease_id(n)].code for n in (1, 2)] == ["file_missing"] * 2
    assert bench.state_of(3) == "fetching"
    assert bench.machine.state.replies_without_work == 1
    assert INPUT not in bench.machine.state.down


def test_a_fetch_that_fails_for_nobody_any_more_is_forgotten(bench: Bench) -> None:
    bench.begin()
    bench.do(FetchFailed(INPUT, "stalled"))
    assert bench.books.fault is None


def test_a_damaged_file_is_looked_for_and_the_unit_kept(bench: Bench) -> None:
    bench.begin(wish=5)
    bench.reply(leases=(offer(1), offer(2)))
    for number in (1, 2):
        bench.prove(number)
    bench.start(1)
    commands = bench.do(UnitFailed(lease_id(1), "bad_digest", "model: digest is ..."))
    assert [type(command) for command in commands] == [KillChild, Recheck]
    assert commands[1] == Recheck((lease_id(1), lease_id(2)), (MANIFEST, MODEL, INPUT))
    assert (bench.state_of(1), bench.state_of(2)) == ("leased", "leased")
    proves = bench.do(Rechecked((lease_id(1), lease_id(2), lease_id(9))))
    assert proves == [Prove(lease_id(1)), Prove(lease_id(2))]
    assert bench.prove(1, MODEL) == [Fetch(MODEL)]


def test_a_disk_that_damages_every_time_gives_the_unit_back(bench: Bench) -> None:
    bench.lease_one()
    for _ in range(MENDS_AT_MOST):
        bench.do(UnitFailed(lease_id(1), "bad_digest", "model"))
        bench.do(Rechecked((lease_id(1),)))
        bench.prove(1)
        bench.start(1)
    bench.do(UnitFailed(lease_id(1), "bad_digest", "model"))
    (report,) = request_of(bench).reports
    assert (report.outcome, report.code) == ("returned", "disk_damaged")
    bench.do(Rechecked((lease_id(1),)))


# --- crashes ------------------------------------------------------------------------------------


def test_a_child_that_gets_on_between_its_deaths_may_die_often(bench: Bench) -> None:
    bench.lease_one()
    for step in range(9):
        bench.step(1, step)
        bench.do(ChildGone("was killed by SIGKILL"))
        assert bench.state_of(1) == "computing"
        bench.start(1, first_step=step + 1)


def test_steps_that_are_lost_again_are_no_progress(bench: Bench) -> None:
    bench.lease_one()
    for _ in range(3):
        bench.step(1, 0)
        bench.do(ChildGone("was killed by SIGKILL"))
        if bench.state_of(1) == "computing":
            bench.start(1, first_step=0)
    # Neither a fault of the unit nor of the vehicle: another may have it, and this one again.
    unit = bench.units[lease_id(1)]
    assert (unit.outcome, unit.code) == ("returned", "child_killed")


# --- leases nobody asked for ----------------------------------------------------------------------


def test_leases_beyond_the_wish_go_back_at_once(bench: Bench) -> None:
    bench.begin()
    commands = bench.reply(leases=(offer(1), offer(2), offer(3)))
    assert [c for c in commands if isinstance(c, Prove)] == [Prove(lease_id(1))]
    reports = request_of(bench).reports
    assert [(r.lease, r.outcome, r.code) for r in reports] == [
        (lease_id(2), "returned", "not_asked_for"),
        (lease_id(3), "returned", "not_asked_for"),
    ]


def test_leases_that_come_again_in_a_new_session_are_kept(bench: Bench) -> None:
    bench.begin()
    bench.resync()
    bench.reply(leases=(offer(1), offer(2)))
    assert (bench.state_of(1), bench.state_of(2)) == ("leased", "leased")
    bench.do(OfferRefused(lease_id(1), "bad_proof", "no"))
    bench.reply(leases=(offer(3),))
    assert bench.units[lease_id(3)].code == "not_asked_for"


def test_never_more_is_held_than_can_be_spoken_of(bench: Bench) -> None:
    bench.begin()
    bench.resync()
    bench.reply(leases=tuple(offer(number) for number in range(1, limits.HOLDING + 50)))
    assert len(bench.units) == limits.HOLDING


def test_a_link_that_is_out_does_not_make_the_agent_look_more_often(bench: Bench) -> None:
    bench.begin()
    bench.do(Unanswered("a stranger", is_untrusted=True))
    assert bench.wait(59) == []
    assert bench.wait(1) == [LookAtProject()]
