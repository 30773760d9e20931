"""The main job by hand, as README tells it: a server, two owners, one submitter, all as processes.

The cars run before there is any model or batch. What comes back is compared bit for bit with what
ONNX Runtime gives here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.support import models
from workunits import execution

SUBMIT_S = 100
# As README has it, `--dir a`: in whatever directory one is, not in the checkout.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
pytestmark = pytest.mark.timeout(300)


def start(module: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, "--dir", folder.name, *arguments],
        cwd=folder.parent,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def run(module: str, folder: Path, *arguments: str | Path, ok: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, "--dir", folder.name, *map(str, arguments)],
        cwd=folder.parent,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SUBMIT_S,
        check=False,
    )
    assert done.returncode == ok, done.stdout + done.stderr
    return done.stdout


def server(folder: Path, *arguments: str | Path, ok: int = 0) -> str:
    return run("server.cli", folder / "project", *arguments, ok=ok)


def join(folder: Path, url: str, name: str) -> None:
    agreed = ("--vehicle", "scripted:home", "--accept-terms", "--yes")
    run("tesla_at_home.cli", folder / name, "join", url, "--name", name, "--public", *agreed)


def drive(folder: Path, name: str) -> subprocess.Popen[str]:
    return start("tesla_at_home.cli", folder / name, "run")


@contextmanager
def ended(*processes: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.communicate(timeout=30)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    server(tmp_path, "init", "--name", "by hand")
    serving = start("server.cli", tmp_path / "project", "serve", "--port", "0")
    with ended(serving):
        assert serving.stdout is not None
        yield next(line for line in serving.stdout if "listening on" in line).split()[-1]
    assert serving.returncode == 0


def submit(folder: Path, model: str, rows: Path, *more: str) -> str:
    said = server(
        folder, "batch", "submit", "--model", model, "--input", rows, "--public-data", *more,
        "--json", "--wait",
    )  # fmt: skip
    batch: str = json.loads(said)["id"]
    return batch


def answer(folder: Path, batch: str) -> dict[str, np.ndarray]:
    to = folder / f"{batch}.npz"
    server(folder, "batch", "results", batch, "--output", to)
    return dict(np.load(to))


def test_cars_that_waited_compute_a_model_that_came_later(tmp_path: Path, url: str) -> None:
    for name in ("anna", "bert"):
        join(tmp_path, url, name)
    with ended(drive(tmp_path, "anna"), drive(tmp_path, "bert")):
        sample = models.mlp()
        server(
            tmp_path, "model", "add", sample.write(tmp_path / "mlp.onnx"), "--name", "mlp",
            "--public-data",
        )  # fmt: skip
        rows = sample.draw(100)
        np.savez(tmp_path / "rows.npz", x=rows["x"])
        shape = ("--rows-per-unit", "16", "--step", "4")
        batch = submit(tmp_path, "mlp", tmp_path / "rows.npz", *shape)
        # The same rows again: what one batch has done with takes nothing from the next.
        again = submit(tmp_path, "mlp", tmp_path / "rows.npz", *shape)
    expected = execution.run(
        execution.Loaded.open(tmp_path / "mlp.onnx", sample.program(4)), rows, 100
    )
    for found in (answer(tmp_path, batch), answer(tmp_path, again)):
        assert found["scores"].tobytes() == expected["scores"].tobytes()
        assert found["label"].tobytes() == expected["label"].tobytes()
        assert not found["row_status"].any()
    board = json.loads(run("tesla_at_home.cli", tmp_path / "anna", "leaderboard", "--json"))
    assert {row["name"] for row in board["standings"]} == {
        "anna",
        "bert",
    }


def test_large_units_survive_a_killed_client(tmp_path: Path, url: str) -> None:
    """Inputs and outputs past what rides along: blobs down, uploads up; one client dies and returns."""
    sample = models.mlp(features=512, hidden=64, classes=512)
    server(
        tmp_path, "model", "add", sample.write(tmp_path / "wide.onnx"), "--name", "wide",
        "--public-data",
    )  # fmt: skip
    rows = sample.draw(400)
    np.savez(tmp_path / "rows.npz", x=rows["x"])
    for name in ("anna", "bert"):
        join(tmp_path, url, name)
    for name in ("anna", "bert"):
        run("tesla_at_home.cli", tmp_path / name, "config", "set", "limits.duty", "5")
    doomed = drive(tmp_path, "anna")
    with ended(drive(tmp_path, "bert")):
        waiting = start(
            "server.cli", tmp_path / "project", "batch", "submit", "--model", "wide", "--input",
            str(tmp_path / "rows.npz"), "--public-data", "--rows-per-unit", "50", "--step", "2",
            "--json", "--wait",
        )  # fmt: skip
        until_computing(tmp_path / "anna")
        os.kill(doomed.pid, signal.SIGKILL)
        doomed.communicate(timeout=30)
        with ended(drive(tmp_path, "anna")):
            said, _ = waiting.communicate(timeout=SUBMIT_S)
    assert waiting.returncode == 0
    found = answer(tmp_path, json.loads(said)["id"])
    expected = execution.run(
        execution.Loaded.open(tmp_path / "wide.onnx", sample.program(2)), rows, 400
    )
    assert found["scores"].tobytes() == expected["scores"].tobytes()


def until_computing(folder: Path) -> None:
    """Returns once the vehicle has begun a unit; bounded by the test's own time limit."""
    while '"unit_started"' not in run("tesla_at_home.cli", folder, "history", "--json"):
        pass
