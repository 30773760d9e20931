"""`join`, `recover` and `leave`: what the owner is asked, in which order, and what they are told."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from tesla_at_home.cli_entering import Entering
from tesla_at_home.cli_shell import confirm, directory_of, note, read_secret, say
from tesla_at_home.errors import ClientError, Unreachable, Untrusted
from workunits.wire import limits

if TYPE_CHECKING:
    from tesla_at_home.adapters.enrolment import Owner
    from tesla_at_home.adapters.joining import Joined

CODE_VARIABLE: Final = "TESLA_AT_HOME_OWNER_CODE"
INVITE_VARIABLE: Final = "TESLA_AT_HOME_INVITE"

F = TypeVar("F", bound=Callable[..., object])


def _entrance_options(command: F) -> F:
    """What both `join` and `recover` need to be told."""
    for option in (
        click.option("--yes", is_flag=True, help="Answer yes; does not agree to the terms."),
        click.option(
            "--vehicle", "specs", multiple=True, metavar="SPEC",
            help="Where vehicle state comes from: linux:stationary, scripted:FILE, scripted:home. "
            "May be given several times.",
        ),
        click.option("--fingerprint", metavar="HEX", help="The project's fingerprint, for scripts."),
        click.option("--accept-terms", is_flag=True, help="Agree to the project's terms."),
        click.option(
            "--owner", "owner_file", metavar="FILE|-",
            help=f"The owner code, in a file or from standard input.  [env: {CODE_VARIABLE}]",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command()
@click.argument("url")
@click.option("--name", metavar="PSEUDONYM", help="How the leaderboard calls you.")
@click.option("--vehicle-name", metavar="NAME", help="A name for this computer.")
@click.option(
    "--invite", "invite_file", metavar="FILE|-",
    help=f"An invitation, in a file or from standard input.  [env: {INVITE_VARIABLE}]",
)  # fmt: skip
@click.option("--public", is_flag=True, help="Show your pseudonym on the leaderboard.")
@_entrance_options
@click.pass_context
def join(
    context: click.Context,
    url: str,
    name: str | None,
    vehicle_name: str | None,
    invite_file: str | None,
    public: bool,
    owner_file: str | None,
    accept_terms: bool,
    fingerprint: str | None,
    specs: tuple[str, ...],
    yes: bool,
) -> None:
    """Lend this computer to the project at URL."""
    from tesla_at_home.adapters import joining
    from tesla_at_home.adapters.clock import SystemRandomness
    from workunits.wire.messages import ExistingOwner, NewOwner

    directory = directory_of(context)
    _check_names(name, vehicle_name)
    if _is_joined(directory, url):
        return
    code = read_secret(owner_file, CODE_VARIABLE)
    if code is not None and (name is not None or public):
        raise click.UsageError("--name and --public belong to a new owner, not to --owner")
    owner: Owner
    if code is None:
        owner = NewOwner(
            code=joining.new_owner_code(SystemRandomness()), name=name, is_public=public
        )
    else:
        owner = ExistingOwner(code=joining.read_owner_code(code))
    if code is None and not public:
        note("Your owner will not be listed on the leaderboard, and this cannot be changed later")
        note("yet: to be listed, join with --public --name PSEUDONYM.")
    invite = read_secret(invite_file, INVITE_VARIABLE)
    entering = Entering(directory, url, fingerprint, accept_terms, yes)
    joined = entering.through(owner, vehicle_name, invite, specs)
    _tell_joined(joined, specs)


@click.command()
@click.argument("url")
@click.option("--vehicle-name", metavar="NAME", help="The vehicle that was lost.")
@_entrance_options
@click.pass_context
def recover(
    context: click.Context,
    url: str,
    vehicle_name: str | None,
    owner_file: str | None,
    accept_terms: bool,
    fingerprint: str | None,
    specs: tuple[str, ...],
    yes: bool,
) -> None:
    """Go on with this computer in the place of one that was lost.

    Asks for the owner code. The lost vehicle is retired; this one belongs to the same owner.
    """
    from tesla_at_home.adapters import joining
    from workunits.wire.messages import RecoveringOwner

    directory = directory_of(context)
    _check_names(None, vehicle_name)
    if joining.membership(directory) is not None:
        raise ClientError(
            f"{directory} has a vehicle already; recovering makes a new one in another --dir"
        )
    code = read_secret(owner_file, CODE_VARIABLE) or _ask_code()
    owner = RecoveringOwner(code=joining.read_owner_code(code), lost=vehicle_name)
    entering = Entering(
        directory, url, fingerprint, accept_terms, yes, if_taken="; say it with --vehicle-name"
    )
    joined = entering.through(owner, vehicle_name, None, specs)
    _tell_joined(joined, specs)
    say(f"The lost vehicle{f' {vehicle_name}' if vehicle_name else ''} is retired.")


@click.command()
@click.option("--erase", is_flag=True, help="Also erase your name, your vehicles and your history.")
@click.option("--yes", is_flag=True, help="Leave without asking.")
@click.pass_context
def leave(context: click.Context, erase: bool, yes: bool) -> None:
    """End your consent, leave the project and delete this vehicle's key."""
    from tesla_at_home import app
    from tesla_at_home.adapters import leaving
    from tesla_at_home.adapters.clock import SystemClock, SystemRandomness

    directory = directory_of(context)
    app.mend_if_damaged(directory)
    leaver = leaving.Leaver(directory, SystemClock(), SystemRandomness())
    member = leaver.member()
    what = "Leave, and erase everything the project knows of you," if erase else "Leave"
    question = f"{what} with {member.vehicle_name} from {member.url}?"
    if not yes and not confirm(question, otherwise="scripts give --yes"):
        raise ClientError("not left; nothing was changed")
    leaver.withdraw()
    with leaving.stopped_agent(directory):
        try:
            confirmation = leaver.tell(member, erase=erase)
        except (Unreachable, Untrusted) as error:
            raise ClientError(
                f"your consent has ended and nothing is computed here any more, but the project "
                f"could not be told yet ({error}); run `tesla-at-home leave` again"
            ) from None
    erased = " and has erased you" if confirmation.erased else ""
    say(f"Left. The project has confirmed it{erased}: {directory / leaving.CONFIRMATION}")


