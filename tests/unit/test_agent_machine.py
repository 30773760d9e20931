"""The agent's machine, event by event: what it commands, what it keeps, what it never does."""

from __future__ import annotations

import pytest

from tesla_at_home.agent.commands import (
    CancelTransfers,
    ContinueChild,
    Count,
    EnrolAgain,
    Fetch,
    Forget,
    KillChild,
    Leave,
    LookAtProject,
    Post,
    Prove,
    RunUnit,
    StopChild,
    Sweep,
    Upload,
)
from tesla_at_home.agent.events import (
    Answered,
    ChildGone,
    ChildReady,
    Consented,
    EnrolledAgain,
    Fetched,
    FetchFailed,
    ManifestMissing,
    Moved,
    Need,
    OfferRefused,
    Order,
    Ordered,
    ProjectSeen,
    Proved,
    Refused,
    Room,
    StepDone,
    Tick,
    Unanswered,
    UnitDone,
    UnitFailed,
    UnitStarted,
    Uploaded,
    UploadFailed,
)
from tesla_at_home.agent.tables import (
    TALK,
    UNIT,
    NoSuchTransition,
    next_talk,
    next_unit,
)
from tests.support.machine_bench import (
    INPUT,
    MODEL,
    Bench,
    Outcome,
    facts,
    lease_id,
    offer,
    receipt,
)
from workunits.trust import digests
from workunits.values import Digest, Milliseconds, OwnerId, SessionId
from workunits.wire import codec
from workunits.wire.messages import Abort, Enrolled, Reply, Verdict, WorkRequest

MANIFEST = Need("manifest", Digest(b"M" * 32), 9)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def request_of(bench: Bench) -> WorkRequest:
    """The request that is under way."""
    saved = bench.machine.state.books.talk.saved
    assert saved is not None
    return codec.unpack(saved.sealed.payload, WorkRequest, most=10**6)


# --- gate and child ------------------------------------------------------------------------------


def test_nothing_is_said_while_the_gate_is_closed(bench: Bench) -> None:
    bench.do(Consented(True))
    bench.tell(parked=False)
    bench.took(Sweep)
    assert bench.commands == []


def test_the_first_thing_said_is_a_question_for_the_projects_keys(bench: Bench) -> None:
    bench.do(Consented(True))
    assert bench.tell() == [LookAtProject()]
    bench.do(ProjectSeen(is_fresh=True))
    (post,) = bench.took(Post)
    assert isinstance(post, Post)
    request = request_of(bench)
    assert (request.seq, request.previous) == (1, digests.ZERO)
    assert request.wish is not None
    assert request.wish.units == 1


def test_a_unit_from_lease_to_receipt(bench: Bench) -> None:
    bench.begin()
    assert Prove(lease_id(1)) in bench.reply(leases=(offer(1),))
    assert bench.prove(1, MODEL, INPUT) == [Fetch(INPUT)]
    assert bench.do(Fetched(INPUT)) == [Fetch(MODEL)]
    assert RunUnit(lease_id(1)) in bench.do(Fetched(MODEL))
    bench.start(1)
    bench.took(Post)
    for step in range(10):
        assert bench.step(1, step) == [Count(step + 1, 0)]
    commands = bench.finish(1)
    assert Count(10, 1) in commands
    request = request_of(bench)
    assert [report.outcome for report in request.reports] == ["done"]
    assert request.reports[0].compute_ms == 1000
    assert request.reports[0].runtime is not None
    assert bench.reply(receipts=(receipt(1),))[0] == Forget(lease_id(1), (INPUT.digest,))
    assert bench.units == {}
    assert bench.machine.is_idle()


def test_an_input_that_a_lease_in_the_same_reply_shares_stays(bench: Bench) -> None:
    bench.lease_one()
    for step in range(10):
        bench.step(1, step)
    bench.finish(1)
    commands = bench.reply(receipts=(receipt(1),), leases=(offer(2),))
    assert Forget(lease_id(1), ()) in commands
    assert Prove(lease_id(2)) in commands


