"""`tesla-at-home`: the owner's commands (DESIGN 8), and how they end.

0 is done, 1 an error in one line, 2 wrong usage, 130 Ctrl-C. The commands themselves stand in the
`cli_*` modules beside this one; only those that give orders to the agent are here.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

import click
from click.core import ParameterSource

from tesla_at_home import cli_shell
from tesla_at_home.cli_doctor import doctor
from tesla_at_home.cli_join import join, leave, recover
from tesla_at_home.cli_settings import config, network, vehicle
from tesla_at_home.cli_shell import (
    FAILED,
    INTERRUPTED,
    Shell,
    directory_of,
    moment,
    not_yet,
    not_yet_group,
    say,
    seconds,
)
from tesla_at_home.cli_show import history, leaderboard, status, why
from tesla_at_home.errors import TeslaAtHomeError
from workunits.errors import WorkunitsError

_LATER: Final = ("energy", "export", "web")
_LATER_GROUPS: Final = {"service": ("install", "uninstall", "status")}
_DEBUG: Final = "TESLA_AT_HOME_DEBUG"


def _version() -> str:
    try:
        return version("tesla-at-home")
    except PackageNotFoundError:
        return "(not installed)"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="TESLA_AT_HOME_DIR",
    help="The vehicle's directory.  [env: TESLA_AT_HOME_DIR]",
)
@click.version_option(_version(), prog_name="tesla-at-home", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, directory: Path | None) -> None:
    """Lend a parked, plugged-in car's computer to a Tesla@home project."""
    shell = context.ensure_object(Shell)
    # Whole: the computing process, among others, works in another directory.
    shell.directory = (directory or cli_shell.default_directory()).absolute()
    shell.is_named = context.get_parameter_source("directory") is ParameterSource.COMMANDLINE


@cli.command()
@click.option("--until-idle", is_flag=True, help="End when there is nothing left to do.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), metavar="S",
              help="With --until-idle: give up after so many seconds.")  # fmt: skip
@click.pass_context
def run(context: click.Context, until_idle: bool, timeout_s: float | None) -> int:
    """Fetch, compute and report while the gate is open; until stopped."""
    from tesla_at_home import app
    from tesla_at_home.adapters.clock import SystemClock

    if timeout_s is not None and not until_idle:
        raise click.UsageError("--timeout belongs to --until-idle")
    clock = SystemClock()

    def tell(line: str) -> None:
        now_ms = clock.now_ms()
        say(f"{moment(now_ms, now_ms)}  {line}")

    return app.run(directory_of(context), until_idle=until_idle, timeout_s=timeout_s, tell=tell)


@cli.command()
@click.option("--for", "length", metavar="TIME", help="End by itself after 2h, 30m, 1d, ...")
@click.pass_context
def pause(context: click.Context, length: str | None) -> None:
    """Stop computing, at once, until `resume`."""
    from tesla_at_home.adapters.clock import SystemClock

    now_ms = SystemClock().now_ms()
    until_ms = None if length is None else now_ms + seconds(length, "--for") * 1000
    _give(context, "pause", until_ms)
    end = "`tesla-at-home resume`" if until_ms is None else moment(until_ms, now_ms)
    say(f"Paused until {end}.")


@cli.command()
@click.pass_context
def resume(context: click.Context) -> None:
    """End a pause, and take new work again after `finish`."""
    from tesla_at_home import app
    from tesla_at_home.adapters import joining
    from tesla_at_home.adapters.clock import SystemClock

    app.mend_if_damaged(directory_of(context))
    joining.expect_membership(directory_of(context))
    view = app.view(directory_of(context))
    was_held = view.is_finishing or view.is_paused(SystemClock().now_ms())
    is_running = _give(context, "resume")
    said = "Resumed" if was_held else "Nothing was paused"
    say(f"{said}." if is_running else f"{said}; `tesla-at-home run` is not running.")


@cli.command()
@click.pass_context
def finish(context: click.Context) -> None:
    """Finish and report what is held, and take no new work until `resume`."""
    _give(context, "finish")
    say(
        "What is held will be finished and reported; no new work will be taken until "
        "`tesla-at-home resume`."
    )


def _give(
    context: click.Context,
    kind: Literal["pause", "resume", "finish"],
    until_ms: int | None = None,
) -> bool:
    from tesla_at_home import app
    from tesla_at_home.adapters import joining, orders
    from tesla_at_home.agent.events import Order

    app.mend_if_damaged(directory_of(context))
    joining.expect_membership(directory_of(context))
    return orders.give(directory_of(context), Order(kind=kind, until_ms=until_ms))


for _command in (
    join, recover, leave, status, why, history, doctor, leaderboard, config, network, vehicle,
):  # fmt: skip
    cli.add_command(_command)
for _name in _LATER:
    cli.add_command(not_yet(_name))
for _name, _members in _LATER_GROUPS.items():
    cli.add_command(not_yet_group(_name, _members))


def carry_out(arguments: list[str]) -> int:
    """Carry out one command line and give its exit code; no exception leaves."""
    shell = Shell()
    try:
        code = cli.main(arguments, prog_name="tesla-at-home", standalone_mode=False, obj=shell)
        return code if isinstance(code, int) else cli_shell.DONE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        cli_shell.note("interrupted")
        return INTERRUPTED
    except (TeslaAtHomeError, WorkunitsError) as error:
        return _fail(shell.spelled(str(error)))
    except BrokenPipeError:
        # Whoever read us has gone; the interpreter must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _fail(cli_shell.outage(error))
    except Exception as error:
        kind = type(error).__name__
        return _fail(f"a fault of this program: {kind}: {error}; {_DEBUG}=1 shows where")


def main() -> None:
    """The console script."""
    if not _is_debugging():
        # A library's warning to programmers is noise to everybody else.
        warnings.simplefilter("ignore")
    sys.exit(carry_out(sys.argv[1:]))


def _fail(line: str) -> int:
    if _is_debugging():
        import traceback

        cli_shell.note(traceback.format_exc())
    cli_shell.note(f"error: {' '.join(line.split())}")
    return FAILED


def _is_debugging() -> bool:
    return os.environ.get(_DEBUG, "") not in ("", "0")


if __name__ == "__main__":
    main()
