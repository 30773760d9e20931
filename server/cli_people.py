"""`unit`, `vehicle`, `owner`, `invite`: who computed what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from server import cli_shell
from server.cli_shell import folder_of, json_option, not_yet, say

if TYPE_CHECKING:
    from server.domain.records import OwnerRow, VehicleRow


@click.group()
def unit() -> None:
    """The story of one unit."""


@unit.command("show")
@click.argument("unit_id", metavar="BATCH/INDEX")
@json_option
@click.pass_context
def show_unit(context: click.Context, unit_id: str, as_json: bool) -> None:
    """Who computed a unit, when, and what came of it."""
    from server.cli_project import opened
    from server.cli_stories import story_json, story_lines, unit_story

    with opened(folder_of(context)) as project:
        told = unit_story(project.database, unit_id)
    if as_json:
        cli_shell.print_json(story_json(told))
    else:
        for line in story_lines(told):
            say(line)


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
        cli_shell.print_json([_vehicle_json(row) for row in rows])
    elif not rows:
        say("no vehicles yet; owners join with: tesla-at-home join URL")
    else:
        _vehicle_table(rows)


@vehicle.command("show")
@click.argument("vehicle_id", metavar="ID")
@json_option
@click.pass_context
def show_vehicle(context: click.Context, vehicle_id: str, as_json: bool) -> None:
    """One vehicle, by its name or the beginning of its id."""
    from server.cli_project import opened
    from server.cli_rows import find_vehicle

    with opened(folder_of(context)) as project, project.database.reading() as storage:
        row = find_vehicle(storage, vehicle_id)
        of = storage.owners.get(row.owner_id)
        held = storage.replicas.held_counts([row.id]).get(row.id, 0)
    if as_json:
        cli_shell.print_json(_vehicle_json(row) | {"units_held": held})
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
            ("units held", str(held)),
            ("accepted", f"{row.valid:,}"),
            ("not accepted", f"{row.invalid:,}"),
            ("credit", _credit(row.credit_kflop)),
        ]
    )


for _name in ("quarantine", "release"):
    vehicle.add_command(not_yet(f"vehicle {_name}"))


@click.group()
def owner() -> None:
    """Owners and their credit."""


@owner.command("list")
@json_option
@click.pass_context
def list_owners(context: click.Context, as_json: bool) -> None:
    """All owners."""
    from server.cli_project import opened
    from server.cli_rows import all_owners

    with opened(folder_of(context)) as project, project.database.reading() as storage:
        rows = list(all_owners(storage))
    if as_json:
        cli_shell.print_json([_owner_json(row) for row in rows])
    elif not rows:
        say("no owners yet; they join with: tesla-at-home join URL")
    else:
        cli_shell.print_table(
            ("name", "id", "state", "shown", "#credit"),
            [
                (
                    r.name,
                    r.id.hex()[:16],
                    r.state,
                    "yes" if r.is_public else "no",
                    _credit(r.credit_kflop),
                )
                for r in rows
            ],
        )


@owner.command("show")
@click.argument("owner_id", metavar="ID")
@json_option
@click.pass_context
def show_owner(context: click.Context, owner_id: str, as_json: bool) -> None:
    """One owner and their vehicles, by name or the beginning of the id."""
    from server.cli_project import opened
    from server.cli_rows import find_owner

    with opened(folder_of(context)) as project, project.database.reading() as storage:
        row = find_owner(storage, owner_id)
        vehicles = storage.vehicles.of_owner(row.id)
    if as_json:
        listed = [_vehicle_json(each) for each in vehicles]
        cli_shell.print_json(_owner_json(row) | {"vehicles": listed})
        return
    cli_shell.print_facts(
        [
            ("owner", row.name),
            ("id", row.id.hex()),
            ("state", row.state),
            ("shown to all", "yes" if row.is_public else "no"),
            ("joined", cli_shell.moment(row.created_ms)),
            ("credit", _credit(row.credit_kflop)),
            ("last 30 days", _credit(row.month_kflop)),
        ]
    )
    if vehicles:
        say()
        _vehicle_table(vehicles)


owner.add_command(not_yet("owner ban"))


@click.group()
def invite() -> None:
    """Codes for owners, where the project is open by invitation only."""


@invite.command("create")
@json_option
@click.pass_context
def create_invite(context: click.Context, as_json: bool) -> None:
    """A code for one vehicle; it is shown once and not kept."""
    from server.cli_project import opened
    from workunits.trust import digests

    with opened(folder_of(context)) as project:
        code = project.randomness.token(_INVITE_BYTES).hex()
        now = project.clock.now_ms()
        with project.database.transaction() as storage:
            storage.joining.add_invite(digests.of_invite(code), now)
        is_needed = project.settings.sign_up == "invite"
    if as_json:
        cli_shell.print_json({"invite": code})
        return
    say(code)
    if not is_needed:
        cli_shell.note("note: this project is open to everybody; nobody needs the code")


# 128 bits: nobody guesses it, so no slow hash is needed.
_INVITE_BYTES = 16


def _vehicle_json(row: VehicleRow) -> dict[str, object]:
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


def _owner_json(row: OwnerRow) -> dict[str, object]:
    return {
        "id": row.id.hex(),
        "name": row.name,
        "state": row.state,
        "is_public": row.is_public,
        "joined": cli_shell.iso(row.created_ms),
        "credit_kflop": row.credit_kflop,
        "month_kflop": row.month_kflop,
    }


def _vehicle_table(rows: list[VehicleRow]) -> None:
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
