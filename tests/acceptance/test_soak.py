"""Kill -9 of server and clients at random, again and again; nothing is lost, nothing counts twice.

`make soak`; SOAK_KILLS and SOAK_SEED in the environment set how often and which way.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

from server.settings import DATABASE_FILE
from tests.acceptance.test_main_job import answer, drive, join, server, start
from tests.support import models
from tests.support.server_invariants import check_invariants
from workunits import execution

KILLS = int(os.environ.get("SOAK_KILLS", "200"))
SEED = int(os.environ.get("SOAK_SEED", "0"))
ROWS = 4_000

pytestmark = pytest.mark.soak


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


def test_kills_at_random_change_nothing(tmp_path: Path) -> None:
    draw = random.Random(SEED)
    port = free_port()
    server(tmp_path, "init")
    running = {"server": serve(tmp_path, port)}
    for name in ("anna", "bert", "carl"):
        join(tmp_path, f"http://127.0.0.1:{port}", name)
        running[name] = drive(tmp_path, name)
    sample = models.mlp()
    rows = sample.draw(ROWS)
    np.savez(tmp_path / "rows.npz", x=rows["x"])
    model = sample.write(tmp_path / "mlp.onnx")
    server(tmp_path, "model", "add", model, "--name", "mlp", "--public-data")
    said = server(
        tmp_path, "batch", "submit", "--model", "mlp", "--input", tmp_path / "rows.npz",
        "--public-data", "--rows-per-unit", "4", "--step", "2", "--json",
    )  # fmt: skip
    batch = json.loads(said)["id"]
    try:
        kills = 0
        while json.loads(server(tmp_path, "batch", "show", batch, "--json"))["state"] == "running":
            if kills < KILLS:
                name = draw.choice(sorted(running))
                running[name].send_signal(signal.SIGKILL)
                running[name].communicate(timeout=30)
                alive = serve(tmp_path, port) if name == "server" else drive(tmp_path, name)
                running[name] = alive
                kills += 1
    finally:
        for process in running.values():
            process.kill()
            process.communicate(timeout=30)
    print(f"{kills} kills")
    found = answer(tmp_path, batch)
    expected = execution.run(execution.Loaded.open(model, sample.program(2)), rows, ROWS)
    assert found["scores"].tobytes() == expected["scores"].tobytes()
    check_invariants(tmp_path / "project" / DATABASE_FILE)
