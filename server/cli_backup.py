"""`backup` and `restore`: the whole project in one file, and back again.

Decides what is asked and what the operator is told; the work is `cli_copies`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from server import cli_shell
from server.cli_shell import folder_of, json_option, note, say
from server.errors import Refused

if TYPE_CHECKING:
    from server.cli_copies import Copied, Restored

_FILE: Final = click.Path(path_type=Path)
_LOST: Final = (
    "Lost is everything since: batches, models, results and the credit for them.",
    "Vehicles are told at their next request and need nobody's help: they keep what they hold, and",
    "those that joined since join again by themselves. Owners who left since and vehicles that were",
    "quarantined since are back, and vehicles that were released since are in quarantine: see to them",
    "again.",
)


@click.command()
@click.argument("file", type=_FILE)
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@click.option("--without-keys", is_flag=True, help="Leave the secret keys out.")
@json_option
@click.pass_context
def backup(
    context: click.Context, file: Path, force: bool, without_keys: bool, as_json: bool
) -> None:
    """Write the whole project to FILE, also while it is being served.

    FILE is a tar. It holds the project's secret keys, unless they are left out.
    """
    from server.cli_copies import back_up
    from server.cli_project import opened

    with opened(folder_of(context)) as project:
        copied = back_up(project, file, replaces=force, with_keys=not without_keys)
    if as_json:
        cli_shell.print_json(_as_json(file, copied))
    else:
        _tell_copied(file, copied)


@click.command()
@click.argument("file", type=_FILE)
@click.option("--yes", is_flag=True, help="Move a project that is there aside without asking.")
@click.pass_context
def restore(context: click.Context, file: Path, yes: bool) -> None:
    """Make the project in FILE, which `backup` wrote, the one in --dir.

    A project that is there is moved aside, not deleted. It must not be served meanwhile.
    """
    from server.adapters.clock import SystemClock
    from server.cli_copies import restore as put_back
    from server.cli_project import refuse_foreign

    folder = folder_of(context)
    with file.open("rb") as source:
        _ask(folder, yes)
        refuse_foreign(folder)
        _tell_restored(folder, put_back(folder, source, SystemClock().now_ms()))


def _ask(folder: Path, yes: bool) -> None:
    from server.adapters import settings_file
    from server.cli_project import is_founded

    if not is_founded(folder) or yes:
        return
    try:
        there = f"the project {settings_file.read(folder).name!r}"
    except Refused:
        there = "a project with a damaged project.toml"
    if not sys.stdin.isatty():
        raise Refused(f"{folder} holds {there}; say with --yes that it is to be moved aside")
    if not click.confirm(f"{folder} holds {there}. Move it aside?", err=True):
        raise Refused("nothing was changed")


def _as_json(file: Path, copied: Copied) -> dict[str, object]:
    return {
        "file": str(file),
        "bytes": copied.size_bytes,
        "blobs": copied.blobs,
        "made": cli_shell.iso(copied.facts.made_ms),
        "keys": list(copied.facts.keys),
    }


def _tell_copied(file: Path, copied: Copied) -> None:
    facts = copied.facts
    say(f"project {facts.name!r} as of {cli_shell.moment(facts.made_ms)} written to {file}: "
        f"{copied.size_bytes / 2**20:,.1f} MiB, {copied.blobs:,} blobs")  # fmt: skip
    if facts.keys:
        say(f"It holds SECRET KEYS ({', '.join(facts.keys)}): whoever reads it can sign in the "
            "project's name.")  # fmt: skip
    else:
        say("It holds no keys: nobody can go on from it without the files in keys/.")


def _tell_restored(folder: Path, restored: Restored) -> None:
    facts = restored.facts
    say(f"project {facts.name!r} as of {cli_shell.moment(facts.made_ms)} restored in {folder}")
    for line in _LOST:
        say(line)
    if restored.aside is not None:
        say(f"The project that was here lies in {restored.aside}; remove it when it is not needed.")
    if restored.absent_keys:
        names = ", ".join(f"keys/{role}.pem" for role in restored.absent_keys)
        note(f"warning: not here: {names}")
    if restored.behind:
        note(f"warning: the {', '.join(restored.behind)} metadata could not be signed anew, and "
             "vehicles that saw newer ones refuse these: put the keys into keys/ and restore "
             "once more")  # fmt: skip
    if not restored.absent_keys:
        say(f"next: tesla-at-home-server --dir {folder} serve")


BACKUP_COMMANDS: Final = (backup, restore)
