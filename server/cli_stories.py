"""A unit's story in plain sentences: who was given it, when, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from server import cli_shell
from server.cli_rows import find_batch
from server.domain.records import BatchRow, ReplicaRow, UnitStory
from server.errors import NotFound, Refused
from server.http import wording
from server.ports import Database, Repositories


@dataclass(frozen=True, slots=True)
class ToldUnit:
    """A unit's story with the names of those in it."""

    batch: BatchRow
    story: UnitStory
    names: dict[bytes, str]  # of vehicles, by id


def unit_story(database: Database, text: str) -> ToldUnit:
    """The story of the unit that `text` names as `batch/index`.

    Raises:
        NotFound, Refused
    """
    batch_text, _, index = text.partition("/")
    if not index.isascii() or not index.isdigit():
        raise Refused(f"{text}: write a unit as BATCH/INDEX, such as 3f2a/0")
    with database.reading() as storage:
        batch = find_batch(storage, batch_text)
        story = storage.units.story(batch.id, int(index))
        if story is None:
            raise NotFound(f"batch {batch.id.hex()} has {batch.units} units, from 0")
        return ToldUnit(batch, story, _names(storage, story.replicas))


def story_lines(told: ToldUnit) -> Iterator[str]:
    """The story for people."""
    unit = told.story.unit
    last_row = unit.first_row + unit.rows - 1
    said = wording.say(wording.UNIT, unit.state)
    why = f" ({unit.failure.replace('_', ' ')})" if unit.failure else ""
    yield f"Unit {unit.idx:,} of batch {told.batch.id.hex()}: rows {unit.first_row:,} to {last_row:,}."
    yield f"It is {said}{why}."
    for number, replica in enumerate(told.story.replicas, 1):
        yield cli_shell.one_line(f"{number}. {_sentence(replica, told.names, unit.canonical_id)}")


def story_json(told: ToldUnit) -> dict[str, object]:
    """The story for scripts."""
    unit = told.story.unit
    return {
        "batch": told.batch.id.hex(),
        "index": unit.idx,
        "first_row": unit.first_row,
        "rows": unit.rows,
        "state": unit.state,
        "failure": unit.failure,
        "output": _hex(unit.output),
        "replicas": [_replica_json(r, told.names, unit.canonical_id) for r in told.story.replicas],
    }


def _sentence(replica: ReplicaRow, names: dict[bytes, str], canonical: int | None) -> str:
    said = wording.say(wording.REPLICA, replica.state)
    if replica.vehicle_id is None:
        return f"{said[0].upper()}{said[1:]}."
    parts = [f"{cli_shell.moment(replica.leased_ms)}: given to {_name(replica, names)}"]
    if replica.state == "leased":
        parts.append(f"{said} until {cli_shell.moment(replica.deadline_ms)}")
    else:
        parts.append(f"{cli_shell.moment(replica.ended_ms)}: {said}")
    return "; ".join([*parts, *_details(replica, canonical)]) + "."


def _details(replica: ReplicaRow, canonical: int | None) -> Iterator[str]:
    if replica.code:
        yield replica.code.replace("_", " ") + (f" - {replica.detail}" if replica.detail else "")
    if replica.residual is not None:
        yield f"largest difference to the accepted result: {replica.residual} sigma"
    if replica.compute_ms:
        yield f"computed in {replica.compute_ms / 1000:.1f} s"
    if replica.runtime:
        yield replica.runtime
    if replica.kflop:
        yield f"credit {wording.credit(replica.kflop)}"
    if replica.id == canonical:
        yield "this is the accepted result"


def _replica_json(
    replica: ReplicaRow, names: dict[bytes, str], canonical: int | None
) -> dict[str, object]:
    return {
        "state": replica.state,
        "vehicle": _hex(replica.vehicle_id),
        "vehicle_name": names.get(replica.vehicle_id or b""),
        "owner": _hex(replica.owner_id),
        "leased": cli_shell.iso(replica.leased_ms),
        "deadline": cli_shell.iso(replica.deadline_ms),
        "ended": cli_shell.iso(replica.ended_ms),
        "output": _hex(replica.output),
        "code": replica.code,
        "detail": replica.detail,
        "residual": replica.residual,
        "runtime": replica.runtime,
        "compute_ms": replica.compute_ms,
        "credit_kflop": replica.kflop,
        "is_canonical": replica.id == canonical,
    }


def _names(storage: Repositories, replicas: Sequence[ReplicaRow]) -> dict[bytes, str]:
    ids = list({replica.vehicle_id for replica in replicas if replica.vehicle_id is not None})
    found = storage.vehicles.by_ids(ids) if ids else {}
    return {vehicle.id: vehicle.name for vehicle in found.values()}


def _name(replica: ReplicaRow, names: dict[bytes, str]) -> str:
    if replica.vehicle_id is None:
        return "nobody"
    return names.get(replica.vehicle_id, replica.vehicle_id.hex()[:16])


def _hex(raw: bytes | None) -> str | None:
    return None if raw is None else raw.hex()
