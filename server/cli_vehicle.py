"""`vehicle`: what vehicles are there, how reliable they are, and what holds one back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from server import cli_shell
from server.cli_shell import folder_of, json_option, say
from server.errors import Refused
from workunits.wire import limits

if TYPE_CHECKING:
    from server.domain.records import VehicleRow
    from server.services.conduct import Conduct
    from workunits.values import Milliseconds

_BY_OPERATOR: Final = "by the project's operator"
# The notice around it needs the rest.
_REASON_CHARS: Final = limits.TEXT_CHARS // 2


@click.group()
def vehicle() -> None:
    """Vehicles and how reliable they are."""


@vehicle.command("list")
@json_option
@click.pass_context
def list_vehicles(context: click.Context, as_json: bool) -> None:
    """All vehicles that joined."""
    from server.cli_project import opened
    from server.cli_rows import all_vehicles

    with opened(folder_of(context)) as project, project.database.reading() as storage:
        rows = list(all_vehicles(storage))
    if as_json:
        cli_shell.print_json([vehicle_json(row) for row in rows])
    elif not rows:
        say("no vehicles yet; owners join with: tesla-at-home join URL")
    else:
        vehicle_table(rows)


@vehicle.command("show")
@click.argument("vehicle_id", metavar="ID")
@json_option
@click.pass_context
def show_vehicle(context: click.Context, vehicle_id: str, as_json: bool) -> None:
    """One vehicle, by its name or the beginning of its id."""
    from server.cli_project import opened
    from server.cli_rows import find_vehicle
    from server.services.conduct import conduct_of

    with opened(folder_of(context)) as project, project.database.reading() as storage:
        row = find_vehicle(storage, vehicle_id)
        of = storage.owners.get(row.owner_id)
        held = storage.replicas.held_counts([row.id]).get(row.id, 0)
        now = project.clock.now_ms()
    conduct = conduct_of(row)
    if as_json:
        cli_shell.print_json(vehicle_json(row) | _conduct_json(row, conduct, held, now))
        return
    cli_shell.print_facts(
        [
            ("vehicle", row.name),
            ("id", row.id.hex()),
            ("owner", of.name if of else "-"),
            ("state", _state(row)),
            ("client", row.client),
            ("joined", cli_shell.moment(row.created_ms)),
            ("last seen", cli_shell.moment(row.seen_ms)),
            ("units held", f"{held} of {conduct.quota} at most"),
            ("brake", conduct.notice(now) or "-"),
            ("accepted", f"{row.valid:,}"),
            ("not accepted", f"{row.invalid:,}"),
            ("credit", _credit(row.credit_kflop)),
        ]
    )


@vehicle.command("quarantine")
@click.argument("vehicle_id", metavar="ID")
@click.option("--reason", default=_BY_OPERATOR, help="One line that its owner is told.")
@click.pass_context
def quarantine_vehicle(context: click.Context, vehicle_id: str, reason: str) -> None:
    """Give a vehicle no more work, and its results no voice, until it is released.

    It still reports what it holds. Its results are kept and judged by what others agree on.
    """
    from server.cli_project import opened
    from server.cli_rows import find_vehicle
    from server.services.quarantine import quarantine

    told = _line(reason)
    with opened(folder_of(context)) as project, project.database.transaction() as storage:
        row = find_vehicle(storage, vehicle_id)
        quarantine(storage, row, told, project.clock.now_ms())
    say(f"{row.name} ({row.id.hex()[:16]}) gets no more work; its owner is told: {told}")


@vehicle.command("release")
@click.argument("vehicle_id", metavar="ID")
@click.pass_context
def release_vehicle(context: click.Context, vehicle_id: str) -> None:
    """Give a vehicle work again that was in quarantine, or that errors and lost units hold back."""
    from server.cli_project import opened
    from server.cli_rows import find_vehicle
    from server.services.quarantine import release

    with opened(folder_of(context)) as project, project.database.transaction() as storage:
        row = find_vehicle(storage, vehicle_id)
        release(storage, row)
    say(f"{row.name} ({row.id.hex()[:16]}) gets work like any other")


def vehicle_json(row: VehicleRow) -> dict[str, object]:
    """A vehicle for scripts."""
    return {
        "id": row.id.hex(),
        "name": row.name,
        "owner": row.owner_id.hex(),
        "state": row.state,
        "state_reason": row.state_reason,
        "client": row.client,
        "joined": cli_shell.iso(row.created_ms),
        "seen": cli_shell.iso(row.seen_ms),
        "valid": row.valid,
        "invalid": row.invalid,
        "credit_kflop": row.credit_kflop,
    }


def _conduct_json(
    row: VehicleRow, conduct: Conduct, held: int, now: Milliseconds
) -> dict[str, object]:
    return {
        "units_held": held,
        "units_at_most": conduct.quota,
        "lost_in_row": row.lost_in_row,
        "paused_until": cli_shell.iso(row.paused_until_ms) if row.paused_until_ms > now else None,
        "brake": conduct.notice(now),
    }


def _line(reason: str) -> str:
    """The operator's words as one line that fits into a signed reply."""
    told = " ".join(reason.split())
    if not 1 <= len(told) <= _REASON_CHARS or not told.isprintable():
        raise Refused(f"--reason: 1 to {_REASON_CHARS} characters on one line")
    return told


def vehicle_table(rows: list[VehicleRow]) -> None:
    """Vehicles for people."""
    cli_shell.print_table(
        ("name", "id", "state", "#accepted", "#not accepted", "#credit", "last seen"),
        [
            (
                row.name,
                row.id.hex()[:16],
                _state(row),
                f"{row.valid:,}",
                f"{row.invalid:,}",
                _credit(row.credit_kflop),
                cli_shell.moment(row.seen_ms),
            )
            for row in rows
        ],
    )


def _state(row: VehicleRow) -> str:
    from server.http import wording

    said = wording.say(wording.VEHICLE, row.state)
    return f"{said}: {row.state_reason}" if row.state_reason else said


def _credit(kflop: int) -> str:
    from server.http import wording

    return wording.credit(kflop)
