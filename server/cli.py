"""`tesla-at-home-server`: the commands of submitters and operators (DESIGN 8), and how they end.

0 is done, 1 an error in one line, 2 wrong usage, 3 a batch that completed with failed rows, 130
Ctrl-C. The commands themselves stand in the `cli_*` modules beside this one.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import click

from server import cli_shell
from server.cli_admin import ADMIN_COMMANDS
from server.cli_backup import BACKUP_COMMANDS
from server.cli_batch import batch
from server.cli_model import model
from server.cli_people import invite, owner, unit
from server.cli_shell import FAILED, INTERRUPTED, Shell, not_yet, not_yet_group
from server.cli_vehicle import vehicle
from server.errors import ServerError
from workunits.errors import WorkunitsError

_LATER: Final = ("purge", "keys")
_LATER_GROUPS: Final = {
    "simulate": ("trust",),
    "token": ("create", "list", "revoke"),
}
# What `pip install 'tesla-at-home[...]'` brings, by the module that is missed first.
_EXTRAS: Final = {
    "alembic": "server", "httptools": "server", "jinja2": "server", "litestar": "server",
    "pyarrow": "server", "sqlalchemy": "server", "uvicorn": "server", "uvloop": "server",
    "sklearn": "demo", "skl2onnx": "demo",
}  # fmt: skip


def _version() -> str:
    try:
        return version("tesla-at-home")
    except PackageNotFoundError:
        return "(not installed)"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="TESLA_AT_HOME_SERVER_DIR",
    help="The project's directory.  [env: TESLA_AT_HOME_SERVER_DIR]",
)
@click.version_option(_version(), prog_name="tesla-at-home-server", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, folder: Path | None) -> None:
    """Run a Tesla@home project: publish models and batches, hand out work, collect answers."""
    from server.adapters import swapping

    context.obj = Shell((folder or cli_shell.default_folder()).absolute())
    swapping.finish(context.obj.folder)


for _command in (*ADMIN_COMMANDS, *BACKUP_COMMANDS, model, batch, unit, vehicle, owner, invite):
    cli.add_command(_command)
for _name in _LATER:
    cli.add_command(not_yet(_name))
for _name, _members in _LATER_GROUPS.items():
    cli.add_command(not_yet_group(_name, _members))


def run(arguments: list[str]) -> int:
    """Carry out one command line and give its exit code; no exception leaves."""
    try:
        code = cli.main(arguments, prog_name="tesla-at-home-server", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        cli_shell.note("interrupted")
        return INTERRUPTED
    except (ServerError, WorkunitsError) as error:
        return _fail(str(error))
    except BrokenPipeError:
        # Whoever read us has gone; the interpreter must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ModuleNotFoundError as error:
        return _fail_missing(error)
    except OSError as error:
        return _fail(f"{error.filename or 'system'}: {error.strerror or error}")
    except Exception as error:
        return _fail_unexpected(error)


def main() -> None:
    """The console script."""
    if not cli_shell.is_debugging():
        # A library's warning to programmers is noise to everybody else.
        warnings.simplefilter("ignore")
    sys.exit(run(sys.argv[1:]))


def _fail(line: str) -> int:
    if cli_shell.is_debugging():
        _print_traceback()
    cli_shell.note(f"error: {' '.join(line.split())}")
    return FAILED


def _fail_missing(error: ModuleNotFoundError) -> int:
    missing = (error.name or "").split(".")[0]
    extra = _EXTRAS.get(missing)
    if extra is None:
        return _fail_unexpected(error)
    return _fail(
        f"this needs {missing}, which is not installed; "
        f"install it with: pip install 'tesla-at-home[{extra}]'"
    )


def _fail_unexpected(error: Exception) -> int:
    return _fail(
        f"a fault of this program: {type(error).__name__}: {error}; "
        "TESLA_AT_HOME_DEBUG=1 shows where"
    )


def _print_traceback() -> None:
    import traceback

    cli_shell.note(traceback.format_exc())


if __name__ == "__main__":
    main()