def test_closing_stops_at_once_and_opening_goes_on(bench: Bench) -> None:
    bench.lease_one()
    bench.step(1, 0)
    assert bench.tell(parked=False) == [StopChild(lease_id(1))]
    assert bench.units[lease_id(1)].state == "stopped"
    assert bench.units[lease_id(1)].steps_done == 1
    assert ContinueChild(lease_id(1)) in bench.tell()
    kinds = [(entry.kind, entry.first_step) for entry in bench.entries]
    assert ("unit_resumed", 1) in kinds
    assert bench.gate is not None
    assert bench.gate.is_open


def test_frames_of_a_child_that_was_stopped_a_moment_too_late_count(bench: Bench) -> None:
    bench.lease_one()
    bench.tell(parked=False)
    bench.step(1, 0)
    bench.finish(1)
    assert bench.state_of(1) == "to_report"


def test_ten_minutes_closed_end_the_process(bench: Bench) -> None:
    bench.lease_one()
    bench.step(1, 0)
    bench.tell(parked=False)
    assert bench.wait(599) == []
    assert bench.wait(1) == [KillChild("not needed for a while")]
    assert bench.state_of(1) == "ready"
    assert RunUnit(lease_id(1)) in bench.tell()
    bench.start(1, first_step=1)
    assert [e.first_step for e in bench.entries if e.kind == "unit_resumed"] == [1]


def test_a_process_without_work_is_ended_too(bench: Bench) -> None:
    bench.lease_one()
    bench.finish(1)
    assert bench.wait(600)[0] == KillChild("not needed for a while")


def test_one_unit_after_the_other_in_the_same_process(bench: Bench) -> None:
    bench.begin(wish=5)
    bench.reply(leases=(offer(1), offer(2)))
    bench.prove(1)
    bench.prove(2)
    assert [c for c in bench.commands if isinstance(c, RunUnit)] == [RunUnit(lease_id(1))]
    bench.start(1)
    assert RunUnit(lease_id(2)) in bench.finish(1)


def test_words_of_a_process_that_was_ended_are_not_taken(bench: Bench) -> None:
    bench.lease_one()
    before = bench.machine.state.units[lease_id(1)]
    for event in (
        ChildReady(lease_id(9), "X", "1"),
        UnitStarted(lease_id(9), 0),
        StepDone(lease_id(9), 3, 1),
        UnitDone(lease_id(9), Digest(b"o" * 32), 1),
        UnitFailed(lease_id(9), "x", "x"),
    ):
        bench.do(event)
    assert bench.machine.state.units[lease_id(1)] == before


def test_a_kill_from_outside_is_tried_three_times_and_then_handed_back(bench: Bench) -> None:
    bench.lease_one()
    assert RunUnit(lease_id(1)) in bench.do(ChildGone("was killed by SIGKILL", "killed"))
    assert RunUnit(lease_id(1)) in bench.do(ChildGone("was killed by SIGKILL", "killed"))
    bench.do(ChildGone("was killed by SIGKILL", "killed"))
    (report,) = request_of(bench).reports
    assert (report.outcome, report.code) == ("returned", "child_killed")
    bench.reply(receipts=(receipt(1),))
    assert bench.books.totals.units_returned == 1


def test_a_child_that_ends_without_work_is_nobodys_fault(bench: Bench) -> None:
    bench.lease_one()
    bench.finish(1)
    bench.do(ChildGone("ended with 0"))
    assert bench.machine.state.child is None


def test_a_damaged_spool_is_begun_again(bench: Bench) -> None:
    bench.lease_one()
    commands = bench.do(UnitFailed(lease_id(1), "spool_damaged", "frame 3"))
    assert [type(c) for c in commands] == [KillChild, RunUnit]


def test_a_unit_that_cannot_be_computed_here_is_reported(bench: Bench) -> None:
    bench.lease_one()
    bench.do(UnitFailed(lease_id(1), "graph_refused", "no"))
    (report,) = request_of(bench).reports
    assert (report.outcome, report.code, report.detail) == ("failed", "graph_refused", "no")


