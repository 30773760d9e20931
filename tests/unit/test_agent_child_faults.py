"""What the agent does with a computing process that misbehaves: one attempt, one report, and on."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tesla_at_home.agent.commands import KillChild, RunUnit
from tesla_at_home.agent.computing import LOOK_S, START_FIRST_S
from tesla_at_home.agent.events import ChildGone, Proved
from tests.support.machine_bench import Bench, facts, lease_id, offer

STEP_S = 60.0


@pytest.fixture
def bench() -> Bench:
    return Bench({"work.longest_step_s": STEP_S})


def two_units(bench: Bench) -> None:
    """The first in the child, the second waiting."""
    bench.begin(wish=2)
    bench.reply(leases=(offer(1), offer(2)))
    bench.prove(1)
    bench.prove(2)
    bench.start(1)


def pass_time(bench: Bench, seconds: float) -> None:
    """As the driver does: with a look at least every `LOOK_S`."""
    while seconds > 0:
        bench.wait(min(LOOK_S, seconds))
        seconds -= LOOK_S


def outcome(bench: Bench, number: int) -> tuple[str | None, str | None]:
    unit = bench.units[lease_id(number)]
    return unit.outcome, unit.code


def test_a_unit_that_ends_its_process_is_tried_once(bench: Bench) -> None:
    two_units(bench)
    commands = bench.do(ChildGone("was killed by SIGSEGV", "crashed"))
    assert outcome(bench, 1) == ("failed", "child_crashed")
    assert RunUnit(lease_id(2)) in commands


def test_a_step_without_end_is_ended_and_the_next_unit_begins(bench: Bench) -> None:
    two_units(bench)
    bench.commands.clear()
    pass_time(bench, STEP_S)
    assert outcome(bench, 1) == (None, None)
    pass_time(bench, 2 * LOOK_S)
    assert outcome(bench, 1) == ("failed", "step_too_long")
    assert [type(c) for c in bench.commands if isinstance(c, KillChild | RunUnit)] == [
        KillChild,
        RunUnit,
    ]


def test_a_load_without_end_is_ended_too(bench: Bench) -> None:
    bench.begin()
    bench.reply(leases=(offer(1),))
    bench.prove(1)
    pass_time(bench, STEP_S + 2 * LOOK_S)
    assert outcome(bench, 1) == ("failed", "step_too_long")


def test_each_step_has_its_own_time(bench: Bench) -> None:
    bench.lease_one()
    for number in range(10):
        pass_time(bench, STEP_S - 1)
        bench.step(1, number)
    assert outcome(bench, 1) == (None, None)


def test_time_in_which_it_is_stopped_does_not_count(bench: Bench) -> None:
    bench.settings |= {"work.kill_after_s": 86_400.0}
    bench.restart()
    bench.lease_one(duration_s=86_400)
    pass_time(bench, STEP_S / 2)
    bench.tell(parked=False)
    pass_time(bench, 10 * STEP_S)
    bench.tell(parked=True)
    assert bench.state_of(1) == "computing"
    pass_time(bench, STEP_S / 4)
    assert outcome(bench, 1) == (None, None)


def test_time_in_which_the_computer_slept_does_not_count(bench: Bench) -> None:
    bench.lease_one(duration_s=86_400)
    bench.wait(8 * 3600)
    assert outcome(bench, 1) == (None, None)


def test_the_rest_after_a_step_does_not_count(bench: Bench) -> None:
    # 100 ms of step, then 100 s of rest: longer than any step may take.
    bench.settings |= {"limits.duty": 0.1}
    bench.restart()
    bench.lease_one()
    bench.step(1, 0)
    pass_time(bench, STEP_S + LOOK_S)
    assert outcome(bench, 1) == (None, None)
    pass_time(bench, 100 + LOOK_S)
    assert outcome(bench, 1) == ("failed", "step_too_long")


def test_a_costly_model_is_given_the_time_that_it_costs(bench: Bench) -> None:
    bench.begin()
    bench.reply(leases=(offer(1, duration_s=86_400),))
    # 1e12 FLOP a step: 5,000 s on the slowest computer.
    costly = replace(facts(1), kflop=10 * 10**9)
    bench.do(Proved(lease_id(1), costly, ()))
    bench.start(1)
    pass_time(bench, 4_000)
    assert outcome(bench, 1) == (None, None)
    pass_time(bench, 1_100)
    assert outcome(bench, 1) == ("failed", "step_too_long")


def test_a_computer_that_cannot_start_it_fails_no_unit_and_waits(bench: Bench) -> None:
    two_units(bench)
    commands = bench.do(ChildGone("cannot be started: no memory", "not_started"))
    assert not [c for c in commands if isinstance(c, RunUnit)]
    assert bench.state_of(1) == "ready"
    assert bench.books.fault is not None
    assert "cannot be started: no memory" in bench.books.fault
    assert bench.wait(START_FIRST_S / 2) == []
    assert RunUnit(lease_id(1)) in bench.wait(START_FIRST_S)


def test_it_waits_longer_each_time_and_begins_anew_when_it_works(bench: Bench) -> None:
    two_units(bench)
    for _ in range(3):
        bench.do(ChildGone("cannot be started: no memory", "not_started"))
        bench.wait(8 * START_FIRST_S)
        bench.tell()
    assert bench.machine.state.starting.failures == 3
    bench.start(1)
    assert bench.machine.state.starting.failures == 0
    assert outcome(bench, 1) == (None, None)
