"""`vehicle quarantine`, `release` and `show`: what the operator does, and what the owner then sees."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server import cli, settings
from server.adapters.clock import SystemClock
from server.cli_project import opened
from server.domain.brake import Brake
from tests.support.model_vehicle import ModelVehicle
from workunits.values import Milliseconds

REASON = "its results differ from all others since Tuesday"


class Operator:
    """Somebody at the server's command line."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    def does(self, *words: str, code: int = 0) -> str:
        """What is printed; an error is one line without a traceback."""
        self._capsys.readouterr()
        assert cli.run(["--dir", str(self.folder), *words]) == code
        out, err = self._capsys.readouterr()
        if code == 1:
            assert err.startswith("error: ")
            assert err.count("\n") == 1
        return str(out or err)

    def sees(self, vehicle: str) -> dict[str, object]:
        found = json.loads(self.does("vehicle", "show", vehicle, "--json"))
        assert isinstance(found, dict)
        return found


@pytest.fixture
def operator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Operator:
    made = Operator(tmp_path / "project", capsys)
    made.does("init")
    return made


@pytest.fixture
def url(operator: Operator) -> Iterator[str]:
    command = (sys.executable, "-m", "server.cli", "--dir", str(operator.folder), "serve")
    serving = subprocess.Popen((*command, "--port", "0"), stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    assert serving.stdout is not None
    yield next(line for line in serving.stdout if "listening on" in line).split()[-1]
    serving.send_signal(signal.SIGTERM)
    serving.communicate(timeout=60)
    assert serving.returncode == 0


def owner(folder: Path, *words: str) -> str:
    """One of the owner's commands, as a process."""
    done = subprocess.run(
        (sys.executable, "-m", "tesla_at_home.cli", "--dir", str(folder), *words),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(300)
def test_the_owner_sees_that_the_project_paused_the_car_and_why(
    tmp_path: Path, operator: Operator, url: str
) -> None:
    car = tmp_path / "car"
    owner(car, "join", url, "--vehicle-name", "garage", "--vehicle", "scripted:home",
          "--accept-terms", "--yes")  # fmt: skip
    assert "its owner is told" in operator.does(
        "vehicle", "quarantine", "garage", "--reason", REASON
    )
    assert (operator.sees("garage")["state"], operator.sees("garage")["state_reason"]) == (
        "quarantined", REASON,
    )  # fmt: skip
    owner(car, "run", "--until-idle", "--timeout", "100")
    notice = f"this vehicle is quarantined and gets no work: {REASON}"
    assert notice in owner(car, "why")
    assert json.loads(owner(car, "status", "--json"))["notice"] == notice
    operator.does("vehicle", "release", "garage")
    owner(car, "run", "--until-idle", "--timeout", "100")
    assert json.loads(owner(car, "why", "--json"))["notice"] is None


@pytest.fixture
def enrolled(operator: Operator) -> str:
    """The id of a vehicle that joined."""
    from server.services.enrolment import Enrolments
    from tests.support.work_server import TERMS, FixedSealer
    from workunits.trust import digests

    with opened(operator.folder) as project:
        door = Enrolments(
            project.database, FixedSealer(), project.clock, project.randomness,
            sign_up="open", terms=TERMS,
        )  # fmt: skip
        door.enrol(ModelVehicle(1, 1).enrolment(), digests.plain(b"e"), None)
        return digests.of_key(ModelVehicle(1, 1).public_key).hex()


def test_show_says_what_the_brake_does_and_release_lifts_it(
    operator: Operator, enrolled: str
) -> None:
    until = Milliseconds(SystemClock().now_ms() + settings.LOST_PAUSE_MS)
    with opened(operator.folder) as project, project.database.transaction() as repos:
        [row] = repos.vehicles.list()
        repos.vehicles.set_brakes({row.id: Brake(2, 7, until)})
    seen = operator.sees(enrolled[:12])
    assert (seen["units_at_most"], seen["lost_in_row"]) == (1, 7)
    assert str(seen["paused_until"]).endswith("Z")
    assert "let 7 units in a row run out of time" in operator.does("vehicle", "show", enrolled)
    operator.does("vehicle", "release", enrolled)
    seen = operator.sees(enrolled)
    assert (seen["units_at_most"], seen["brake"], seen["paused_until"]) == (
        settings.HELD_LEASES, None, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("quarantine", "nobody"), "there is no vehicle nobody"),
        (("release", "nobody"), "there is no vehicle nobody"),
        (("release", "car 1"), "nothing holds the vehicle car 1 back"),
        (("quarantine", "car 1", "--reason", " \n "), "--reason: 1 to"),
        (("quarantine", "car 1", "--reason", "x" * 201), "--reason: 1 to"),
        (("quarantine", "car 1", "--reason", "red\x1b[31m"), "--reason: 1 to"),
    ],
)
@pytest.mark.usefixtures("enrolled")
def test_what_cannot_be_done_is_one_line(
    operator: Operator, words: tuple[str, ...], line: str
) -> None:
    assert line in operator.does("vehicle", *words, code=1)


@pytest.mark.usefixtures("enrolled")
def test_twice_is_said_so_and_changes_nothing(operator: Operator) -> None:
    operator.does("vehicle", "quarantine", "car 1")
    assert operator.sees("car 1")["state_reason"] == "by the project's operator"
    again = operator.does("vehicle", "quarantine", "car 1", "--reason", "another", code=1)
    assert "is quarantined" in again
    assert operator.sees("car 1")["state_reason"] == "by the project's operator"