def test_a_full_disk_is_not_the_units_fault(bench: Bench) -> None:
    bench.lease_one()
    bench.do(UnitFailed(lease_id(1), "disk_full", "the unit's files: No space left on device"))
    (report,) = request_of(bench).reports
    assert (report.outcome, report.code) == ("returned", "disk_full")
    assert bench.books.fault is not None
    assert bench.books.fault.endswith("make room on this disk")


def test_too_much_memory(bench: Bench) -> None:
    assert not [each for each in bench.do(Tick(5, 4)) if isinstance(each, KillChild)]
    bench.lease_one()
    assert bench.do(Tick(4, 4)) == []
    assert KillChild("needs more than 0 MiB (limits.memory)") in bench.do(Tick(5, 4))
    assert request_of(bench).reports[0].code == "out_of_memory"


def test_an_idle_process_that_takes_too_much_memory_is_ended(bench: Bench) -> None:
    bench.lease_one()
    bench.finish(1)
    assert KillChild("too much memory") in bench.do(Tick(5, 4))


def test_progress_is_written_now_and_then(bench: Bench) -> None:
    bench.lease_one()
    bench.boot_s += 9
    bench.step(1, 0)
    assert bench.units[lease_id(1)].steps_done == 0
    bench.boot_s += 1
    bench.step(1, 1)
    assert bench.units[lease_id(1)].steps_done == 2


# --- leases --------------------------------------------------------------------------------------


def test_a_lease_that_does_not_check_out_goes_back(bench: Bench) -> None:
    bench.begin()
    bench.reply(leases=(offer(1),))
    bench.do(OfferRefused(lease_id(1), "bad_proof", "does not prove"))
    (report,) = request_of(bench).reports
    assert (report.outcome, report.code) == ("returned", "bad_proof")
    assert request_of(bench).wish is None or bench.machine.state.work_at_s > bench.boot_s
    bench.do(OfferRefused(lease_id(1), "bad_proof", "again"))
    bench.do(OfferRefused(lease_id(7), "bad_proof", "nobody's"))
    bench.reply(receipts=(receipt(1),))
    assert bench.books.totals.units_returned == 1


def test_what_may_be_news_gets_one_look_at_the_project_first(bench: Bench) -> None:
    bench.begin()
    bench.reply(leases=(offer(1),))
    unnamed = OfferRefused(lease_id(1), "untrusted", "the project does not name the model")
    assert bench.do(unnamed) == [LookAtProject()]
    assert bench.units[lease_id(1)].state == "leased"
    assert bench.do(ProjectSeen(is_fresh=True)) == [Prove(lease_id(1))]
    assert bench.prove(1, MODEL, INPUT) == [Fetch(INPUT)]


def test_what_is_no_news_after_the_look_goes_back(bench: Bench) -> None:
    bench.begin()
    bench.reply(leases=(offer(1),))
    unnamed = OfferRefused(lease_id(1), "untrusted", "the project does not name the model")
    bench.do(unnamed)
    bench.do(ProjectSeen(is_fresh=True))
    bench.do(unnamed)
    assert bench.units[lease_id(1)].state == "to_report"
    (report,) = request_of(bench).reports
    assert (report.outcome, report.code) == ("returned", "untrusted")


def test_a_lease_that_is_recalled_waits_for_no_look(bench: Bench) -> None:
    bench.begin(wish=5)
    bench.reply(leases=(offer(1), offer(2)))
    bench.do(OfferRefused(lease_id(1), "untrusted", "the project does not name the model"))
    bench.boot_s += 4 * 86_400
    bench.do(Tick(0, 10**9))
    assert bench.units[lease_id(1)].state == "to_report"
    assert bench.do(ProjectSeen(is_fresh=True))[:1] != [Prove(lease_id(1))]


def test_a_unit_whose_time_is_over_goes_back_as_not_begun(bench: Bench) -> None:
    bench.begin()
    bench.reply(leases=(offer(1, duration_s=60),))
    bench.tell(parked=False)
    bench.wait(60)
    (report,) = request_of(bench).reports
    assert (report.outcome, report.code) == ("returned", "deadline")


def test_a_unit_in_the_child_whose_time_is_over_is_taken_out(bench: Bench) -> None:
    bench.lease_one(duration_s=60)
    assert KillChild("its time is over") in bench.wait(60)
    assert bench.state_of(1) == "to_report"


