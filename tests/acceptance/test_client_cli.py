"""The owner's commands as an owner meets them: processes, a project on loopback, exit codes, words."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_project import FakeProject, fake_project
from tests.support.tuf_repository import TERMS_TEXT
from workunits.trust import digests
from workunits.values import Milliseconds
from workunits.wire.messages import ExistingOwner, NewOwner, RecoveringOwner

PROGRAM = (sys.executable, "-m", "tesla_at_home.cli")
CODE = re.compile(r"^  ((?:[0-9a-f]{4}-){7}[0-9a-f]{4})$", re.MULTILINE)
A_CODE = "0123-4567-89ab-cdef-0123-4567-89ab-cdef"


class Car:
    """One directory, and its owner's hands."""

    def __init__(self, directory: Path, project: FakeProject) -> None:
        self.directory = directory
        self.project = project

    def command(self, *words: str) -> list[str]:
        return [*PROGRAM, "--dir", str(self.directory), *words]

    def does(
        self, *words: str, code: int = 0, typed: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; whatever happens, no traceback and at most one line of error."""
        done = subprocess.run(
            self.command(*words),
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **environment},
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, (words, done.stdout, done.stderr)
        errors = [line for line in done.stderr.splitlines() if "error: " in line]
        assert len(errors) == (1 if code == 1 else len(errors))
        return done

    def joins(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        given = ("--yes", "--accept-terms", "--vehicle", "scripted:home")
        return self.does("join", self.project.url, *given, *words, code=code)

    def reads(self, *words: str) -> dict[str, object]:
        found = json.loads(self.does(*words, "--json").stdout)
        assert isinstance(found, dict)
        return found


@pytest.fixture
def project() -> Iterator[FakeProject]:
    with fake_project(Milliseconds(time.time_ns() // 1_000_000)) as running:
        yield running


@pytest.fixture
def car(project: FakeProject, tmp_path: Path) -> Car:
    return Car(tmp_path / "car", project)


# --- joining ------------------------------------------------------------------------------------


def test_an_owner_joins_by_answering(car: Car, project: FakeProject) -> None:
    done = car.does("join", project.url, "--vehicle", "scripted:home", typed="y\ny\n")
    shown = re.findall(r"[0-9a-f]{4}(?: [0-9a-f]{4}){15}", done.stderr)
    root = project.repository.files["1.root.json"]
    assert shown[0].replace(" ", "") == digests.plain(root).hex()
    assert TERMS_TEXT.strip() in done.stderr
    (enrolled,) = project.enrolments
    owner = enrolled.owner
    assert isinstance(owner, NewOwner)
    assert not owner.is_public
    assert CODE.findall(done.stdout) == [owner.code]
    assert "not be listed" in done.stderr
    assert "short waits (network.*)" in done.stderr
    assert "0 s; gate.calm_s does not count" in done.stderr
    assert f"Next: `tesla-at-home --dir {car.directory} run`" in done.stdout
    assert enrolled.consent.terms == digests.plain(TERMS_TEXT.encode())
    assert enrolled.consent.scopes == ("compute",)
    assert car.reads("status")["owner_name"] == "brave-otter"
    assert car.reads("config", "get", "vehicle.sources")["value"] == ["scripted:home"]


def test_secrets_are_readable_by_the_owner_alone(car: Car) -> None:
    car.joins()
    for name in ("key.pem", "enrolment", "config.toml", "agent.sqlite3"):
        assert stat.S_IMODE((car.directory / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(car.directory.stat().st_mode) == 0o700
    assert b"BEGIN PRIVATE KEY" in (car.directory / "key.pem").read_bytes()


@pytest.mark.parametrize(
    ("words", "typed", "line"),
    [
        ((), "", "scripts give --fingerprint HEX"),
        ((), "n\n", "not joined; nothing was sent"),
        (("--yes",), "", "scripts give --accept-terms"),
        (("--yes",), "n\n", "without your consent nothing is computed"),
        (("--fingerprint", "aa:bb"), "", "is not the project you mean"),
    ],
)
def test_without_trust_and_consent_nobody_joins(
    words: tuple[str, ...], typed: str, line: str, car: Car, project: FakeProject
) -> None:
    done = car.does("join", project.url, *words, typed=typed, code=1)
    assert line in done.stderr
    assert project.enrolments == []
    assert "join URL" in car.does("status", code=1).stderr


def test_a_script_gives_the_fingerprint(car: Car, project: FakeProject) -> None:
    found = digests.plain(project.repository.files["1.root.json"]).hex().upper()
    spaced = " ".join(found[n : n + 4] for n in range(0, 64, 4))
    car.does("join", project.url, "--fingerprint", spaced, "--accept-terms")
    assert len(project.enrolments) == 1


def test_a_lost_reply_is_repaired_by_the_same_command(car: Car, project: FakeProject) -> None:
    project.lose_replies = 1
    assert "run the same command again" in car.joins(code=1).stderr
    done = car.joins()
    first, second = project.payloads
    assert first == second
    assert isinstance(project.enrolments[0].owner, NewOwner)
    assert CODE.findall(done.stdout) == [project.enrolments[0].owner.code]


def test_a_refused_enrolment_is_forgotten(car: Car, project: FakeProject) -> None:
    project.refuse = (409, "conflict", "the name 'otter' is taken; choose another with --name")
    assert "choose another" in car.joins("--name", "otter", code=1).stderr
    project.refuse = None
    car.joins("--name", "beaver", "--public")
    owner = project.enrolments[-1].owner
    assert isinstance(owner, NewOwner)
    assert (owner.name, owner.is_public) == ("beaver", True)


def test_a_forged_confirmation_is_refused(car: Car, project: FakeProject) -> None:
    project.forge()
    assert "does not check out" in car.joins(code=1).stderr
    car.does("status", code=1)


def test_joining_twice_says_so(car: Car, project: FakeProject, tmp_path: Path) -> None:
    car.joins()
    assert "has joined already" in car.joins().stdout
    assert len(project.enrolments) == 1
    done = car.does("join", "http://127.0.0.1:1", code=1)
    assert "belongs to" in done.stderr


def test_a_second_vehicle_of_the_same_owner(car: Car, project: FakeProject, tmp_path: Path) -> None:
    code_file = tmp_path / "code"
    code_file.write_text(A_CODE.upper().replace("-", " ") + "\n")
    done = car.joins("--owner", str(code_file), "--vehicle-name", "second")
    assert project.enrolments[-1].owner == ExistingOwner(code=A_CODE)
    assert project.enrolments[-1].vehicle_name == "second"
    assert A_CODE not in done.stdout + done.stderr


@pytest.mark.parametrize("by", ["-", "environment"])
def test_secrets_come_from_standard_input_or_the_environment(
    by: str, car: Car, project: FakeProject
) -> None:
    words = ["join", project.url, "--yes", "--accept-terms"]
    if by == "-":
        car.does(*words, "--owner", "-", typed=A_CODE + "\n")
    else:
        car.does(*words, TESLA_AT_HOME_OWNER_CODE=A_CODE, TESLA_AT_HOME_INVITE="welcome-in")
        assert project.enrolments[-1].invite == "welcome-in"
    assert project.enrolments[-1].owner == ExistingOwner(code=A_CODE)


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("--vehicle", "bicycle"), 2, "there are linux:stationary, scripted:FILE"),
        (("--vehicle", "scripted:nowhere.toml"), 2, "nowhere.toml"),
        (("--vehicle", "linux"), 1, "not available yet"),
        (("--vehicle", "teslamate:mqtt://host/x"), 1, "not available yet"),
        (("--vehicle", "wall-connector:10.0.0.9"), 1, "not available yet"),
        (("--owner", "/nowhere/code"), 1, "No such file"),
        (("--owner", "-"), 1, "standard input: empty"),
        (("--vehicle-name", "x" * 65), 2, "a name has 1 to 64 characters, not 65"),
        (("--vehicle-name", "a\x1bb"), 2, "U+001B"),
        (("--name", ""), 2, "'--name'"),
    ],
)
def test_bad_words_at_the_door_are_one_line(
    words: tuple[str, ...], code: int, line: str, car: Car, project: FakeProject
) -> None:
    done = car.does("join", project.url, "--yes", "--accept-terms", *words, code=code)
    assert line in done.stderr
    assert "fingerprint:" not in done.stderr
    assert project.enrolments == []


def test_a_misspelt_script_names_the_nearest_word(car: Car, project: FakeProject) -> None:
    script = car.directory.parent / "car.toml"
    script.write_text("[start]\nplugged = true\n")
    done = car.does("join", project.url, "--vehicle", f"scripted:{script}", code=2)
    assert "unknown key 'plugged'; did you mean plugged_in?" in done.stderr


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("http://example.org", "not encrypted"),
        ("example.org", "no address"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1: no connection: nothing listens there"),
        ("https://no-such-host.invalid", "no such host"),
    ],
)
def test_what_is_no_project(url: str, line: str, car: Car) -> None:
    assert line in car.does("join", url, code=1).stderr


def test_a_server_without_tls(car: Car, project: FakeProject) -> None:
    url = project.url.replace("http:", "https:")
    assert f"{url}: no TLS there" in car.does("join", url, code=1).stderr


def test_a_server_that_is_no_project(car: Car, project: FakeProject) -> None:
    project.repository.files.clear()
    assert "no Tesla@home project" in car.does("join", project.url, code=1).stderr


# --- recovering and leaving ---------------------------------------------------------------------


def test_recovering_asks_for_the_code_and_names_the_lost_vehicle(
    car: Car, project: FakeProject
) -> None:
    words = ("recover", project.url, "--yes", "--accept-terms", "--vehicle-name", "garage")
    assert "no owner code" in car.does(*words, typed="1234\n", code=1).stderr
    assert "--owner FILE|-" in car.does(*words, code=1).stderr
    done = car.does(*words, typed=A_CODE + "\n")
    assert project.enrolments[-1].owner == RecoveringOwner(code=A_CODE, lost="garage")
    assert "retired" in done.stdout
    assert A_CODE not in done.stdout
    assert "another --dir" in car.does(*words, typed=A_CODE + "\n", code=1).stderr


def test_leaving_is_confirmed_kept_and_final(car: Car, project: FakeProject) -> None:
    car.joins()
    assert "nothing was changed" in car.does("leave", typed="n\n", code=1).stderr
    done = car.does("leave", "--erase", typed="y\n")
    assert "has erased you" in done.stdout
    assert project.departures[-1].erase
    left = sorted(path.name for path in car.directory.iterdir())
    assert left == ["config.toml", "left", "lock"]
    assert "join URL" in car.does("status", code=1).stderr
    car.joins()  # and coming back is possible, with another key
    assert project.enrolments[0].key != project.enrolments[1].key


def test_leaving_ends_the_consent_even_when_nobody_can_be_told(
    car: Car, project: FakeProject
) -> None:
    car.joins()
    project.is_gone = True
    done = car.does("leave", "--yes", code=1)
    assert "nothing is computed here any more" in done.stderr
    for word in ("why", "status"):
        shown = car.does(word).stdout
        assert "you have ended your consent" in shown
        assert f"run `tesla-at-home --dir {car.directory} leave` again" in shown
    assert (car.directory / "key.pem").exists()
    project.is_gone = False
    project.lose_replies = 1
    car.does("leave", "--yes", code=1)
    car.does("leave", "--yes")
    first, second = project.departures
    assert first == second  # the same request, until it has an answer
    assert not (car.directory / "key.pem").exists()


# --- while `run` runs ---------------------------------------------------------------------------


@pytest.fixture
def running(car: Car) -> Iterator[subprocess.Popen[str]]:
    car.joins()
    with subprocess.Popen(
        car.command("run"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            _wait_for(car, "Nothing is computed", is_wanted=False)
            yield process
        finally:
            process.kill()


def _wait_for(car: Car, words: str, *, is_wanted: bool = True) -> None:
    """Ask `why` until it says so; an order takes effect within a second."""
    said = ""
    for _ in range(40):
        said = str(car.reads("why")["sentence"])
        if (words in said) is is_wanted:
            return
    raise AssertionError(f"{words!r}: {said}")


def test_orders_reach_a_running_agent(car: Car, running: subprocess.Popen[str]) -> None:
    assert car.reads("status")["is_running"] is True
    assert "another `tesla-at-home --dir" in car.does("run", code=1).stderr
    car.does("pause", "--for", "1h30m")
    _wait_for(car, "paused by you")
    shown = car.does("why").stdout
    assert f"`tesla-at-home --dir {car.directory} resume`" in shown
    assert re.search(r"not paused +no +paused by you", shown)
    car.does("resume")
    _wait_for(car, "paused by you", is_wanted=False)
    car.does("config", "set", "gate.charge_floor", "90")
    _wait_for(car, "the battery is at 80 %")
    running.terminate()
    assert running.wait(20) == 0
    assert "not running" in car.does("why").stdout


def test_leaving_stops_a_running_agent(
    car: Car, running: subprocess.Popen[str], project: FakeProject
) -> None:
    car.does("leave", "--yes")
    assert running.wait(20) == 0
    assert len(project.departures) == 1


# --- reading and settings -----------------------------------------------------------------------


def test_a_directory_that_never_joined_says_how(car: Car) -> None:
    for word in (
        "status",
        "why",
        "history",
        "run",
        "pause",
        "resume",
        "finish",
        "leave",
        "leaderboard",
    ):
        assert "join URL" in car.does(word, code=1).stderr, word
    assert not car.directory.exists()


def test_a_damaged_database_and_stray_files_are_no_fault_of_this_program(car: Car) -> None:
    car.joins()
    (car.directory / "models").mkdir(exist_ok=True)
    (car.directory / "models" / "README").write_text("not a model")
    database = car.directory / "agent.sqlite3"
    raw = database.read_bytes()
    database.write_bytes(raw[:4096] + b"\xa5" * (len(raw) - 4096))
    said = car.does("status", code=1).stderr
    assert "a fault of this program" not in said
    assert "agent.sqlite3: damaged" in said
    done = car.does("run", "--until-idle", "--timeout", "1", code=1)
    assert "is kept as agent.sqlite3.damaged-1; a new one was begun" in done.stdout
    assert "not idle after 1 s" in done.stderr
    assert "was damaged" in car.does("history").stdout
    assert "was damaged" in car.does("why").stdout
    car.does("pause")


def test_orders_outlast_an_agent_that_is_not_running(car: Car) -> None:
    car.joins()
    resume = f"`tesla-at-home --dir {car.directory} resume`"
    assert f"Paused until {resume}" in car.does("pause").stdout
    assert car.reads("status")["paused_until_ms"] is not None
    assert f"paused by you until {resume}" in car.does("status").stdout
    assert "Resumed" in car.does("resume").stdout
    assert "Nothing was paused" in car.does("resume").stdout
    assert "will be finished" in car.does("finish").stdout
    assert car.reads("status")["is_finishing"] is True
    assert car.reads("status")["paused_until_ms"] is None
    done = car.does("pause", "--for", "soon", code=2)
    assert (done.stdout, "'--for'" in done.stderr) == ("", True)


def test_the_history_begins_with_the_joining(car: Car, project: FakeProject) -> None:
    car.joins()
    (entry,) = json.loads(car.does("history", "--json").stdout)
    assert entry["kind"] == "joined"
    assert f"joined {project.url}" in car.does("history").stdout


def test_the_leaderboard_shows_what_the_project_says_and_no_more(
    car: Car, project: FakeProject
) -> None:
    car.joins()
    standing = {"rank": 1, "name": "evil\x1b[2J", "credit_kflop": 4_320_000_000_000}
    project.board = {"period": "30d", "page": 1, "has_more": False, "standings": [standing]}
    shown = car.does("leaderboard").stdout
    assert re.search(r"1  evil.*10 k", shown)
    assert "\x1b" not in shown
    assert car.reads("leaderboard")["standings"] == [standing]
    project.board = {"unexpected": True}
    assert "not readable" in car.does("leaderboard", code=1).stderr
    project.is_gone = True
    assert "502" in car.does("leaderboard", code=1).stderr


def test_settings_are_read_changed_and_refused(car: Car) -> None:
    assert car.does("config", "get", "limits.duty").stdout.strip() == "100"
    car.does("config", "set", "temperature", "none")
    assert car.reads("config", "get", "gate.temperature")["value"] is None
    assert "from 0.05 to 100" in car.does("config", "set", "duty", "0", code=1).stderr
    assert "no setting is called" in car.does("config", "get", "color", code=1).stderr
    done = car.does("config", "set", "vehicle.sources", "bicycle", code=1)
    assert "vehicle.sources: 'bicycle'" in done.stderr
    assert "--vehicle" not in done.stderr
    assert "from 0 to 100" in car.does("config", "set", "gate.charge_floor", "-1", code=1).stderr
    done = car.does("config", "set", "network.home", "foo", code=1)
    assert "network trust-current" in done.stderr
    every = json.loads(car.does("config", "list", "--json").stdout)
    assert {"limits.duty", "gate.hours", "network.home"} < {each["name"] for each in every}


def test_the_vehicle_shows_what_its_sources_say(car: Car) -> None:
    car.joins()
    shown = car.does("vehicle", "show").stdout
    assert re.search(r"plugged in +yes +scripted:home", shown)
    found = json.loads(car.does("vehicle", "show", "--json").stdout)
    assert {each["signal"]: each["value"] for each in found}["charge_percent"] == 80


def test_no_networkmanager_is_one_line(car: Car, tmp_path: Path) -> None:
    nowhere = f"unix:path={tmp_path / 'nothing'}"
    done = car.does("network", "trust-current", code=1, DBUS_SYSTEM_BUS_ADDRESS=nowhere)
    assert "NetworkManager does not answer" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("energy",),
        ("export", "x.json"),
        ("web",),
        ("service", "install", "--user"),
        ("service",),
    ],
)
def test_later_commands_say_so(words: tuple[str, ...], car: Car) -> None:
    assert "is not available yet" in car.does(*words, code=1).stderr


def test_wrong_usage_is_2(car: Car) -> None:
    for words in (("fly",), ("run", "--timeout", "3"), ("join",), ("history", "--lines", "0")):
        car.does(*words, code=2)


def test_help_and_version_load_nothing_heavy(tmp_path: Path) -> None:
    heavy = ["numpy", "onnx", "onnxruntime", "tuf", "requests", "rich", "sqlite3", "apscheduler"]
    looking = (
        "import sys; from tesla_at_home.cli import carry_out; "
        "codes = [carry_out([word]) for word in ('--help', '--version')]; "
        f"print(codes, [name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", looking], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[0, 0] []"
