"""`unit`, `owner`, `invite`: who computed what. Vehicles are in `server.cli_vehicle`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from server import cli_shell
from server.cli_shell import folder_of, json_option, not_yet, say
from server.cli_vehicle import vehicle_json, vehicle_table

if TYPE_CHECKING:
    from server.domain.records import OwnerRow


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
        listed = [vehicle_json(each) for each in vehicles]
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
        vehicle_table(vehicles)


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


def _credit(kflop: int) -> str:
    from server.http import wording

    return wording.credit(kflop)
