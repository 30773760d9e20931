"""What all commands share: where the vehicle's directory is, how answers look, how errors end.

Everything heavier than click is imported inside the functions that need it, so that `--help` is quick
and a command that only reads stays light.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, TypeVar

import click

from tesla_at_home.errors import ClientError, NotAvailableYet

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130

F = TypeVar("F", bound=Callable[..., object])
Json = dict[str, object] | list[dict[str, object]]

_LENGTH: Final = re.compile(r"(?:\d{1,6}[smhd])+", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_PREFIXES: Final = (
    (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"),
)  # fmt: skip
# Wide enough that a table is never folded where nobody looks at it.
_UNSEEN_WIDTH: Final = 240
# How a command that the owner may type begins in what is said.
_HINT: Final = "`tesla-at-home "
_MENDS: Final = {
    errno.ENOSPC: "; make room on this disk, then start again: nothing kept is lost",
    errno.EDQUOT: "; make room within your quota, then start again: nothing kept is lost",
    errno.EROFS: "; make the directory writable, then start again",
    errno.EACCES: "; give yourself access, then start again",
}
# A secret is a line; a file much longer than one is the wrong file.
_SECRET_CHARS: Final = 4096


@dataclasses.dataclass(slots=True)
class Shell:
    """The global options; filled in when they have been read."""

    directory: Path = Path()
    is_named: bool = False  # on the command line: then commands that are recommended need it too

    def spelled(self, line: str) -> str:
        """`line` with every command that it recommends as it must be typed here."""
        if not self.is_named:
            return line
        return line.replace(_HINT, f"{_HINT}--dir {shlex.quote(str(self.directory))} ")


def directory_of(context: click.Context) -> Path:
    """The vehicle's directory that this command works on."""
    shell = context.find_object(Shell)
    assert shell is not None
    return shell.directory


def default_directory() -> Path:
    """Where a vehicle's files lie if nobody says otherwise."""
    from platformdirs import user_data_path

    return user_data_path("tesla-at-home")


def json_option(command: F) -> F:
    """`--json`, which every reading command has."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(command)


# --- answers ------------------------------------------------------------------------------------


def say(line: str = "") -> None:
    """A line of the answer."""
    click.echo(_harmless(spelled(line)))


def note(line: str) -> None:
    """A line beside the answer."""
    click.echo(_harmless(spelled(line)), err=True)


def print_json(value: Json) -> None:
    """The answer for scripts."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    click.echo("".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text))


def plain(value: object) -> object:
    """A frozen value as JSON knows it: fields by name, ids and digests in hex."""
    if isinstance(value, bytes):
        return value.hex()
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: plain(getattr(value, name)) for name in names}
    if hasattr(value, "__struct_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    return value


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """The answer for people; names beginning with '#' are numbers, to the right."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _UNSEEN_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        side: Literal["left", "right"] = "right" if column.startswith("#") else "left"
        table.add_column(column.removeprefix("#"), justify=side, overflow="fold")
    for row in rows:
        table.add_row(*(escape(_one_line(cell)) for cell in row))
    console.print(table)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Names and values, one a line; empty values are left out."""
    pairs = [(name, value) for name, value in facts if value]
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        say(f"{name.ljust(width)}  {_one_line(value)}")


def moment(at_ms: int, now_ms: int) -> str:
    """A time as its owner reads it: local, with the day unless it is today."""
    at, now = (datetime.fromtimestamp(ms / 1000).astimezone() for ms in (at_ms, now_ms))
    return f"{at:%H:%M:%S}" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M}"


def length(seconds: float) -> str:
    """A length of time in its largest unit: `3 min`."""
    for size, word in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word}"
    return f"{max(0.0, seconds):.0f} s"


def counted(number: int, word: str) -> str:
    """`1 unit`, `2 units`."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def credit(kflop: int) -> str:
    """Credit as people see it, in cobblestones: an SI prefix, three digits."""
    from workunits.values import KFLOP_PER_COBBLESTONE

    amount = kflop / KFLOP_PER_COBBLESTONE
    for size, prefix in _PREFIXES:
        if amount >= size:
            return f"{amount / size:.3g} {prefix}".strip()
    return f"{amount / 1e-6:.2g} µ" if amount else "0"


# --- what people give ---------------------------------------------------------------------------


def seconds(text: str, option: str) -> int:
    """A length of time such as `2h`, `90m`, `1h30m`, given as `option`.

    Raises:
        click.BadParameter
    """
    if _LENGTH.fullmatch(text) is None:
        raise click.BadParameter(
            f"{text!r} is no length of time; write 2h, 30m, 1h30m or 1d", param_hint=f"'{option}'"
        )
    parts = re.findall(r"(\d+)([smhd])", text)
    return sum(int(number) * _SECONDS[unit] for number, unit in parts)


def read_secret(given: str | None, variable: str) -> str | None:
    """A secret from a file, from standard input (`-`) or from the environment; never an argument.

    Raises:
        ClientError: no such file.
    """
    if given is None:
        return os.environ.get(variable, "").strip() or None
    try:
        text = sys.stdin.readline() if given == "-" else Path(given).read_text()[:_SECRET_CHARS]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not readable text"
        raise ClientError(f"{given}: {reason}") from None
    if not text.strip():
        raise ClientError(f"{'standard input' if given == '-' else given}: empty")
    return text.strip()


def confirm(question: str, *, otherwise: str) -> bool:
    """Ask; where nobody can answer, `otherwise` says what a script does instead.

    Raises:
        ClientError: end of input. click.Abort: Ctrl-C.
    """
    try:
        return click.confirm(question, err=True)
    except click.Abort as abort:
        if isinstance(abort.__context__, EOFError):
            raise ClientError(f"nobody is there to answer; {otherwise}") from None
        raise


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


def spelled(line: str) -> str:
    """`line` with every command that it recommends as it must be typed here."""
    context = click.get_current_context(silent=True)
    shell = None if context is None else context.find_object(Shell)
    return line if shell is None else shell.spelled(line)


def _escaped(char: str) -> str:
    """As JSON escapes it: terminals obey more characters than JSON must escape."""
    return f"\\u{ord(char):04x}" if char <= "\uffff" else json.dumps(char)[1:-1]


def outage(error: OSError) -> str:
    """What the system refuses, where, and how to mend it where that is known."""
    mend = _MENDS.get(error.errno or 0, "")
    return f"{error.filename or 'this disk'}: {error.strerror or error}{mend}"


def _one_line(text: str) -> str:
    """A stranger's words inside a line of ours: they must not look like another line."""
    return _harmless(" ".join(text.split()))


def _harmless(text: str) -> str:
    """Without what would steer a terminal: names and notices are a stranger's words."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
