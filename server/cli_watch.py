"""Following a batch until it ends: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Final

from server.cli_shell import FAILED, FAILED_ROWS, note, say
from server.domain.records import BatchProgress, BatchRow
from server.errors import NotFound
from server.http import wording
from server.ports import Database
from workunits.values import BatchId

_LOOK_EVERY_S: Final = 0.5


def watch_batch(database: Database, batch: BatchId, *, is_quiet: bool) -> BatchRow:
    """Show how the batch goes on until it has ended; its last row.

    Quiet is for scripts that read the answer: the lines go beside it.
    """
    if not is_quiet and sys.stdout.isatty():
        return _with_bar(database, batch)
    tell = note if is_quiet else say
    last = ""
    for progress in _changes(database, batch):
        line = progress_line(progress)
        if line != last:
            tell(line)
        last, row = line, progress.batch
    _tell_end(row, is_quiet=is_quiet)
    return row


def exit_code(row: BatchRow) -> int:
    """DESIGN 8: 0 completed, 3 completed with failed rows, 1 any other end."""
    if row.state != "completed":
        return FAILED
    return FAILED_ROWS if row.rows_failed or row.units_failed else 0


def progress_line(progress: BatchProgress) -> str:
    """How far a batch is, in one line."""
    row = progress.batch
    parts = [f"{row.units_done:,}/{row.units:,} units accepted"]
    if row.units_failed:
        parts.append(f"{row.units_failed:,} given up")
    if row.state == "running":
        if progress.leased:
            parts.append(f"{progress.leased:,} with cars")
        if progress.waits_for_owner:
            which = "second_owner" if progress.active_owners else "vehicle"
            parts.append(wording.say(wording.WAITING, which))
    return ", ".join(parts)


def ended_line(row: BatchRow) -> str:
    """What became of a batch."""
    said = wording.say(wording.BATCH, row.state)
    failed = f", {row.rows_failed:,} of {row.rows:,} rows failed" if row.rows_failed else ""
    return f"batch {row.id.hex()}: {said}{failed}"


def _tell_end(row: BatchRow, *, is_quiet: bool) -> None:
    if row.state != "completed":
        note(f"error: {ended_line(row)}")
    elif is_quiet:
        note(ended_line(row))
    else:
        say(ended_line(row))


def _with_bar(database: Database, batch: BatchId) -> BatchRow:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(highlight=False)
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        shown = bar.add_task("", total=None)
        for progress in _changes(database, batch):
            row = progress.batch
            settled = row.units_done + row.units_failed
            bar.update(
                shown,
                total=row.units,
                completed=settled,
                description=progress_line(progress),
            )
    _tell_end(row, is_quiet=False)
    return row


def _changes(database: Database, batch: BatchId) -> Iterator[BatchProgress]:
    """The batch's progress, again and again, up to the one that has ended."""
    while True:
        with database.reading() as storage:
            progress = storage.batches.progress(batch)
        if progress is None:
            raise NotFound(f"batch {batch.hex()} is gone")
        yield progress
        if progress.batch.state != "running":
            return
        time.sleep(_LOOK_EVERY_S)
