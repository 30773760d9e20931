"""A project is backed up while cars work for it, lost, and restored: as an operator would, as processes."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from server.cli_doctor import examine
from server.cli_project import found as found_project
from server.settings import DATABASE_FILE, ProjectSettings
from tests.acceptance.test_main_job import answer, drive, ended, join, server, start
from tests.support import models
from tests.support.server_invariants import check_invariants
from workunits import execution

UNITS = 40
ROWS_PER_UNIT = 4
STEP = 2
# Units that are done when the backup is made; as many again are done after it, and lost.
EARLY = 4

pytestmark = pytest.mark.timeout(300)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def serve(folder: Path, port: int) -> subprocess.Popen[str]:
    serving = start("server.cli", folder / "project", "serve", "--port", str(port))
    assert serving.stdout is not None
    next(line for line in serving.stdout if "listening on" in line)
    return serving


def enter(folder: Path, port: int, name: str) -> None:
    """Join as a car that has time: a project on this computer is asked every second."""
    join(folder, f"http://127.0.0.1:{port}", name)
    with (folder / name / "config.toml").open("a") as file:
        file.write("[limits]\nduty = 10\n")


def count(folder: Path, query: str) -> int:
    with closing(sqlite3.connect(folder / "project" / DATABASE_FILE, timeout=60)) as connection:
        return int(connection.execute(query).fetchone()[0])


def until(folder: Path, query: str, wanted: int) -> None:
    """Bounded by the test's own time limit."""
    never = threading.Event()
    while count(folder, query) < wanted:
        never.wait(0.05)


DONE = "SELECT coalesce(sum(units_done), 0) FROM batches"


def test_a_backup_under_load_restores_a_project_that_finishes(tmp_path: Path) -> None:
    port = free_port()
    found_project(tmp_path / "project", ProjectSettings("to be lost"))
    sample = models.mlp()
    rows = sample.draw(UNITS * ROWS_PER_UNIT)
    np.savez(tmp_path / "rows.npz", x=rows["x"])
    model = sample.write(tmp_path / "mlp.onnx")
    server(tmp_path, "model", "add", model, "--name", "mlp", "--public-data")
    said = server(
        tmp_path, "batch", "submit", "--model", "mlp", "--input", tmp_path / "rows.npz",
        "--public-data", "--rows-per-unit", str(ROWS_PER_UNIT), "--step", str(STEP), "--json",
    )  # fmt: skip
    batch = json.loads(said)["id"]
    with ExitStack() as cars:
        with ended(serve(tmp_path, port)):
            for name in ("anna", "bert"):
                enter(tmp_path, port, name)
                cars.enter_context(ended(drive(tmp_path, name)))
            until(tmp_path, DONE, EARLY)
            server(tmp_path, "backup", tmp_path / "b.tar")
            until(tmp_path, DONE, 2 * EARLY)
        server(tmp_path, "restore", tmp_path / "b.tar", "--yes")
        assert EARLY <= count(tmp_path, DONE) <= UNITS
        with ended(serve(tmp_path, port)):
            until(tmp_path, DONE, UNITS)
    check_invariants(tmp_path / "project" / DATABASE_FILE)
    found = answer(tmp_path, batch)
    loaded = execution.Loaded.open(model, sample.program(STEP))
    expected = execution.run(loaded, rows, UNITS * ROWS_PER_UNIT)
    assert found["scores"].tobytes() == expected["scores"].tobytes()
    assert not found["row_status"].any()
    assert all(finding.is_well for finding in examine(tmp_path / "project"))