def test_an_output_that_never_went_up_in_time_goes_back(bench: Bench) -> None:
    bench.lease_one(duration_s=60)
    bench.finish(1, size=10**6)
    bench.quiet()
    bench.do(UploadFailed(lease_id(1), "stalled"))
    bench.wait(60)
    assert request_of(bench).reports[0].outcome == "returned"


def test_what_cannot_be_done_in_time_goes_back_but_not_what_was_begun(bench: Bench) -> None:
    bench.begin(wish=5)
    bench.reply(leases=(offer(1), offer(2), offer(3)))
    for number in (1, 2, 3):
        bench.prove(number)
    bench.start(1)
    bench.boot_s += 1
    for step in range(18):
        bench.do(StepDone(lease_id(1), step, 500_000))
    bench.finish(1)  # learned: 1,808 s each, 3,599 s left
    assert [bench.state_of(n) for n in (1, 2, 3)] == ["to_report", "computing", "to_report"]
    assert bench.machine.state.units[lease_id(3)].detail == "cannot be computed in the time left"


def test_a_lease_sent_again_gets_its_new_time(bench: Bench) -> None:
    bench.lease_one()
    bench.finish(1)
    bench.resync()
    before = bench.machine.state.units[lease_id(1)].deadline_ms
    bench.reply(leases=(offer(1, duration_s=9999),))
    assert bench.machine.state.units[lease_id(1)].deadline_ms > before


@pytest.mark.parametrize("is_parked", [True, False])
def test_an_abort_takes_the_unit_out_of_the_child(bench: Bench, is_parked: bool) -> None:
    bench.begin(wish=5)
    bench.reply(leases=(offer(1), offer(2)))
    bench.prove(1)
    bench.start(1)
    bench.tell(parked=is_parked)
    bench.do(OfferRefused(lease_id(2), "x", "x"))
    aborts = (Abort(lease=lease_id(1), code="cancelled"), Abort(lease=lease_id(8), code="x"))
    assert KillChild("aborted: cancelled") in bench.reply(aborts=aborts)
    assert bench.state_of(1) is None


def test_an_abort_of_what_waits_leaves_the_child_alone(bench: Bench) -> None:
    bench.begin(wish=5)
    bench.reply(leases=(offer(1), offer(2), offer(3)))
    bench.prove(1)
    bench.start(1)
    bench.prove(2, MODEL)
    bench.do(OfferRefused(lease_id(3), "x", "x"))
    bench.reply(aborts=(Abort(lease=lease_id(2), code="cancelled"),))
    assert (bench.state_of(1), bench.state_of(2)) == ("computing", None)
    assert not bench.took(KillChild)


def test_a_contact_is_due_while_only_computing(bench: Bench) -> None:
    bench.settings["work.units"] = 1
    bench.restart()
    bench.lease_one(duration_s=10**6)
    bench.commands.clear()
    bench.wait(6 * 3600 - 1)
    assert not bench.took(Post)
    bench.wait(1)
    bench.do(ProjectSeen(is_fresh=True))
    assert bench.took(Post)
    assert request_of(bench).holding == (lease_id(1),)


def test_verdicts_are_counted(bench: Bench) -> None:
    bench.begin()
    bench.reply(
        verdicts=(
            Verdict(lease=lease_id(1), verdict="valid", kflop=7),
            Verdict(lease=lease_id(2), verdict="invalid"),
            Verdict(lease=lease_id(3), verdict="inconclusive"),
        ),
        notice="be well",
    )
    totals = bench.books.totals
    assert (totals.units_valid, totals.units_invalid, totals.kflop) == (1, 1, 7)
    assert bench.books.notice == "be well"


@pytest.mark.parametrize("outcome", ["not_needed", "refused"])
def test_any_receipt_but_again_lets_go(bench: Bench, outcome: Outcome) -> None:
    bench.lease_one()
    bench.finish(1)
    bench.reply(receipts=(receipt(1, outcome, "too_late"), receipt(5)))
    assert bench.units == {}


