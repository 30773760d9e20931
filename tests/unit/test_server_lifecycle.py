"""The tables of `server.domain.lifecycle`, pair by pair, and what follows for a unit."""

from __future__ import annotations

from itertools import product

import pytest

from server.domain import lifecycle
from server.domain.credit import day_of, first_standing_day, worth_kflop
from server.domain.quorum import (
    NO_AGREEMENT,
    TOO_MANY_ERRORS,
    TOO_MANY_REPLICAS,
    Move,
    UnitLimits,
    batch_end,
    has_voice,
    is_due,
    next_move,
)
from server.domain.work import Tally, UnitCounts
from workunits.values import BatchId, Milliseconds

LIMITS = UnitLimits(replicas=8, errors=4)
TABLES = {
    "batch": lifecycle.BATCH,
    "unit": lifecycle.UNIT,
    "vehicle": lifecycle.VEHICLE,
    "replica": lifecycle.REPLICA,
}


def unit(tally: Tally, *, replicas: int = 2, errors: int = 0, state: str = "open") -> UnitCounts:
    return UnitCounts(1, BatchId(bytes(16)), state, 4, replicas, errors, tally)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_pair_leads_where_the_table_says_or_raises_with_the_story(
    table: lifecycle.Table,
) -> None:
    states = {state for state, _ in table} | set(table.values())
    events = {event for _, event in table}
    for state, event in product(states, events):
        if (state, event) in table:
            assert lifecycle.after(table, state, event) == table[state, event]
        else:
            with pytest.raises(lifecycle.ImpossibleTransition, match=state):
                lifecycle.after(table, state, event)


def test_a_replica_is_never_ready_again_so_that_ids_of_ready_ones_only_grow() -> None:
    assert "ready" not in lifecycle.REPLICA.values()


def test_settled_states_are_final() -> None:
    for table, final in (
        (lifecycle.UNIT, {"done", "failed", "cancelled"}),
        (lifecycle.BATCH, {"completed", "failed", "cancelled", "expired"}),
        (lifecycle.VEHICLE, {"retired"}),
        (
            lifecycle.REPLICA,
            {"valid", "invalid", "not_needed", "failed", "returned", "cancelled"},
        ),
    ):
        assert set(table.values()) - {state for state, _ in table} == final


@pytest.mark.parametrize(
    ("state", "waiting", "due"),
    [
        ("open", 1, False),
        ("open", 2, True),
        ("open", 3, True),
        ("done", 0, False),
        ("done", 1, True),
        ("failed", 5, False),
        ("cancelled", 5, False),
    ],
)
def test_results_are_compared_once_there_are_enough(state: str, waiting: int, due: bool) -> None:
    assert is_due(state, waiting, quorum=2) is due


@pytest.mark.parametrize(
    ("found", "move"),
    [
        # Nothing is missing.
        (unit(Tally(ready=2)), Move()),
        (unit(Tally(ready=1, leased=1)), Move()),
        (unit(Tally(leased=1, reported=1)), Move()),
        # One was lost, failed or returned.
        (unit(Tally(leased=1)), Move(more=1)),
        (unit(Tally()), Move(more=2)),
        (unit(Tally(), errors=3), Move(more=2)),
        # Results that disagree want one more voice than there are, once.
        (unit(Tally(inconclusive=2)), Move(more=1)),
        (unit(Tally(inconclusive=2, leased=1), replicas=3), Move()),
        (unit(Tally(inconclusive=3), replicas=3), Move(more=1)),
        # A late result can make the number of voices larger than was asked for.
        (unit(Tally(ready=2, reported=2), replicas=4), Move()),
        # The limits.
        (unit(Tally(), errors=4), Move(failure=TOO_MANY_ERRORS)),
        (unit(Tally(leased=1), errors=5), Move(failure=TOO_MANY_ERRORS)),
        (unit(Tally(), replicas=8), Move(failure=TOO_MANY_REPLICAS)),
        (unit(Tally(), replicas=7), Move(failure=TOO_MANY_REPLICAS)),
        (unit(Tally(leased=1), replicas=8), Move(failure=TOO_MANY_REPLICAS)),
        (unit(Tally(leased=1), replicas=7), Move(more=1)),
        (unit(Tally(leased=2), replicas=9), Move()),
        (unit(Tally(inconclusive=8), replicas=8), Move(failure=NO_AGREEMENT)),
        (unit(Tally(inconclusive=7, leased=1), replicas=8), Move()),
        # Settled units need nothing.
        (unit(Tally(), state="done"), Move()),
        (unit(Tally(), state="failed", errors=9), Move()),
    ],
)
def test_what_a_unit_needs_next(found: UnitCounts, move: Move) -> None:
    assert next_move(found, 2, LIMITS) == move


def test_every_result_has_a_voice_but_one_that_is_set_aside() -> None:
    waiting = {"reported", "inconclusive", "set_aside"}
    assert {state for state in waiting if has_voice(state)} == {"reported", "inconclusive"}


def test_quorum_one_needs_one() -> None:
    assert next_move(unit(Tally(), replicas=1), 1, LIMITS) == Move(more=1)
    assert next_move(unit(Tally(reported=1), replicas=1), 1, LIMITS) == Move()


@pytest.mark.parametrize(
    ("done", "failed", "event"),
    [(0, 0, None), (9, 0, None), (10, 0, "settle"), (9, 1, "settle"), (0, 10, "fail")],
)
def test_a_batch_ends_when_every_unit_is_settled(done: int, failed: int, event: str | None) -> None:
    assert batch_end(10, done, failed) == event


def test_credit_is_what_the_model_costs_and_counts_to_its_day() -> None:
    assert worth_kflop(256, 1_000) == 256_000
    day_ms = 86_400_000
    assert day_of(Milliseconds(day_ms - 1)) == 0
    assert day_of(Milliseconds(day_ms)) == 1
    assert first_standing_day(Milliseconds(40 * day_ms), 30) == 11
