"""Numbers and times as the owner's commands write and read them; ticks."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path

import click
import pytest

from tesla_at_home import cli_shell
from tesla_at_home.adapters.schedule import Ticks
from tesla_at_home.errors import ClientError
from workunits.values import KFLOP_PER_COBBLESTONE


@pytest.mark.parametrize(
    ("kflop", "shown"),
    [
        (0, "0"),
        (KFLOP_PER_COBBLESTONE, "1"),
        (KFLOP_PER_COBBLESTONE * 12_345, "12.3 k"),
        (KFLOP_PER_COBBLESTONE * 10**6, "1 M"),
        (KFLOP_PER_COBBLESTONE // 1000, "1 m"),
        (KFLOP_PER_COBBLESTONE // 10**6, "1 µ"),
        (1, "0.0023 µ"),
    ],
)
def test_credit_has_an_si_prefix(kflop: int, shown: str) -> None:
    assert cli_shell.credit(kflop) == shown


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1d", 86_400)]
)
def test_lengths_of_time_are_read(text: str, seconds: int) -> None:
    assert cli_shell.seconds(text, "--for") == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 h", "-1h", "2hours", "1.5h", "２h"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(click.BadParameter, match="1h30m"):
        cli_shell.seconds(text, "--for")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5.0, "0 s"), (59, "59 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_lengths_of_time_are_shown(seconds: float, shown: str) -> None:
    assert cli_shell.length(seconds) == shown


def test_today_has_no_date() -> None:
    noon_ms, day_ms = 1_800_014_400_000, 86_400_000
    assert "-" not in cli_shell.moment(noon_ms, noon_ms)
    assert "-" in cli_shell.moment(noon_ms - day_ms, noon_ms)


def test_a_strangers_words_steer_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    cli_shell.say("a\x1b[2Jb\rc\x07")
    cli_shell.print_facts([("name", "x\x1b[0m"), ("empty", "")])
    cli_shell.print_table(("a",), [("[bold]\x9b",)])
    shown = capsys.readouterr().out
    assert not set(shown) & set("\x1b\r\x07\x9b")
    assert "[bold]" in shown
    assert "empty" not in shown


def test_json_steers_no_terminal_and_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    said = "é\x1b\x7f\x9b\u202e\u2028\U000e0001\n"
    cli_shell.print_json({"name": said})
    shown = capsys.readouterr().out
    assert json.loads(shown) == {"name": said}
    assert "é" in shown
    assert all(c.isprintable() or c == "\n" for c in shown)


def test_a_secret_is_one_line_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODE", "  from the environment ")
    assert cli_shell.read_secret(None, "CODE") == "from the environment"
    assert cli_shell.read_secret(None, "NOTHING_SUCH") is None
    path = tmp_path / "code"
    path.write_text("from a file\n")
    assert cli_shell.read_secret(str(path), "CODE") == "from a file"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ClientError, match="not readable text"):
        cli_shell.read_secret(str(path), "CODE")


def test_ticks_come_until_they_are_stopped() -> None:
    ticked = threading.Event()
    ticks = Ticks(ticked.set, 0.01)
    ticks.start()
    assert ticked.wait(5)
    ticks.stop()
    Ticks(ticked.set, 1.0).stop()


def test_what_the_system_refuses_says_where_and_how_to_mend_it() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert cli_shell.outage(full).startswith("this disk: No space left on device; make room")
    sealed = OSError(errno.EROFS, "Read-only file system", "car/lock")
    assert cli_shell.outage(sealed).startswith("car/lock: Read-only file system; make")
    assert cli_shell.outage(OSError("odd")) == "this disk: odd"