def _check_names(name: str | None, vehicle_name: str | None) -> None:
    """Refuse at once what the project would refuse after all questions were answered."""
    for option, given in (("--name", name), ("--vehicle-name", vehicle_name)):
        if given is None:
            continue
        hidden = next((char for char in given if not char.isprintable()), None)
        if hidden is not None:
            line = f"the name holds U+{ord(hidden):04X}, which cannot be seen; leave it out"
        elif not 1 <= len(given.strip()) <= limits.NAME_CHARS:
            count = len(given.strip())
            line = f"a name has 1 to {limits.NAME_CHARS} characters, not {count}"
        else:
            continue
        raise click.BadParameter(line, param_hint=f"'{option}'")


def _is_joined(directory: Path, url: str) -> bool:
    """Whether this directory belongs to the project already; says so.

    Raises:
        ClientError: it belongs to another.
    """
    from tesla_at_home.adapters import joining
    from tesla_at_home.adapters.transport import check_base_url

    base_url = check_base_url(url)
    member = joining.membership(directory)
    if member is None:
        return False
    if member.url != base_url:
        raise ClientError(
            f"{directory} belongs to {member.url} already; leave it first, or give another --dir"
        )
    say(f"{directory} has joined already, as {member.vehicle_name} of {member.owner_name}.")
    return True


def _tell_joined(joined: Joined, specs: tuple[str, ...]) -> None:
    from workunits.wire.messages import NewOwner

    member = joined.membership
    say(f"Joined {member.url} with {member.vehicle_name}, owner {member.owner_name}.")
    if isinstance(joined.owner, NewOwner):
        say("")
        say("Your owner code, shown this once:")
        say("")
        say(f"  {joined.owner.code}")
        say("")
        say("Write it down. It adds your other vehicles (`join --owner -`), and brings you back")
        say("when this computer is lost (`recover`).")
    say("")
    say("Next: `tesla-at-home run`")
    if "linux:stationary" in specs:
        note("")
        note("linux:stationary: with it you say that this computer stays where it is, is no car's")
        note("battery and nobody sits in front of it. Say which network is home, while on it:")
        note("`tesla-at-home network trust-current`")
    if not specs:
        note("No --vehicle was given: nothing is computed until")
        note("`tesla-at-home config set vehicle.sources SPEC`")


def _ask_code() -> str:
    try:
        return str(click.prompt("Owner code", hide_input=sys.stdin.isatty(), err=True))
    except click.Abort as abort:
        if isinstance(abort.__context__, EOFError):
            raise ClientError("nobody is there to answer; scripts give --owner FILE|-") from None
        raise
