"""Replicas in SQL: ready, leased, reported, judged."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, Integer, bindparam, func, insert, or_, select, true, update

from server.domain.work import (
    HeldRow,
    LeaseGrant,
    ReadyRow,
    ReplicaEnd,
    ReportTaken,
    UntoldVerdict,
    VerdictGiven,
)
from server.storage.repositories.statements import (
    AnySelect,
    among,
    insert_each,
    keys,
    word,
    words,
    write_each,
)
from server.storage.tables import replicas, units, vehicles
from workunits.values import BatchId, KeyId, LeaseId, Milliseconds, OwnerId

_WAITING: Final = words("reported", "inconclusive")
_UNJUDGED: Final = words("reported", "inconclusive", "set_aside")

_HELD: Final[AnySelect] = select(
    replicas.c.id,
    replicas.c.unit_id,
    replicas.c.batch_id,
    replicas.c.state,
    replicas.c.owner_id,
    replicas.c.vehicle_id,
    replicas.c.lease_id,
    replicas.c.leased_ms,
    replicas.c.deadline_ms,
    replicas.c.code,
    replicas.c.detail,
    units.c.state.label("unit_state"),
    units.c.idx,
    units.c.rows,
    units.c.body,
    replicas.c.is_repeat,
).join_from(replicas, units, replicas.c.unit_id == units.c.id)
_BY_LEASES: Final = _HELD.where(replicas.c.lease_id.in_(keys()))
_HELD_BY: Final = _HELD.where(
    replicas.c.state == word("leased"), replicas.c.vehicle_id.in_(keys())
).order_by(replicas.c.id)
_UNDECIDED_OF: Final = _HELD.where(
    replicas.c.state != word("leased"),
    replicas.c.state.in_(_UNJUDGED),
    replicas.c.vehicle_id.in_(keys()),
).order_by(replicas.c.id)
_PAST_DEADLINE: Final = _HELD.where(
    replicas.c.state == word("leased"), replicas.c.deadline_ms < bindparam("now")
).order_by(replicas.c.deadline_ms)
_HELD_COUNTS: Final = (
    select(replicas.c.vehicle_id, func.count())
    .where(replicas.c.state == word("leased"), replicas.c.vehicle_id.in_(keys()))
    .group_by(replicas.c.vehicle_id)
)
_RESULTS_COUNTED: Final = (
    select(replicas.c.unit_id, func.count())
    .where(replicas.c.unit_id.in_(keys()), replicas.c.state.in_(_WAITING))
    .group_by(replicas.c.unit_id)
)
_NEWEST: Final = select(func.coalesce(func.max(replicas.c.id), 0))
_READY: Final = (
    select(
        replicas.c.id,
        replicas.c.unit_id,
        replicas.c.batch_id,
        units.c.idx,
        units.c.rows,
        units.c.body,
    )
    .join_from(replicas, units, replicas.c.unit_id == units.c.id)
    .where(
        replicas.c.batch_id == bindparam("batch"),
        replicas.c.state == word("ready"),
        replicas.c.id > bindparam("after"),
    )
    .order_by(replicas.c.id)
    .limit(bindparam("most", type_=Integer))
)
_VOICES: Final = select(replicas.c.unit_id, replicas.c.owner_id).where(
    replicas.c.unit_id.in_(keys()), replicas.c.owner_id.is_not(None)
)
_LAPSED: Final[AnySelect] = (
    select(replicas.c.unit_id, vehicles.c.owner_id)
    .join_from(replicas, vehicles, replicas.c.vehicle_id == vehicles.c.id)
    .where(replicas.c.unit_id.in_(keys()), replicas.c.state == word("lost"))
)
_STILL_READY: Final = select(replicas.c.id).where(
    replicas.c.id.in_(keys()), replicas.c.state == word("ready")
)
_LEASE: Final = (
    update(replicas)
    .where(replicas.c.id == bindparam("key"), replicas.c.state == word("ready"))
    .values(
        state="leased",
        owner_id=bindparam("owner"),
        vehicle_id=bindparam("vehicle"),
        lease_id=bindparam("lease"),
        leased_ms=bindparam("leased"),
        deadline_ms=bindparam("deadline"),
    )
)
_TAKE: Final = (
    update(replicas)
    .where(replicas.c.id == bindparam("key"), replicas.c.state == bindparam("old"))
    .values(
        state=bindparam("new"),
        owner_id=bindparam("owner"),
        output=bindparam("payload"),
        output_size=bindparam("size"),
        runtime=bindparam("ran_on"),
        compute_ms=bindparam("took_ms"),
        ended_ms=bindparam("ended"),
    )
)
_BECOMES: Final = (
    update(replicas)
    .where(replicas.c.id == bindparam("key"), replicas.c.state == bindparam("old"))
    .values(
        state=bindparam("new"),
        code=bindparam("why"),
        detail=bindparam("line"),
        ended_ms=bindparam("ended"),
        is_repeat=or_(replicas.c.is_repeat, bindparam("repeats")),
    )
)
_FREES: Final = _BECOMES.values(owner_id=None)
_JUDGE: Final = (
    update(replicas)
    .where(replicas.c.id == bindparam("key"), replicas.c.state == bindparam("old"))
    .values(
        state=bindparam("new"),
        residual=bindparam("worst"),
        kflop=bindparam("credit"),
        untold=bindparam("tell"),
        code=func.coalesce(bindparam("why"), replicas.c.code),
    )
)
_SCORE: Final = (
    update(vehicles)
    .where(vehicles.c.id == bindparam("key"))
    .values(
        valid=vehicles.c.valid + bindparam("good"), invalid=vehicles.c.invalid + bindparam("bad")
    )
)
_CANCEL_READY: Final = (
    update(replicas)
    .where(replicas.c.unit_id == bindparam("unit"), replicas.c.state == word("ready"))
    .values(state="cancelled")
)
_CANCEL_HELD: Final = (
    update(replicas)
    .where(replicas.c.unit_id == bindparam("unit"), replicas.c.state.in_(words("ready", "leased")))
    .values(state="cancelled", ended_ms=bindparam("ended"))
)
_DROP_WAITING: Final = (
    update(replicas)
    .where(replicas.c.unit_id == bindparam("unit"), replicas.c.state.in_(_UNJUDGED))
    .values(state="not_needed", untold=True)
)
_MAKE_READY: Final = insert(replicas)
_UNTOLD: Final = (
    select(
        replicas.c.id,
        replicas.c.vehicle_id,
        replicas.c.lease_id,
        replicas.c.state,
        func.coalesce(replicas.c.kflop, 0),
    )
    .where(replicas.c.untold == true(), replicas.c.vehicle_id.in_(keys()))
    .order_by(replicas.c.id)
    .limit(bindparam("most", type_=Integer))
)
_TOLD: Final = (
    update(replicas)
    .where(replicas.c.id == bindparam("key"), replicas.c.untold == true())
    .values(untold=False)
)


class SqlReplicas:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def by_leases(self, leases: Sequence[LeaseId]) -> dict[LeaseId, HeldRow]:
        found = (HeldRow(*row) for row in among(self._connection, _BY_LEASES, leases))
        return {held.lease_id: held for held in found}

    def held_by(self, vehicles_: Sequence[KeyId]) -> list[HeldRow]:
        return [HeldRow(*row) for row in among(self._connection, _HELD_BY, vehicles_)]

    def undecided_of(self, vehicles_: Sequence[KeyId]) -> list[HeldRow]:
        return [HeldRow(*row) for row in among(self._connection, _UNDECIDED_OF, vehicles_)]

    def held_counts(self, vehicles_: Sequence[KeyId]) -> dict[KeyId, int]:
        rows = among(self._connection, _HELD_COUNTS, vehicles_)
        return dict(rows)

    def results_counted(self, units_: Sequence[int]) -> dict[int, int]:
        rows = among(self._connection, _RESULTS_COUNTED, units_)
        return dict(rows)

    def newest(self) -> int:
        return int(self._connection.execute(_NEWEST).scalar_one())

    def ready(self, batch: BatchId, after: int, limit: int) -> list[ReadyRow]:
        place = {"batch": batch, "after": after, "most": limit}
        return [ReadyRow(*row) for row in self._connection.execute(_READY, place)]

    def voices(self, units_: Sequence[int]) -> dict[int, set[OwnerId]]:
        found: defaultdict[int, set[OwnerId]] = defaultdict(set)
        for unit, owner in among(self._connection, _VOICES, units_):
            found[unit].add(owner)
        return dict(found)

    def lapsed(self, units_: Sequence[int]) -> set[tuple[int, OwnerId]]:
        return {(unit, owner) for unit, owner in among(self._connection, _LAPSED, units_)}

    def still_ready(self, ids: Sequence[int]) -> set[int]:
        return {row.id for row in among(self._connection, _STILL_READY, ids)}

    def lease(self, grants: Sequence[LeaseGrant]) -> None:
        rows = [
            {
                "key": grant.id,
                "owner": grant.owner_id,
                "vehicle": grant.vehicle_id,
                "lease": grant.lease_id,
                "leased": grant.leased_ms,
                "deadline": grant.deadline_ms,
            }
            for grant in grants
        ]
        write_each(self._connection, _LEASE, rows, "ready replicas")

    def take(self, reports: Sequence[ReportTaken]) -> None:
        rows = [
            {
                "key": report.id,
                "old": report.old,
                "new": report.new,
                "owner": report.owner_id,
                "payload": report.output,
                "size": report.output_size,
                "ran_on": report.runtime,
                "took_ms": report.compute_ms,
                "ended": report.ended_ms,
            }
            for report in reports
        ]
        write_each(self._connection, _TAKE, rows, "reported replicas")

    def end(self, ends: Sequence[ReplicaEnd]) -> None:
        for statement, frees in ((_BECOMES, False), (_FREES, True)):
            rows = [
                {
                    "key": end.id,
                    "old": end.old,
                    "new": end.new,
                    "why": end.code,
                    "line": end.detail,
                    "ended": end.ended_ms,
                    "repeats": end.is_repeat,
                }
                for end in ends
                if end.frees_owner is frees
            ]
            write_each(self._connection, statement, rows, "ended replicas")

    def judge(self, verdicts: Sequence[VerdictGiven]) -> None:
        rows = [
            {
                "key": verdict.id,
                "old": verdict.old,
                "new": verdict.new,
                "worst": verdict.residual,
                "credit": verdict.kflop,
                "tell": verdict.is_final,
                "why": verdict.code,
            }
            for verdict in verdicts
        ]
        write_each(self._connection, _JUDGE, rows, "judged replicas")
        self._score(verdicts)

    def make_ready(self, units_: Sequence[tuple[int, BatchId]]) -> None:
        rows = [{"unit_id": unit, "batch_id": batch, "state": "ready"} for unit, batch in units_]
        insert_each(self._connection, _MAKE_READY, rows)

    def cancel_ready(self, units_: Sequence[int]) -> None:
        if units_:
            self._connection.execute(_CANCEL_READY, [{"unit": unit} for unit in units_])

    def close(self, units_: Sequence[int], now: Milliseconds) -> None:
        if units_:
            rows = [{"unit": unit, "ended": now} for unit in units_]
            self._connection.execute(_CANCEL_HELD, rows)
            self._connection.execute(_DROP_WAITING, [{"unit": unit} for unit in units_])

    def past_deadline(self, now: Milliseconds, limit: int) -> list[HeldRow]:
        rows = self._connection.execute(_PAST_DEADLINE.limit(limit), {"now": now})
        return [HeldRow(*row) for row in rows]

    def untold(self, vehicles_: Sequence[KeyId], limit: int) -> list[UntoldVerdict]:
        found = among(self._connection, _UNTOLD, vehicles_, most=limit)
        return [UntoldVerdict(*row) for row in found]

    def told(self, ids: Sequence[int]) -> None:
        write_each(self._connection, _TOLD, [{"key": one} for one in ids], "verdicts to tell")

    def _score(self, verdicts: Sequence[VerdictGiven]) -> None:
        good = Counter(verdict.vehicle_id for verdict in verdicts if verdict.new == "valid")
        bad = Counter(verdict.vehicle_id for verdict in verdicts if verdict.new == "invalid")
        rows = [
            {"key": vehicle, "good": good[vehicle], "bad": bad[vehicle]}
            for vehicle in sorted(good.keys() | bad.keys())
        ]
        if rows:
            # A vehicle that was erased meanwhile has no row any more, which is right.
            self._connection.execute(_SCORE, rows)