def test_receipts_for_what_is_not_to_be_reported_change_nothing(bench: Bench) -> None:
    bench.lease_one()
    bench.finish(1)
    bench.reply(receipts=(receipt(1, "again"), receipt(1, "taken")))
    assert bench.state_of(1) in ("computed", "uploading")


def test_again_for_what_was_returned_is_said_again(bench: Bench) -> None:
    bench.begin()
    bench.reply(leases=(offer(1),))
    bench.do(OfferRefused(lease_id(1), "x", "x"))
    bench.reply(receipts=(receipt(1, "again"),))
    assert bench.state_of(1) == "to_report"


# --- files ---------------------------------------------------------------------------------------


def test_a_manifest_comes_first(bench: Bench) -> None:
    bench.begin()
    bench.reply(leases=(offer(1),))
    assert bench.do(ManifestMissing(lease_id(1), MANIFEST)) == [Fetch(MANIFEST)]
    assert Prove(lease_id(1)) in bench.do(Fetched(MANIFEST))
    bench.do(ManifestMissing(lease_id(9), MANIFEST))
    bench.do(Proved(lease_id(9), facts(), ()))


def test_one_file_for_two_units_is_fetched_once(bench: Bench) -> None:
    bench.begin(wish=5)
    bench.reply(leases=(offer(1), offer(2)))
    bench.prove(1, MODEL)
    bench.prove(2, MODEL, INPUT)
    bench.do(Fetched(MODEL))
    assert (bench.state_of(1), bench.state_of(2)) == ("computing", "fetching")
    assert len([c for c in bench.commands if c == Fetch(MODEL)]) == 1


def test_a_failed_fetch_waits_and_is_tried_again(bench: Bench) -> None:
    bench.begin()
    bench.reply(leases=(offer(1),))
    bench.prove(1, MODEL)
    assert bench.do(FetchFailed(MODEL, "stalled")) == []
    assert bench.wait(119) == []
    assert bench.wait(1) == [Fetch(MODEL)]
    assert bench.books.fault == "a file could not be fetched: stalled"
    bench.do(FetchFailed(MODEL, "stalled"))
    assert bench.wait(120) == []
    assert bench.wait(120) == [Fetch(MODEL)]


def test_leaving_home_cuts_and_coming_back_goes_on_at_once(bench: Bench) -> None:
    bench.begin()
    bench.reply(leases=(offer(1),))
    bench.prove(1, MODEL)
    assert bench.tell(home_wifi=False) == [CancelTransfers()]
    assert bench.do(FetchFailed(MODEL, "cancelled", was_cancelled=True)) == []
    assert Fetch(MODEL) in bench.tell()


def test_nothing_is_fetched_while_the_gate_is_closed(bench: Bench) -> None:
    bench.begin()
    bench.reply(leases=(offer(1),))
    bench.tell(parked=False)
    assert bench.prove(1, MODEL) == []


def test_a_large_output_goes_up_first(bench: Bench) -> None:
    bench.lease_one()
    bench.took(Post)
    assert Upload(lease_id(1)) in bench.finish(1, size=10**6)
    bench.quiet()
    assert bench.tell(parked=False) == []
    bench.do(UploadFailed(lease_id(1), "stalled"))
    assert bench.state_of(1) == "computed"
    assert Upload(lease_id(1)) in bench.wait(120)
    bench.do(Uploaded(lease_id(1)))
    assert [report.outcome for report in request_of(bench).reports] == ["done"]
    bench.do(Uploaded(lease_id(1)))
    bench.do(UploadFailed(lease_id(1), "late", was_cancelled=True))


def test_bytes_are_counted_and_close_the_gate(bench: Bench) -> None:
    bench.begin()
    bench.do(Moved(down=10**9, up=5))
    assert bench.machine.state.gate.is_open
    bench.do(Moved(down=10**9))
    assert bench.machine.state.gate.view().reason == "budget"


def test_room_is_told_in_the_wish(bench: Bench) -> None:
    bench.do(Room(77, (MODEL.digest,), (MANIFEST.digest,)))
    bench.begin()
    wish = request_of(bench).wish
    assert wish is not None
    assert (wish.free_disk, wish.models, wish.manifests) == (
        77,
        (MODEL.digest,),
        (MANIFEST.digest,),
    )


