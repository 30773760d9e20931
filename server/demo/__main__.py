"""The story of the demo, from a trained network to a table: `tesla-at-home-server demo`.

Exits 0 only if every line of the outcome holds. With KEEP=1 in the environment the server goes on
until Ctrl-C.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from server.demo import digits as data
from server.demo import outcome
from server.demo.fleet import CARS, LIAR, DemoFailed, Fleet, run_module
from server.demo.pace import ROWS_PER_STEP
from server.domain.records import BatchProgress
from server.http import wording
from server.settings import DATABASE_FILE
from server.storage.database import SqliteDatabase
from workunits.values import BatchId

ROWS_PER_UNIT: Final = 90
UNIT_TAKES_S: Final = 0.8
LIES: Final = 4
LOOK_EVERY_S: Final = 0.2
GIVEN_UP_AFTER_S: Final = 240.0


def main() -> int:
    """Run the demo; the exit code."""
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, _end)
    folder = Path(tempfile.mkdtemp(prefix="tesla-at-home-demo-"))
    try:
        with Fleet(folder) as fleet:
            found = _perform(fleet, console)
            _show(found, console)
            if os.environ.get("KEEP"):
                _keep(fleet, console)
    except DemoFailed as error:
        console.print(f"error: {error}; everything lies in {folder}", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    _tidy(folder, found.answer)
    return 0 if found.holds else 1


def _perform(fleet: Fleet, console: Console) -> outcome.Outcome:
    console.print("Training a small network on every second of 1,797 handwritten digits ...")
    console.print(f"A server, {len(CARS)} cars of {len(CARS)} owners, and one owner who lies ...")
    digits = data.load()
    model, images = fleet.folder / "digits.onnx", fleet.folder / "digits.npz"
    np.savez(images, X=digits.images)
    with ThreadPoolExecutor() as pool:
        founding = pool.submit(_found, fleet)
        data.train_and_export(digits, model)
        founding.result()
        adding = pool.submit(
            fleet.server, "model", "add", str(model), "--name", "digits", "--public-data"
        )
        duty = _duty(model)
        fleet.lend(duty)
        adding.result()
    console.print(
        f"The owners lend {duty:.2g} % of the time (limits.duty), so that a unit of "
        f"{ROWS_PER_UNIT} images takes about a second.",
        soft_wrap=True,
    )
    with SqliteDatabase(fleet.project / DATABASE_FILE) as database:
        batch = _submit(fleet, images)
        fleet.start_liar(LIES)
        _wait_for_liar(fleet, database, batch)
        fleet.start_cars()
        _watch(fleet, database, batch, console)
        answer = fleet.folder / "digits-answer.npz"
        fleet.server("batch", "results", batch.hex(), "--output", str(answer))
        with database.reading() as storage:
            row = storage.batches.by_ids([batch])[batch]
            return outcome.judge(storage, row, digits, answer, fleet.resumed())


def _found(fleet: Fleet) -> None:
    fleet.server("init", "--name", "digits at home")
    fleet.serve()
    fleet.join()


def _duty(model: Path) -> float:
    """The share of the time, in percent, at which a unit takes `UNIT_TAKES_S`."""
    step_s = float(run_module("server.demo.pace", str(model)))
    steps = -(-ROWS_PER_UNIT // ROWS_PER_STEP)
    return min(100.0, max(0.05, 100.0 * step_s * steps / UNIT_TAKES_S))


def _submit(fleet: Fleet, images: Path) -> BatchId:
    shape = ("--step", str(ROWS_PER_STEP), "--rows-per-unit", str(ROWS_PER_UNIT))
    what = ("--model", "digits", "--input", str(images), "--kind", "classify", "--public-data")
    said = fleet.server("batch", "submit", *what, *shape, "--json")
    return BatchId(bytes.fromhex(json.loads(said)["id"]))


def _wait_for_liar(fleet: Fleet, database: SqliteDatabase, batch: BatchId) -> None:
    """The liar gets its units first, so that there is something to catch."""
    until = time.monotonic() + GIVEN_UP_AFTER_S
    while _progress(database, batch).leased == 0:
        _check(fleet, until)


def _watch(fleet: Fleet, database: SqliteDatabase, batch: BatchId, console: Console) -> None:
    """Show how the batch goes on, until it has ended and every false result has its verdict."""
    until = time.monotonic() + GIVEN_UP_AFTER_S
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        last = ""
        while True:
            progress = _progress(database, batch)
            line = _line(database, progress)
            if line != last:
                _tell(bar, task, progress, line, console)
            last = line
            if progress.batch.state != "running" and not progress.leased:
                return
            _check(fleet, until)


def _progress(database: SqliteDatabase, batch: BatchId) -> BatchProgress:
    with database.reading() as storage:
        found = storage.batches.progress(batch)
    if found is None:
        raise DemoFailed("the batch is gone")
    return found


def _line(database: SqliteDatabase, progress: BatchProgress) -> str:
    with database.reading() as storage:
        caught = sum(vehicle.invalid for vehicle in storage.vehicles.list())
    row = progress.batch
    return (
        f"{row.units_done}/{row.units} units accepted, {progress.leased} with cars, "
        f"{caught} false results caught"
    )


def _tell(
    bar: Progress, task: TaskID, progress: BatchProgress, line: str, console: Console
) -> None:
    if console.is_terminal:
        row = progress.batch
        bar.update(task, total=row.units, completed=row.units_done, description=line)
    else:
        console.print(line)


def _check(fleet: Fleet, until_s: float) -> None:
    fleet.check_alive()
    if time.monotonic() > until_s:
        raise DemoFailed(f"not done after {GIVEN_UP_AFTER_S:.0f} s")
    time.sleep(LOOK_EVERY_S)


def _show(found: outcome.Outcome, console: Console) -> None:
    table = Table(title="Who computed what")
    table.add_column("owner")
    for heading in ("accepted", "not accepted", "credit"):
        table.add_column(heading, justify="right")
    for name, valid, invalid, kflop in found.credit:
        shown = f"{name} (the liar)" if name == LIAR else name
        table.add_row(shown, str(valid), str(invalid), wording.credit(kflop))
    console.print(table)
    for line in found.lines():
        console.print(line, markup=False, soft_wrap=True)
    if not found.holds:
        console.print("not all of this is as it should be: see the lines above")


def _keep(fleet: Fleet, console: Console) -> None:
    console.print(f"leaderboard {fleet.url}/leaderboard (Ctrl-C ends the demo)", soft_wrap=True)
    try:
        fleet.wait()
    except KeyboardInterrupt:
        console.print("ending")


def _tidy(folder: Path, answer: Path) -> None:
    """Only the answer stays."""
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry != answer:
            entry.unlink()


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
