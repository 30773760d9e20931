"""A scheduler with the project's online key that never agrees, never ends, or says absurd things.

Whatever it says, the agent does not spin, keeps the result it has in hand, can write everything down,
says why in one line, and is itself again as soon as the project is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest

from tesla_at_home.agent.commands import Post, Prove, RunUnit
from tesla_at_home.agent.events import (
    FetchFailed,
    OfferRefused,
    ProjectSeen,
    Proved,
    Refused,
    Unanswered,
    UnitFailed,
)
from tests.support.hostile_scheduler import HOUR_MS, VOUCHED_MS, HostileScheduler
from tests.support.machine_bench import INPUT, Bench, facts, lease_id, offer, receipt
from workunits.values import LeaseId, Milliseconds
from workunits.wire import limits
from workunits.wire.messages import Abort, Verdict

IN_HAND = 1
YEAR_9999_MS = Milliseconds(253_370_764_800_000)
DAY_MS = 24 * HOUR_MS
NASTY = "a\x1b[2Jb\nLast fault: none\r\x9b\u202e\tc"


@pytest.fixture
def bench() -> Bench:
    """An agent with one result in hand that the project never took, at the settings of a stranger."""
    bench = Bench(settings={"network.min_wait_s": 10.0, "limits.down_mb": 1e6})
    bench.lease_one(IN_HAND, duration_s=limits.LEASE_SECONDS)
    bench.finish(IN_HAND)
    bench.do(ProjectSeen(is_fresh=True, until_ms=Milliseconds(bench.wall_ms + VOUCHED_MS)))
    return bench


@pytest.fixture
def scheduler(bench: Bench) -> HostileScheduler:
    return HostileScheduler(bench)


def prove_well(number: int, *missing: object) -> Proved:
    return Proved(lease_id(number), facts(number), missing)  # type: ignore[arg-type]


# --- a day of it ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attack:
    """How it answers, what it may cost in a day, and the line that tells the owner."""

    begin: Callable[[HostileScheduler], None]
    requests: int
    line: str


def _resyncs(scheduler: HostileScheduler) -> None:
    scheduler.on_post = lambda: _ignore(scheduler.bench.resync())


def _strangers(scheduler: HostileScheduler) -> None:
    scheduler.on_post = lambda: _ignore(scheduler.bench.unknown())


def _upgrades(scheduler: HostileScheduler) -> None:
    scheduler.on_post = lambda: _ignore(scheduler.bench.too_old())


def _resyncs_and_strangers(scheduler: HostileScheduler) -> None:
    turns = iter([scheduler.bench.resync, scheduler.bench.unknown] * 10_000)
    scheduler.on_post = lambda: _ignore(next(turns)())


def _empty_replies(scheduler: HostileScheduler) -> None:
    scheduler.on_post = scheduler.reply


def _leases_that_do_not_prove(scheduler: HostileScheduler) -> None:
    scheduler.on_post = lambda: scheduler.reply(leases=(scheduler.new_lease(),))


def _leases_and_receipts(scheduler: HostileScheduler) -> None:
    """Everything is received at once, so that nothing but the leases is wrong."""

    def answer() -> None:
        saved = scheduler.bench.books.talk.saved
        assert saved is not None
        others = [lease for lease in saved.reports if lease != lease_id(IN_HAND)]
        receipts = tuple(receipt(int.from_bytes(lease, "big")) for lease in others)
        scheduler.reply(leases=(scheduler.new_lease(),), receipts=receipts)

    scheduler.on_post = answer


def _leases_past_their_time(scheduler: HostileScheduler) -> None:
    scheduler.on_post = lambda: scheduler.reply(
        leases=(scheduler.new_lease(),), server_time=Milliseconds(0)
    )


def _more_than_asked_for(scheduler: HostileScheduler) -> None:
    scheduler.on_post = lambda: scheduler.reply(
        leases=tuple(scheduler.new_lease() for _ in range(300))
    )


def _the_same_lease_again(scheduler: HostileScheduler) -> None:
    scheduler.on_prove = lambda command: prove_well(2, INPUT)
    scheduler.on_fetch = lambda command: FetchFailed(command.need, "stalled")
    scheduler.on_post = lambda: scheduler.reply(leases=(offer(2), offer(2)))


def _files_that_are_not_there(scheduler: HostileScheduler) -> None:
    _leases_that_do_not_prove(scheduler)
    scheduler.on_prove = lambda c: Proved(c.lease, facts(), (INPUT,))
    scheduler.on_fetch = lambda c: FetchFailed(c.need, "404 not_found", is_absent=True)


def _models_that_break_the_allow_list(scheduler: HostileScheduler) -> None:
    _leases_and_receipts(scheduler)
    scheduler.on_prove = lambda c: Proved(c.lease, facts(), ())

    def refuse(command: RunUnit) -> None:
        scheduler.bench.do(UnitFailed(command.lease, "graph_refused", "operator Evil"))

    scheduler.on_run = refuse


def _payloads_again(scheduler: HostileScheduler) -> None:
    scheduler.on_post = lambda: scheduler.reply(receipts=(receipt(IN_HAND, "again"),))


def _unsigned_refusals(scheduler: HostileScheduler) -> None:
    def refuse() -> None:
        scheduler.bench.do(Refused("no", "go away", retry_after_s=0, is_final=True))

    scheduler.on_post = refuse


def _strange_signatures(scheduler: HostileScheduler) -> None:
    def answer() -> None:
        scheduler.bench.do(Unanswered("an answer that is not the project's", is_untrusted=True))

    scheduler.on_post = answer


def _ignore(_: object) -> None:
    pass


DAYS: dict[str, Attack] = {
    "resync for ever": Attack(_resyncs, 15, "start a new session"),
    "unknown vehicle for ever": Attack(_strangers, 15, "joining again"),
    "the two in turn": Attack(_resyncs_and_strangers, 15, "joining again"),
    "upgrade required for ever": Attack(_upgrades, 2, "update tesla-at-home"),
    "replies that say nothing": Attack(_empty_replies, 25, ""),
    "leases that do not prove": Attack(_leases_that_do_not_prove, 25, "no such"),
    "the same, with receipts": Attack(_leases_and_receipts, 40, "no such"),
    "leases past their time": Attack(_leases_past_their_time, 25, ""),
    "more leases than asked for": Attack(_more_than_asked_for, 25, "no such"),
    "the same lease again": Attack(_the_same_lease_again, 25, "stalled"),
    "files that are not there": Attack(_files_that_are_not_there, 60, "lacks a file"),
    "models that break the allow-list": Attack(
        _models_that_break_the_allow_list, 40, "operator Evil"
    ),
    "payloads again for ever": Attack(_payloads_again, 40, ""),
    "unsigned refusals": Attack(_unsigned_refusals, 15, "go away"),
    "strange signatures": Attack(_strange_signatures, 15, "not the project's"),
}


def check_writable(bench: Bench) -> None:
    """All that the agent knows can be packed for the disk."""
    msgspec.msgpack.encode((bench.books, list(bench.units.values())))


def tell_lines(bench: Bench) -> list[str]:
    """All that the owner is told in `history` and `why`."""
    stories = [line for unit in bench.units.values() for line in unit.story]
    said = [bench.books.fault or "", bench.books.notice or ""]
    return [*(entry.text for entry in bench.entries), *stories, *said]


@pytest.mark.parametrize("name", DAYS)
def test_a_day_of_it_costs_little_and_what_was_in_hand_is_reported_afterwards(
    name: str, bench: Bench, scheduler: HostileScheduler
) -> None:
    attack = DAYS[name]
    attack.begin(scheduler)
    done = scheduler.play(hours=24)
    assert done["Post"] <= attack.requests
    assert done["EnrolAgain"] <= attack.requests
    assert done["Fetch"] + done["RunUnit"] + done["Upload"] <= attack.requests
    assert any(attack.line in line for line in {*tell_lines(bench), *scheduler.faults})
    assert len(bench.units) <= limits.HOLDING
    check_writable(bench)
    assert bench.units[lease_id(IN_HAND)].outcome == "done"

    scheduler.on_post = lambda: take_all(scheduler)
    scheduler.play(hours=24)
    assert bench.books.totals.units_reported == 1
    assert bench.state_of(IN_HAND) is None


def take_all(scheduler: HostileScheduler) -> None:
    """An honest reply: a receipt for every report."""
    saved = scheduler.bench.books.talk.saved
    assert saved is not None
    receipts = tuple(receipt(int.from_bytes(lease, "big")) for lease in saved.reports)
    scheduler.reply(receipts=receipts)


def test_a_report_that_a_proxy_refused_for_days_is_tried_again_by_itself(
    bench: Bench, scheduler: HostileScheduler
) -> None:
    _unsigned_refusals(scheduler)
    scheduler.play(hours=72)
    assert bench.state_of(IN_HAND) == "quarantined"
    scheduler.on_post = lambda: take_all(scheduler)
    scheduler.play(hours=24)
    assert bench.books.totals.units_reported == 1
    assert bench.units == {}


def test_nothing_is_said_within_the_least_wait_after_a_reply(
    bench: Bench, scheduler: HostileScheduler
) -> None:
    bench.wait(10)
    bench.tell(parked=False)
    take_all(scheduler)
    bench.took(Post)
    bench.machine.state.work_at_s = 0.0  # as after a request that asked for no work
    bench.tell()
    bench.wait(9)
    assert not bench.took(Post)
    bench.wait(1)
    assert bench.took(Post)


def test_it_gets_rarer_from_day_to_day(bench: Bench, scheduler: HostileScheduler) -> None:
    _leases_and_receipts(scheduler)
    first = scheduler.play(hours=24)["Prove"]
    scheduler.play(hours=48)
    assert scheduler.play(hours=48)["Prove"] <= 2 < first


def test_one_unit_that_is_computed_ends_the_waiting(
    bench: Bench, scheduler: HostileScheduler
) -> None:
    _leases_and_receipts(scheduler)
    scheduler.play(hours=24)
    assert bench.machine.state.replies_without_work > 2
    scheduler.on_prove = lambda c: Proved(c.lease, facts(), ())

    def compute(command: RunUnit) -> None:
        bench.finish(int.from_bytes(command.lease, "big"))
        scheduler.on_post = scheduler.reply

    scheduler.on_run = compute
    scheduler.play(hours=25)
    assert not bench.machine.state.is_wary


# --- one answer -----------------------------------------------------------------------------------

FOREIGN = LeaseId(b"?" * 16)
ABSURD: dict[str, dict[str, object]] = {
    "verdicts of all numbers": {
        "verdicts": tuple(
            Verdict(lease=FOREIGN, verdict="valid", kflop=limits.INTEGER) for _ in range(256)
        )
    },
    "the longest wait": {"wait_s": limits.WAIT_SECONDS},
    "the highest epoch": {"epoch": limits.INTEGER},
    "an epoch from before": {"epoch": 1},
    "the last of all times": {"server_time": limits.INTEGER, "leases": (offer(2, 10**6),)},
    "the first of all times": {"server_time": 0},
    "the longest lease": {"leases": (offer(2, limits.LEASE_SECONDS),)},
    "receipts for what was not reported": {"receipts": (receipt(77),)},
    "aborts of what is not held": {"aborts": (Abort(lease=FOREIGN, code="cancelled"),)},
    "a notice that steers terminals": {"notice": NASTY},
}


@pytest.mark.parametrize("name", ABSURD)
def test_no_absurd_reply_breaks_the_agent(
    name: str, bench: Bench, scheduler: HostileScheduler
) -> None:
    scheduler.on_post = lambda: scheduler.reply(**ABSURD[name])
    for _ in range(9):
        scheduler.play(hours=25)
        check_writable(bench)
    bench.restart()
    assert bench.units[lease_id(IN_HAND)].outcome == "done"
    for unit in bench.units.values():
        assert unit.deadline_ms <= bench.wall_ms + 32 * DAY_MS
    assert bench.books.totals.kflop <= limits.INTEGER
    assert (bench.books.next_contact_ms or 0) <= bench.wall_ms + DAY_MS
    for line in tell_lines(bench):
        assert line.isprintable()


def test_credit_that_is_past_all_limits_stops_at_them(
    bench: Bench, scheduler: HostileScheduler
) -> None:
    scheduler.on_post = lambda: scheduler.reply(**ABSURD["verdicts of all numbers"])
    scheduler.play(hours=24)
    assert bench.books.totals.kflop == limits.INTEGER


@pytest.mark.parametrize("how", ["refused", "unanswered", "receipt", "failed", "fetch"])
def test_a_strangers_words_are_one_line_everywhere(how: str, bench: Bench) -> None:
    said = {
        "refused": lambda: bench.do(Refused("no", NASTY, None, is_final=True)),
        "unanswered": lambda: bench.do(Unanswered(NASTY, is_untrusted=True)),
        "receipt": lambda: bench.reply(leases=(offer(2),)),
        "failed": lambda: bench.reply(leases=(offer(2),)),
        "fetch": lambda: bench.reply(leases=(offer(2),)),
    }
    bench.wait(10)  # the report is under way
    said[how]()
    if how in ("failed", "fetch"):
        bench.prove(2, *([INPUT] if how == "fetch" else []))
        bench.do(UnitFailed(lease_id(2), "x", NASTY))
        bench.do(FetchFailed(INPUT, NASTY))
    if how == "receipt":
        bench.do(OfferRefused(lease_id(2), "x", NASTY))
    assert all(line.isprintable() for line in tell_lines(bench))


def test_a_lease_in_hand_never_becomes_another_unit(
    bench: Bench, scheduler: HostileScheduler
) -> None:
    scheduler.on_prove = lambda c: Proved(c.lease, facts(2), ())
    scheduler.on_post = lambda: scheduler.reply(leases=(offer(2),))
    scheduler.play(hours=1)
    before = bench.machine.state.units[lease_id(2)]
    other = msgspec.structs.replace(offer(3, limits.LEASE_SECONDS), lease=lease_id(2))
    scheduler.on_post = lambda: scheduler.reply(leases=(other,))
    scheduler.play(hours=5)
    after = bench.machine.state.units.get(lease_id(2))
    assert after is None or (after.offer, after.deadline_ms) == (before.offer, before.deadline_ms)


def test_leases_for_one_unit_twice_are_two_units_of_work_and_no_more(
    bench: Bench, scheduler: HostileScheduler
) -> None:
    twice = msgspec.structs.replace(offer(2), lease=lease_id(3))
    bench.settings |= {"work.units": 5}
    bench.begin(wish=5)
    scheduler.on_prove = lambda c: Proved(c.lease, facts(2), ())
    bench.commands.clear()
    scheduler.reply(leases=(offer(2), twice))
    scheduler.on_run = lambda c: _ignore(bench.finish(int.from_bytes(c.lease, "big")))
    scheduler.play(hours=0.01)
    assert [bench.units[lease_id(n)].outcome for n in (2, 3)] == ["done", "done"]


def test_units_never_take_more_of_the_disk_than_the_owner_lends(bench: Bench) -> None:
    big = msgspec.structs.replace(facts(), output_bytes=40)  # 15 bytes of model and input besides
    bench.begin(wish=5)
    bench.commands.clear()
    bench.reply(leases=(offer(2), offer(3)))
    bench.do(Proved(lease_id(2), big, (), most_bytes=100))
    commands = bench.do(Proved(lease_id(3), big, (), most_bytes=100))
    assert bench.units[lease_id(2)].outcome is None
    assert (bench.units[lease_id(3)].outcome, bench.units[lease_id(3)].code) == (
        "returned", "disk_full",
    )  # fmt: skip
    assert not [c for c in commands if isinstance(c, Prove)]
    assert "limits.disk" in (bench.books.fault or "")


# --- time -----------------------------------------------------------------------------------------


def ahead(scheduler: HostileScheduler, step_ms: int) -> None:
    """Every answer is further ahead of all that is known by a step."""
    clock = {"ms": scheduler.bench.wall_ms}

    def answer() -> None:
        clock["ms"] += step_ms
        scheduler.reply(server_time=Milliseconds(min(clock["ms"], YEAR_9999_MS)))

    scheduler.on_post = answer


TIMES: dict[str, Callable[[HostileScheduler], None]] = {
    "the year 9999": lambda s: setattr(
        s, "on_post", lambda: s.reply(server_time=YEAR_9999_MS + s.bench.wall_ms % DAY_MS)
    ),
    "23 hours more each time": lambda s: ahead(s, 23 * HOUR_MS),
    "30 days more each time": lambda s: ahead(s, 30 * DAY_MS),
    "an hour ahead": lambda s: setattr(
        s, "on_post", lambda: s.reply(server_time=Milliseconds(s.bench.wall_ms + HOUR_MS))
    ),
}


@pytest.mark.parametrize("name", TIMES)
def test_a_stolen_key_moves_no_time_for_ever(
    name: str, bench: Bench, scheduler: HostileScheduler
) -> None:
    TIMES[name](scheduler)
    scheduler.play(hours=72)
    state = bench.machine.state
    # What follows from a time that the metadata do not vouch for is that they are stale, no more.
    assert state.trusted_now() <= bench.wall_ms + 3 * DAY_MS
    check_writable(bench)
    scheduler.on_post = scheduler.reply
    scheduler.play(hours=24)
    assert bench.machine.state.gate.is_open
    assert abs(bench.machine.state.trusted_now() - bench.wall_ms) <= 300_000


def test_leases_of_a_time_ahead_end_as_if_it_were_now(
    bench: Bench, scheduler: HostileScheduler
) -> None:
    bench.wait(10)
    scheduler.reply(server_time=YEAR_9999_MS, leases=(offer(2, 3600),))
    assert bench.units[lease_id(2)].deadline_ms == bench.wall_ms + HOUR_MS
