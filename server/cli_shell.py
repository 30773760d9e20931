"""What all commands share: where the project is, how answers look, how errors end.

Everything heavier than click is imported inside the functions that need it, so that `--help` is quick
and works without the server's packages.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import click

from server.errors import NotAvailableYet, Refused

FAILED: Final = 1
USAGE: Final = 2
FAILED_ROWS: Final = 3
INTERRUPTED: Final = 130

F = TypeVar("F", bound=Callable[..., object])
Json = dict[str, object] | list[dict[str, object]]

_LENGTH: Final = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# Wide enough that a table is never folded where nobody looks at it.
_UNSEEN_WIDTH: Final = 240


@dataclass(frozen=True, slots=True)
class Shell:
    """The global options."""

    folder: Path


def folder_of(context: click.Context) -> Path:
    """The project's directory that this command works on."""
    shell = context.find_object(Shell)
    assert shell is not None
    return shell.folder


def default_folder() -> Path:
    """Where a project lies if nobody says otherwise."""
    from platformdirs import user_data_path

    return user_data_path("tesla-at-home-server")


def json_option(command: F) -> F:
    """`--json`, which every reading command has."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(command)


def say(line: str = "") -> None:
    """A line of the answer."""
    click.echo(_harmless(line))


def note(line: str) -> None:
    """A line beside the answer."""
    click.echo(_harmless(line), err=True)


def print_json(value: Json) -> None:
    """The answer for scripts."""
    click.echo(_escaped(json.dumps(value, ensure_ascii=False, indent=2)))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """The answer for people; names beginning with '#' are numbers, to the right."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _UNSEEN_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        is_number = column.startswith("#")
        table.add_column(
            column.removeprefix("#"), justify="right" if is_number else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(_unmarked(cell) for cell in row))
    console.print(table)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Names and values, one a line."""
    pairs = list(facts)
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        say(f"{name.ljust(width)}  {one_line(value)}")


def one_line(text: str) -> str:
    """A stranger's words inside a line of ours: they must not look like another line."""
    return _harmless(" ".join(text.split()))


def moment(at_ms: int | None) -> str:
    """A time as people read it."""
    return "-" if at_ms is None else f"{_utc(at_ms):%Y-%m-%d %H:%M:%S} UTC"


def iso(at_ms: int | None) -> str | None:
    """A time for scripts."""
    return None if at_ms is None else _utc(at_ms).isoformat().replace("+00:00", "Z")


def seconds(text: str, option: str) -> int:
    """A length of time such as `14d`, `6h`, `30m`, `90s`, given as `option`.

    Raises:
        click.BadParameter
    """
    found = _LENGTH.fullmatch(text)
    if found is None:
        raise click.BadParameter(
            f"{text!r} is no length of time; write 14d, 6h, 30m or 90s", param_hint=f"'{option}'"
        )
    return int(found[1]) * _SECONDS[found[2]]


def require_public_data(is_public: bool) -> None:
    """Say who will see models and data, and ask; `--public-data` has answered already.

    Raises:
        Refused: nobody is there to answer.
        click.Abort: the answer is no.
    """
    told = "Models and data travel in clear to strangers' machines"
    if is_public:
        return
    if not sys.stdin.isatty():
        raise Refused(f"{told}; if these may be public, say so with --public-data")
    note(f"{told}. They must not hold personal data or secrets.")
    if not click.confirm("May everybody see them?", err=True):
        raise Refused("nothing was handed out")


def not_yet_group(name: str, members: Iterable[str]) -> click.Group:
    """A group of commands that belong to a later version; also alone it says so."""

    @click.group(
        name,
        invoke_without_command=True,
        help="Not available yet.",
        short_help="(not available yet)",
    )
    @click.pass_context
    def group(context: click.Context) -> None:
        if context.invoked_subcommand is None:
            raise NotAvailableYet(f"`{name}` is not available yet")

    for member in members:
        group.add_command(not_yet(f"{name} {member}"))
    return group


def not_yet(name: str) -> click.Command:
    """A command that belongs to a later version."""

    def refuse(arguments: tuple[str, ...]) -> None:
        raise NotAvailableYet(f"`{name}` is not available yet")

    return click.Command(
        name.split()[-1],
        callback=refuse,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True},
        help="Not available yet.",
        short_help="(not available yet)",
    )


def is_debugging() -> bool:
    """Whether the operator wants tracebacks."""
    return os.environ.get("TESLA_AT_HOME_DEBUG", "") not in ("", "0")


def _utc(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC).replace(microsecond=0)


def _unmarked(cell: str) -> str:
    from rich.markup import escape

    return escape(one_line(cell))


def _harmless(text: str) -> str:
    """Without what would steer a terminal: names, reasons and versions are a stranger's words."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def _escaped(text: str) -> str:
    """As `_harmless`, for JSON, whose value stays the same."""
    return "".join(c if c.isprintable() or c == "\n" else _escape(c) for c in text)


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if char <= "\uffff" else json.dumps(char)[1:-1]