# --- the exchange --------------------------------------------------------------------------------


def test_no_work_waits_longer_each_time(bench: Bench) -> None:
    bench.begin()
    bench.reply()
    assert bench.machine.is_idle()
    bench.wait(599)
    assert len(bench.took(Post)) == 1
    bench.wait(1)
    assert len(bench.took(Post)) == 1
    bench.reply()
    bench.wait(1199)
    assert not bench.took(Post)
    bench.wait(1)
    assert bench.took(Post)


def test_the_projects_own_wish_to_wait_counts(bench: Bench) -> None:
    bench.begin()
    bench.took(Post)
    bench.reply(wait_s=5000)
    bench.wait(4999)
    assert not bench.took(Post)
    bench.wait(2501)  # and up to half as long again: this bench draws the longest
    bench.do(ProjectSeen(is_fresh=True))
    assert bench.took(Post)


def test_an_unanswered_request_is_sent_again_the_same(bench: Bench) -> None:
    bench.begin()
    (first,) = bench.took(Post)
    bench.do(Unanswered("no link"))
    assert bench.books.talk.state == "saved"
    assert not bench.wait(59)
    assert bench.wait(1) == [first]
    assert bench.books.fault == "no link"
    bench.do(Unanswered("no link"))
    bench.took(Post)
    bench.wait(60)
    assert not bench.took(Post)
    bench.restart()
    bench.do(Consented(True))
    bench.tell()
    bench.do(ProjectSeen(is_fresh=True))
    assert bench.took(Post) == [first]


def test_a_cut_of_our_own_is_no_failure(bench: Bench) -> None:
    bench.begin()
    (first,) = bench.took(Post)
    bench.tell(home_wifi=False)
    bench.do(Unanswered("cancelled", was_cancelled=True))
    assert bench.tell() == [first]
    assert bench.books.fault is None


def test_an_untrusted_answer_looks_at_the_keys_again(bench: Bench) -> None:
    bench.begin()
    bench.do(Unanswered("wrong key", is_untrusted=True))
    assert bench.wait(60) == [LookAtProject()]


def test_an_agent_that_was_ended_while_sending_sends_again(bench: Bench) -> None:
    bench.begin()
    (first,) = bench.took(Post)
    assert bench.books.talk.state == "sending"
    bench.restart()
    bench.begin()
    assert bench.took(Post) == [first]


def test_a_resync_starts_a_session_with_everything_held(bench: Bench) -> None:
    bench.lease_one()
    bench.finish(1)
    before = request_of(bench)
    bench.resync()
    after = request_of(bench)
    assert after.session != before.session
    assert (after.seq, after.previous, after.nonce, after.epoch) == (
        1, digests.ZERO, b"n" * 16, 2,
    )  # fmt: skip
    assert after.holding == (lease_id(1),)
    assert [report.lease for report in after.reports] == [lease_id(1)]


def test_two_sides_that_never_agree_do_not_spin(bench: Bench) -> None:
    bench.begin()
    bench.resync()
    assert len(bench.took(Post)) == 2
    bench.resync()
    assert not bench.took(Post)
    bench.wait(60)
    assert bench.took(Post)
    bench.reply()
    assert bench.machine.state.renewals == 0


def test_an_unknown_vehicle_joins_again_and_keeps_its_work(bench: Bench) -> None:
    bench.lease_one()
    bench.finish(1)
    commands = bench.unknown()
    (enrol,) = [c for c in commands if isinstance(c, EnrolAgain)]
    assert not bench.do(Unanswered("no link"))
    assert bench.wait(60) == [enrol]
    enrolled = Enrolled(
        in_reply_to=digests.ZERO,
        server_time=Milliseconds(bench.wall_ms),
        vehicle=digests.of_key(b""),
        owner=OwnerId(bytes(16)),
        owner_name="o",
        epoch=4,
    )
    bench.took(Post)
    bench.do(EnrolledAgain(enrol.session, enrolled))
    request = request_of(bench)
    assert (request.session, request.seq, request.epoch) == (enrol.session, 1, 4)
    assert [report.lease for report in request.reports] == [lease_id(1)]
    bench.do(EnrolledAgain(SessionId(bytes(16)), enrolled))


