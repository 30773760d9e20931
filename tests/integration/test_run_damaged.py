"""`run` and the owner's commands on a directory that the disk has damaged: one line, and the way on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tesla_at_home import app, cli
from tesla_at_home.adapters import joining, metadata, orders, repair, settings_file, store_copy
from tesla_at_home.adapters.clock import SystemClock
from tesla_at_home.adapters.keystore import FileKeys
from tesla_at_home.adapters.store import FILE_NAME, REPAIRED, Store
from tesla_at_home.errors import AlreadyRunning, ClientError, StoreDamaged
from tests.support.project_in_memory import MemoryProject
from tests.support.tuf_repository import TufRepository
from tests.support.vehicle_agent import Agent


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A joined vehicle that is not at home, so that it speaks to nobody."""
    agent = Agent(tmp_path / "vehicle", MemoryProject(SystemClock().now_ms))
    agent.join()
    FileKeys.open_or_create(agent.directory)
    metadata.pin(agent.directory / joining.METADATA, TufRepository().files["1.root.json"])
    script = tmp_path / "away.toml"
    script.write_text("[start]\nparked = false\n")
    settings_file.change(agent.directory, "vehicle.sources", (f"scripted:{script}",))
    return agent.directory


def garble(directory: Path) -> None:
    path = directory / FILE_NAME
    raw = path.read_bytes()
    path.write_bytes(raw[:100] + b"\xa5" * (len(raw) - 100))


def run_a_moment(directory: Path) -> list[str]:
    said: list[str] = []
    with pytest.raises(ClientError, match="not idle"):
        app.run(directory, until_idle=True, timeout_s=0.1, tell=said.append)
    return said


def call(directory: Path, *arguments: str) -> int:
    return cli.carry_out(["--dir", str(directory), *arguments])


def test_run_goes_on_and_history_and_why_say_so(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    garble(directory)
    mended, *_ = run_a_moment(directory)
    assert "kept as agent.sqlite3.damaged-1; a new one was begun" in mended
    assert [entry.text for entry in app.history(directory) if entry.kind == REPAIRED] == [mended]
    assert call(directory, "why") == 0
    assert mended in " ".join(capsys.readouterr().out.split())
    assert call(directory, "why", "--json") == 0
    assert json.loads(capsys.readouterr().out)["repaired"]["text"] == mended
    # And from now on as ever.
    assert len(run_a_moment(directory)) == 1


@pytest.mark.parametrize("command", ["status", "why", "history", "leaderboard"])
def test_commands_that_read_name_the_damage_and_move_nothing(
    directory: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    garble(directory)
    before = {path.name: path.read_bytes() for path in directory.glob(f"{FILE_NAME}*")}
    assert call(directory, command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{FILE_NAME}: damaged" in line
    assert "run` sets it aside" in line
    assert {path.name: path.read_bytes() for path in directory.glob(f"{FILE_NAME}*")} == before


def test_without_a_copy_the_way_out_is_another_one(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    garble(directory)
    store_copy.path_in(directory).write_bytes(b"garbage")
    assert call(directory, "run") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "recover URL" in line
    assert "sets it aside" not in line


def test_an_order_is_carried_out_on_a_mended_database(directory: Path) -> None:
    garble(directory)
    assert call(directory, "pause") == 0
    assert app.view(directory).paused_until_ms is not None
    garble(directory)
    assert call(directory, "finish") == 0
    view = app.view(directory)
    assert view.is_finishing
    assert view.paused_until_ms is not None


def test_no_command_mends_what_an_agent_holds(directory: Path) -> None:
    garble(directory)
    with orders.locked(directory), pytest.raises(AlreadyRunning):
        app.mend_if_damaged(directory)
    assert repair.set_aside(directory) == []


def test_a_disk_that_does_it_again_is_no_crash_loop(directory: Path) -> None:
    garble(directory)
    run_a_moment(directory)
    garble(directory)
    with pytest.raises(StoreDamaged):
        app.run(directory, until_idle=True, timeout_s=0.1)
    assert len(repair.set_aside(directory)) == 1
    command = [sys.executable, "-m", "tesla_at_home.cli", "--dir", str(directory), "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "damaged" in line
            assert "nothing is computed for 60 s" in line
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_without_a_copy_it_is_one_line(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    garble(directory)
    store_copy.remove(directory)
    assert call(directory, "run") == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert "restore it, or begin in another --dir" in line
    assert repair.set_aside(directory) == []


def _lose_key(directory: Path) -> None:
    (directory / "key.pem").unlink()


def _empty_key(directory: Path) -> None:
    (directory / "key.pem").write_bytes(b"")


def _garble_settings(directory: Path) -> None:
    (directory / settings_file.FILE_NAME).write_bytes(b"\x00\xff" * 50)


def _lose_pins(directory: Path) -> None:
    for path in (directory / joining.METADATA).glob("pinned*"):
        path.write_bytes(b"{}")


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (_lose_key, "key.pem"),
        (_empty_key, "key.pem"),
        (_garble_settings, "config.toml"),
        (_lose_pins, "pinned.json"),
    ],
)
def test_what_nobody_can_make_again_is_one_line_that_names_it(
    directory: Path,
    damage: Callable[[Path], None],
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(directory)
    assert call(directory, "run") == 1
    captured = capsys.readouterr()
    *_, line = captured.err.splitlines()
    assert line.startswith("error: ")
    assert name in line
    assert not (name == "key.pem" and (directory / name).exists() and _is_key(directory))


def _is_key(directory: Path) -> bool:
    return b"PRIVATE KEY" in (directory / "key.pem").read_bytes()


def test_leftovers_of_a_killed_agent_stand_in_nobodys_way(directory: Path) -> None:
    (directory / orders.LOCK_NAME).write_bytes(b"left over")
    (directory / orders.SOCKET_NAME).write_bytes(b"")
    run_a_moment(directory)
    with Store.open(directory) as store:
        repair_line = store.last(REPAIRED)
    assert repair_line is None


def test_mending_needs_no_agent(directory: Path) -> None:
    garble(directory)
    app.mend_if_damaged(directory)
    with Store.open(directory) as store:
        store.check()
    app.mend_if_damaged(directory)
    assert len(repair.set_aside(directory)) == 1
