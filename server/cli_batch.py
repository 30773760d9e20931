"""`batch`: submit, follow and fetch work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from server import cli_shell
from server.cli_shell import folder_of, json_option, say
from server.cli_submit import estimate, submit
from server.errors import Conflict

if TYPE_CHECKING:
    from server.domain.records import BatchRow
    from server.services.assembly import Assembled


# Formats in which classes stand by name.
_WITH_NAMES: Final = (".jsonl", ".parquet")


@click.group()
def batch() -> None:
    """Submit, follow, cancel and fetch batches."""


batch.add_command(submit)
batch.add_command(estimate)


@batch.command("list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@json_option
@click.pass_context
def list_(context: click.Context, limit: int, as_json: bool) -> None:
    """The newest batches."""
    from server.cli_project import opened
    from server.cli_rows import batch_json

    with opened(folder_of(context)) as project, project.database.reading() as storage:
        rows = storage.batches.list(limit)
    if as_json:
        cli_shell.print_json([batch_json(row) for row in rows])
    elif not rows:
        say("no batches yet; submit one with: tesla-at-home-server batch submit")
    else:
        cli_shell.print_table(
            ("batch", "model", "state", "#units", "#done", "#failed", "submitted"),
            [_line(row) for row in rows],
        )


@batch.command("show")
@click.argument("batch_id", metavar="ID")
@json_option
@click.pass_context
def show_(context: click.Context, batch_id: str, as_json: bool) -> None:
    """How one batch stands; any beginning of its id will do."""
    from server.cli_project import opened
    from server.cli_rows import batch_json, find_batch
    from server.cli_watch import progress_line

    with opened(folder_of(context)) as project, project.database.reading() as storage:
        row = find_batch(storage, batch_id)
        progress = storage.batches.progress(row.id)
    if as_json:
        cli_shell.print_json(batch_json(row))
        return
    cli_shell.print_facts(
        [
            ("batch", row.id.hex()),
            ("model", f"{row.model_name}, {row.kind}"),
            ("state", _state(row)),
            ("rows", f"{row.rows:,}, {row.rows_failed:,} of them failed"),
            ("units", progress_line(progress) if progress else "-"),
            ("checked by", _checked_by(row)),
            ("submitted", cli_shell.moment(row.created_ms)),
            ("deadline", cli_shell.moment(row.deadline_ms)),
            ("ended", cli_shell.moment(row.ended_ms)),
        ]
    )


@batch.command("watch")
@click.argument("batch_id", metavar="ID")
@click.pass_context
def watch(context: click.Context, batch_id: str) -> None:
    """Follow a batch until it ends."""
    from server.cli_project import opened
    from server.cli_rows import find_batch
    from server.cli_watch import exit_code, watch_batch

    with opened(folder_of(context)) as project:
        with project.database.reading() as storage:
            row = find_batch(storage, batch_id)
        ended = watch_batch(project.database, row.id, is_quiet=False)
    raise click.exceptions.Exit(exit_code(ended))


@batch.command("cancel")
@click.argument("batch_id", metavar="ID")
@click.pass_context
def cancel(context: click.Context, batch_id: str) -> None:
    """Recall a batch: vehicles stop it at their next contact."""
    from server.cli_project import opened
    from server.cli_rows import find_batch
    from server.domain.lifecycle import BATCH, after

    cancelled = after(BATCH, "running", "cancel")
    with opened(folder_of(context)) as project, project.database.transaction() as storage:
        row = find_batch(storage, batch_id)
        if not storage.batches.end(row.id, cancelled, project.clock.now_ms()):
            raise Conflict(f"batch {row.id.hex()} is not running any more: {_state(row)}")
    say(f"batch {row.id.hex()} cancelled; cars are told at their next contact")


@batch.command("results")
@click.argument("batch_id", metavar="ID")
@click.option("--output", required=True, type=click.Path(dir_okay=False, path_type=Path),
              help="The answer: .npz, .npy, .safetensors, .parquet or .jsonl.")  # fmt: skip
@click.option("--final", is_flag=True, help="Only what nothing can change any more.")
@click.option("--partial", is_flag=True, help="What there is, also while the batch runs.")
@json_option
@click.pass_context
def results(
    context: click.Context,
    batch_id: str,
    output: Path,
    final: bool,
    partial: bool,
    as_json: bool,
) -> None:
    """Put the answers together, in the order of the input."""
    from server.cli_project import opened
    from server.cli_rows import find_batch

    if final and partial:
        raise click.UsageError("--final and --partial exclude each other")
    with opened(folder_of(context)) as project:
        with project.database.reading() as storage:
            row = find_batch(storage, batch_id)
        made = project.assembly().assemble(row, output, is_partial=partial)
    _warn_empty(made)
    if as_json:
        cli_shell.print_json(
            {
                "id": row.id.hex(),
                "output": str(output),
                "rows": made.rows,
                "rows_failed": made.rows_failed,
                "row_status": made.statuses,
                "classes": made.classes,
            }
        )
    else:
        _print_answer(made)


def _warn_empty(made: Assembled) -> None:
    if made.rows_failed == made.rows:
        cli_shell.note("warning: no row has an answer; what became of them stands in row_status")


def _print_answer(made: Assembled) -> None:
    say(f"{made.rows:,} rows written to {made.output}")
    if made.output.suffix == ".npy":
        say(f"row_status is in {made.output.with_name(f'{made.output.stem}.status.npy')}")
    if made.classes and made.output.suffix not in _WITH_NAMES:
        say("classes are numbers in this format, from 0 in the order below; .jsonl and .parquet "
            "hold their names")  # fmt: skip
    for status, rows in made.statuses.items():
        if made.rows_failed:
            say(f"  {status.replace('_', ' ')}: {rows:,}")
    if made.classes:
        cli_shell.print_table(
            ("class", "#rows"), [(name, f"{rows:,}") for name, rows in made.classes.items()]
        )


def _line(row: BatchRow) -> tuple[str, ...]:
    return (
        row.id.hex()[:16],
        row.model_name,
        _state(row),
        f"{row.units:,}",
        f"{row.units_done:,}",
        f"{row.units_failed:,}",
        cli_shell.moment(row.created_ms),
    )


def _state(row: BatchRow) -> str:
    from server.http import wording

    return wording.say(wording.BATCH, row.state)


def _checked_by(row: BatchRow) -> str:
    return "nobody: --quorum 1" if row.quorum == 1 else f"{row.quorum} cars of different owners"
