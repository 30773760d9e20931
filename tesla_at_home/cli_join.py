"""`join`, `recover` and `leave`: what the owner is asked, in which order, and what they are told."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from tesla_at_home.cli_shell import confirm, directory_of, note, read_secret, say
from tesla_at_home.errors import ClientError, Told, Unreachable, Untrusted

if TYPE_CHECKING:
    from tesla_at_home.adapters.enrolment import Owner
    from tesla_at_home.adapters.joining import Application, Approach, Entrance, Joined
    from tesla_at_home.ports import Clock, Randomness

CODE_VARIABLE: Final = "TESLA_AT_HOME_OWNER_CODE"
INVITE_VARIABLE: Final = "TESLA_AT_HOME_INVITE"
# Written to the settings of a vehicle whose project is on the same computer.
TRIAL_WAITS_S: Final = {
    "network.min_wait_s": 1.0,
    "network.no_work_first_s": 2.0,
    "network.no_work_most_s": 10.0,
    "network.backoff_first_s": 2.0,
    "network.backoff_most_s": 30.0,
}

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
    invite = read_secret(invite_file, INVITE_VARIABLE)
    entering = _Entering(directory, url, fingerprint, accept_terms, yes)
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
    if joining.membership(directory) is not None:
        raise ClientError(
            f"{directory} has a vehicle already; recovering makes a new one in another --dir"
        )
    code = read_secret(owner_file, CODE_VARIABLE) or _ask_code()
    owner = RecoveringOwner(code=joining.read_owner_code(code), lost=vehicle_name)
    entering = _Entering(directory, url, fingerprint, accept_terms, yes)
    joined = entering.through(owner, vehicle_name, None, specs)
    _tell_joined(joined, specs)
    say(f"The lost vehicle{f' {vehicle_name}' if vehicle_name else ''} is retired.")


@click.command()
@click.option("--erase", is_flag=True, help="Also erase your name, your vehicles and your history.")
@click.option("--yes", is_flag=True, help="Leave without asking.")
@click.pass_context
def leave(context: click.Context, erase: bool, yes: bool) -> None:
    """End your consent, leave the project and delete this vehicle's key."""
    from tesla_at_home.adapters import leaving
    from tesla_at_home.adapters.clock import SystemClock, SystemRandomness

    directory = directory_of(context)
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


class _Entering:
    """The way in, question by question."""

    def __init__(
        self, directory: Path, url: str, fingerprint: str | None, accept_terms: bool, yes: bool
    ) -> None:
        self._directory = directory
        self._url = url
        self._fingerprint = fingerprint
        self._accept_terms = accept_terms
        self._yes = yes

    def through(
        self, owner: Owner, vehicle_name: str | None, invite: str | None, specs: tuple[str, ...]
    ) -> Joined:
        """Ask what has to be asked, and enrol."""
        from tesla_at_home.adapters import joining, settings_file
        from tesla_at_home.adapters.clock import SystemClock, SystemRandomness
        from tesla_at_home.adapters.transport import is_loopback
        from tesla_at_home.adapters.vehicle import sources

        clock = SystemClock()
        checked = tuple(sources.check(spec) for spec in specs)
        found = joining.approach(self._url)
        is_repeated = joining.is_pending(self._directory, found)
        if is_repeated:
            note("Going on with the enrolment that had no answer.")
        else:
            self._compare(found)
        entrance = joining.enter(found, self._directory, clock.now_ms())
        if not is_repeated:
            self._agree(entrance)
        application = joining.Application(owner, vehicle_name, invite, clock.now_ms())
        joined = self._enrol(entrance, application, clock, SystemRandomness())
        if checked:
            settings_file.change(self._directory, "vehicle.sources", checked)
        if is_loopback(found.transport.base_url):
            self._ask_often()
        return joined

    def _ask_often(self) -> None:
        """A project on this computer has no fleet to be spared; whoever tries it out would wait."""
        from tesla_at_home import settings
        from tesla_at_home.adapters import settings_file

        now = settings_file.read(self._directory)
        for name, wait_s in TRIAL_WAITS_S.items():
            if settings.value(now, name) == settings.find(name).default:
                settings_file.change(self._directory, name, wait_s)

    def _enrol(
        self,
        entrance: Entrance,
        application: Application,
        clock: Clock,
        randomness: Randomness,
    ) -> Joined:
        from tesla_at_home.adapters import joining

        try:
            return joining.enrol(entrance, self._directory, application, clock, randomness)
        except Told as told:
            raise ClientError(f"the project said no: {told.detail}") from None
        except Unreachable as error:
            raise ClientError(f"{error}; run the same command again, it goes on there") from None

    def _compare(self, found: Approach) -> None:
        shown = found.fingerprint
        if self._fingerprint is not None:
            given = self._fingerprint.replace(" ", "").replace(":", "").lower()
            if given != shown:
                raise Untrusted(
                    f"{self._url} is not the project you mean: its fingerprint is {_in_fours(shown)}"
                )
            return
        note(f"{self._url} shows this fingerprint:")
        note("")
        note(f"  {_in_fours(shown)}")
        note("")
        if self._yes:
            self._expect_loopback(found)
            return
        question = "Is it the one that the project publishes?"
        if not confirm(question, otherwise="scripts give --fingerprint HEX"):
            raise ClientError("not joined; nothing was sent")

    def _expect_loopback(self, found: Approach) -> None:
        from tesla_at_home.adapters.transport import is_loopback

        if not is_loopback(found.transport.base_url):
            raise ClientError(
                "--yes alone trusts no project over a network; give its --fingerprint HEX"
            )

    def _agree(self, entrance: Entrance) -> None:
        project = entrance.project
        note(f"The terms of {project.name} (version {project.terms.version}):")
        note("")
        note(entrance.terms.rstrip())
        note("")
        if self._accept_terms:
            return
        question = "Do you agree to these terms?"
        if not confirm(question, otherwise="scripts give --accept-terms"):
            raise ClientError("not joined: without your consent nothing is computed")


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
    if "linux:stationary" in specs:
        note("")
        note("linux:stationary: with it you say that this computer stays where it is, is no car's")
        note("battery and nobody sits in front of it. Say which network is home, while on it:")
        note("tesla-at-home network trust-current")
    if not specs:
        note("No --vehicle was given: until `config set vehicle.sources ...` nothing is computed.")


def _ask_code() -> str:
    try:
        return str(click.prompt("Owner code", hide_input=sys.stdin.isatty(), err=True))
    except click.Abort as abort:
        if isinstance(abort.__context__, EOFError):
            raise ClientError("nobody is there to answer; scripts give --owner FILE|-") from None
        raise


def _in_fours(digits: str) -> str:
    return " ".join(digits[n : n + 4] for n in range(0, len(digits), 4))
