"""The way into a project, question by question: fingerprint, terms, enrolment, first settings.

Which command asks for what stands in `cli_join`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from tesla_at_home.cli_shell import confirm, note
from tesla_at_home.errors import (
    BadScript,
    ClientError,
    Told,
    UnknownVehicle,
    Unreachable,
    Untrusted,
)

if TYPE_CHECKING:
    from tesla_at_home.adapters.enrolment import Owner
    from tesla_at_home.adapters.joining import Application, Approach, Entrance, Joined
    from tesla_at_home.ports import Clock, Randomness

# Written to the settings of a vehicle whose project is on the same computer.
TRIAL_WAITS_S: Final = {
    "network.min_wait_s": 1.0,
    "network.no_work_first_s": 2.0,
    "network.no_work_most_s": 10.0,
    "network.backoff_first_s": 2.0,
    "network.backoff_most_s": 30.0,
}

# The status of a name that is taken, or of a lost vehicle that must be named.
_CONFLICT: Final = 409


class Entering:
    """The way in, question by question."""

    def __init__(
        self,
        directory: Path,
        url: str,
        fingerprint: str | None,
        accept_terms: bool,
        yes: bool,
        *,
        if_taken: str = "",
    ) -> None:
        self._directory = directory
        self._if_taken = if_taken  # what to do when the project answers with a conflict
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
        try:
            checked = tuple(sources.check(spec) for spec in specs)
        except (BadScript, UnknownVehicle) as error:
            raise click.BadParameter(str(error), param_hint="'--vehicle'") from None
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
            self._tell_calm(checked, clock)
        if is_loopback(found.transport.base_url):
            self._ask_often()
        return joined

    def _ask_often(self) -> None:
        """A project on this computer has no fleet to be spared; whoever tries it out would wait."""
        from tesla_at_home import settings
        from tesla_at_home.adapters import settings_file

        now = settings_file.read(self._directory)
        untouched = [
            name
            for name in TRIAL_WAITS_S
            if settings.value(now, name) == settings.find(name).default
        ]
        for name in untouched:
            settings_file.change(self._directory, name, TRIAL_WAITS_S[name])
        if untouched:
            note(
                "The project is on this computer, so it is asked every few seconds: short waits "
                f"(network.*) were written to {self._directory / settings_file.FILE_NAME}."
            )

    def _tell_calm(self, specs: tuple[str, ...], clock: Clock) -> None:
        """A scripted vehicle may have a calm time of its own, in the place of the setting."""
        from tesla_at_home.adapters import settings_file
        from tesla_at_home.adapters.vehicle import sources

        if not any(spec.startswith(sources.SCRIPTED) for spec in specs):
            return
        calm_s = sources.open_sources(specs, clock, tuple).calm_s
        if calm_s is None:
            calm_s = settings_file.read(self._directory).gate.calm_s
            note(f"The gate opens when all conditions have held for {calm_s:g} s (gate.calm_s).")
        else:
            note(
                f"The script says how long all conditions must hold before the gate opens: "
                f"{calm_s:g} s; gate.calm_s does not count."
            )

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
            hint = self._if_taken if told.status == _CONFLICT else ""
            raise ClientError(f"the project said no: {told.detail}{hint}") from None
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


def _in_fours(digits: str) -> str:
    return " ".join(digits[n : n + 4] for n in range(0, len(digits), 4))