def test_a_client_that_is_too_old_asks_once_a_day(bench: Bench) -> None:
    bench.begin()
    bench.took(Post)
    bench.too_old()
    assert "update" in (bench.books.fault or "")
    bench.wait(86_399)
    assert not bench.took(Post)
    bench.wait(1)
    bench.do(ProjectSeen(is_fresh=True))
    assert bench.took(Post)


def test_a_client_that_is_too_old_and_has_nothing_to_say_stays_quiet(bench: Bench) -> None:
    bench.begin()
    bench.too_old()
    bench.do(Ordered(Order(kind="finish")))
    bench.took(Post)
    bench.wait(86_400)
    bench.do(ProjectSeen(is_fresh=True))
    assert bench.books.talk.state == "idle"
    assert not bench.took(Post)


def test_an_answer_that_comes_twice_is_taken_once(bench: Bench) -> None:
    bench.begin()
    answer = Answered(
        Reply(
            in_reply_to=bench.posted(),
            server_time=Milliseconds(bench.wall_ms),
            epoch=1,
            wait_s=0,
            has_work=False,
        )
    )
    bench.do(answer)
    seq = bench.books.talk.seq
    bench.do(answer)
    assert bench.books.talk.seq == seq


def test_refused_three_times_is_split_and_the_culprit_set_aside(bench: Bench) -> None:
    bench.begin(wish=5)
    bench.reply(leases=(offer(1), offer(2)))
    bench.tell(home_wifi=False)
    for number in (1, 2):
        bench.do(OfferRefused(lease_id(number), "x", "x"))
    bench.tell()
    assert len(request_of(bench).reports) == 2
    no = Refused("malformed_message", "no", None, is_final=True)
    for _ in range(3):
        bench.do(no)
        bench.wait(3600 * 4)
        bench.do(ProjectSeen(is_fresh=True))
    assert [report.lease for report in request_of(bench).reports] == [lease_id(1)]
    assert request_of(bench).seq == 2
    for _ in range(3):
        bench.do(no)
        bench.wait(3600 * 4)
        bench.do(ProjectSeen(is_fresh=True))
    assert bench.state_of(1) == "quarantined"
    assert [report.lease for report in request_of(bench).reports] == [lease_id(2)]
    bench.reply(receipts=(receipt(2),))
    assert bench.state_of(2) is None
    assert bench.books.talk.alone == ()
    bench.wait(3600 * 24)
    if bench.books.talk.saved is None:
        bench.do(ProjectSeen(is_fresh=True))
    bench.reply(aborts=(Abort(lease=lease_id(1), code="unknown_lease"),))
    assert bench.units == {}


def test_refusals_that_pass_are_never_split(bench: Bench) -> None:
    bench.lease_one()
    bench.finish(1)
    for _ in range(5):
        bench.do(Refused("busy", "busy", 7, is_final=False))
        assert bench.machine.state.exchange.retry_s >= bench.boot_s + 7
        bench.wait(3000)
    assert bench.state_of(1) == "to_report"


def test_a_refused_request_without_reports_is_only_repeated(bench: Bench) -> None:
    bench.begin()
    digest = bench.posted()
    for code in ("a", "a", "b", "a", "a", "a"):
        bench.do(Refused(code, "no", None, is_final=True))
        bench.wait(3600 * 4)
        bench.do(ProjectSeen(is_fresh=True))
    assert bench.posted() == digest


def test_metadata_that_are_stale_take_the_reason_to_ask_away(bench: Bench) -> None:
    bench.do(Consented(True))
    bench.tell()
    bench.do(ProjectSeen(is_fresh=False, fault="the metadata expired"))
    assert not bench.took(Post)
    assert bench.books.fault == "the metadata expired"


# --- orders --------------------------------------------------------------------------------------


def test_pause_stops_and_resume_goes_on(bench: Bench) -> None:
    bench.lease_one()
    assert StopChild(lease_id(1)) in bench.do(Ordered(Order(kind="pause")))
    assert ContinueChild(lease_id(1)) in bench.do(Ordered(Order(kind="resume")))
    bench.do(Ordered(Order(kind="resume")))
    assert [e.text for e in bench.entries if e.kind == "ordered"] == ["pause", "resume"]


