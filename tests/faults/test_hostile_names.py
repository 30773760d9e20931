"""What owners and vehicles write about themselves, on pages and in terminals: shown, never obeyed.

Enrolment refuses such names (`test_pseudonyms`); these were stored all the same, by an older version
or by a restored backup.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
import requests
from rich.console import Console

from server import cli_shell as project_shell
from server import cli_stories
from server.cli import run
from server.cli_project import opened
from server.domain.records import ConsentRow, OwnerRow, ReplicaRow, UnitRow, UnitStory, VehicleRow
from server.domain.work import Crediting
from tesla_at_home import cli_shell as owner_shell
from tests.support.http_doors import Grounds, grounds
from tests.support.server_rows import BATCH
from workunits.trust import digests
from workunits.values import Digest, KeyId, Milliseconds, OwnerId, SessionId

NAMES = {
    "script": "<script>alert(1)</script>",
    "attribute": "\" onmouseover='alert(1)' x=\"",
    "template": "{{ 7 * 7 }}{% raw %}",
    "entity": "&lt;b&gt;",
    "markup": "[red]not red[/red]",
    "turned": "abc\u202edef\u2066",
    "unseen": "a\u200bb\ufeffc",
    "escape": "\x1b[2J\x1b]0;owned\x07",
    "one character escape": "\x9b2J\x90x\x9c",
    "lines": "nobody\nactive  yes\r\nforged",
    "controls": "".join(map(chr, range(32))) + "\x7f\x85",
    "long": "n" * 10_000,
    "tower": "a" + "\u0301" * 2000,
}
NOW = Milliseconds(1_800_000_000_000)


def expect_harmless(text: str) -> None:
    """Nothing but letters, and line feeds that we wrote."""
    steering = {char for char in text if not char.isprintable() and char != "\n"}
    assert steering == set()


# --- pages --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    with grounds(tmp_path_factory.mktemp("project")) as found:
        for number, name in enumerate(NAMES.values(), 1):
            owner = OwnerId(number.to_bytes(16, "big"))
            vehicle = KeyId(number.to_bytes(32, "big"))
            with found.database.transaction() as storage:
                storage.owners.add(OwnerRow(owner, name, True, None, "active", NOW))
                storage.vehicles.add(vehicle_row(vehicle, owner, name), consent(vehicle))
                storage.credit.grant([Crediting(number, owner, vehicle, number, NOW, "valid")])
        yield found


def vehicle_row(vehicle: KeyId, owner: OwnerId, name: str) -> VehicleRow:
    return VehicleRow(
        vehicle, owner, bytes(32), name, "quarantined", name, name, NOW, NOW,
        SessionId(bytes(16)), 0, digests.ZERO, None, None,
    )  # fmt: skip


def consent(vehicle: KeyId) -> ConsentRow:
    nothing = Digest(bytes(32))
    return ConsentRow(vehicle, nothing, "1", NOW, "compute", NOW, nothing)


class Owners(HTMLParser):
    """The texts of the cells with owners, and every tag and attribute that there is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self._is_owner = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if ("class", "owner") in attrs:
            self._is_owner = True
            self.names.append("")

    def handle_endtag(self, tag: str) -> None:
        self._is_owner = self._is_owner and tag != "th"

    def handle_data(self, data: str) -> None:
        if self._is_owner:
            self.names[-1] += data


def test_a_page_shows_every_name_and_obeys_none(site: Grounds) -> None:
    text = requests.get(f"{site.url}/leaderboard?period=all", timeout=30).text
    page = Owners(text)
    assert sorted(page.names) == sorted(NAMES.values())
    assert "script" not in page.tags
    assert not any(name.startswith("on") for name in page.attributes)
    # Each name is isolated, so that one which turns the line around turns itself only.
    assert text.count("<bdi>") == len(NAMES) + 1


def test_the_project_is_a_name_too(site: Grounds) -> None:
    for path in ("/leaderboard", "/nothing"):
        assert "Night &amp; Co &lt;b&gt;" in requests.get(site.url + path, timeout=30).text


def test_programs_get_names_as_json(site: Grounds) -> None:
    answer = requests.get(f"{site.url}/v1/leaderboard?period=all", timeout=30)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert sorted(line["name"] for line in answer.json()["standings"]) == sorted(NAMES.values())


# --- terminals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", [project_shell, owner_shell], ids=["server", "vehicle"])
@pytest.mark.parametrize("name", sorted(NAMES))
def test_no_name_steers_a_terminal(
    shell: ModuleType,
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    hostile = NAMES[name]
    shell.say(hostile)
    shell.note(hostile)
    shell.print_json({"name": hostile})
    out, err = capsys.readouterr()
    expect_harmless(out.replace("\t", ""))
    expect_harmless(err.replace("\t", ""))
    assert json.loads(out[out.rindex("{\n") :]) == {"name": hostile}
    shell.print_facts([("name", hostile), ("state", "active")])
    shell.print_table(("name", "state"), [(hostile[:100], "active")])
    shown = capsys.readouterr().out
    expect_harmless(shown)
    # Two facts, a heading and a row, whatever stands in them; long names are folded.
    assert len(shown.splitlines()) == 4 or name == "tower"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names") / "project"
    assert run(["--dir", str(folder), "init", "--name", "Test"]) == 0
    with opened(folder) as here, here.database.transaction() as storage:
        for number, name in enumerate(NAMES.values(), 1):
            owner = OwnerId(number.to_bytes(16, "big"))
            vehicle = KeyId(number.to_bytes(32, "big"))
            storage.owners.add(OwnerRow(owner, name, True, None, "active", NOW))
            storage.vehicles.add(vehicle_row(vehicle, owner, name), consent(vehicle))
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ("vehicle", "list"),
        ("vehicle", "show", f"{8:064x}"),
        ("vehicle", "show", f"{10:064x}"),
        ("owner", "list"),
        ("owner", "show", f"{8:032x}"),
        ("owner", "show", "no\x1b[2Jbody"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["words", "json"])
def test_no_command_passes_on_what_steers_a_terminal(
    project: Path,
    command: tuple[str, ...],
    form: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Console, "is_terminal", False)
    run(["--dir", str(project), *command, *form])
    out, err = capsys.readouterr()
    assert out or err
    expect_harmless(out)
    expect_harmless(err)


def told_unit(words: str) -> cli_stories.ToldUnit:
    """A unit that a vehicle could not compute, with `words` for everything that it may say."""
    key = KeyId(bytes(32))
    unit = UnitRow(1, BATCH.id, 0, 0, 4, b"", "open", False, 1, 1, None, None, None)
    replica = ReplicaRow(
        1, 1, BATCH.id, "failed", OwnerId(bytes(16)), key, None, NOW, NOW, NOW, None, None,
        "not_enough_memory", words, None, words, 5, None,
    )  # fmt: skip
    return cli_stories.ToldUnit(BATCH, UnitStory(unit, (replica,)), {key: words})


def test_a_vehicles_words_cannot_forge_a_line_of_a_units_story() -> None:
    told = told_unit("no memory\n2. 2026-01-01: given to honest car; accepted.\x1b[2J")
    lines = list(cli_stories.story_lines(told))
    assert len(lines) == 3
    assert all(len(line.splitlines()) == 1 for line in lines)
    for line in lines:
        expect_harmless(line)
