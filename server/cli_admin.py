"""`init`, `migrate`, `serve`, `status`, `doctor`, `demo`: the project as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

import click

from server import cli_shell, settings
from server.cli_shell import FAILED, folder_of, json_option, say
from server.errors import NotAvailableYet, Refused

ROLES: Final = ("all", "api", "publisher", "worker")


@click.command()
@click.option("--name", default="Tesla@home", show_default=True, help="As owners see the project.")
@click.option(
    "--sign-up",
    type=click.Choice(["open", "invite"]),
    default="open",
    show_default=True,
    help="Who may join.",
)
@click.pass_context
def init(context: click.Context, name: str, sign_up: str) -> None:
    """Make a new project: keys, signed metadata, terms, database."""
    from server.adapters.settings_file import check_name
    from server.cli_project import found, is_founded
    from server.settings import ProjectSettings

    folder = folder_of(context)
    if is_founded(folder):
        say(f"there is a project in {folder} already; nothing was changed")
        return
    metadata = found(folder, ProjectSettings(name=check_name(name), sign_up=sign_up))
    say(f"project {name!r} made in {folder}")
    say(f"fingerprint  {grouped(metadata.fingerprint())}")
    say("Owners compare the fingerprint when they join. Before the project is public, move")
    say(
        "keys/root.pem to a machine that is not on the net; keys/targets.pem too, if models are added rarely."
    )
    say(f"next: tesla-at-home-server --dir {folder} serve")


@click.command()
@click.pass_context
def migrate(context: click.Context) -> None:
    """Bring the database to the schema of this version."""
    from server.adapters import settings_file
    from server.settings import DATABASE_FILE
    from server.storage.migrations import migrate as bring_up

    folder = folder_of(context)
    settings_file.read(folder)
    if bring_up(folder / DATABASE_FILE):
        say("the database was brought up to date")
    else:
        say("the database is up to date; nothing was changed")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--role", type=click.Choice(ROLES), default="all", show_default=True)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    metavar="ADDRESS",
    help="A proxy whose word about the caller's address counts.",
)
@click.option(
    "--no-work-wait",
    metavar="LENGTH",
    help="When vehicles come again that found no work.  [default: 10m; 5s for vehicles on this "
    "computer alone]",
)
@click.option("--database", metavar="URL", help="(not available yet)")
@click.option("--blobs", metavar="URL", help="(not available yet)")
@click.pass_context
def serve(
    context: click.Context,
    host: str,
    port: int,
    role: str,
    trusted_proxies: tuple[str, ...],
    no_work_wait: str | None,
    database: str | None,
    blobs: str | None,
) -> None:
    """Answer vehicles and browsers, validate results, keep the metadata fresh."""
    for option, value in (("--database", database), ("--blobs", blobs)):
        if value is not None:
            raise NotAvailableYet(f"{option}: other storage than the project's directory is not "
                                  "available yet")  # fmt: skip
    if role != "all":
        raise click.UsageError(
            f"--role {role}: SQLite is for one process, so only the role `all` can serve from it"
        )
    from server.app import serve as run
    from server.cli_project import announce_settings, serves_this_computer

    folder = folder_of(context)
    if no_work_wait is None:
        is_trial = serves_this_computer(folder, host, trusted_proxies)
        no_work_wait_s = settings.TRIAL_WAIT_S if is_trial else settings.NO_WORK_WAIT_S
    else:
        no_work_wait_s = cli_shell.seconds(no_work_wait, "--no-work-wait")
        if no_work_wait_s < 1:
            raise click.BadParameter(
                "must be at least 1s, or vehicles without work ask all the time",
                param_hint="'--no-work-wait'",
            )
    if warning := announce_settings(folder):
        cli_shell.note(f"warning: {warning}")
    code = run(
        folder,
        host=host,
        port=port,
        trusted_proxies=trusted_proxies,
        no_work_wait_s=no_work_wait_s,
        say=say,
    )
    raise click.exceptions.Exit(code)


@click.command()
@json_option
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """How the project stands.

    Every car that is given a unit has a copy of it. Credit counts accepted work: 1 is 432 thousand
    million calculations; µ stands for millionths, m for thousandths, k for thousands, M for millions.
    """
    from server.cli_project import opened
    from server.http import wording

    with opened(folder_of(context)) as project:
        now = project.clock.now_ms()
        with project.database.reading() as storage:
            totals = storage.credit.totals()
        roles = project.metadata.roles()
        warnings = project.metadata.warnings(now)
        fingerprint = project.metadata.fingerprint()
        settings = project.settings
    if as_json:
        cli_shell.print_json(
            {
                "name": settings.name,
                "sign_up": settings.sign_up,
                "fingerprint": fingerprint,
                "owners": totals.owners,
                "vehicles": totals.vehicles,
                "batches_running": totals.batches_running,
                "replicas_leased": totals.replicas_leased,
                "units_to_check": totals.units_to_check,
                "credit_kflop": totals.credit_kflop,
                "metadata": {r.role: cli_shell.iso(r.expires_ms) for r in roles},
                "warnings": list(warnings),
            }
        )
        return
    cli_shell.print_facts(
        [
            ("project", settings.name),
            ("sign-up", "open" if settings.sign_up == "open" else "by invitation"),
            ("fingerprint", grouped(fingerprint)),
            ("owners", f"{totals.owners:,}"),
            ("vehicles", f"{totals.vehicles:,}"),
            ("batches", f"{totals.batches_running:,} in progress"),
            ("with cars", f"{totals.replicas_leased:,} copies of units"),
            ("to check", f"{totals.units_to_check:,} units"),
            ("credit", wording.credit(totals.credit_kflop)),
            *((f"{r.role} metadata", f"until {cli_shell.moment(r.expires_ms)}") for r in roles),
        ]
    )
    for warning in warnings:
        say(f"warning: {warning}")


@click.command()
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Look for what is wrong with the project, and say how to mend it."""
    from server.cli_doctor import examine

    findings = examine(folder_of(context))
    if as_json:
        cli_shell.print_json(
            [{"what": f.what, "is_well": f.is_well, "detail": f.detail} for f in findings]
        )
    else:
        for finding in findings:
            say(f"{'ok   ' if finding.is_well else 'WRONG'}  {finding.what}: {finding.detail}")
    if not all(finding.is_well for finding in findings):
        raise click.exceptions.Exit(FAILED)


@click.command()
@click.option("--keep", is_flag=True, envvar="KEEP", help="Leave it running.  [env: KEEP=1]")
def demo(keep: bool) -> None:
    """Run the whole job once on this computer, with five clients and a liar."""
    environment = dict(os.environ)
    environment.pop("KEEP", None)
    if keep:
        environment["KEEP"] = "1"
    code = subprocess.run([sys.executable, "-m", "server.demo"], env=environment).returncode
    if code < 0:
        raise Refused(f"the demo was stopped by signal {-code}")
    raise click.exceptions.Exit(code)


ADMIN_COMMANDS: Final = (init, migrate, serve, status, doctor, demo)


def grouped(fingerprint: str) -> str:
    """A digest as people compare it: in groups of four."""
    return " ".join(fingerprint[i : i + 4] for i in range(0, len(fingerprint), 4))