def test_a_pause_of_two_hours(bench: Bench) -> None:
    bench.lease_one(duration_s=10**6)
    until_ms = bench.wall_ms + 7_200_000
    bench.do(Ordered(Order(kind="pause", until_ms=until_ms)))
    assert bench.machine.next_wake_s() is not None
    bench.wait(7199)
    assert bench.state_of(1) != "computing"
    bench.wait(1)
    assert bench.machine.state.gate.is_open


def test_finish_takes_no_more_work(bench: Bench) -> None:
    bench.lease_one()
    bench.do(Ordered(Order(kind="finish")))
    bench.finish(1)
    assert request_of(bench).wish is None
    bench.reply(receipts=(receipt(1),))
    assert bench.machine.is_idle()


def test_leave_ends_all(bench: Bench) -> None:
    bench.lease_one()
    assert bench.do(Ordered(Order(kind="leave")))[:2] == [KillChild("you leave"), Leave()]


def test_leave_with_nothing_to_end(bench: Bench) -> None:
    assert bench.do(Ordered(Order(kind="leave")))[-1] == Leave()
    assert not bench.machine.take_changes()


def test_reload_takes_new_settings(bench: Bench) -> None:
    bench.lease_one()
    bench.settings["gate.charge_floor"] = 90.0
    assert StopChild(lease_id(1)) in bench.do(Ordered(Order(kind="reload"), bench.built()))
    assert bench.machine.state.gate.view().reason == "charge"


# --- time, tables, restart -----------------------------------------------------------------------


def test_the_end_of_calm_is_a_wake() -> None:
    bench = Bench(calm_s=60.0)
    bench.do(Consented(True))
    bench.tell()
    assert bench.machine.next_wake_s() == bench.boot_s + 60
    assert bench.wait(60) == [LookAtProject()]


def test_with_nothing_to_wait_for_there_is_no_wake(bench: Bench) -> None:
    bench.do(Consented(True))
    bench.tell(parked=False)
    assert bench.machine.next_wake_s() is None


def test_a_restart_proves_everything_again(bench: Bench) -> None:
    bench.lease_one()
    bench.step(1, 0)
    bench.tell(parked=False)
    bench.restart()
    assert Prove(lease_id(1)) in bench.do(Consented(True))
    assert bench.state_of(1) == "leased"


def test_a_restart_uploads_again(bench: Bench) -> None:
    bench.lease_one()
    bench.finish(1, size=10**6)
    assert bench.state_of(1) == "uploading"
    bench.restart()
    assert bench.state_of(1) == "computed"


def test_pairs_that_are_not_in_the_tables_raise_with_the_story() -> None:
    with pytest.raises(NoSuchTransition, match="leased cannot be finished: once"):
        next_unit("leased", "finished", ("once",))
    with pytest.raises(NoSuchTransition, match="idle cannot be replied"):
        next_talk("idle", "replied")


def test_every_state_can_be_reached_and_left() -> None:
    reached = set(UNIT.values()) | {"leased"}
    assert {state for state, _ in UNIT} == reached - {"dropped"}
    assert {state for state, _ in TALK} == set(TALK.values())


def test_a_story_keeps_its_last_lines(bench: Bench) -> None:
    bench.lease_one()
    for _ in range(30):
        bench.tell(parked=False)
        bench.tell()
    story = bench.units[lease_id(1)].story
    assert len(story) == 40
    assert "stopped -> computing" in story[-1]


def test_history_has_the_coming_and_going_of_a_notice_and_not_its_numbers(bench: Bench) -> None:
    bench.begin()
    bench.reply(notice="new ones in 9 min")
    for notice in ("new ones in 8 min", None, None):
        bench.wait(bench.machine.next_wake_s() or 0)
        bench.wait(100_000)
        bench.do(ProjectSeen(is_fresh=True))
        bench.reply(notice=notice)
    said = [entry.text for entry in bench.entries if entry.kind == "project_notice"]
    assert said == ["new ones in 9 min", "no longer"]
