"""A server and its cars as real processes that can be killed at any instant, and what must hold after.

Every kill is SIGKILL: of the server, of an agent, or of the process in which an agent computes. Whoever
was killed is started again, on what its disk has.
"""

from __future__ import annotations

import json
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import psutil

from server.settings import DATABASE_FILE
from tests.support import models
from tests.support.server_invariants import check_invariants
from workunits import execution

SERVER: Final = "server"
AGENT: Final = "agent"
CHILD: Final = "child"
KINDS: Final = (SERVER, AGENT, CHILD)

_STEP: Final = 2
_COMMAND_S: Final = 100
_END_S: Final = 30
_CHILD_MODULE: Final = "tesla_at_home.adapters.runner_child"


@dataclass
class Fleet:
    """One project and its cars below `folder`. Use `running()`."""

    folder: Path
    draw: random.Random
    cars: Sequence[str] = ("anna", "bert", "carl")
    kills: Counter[str] = field(default_factory=Counter)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _port: int = 0
    _never: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        """A served project that all cars have joined; everything is ended afterwards."""
        self._port = _free_port()
        self._server("init")
        try:
            self._serve()
            self._until_served()
            for car in self.cars:
                self._join(car)
                self._drive(car)
            yield
        finally:
            for process in self._processes.values():
                process.send_signal(signal.SIGTERM)
            for process in self._processes.values():
                process.wait(_END_S)

    def submit(self, units: int, rows_per_unit: int = 4) -> str:
        """A batch of random rows; its id."""
        sample = models.mlp()
        rows = sample.draw(units * rows_per_unit)
        np.savez(self.folder / "rows.npz", x=rows["x"])
        model = sample.write(self.folder / "mlp.onnx")
        self._server("model", "add", str(model), "--name", "mlp", "--public-data")
        said = self._server(
            "batch", "submit", "--model", "mlp", "--input", str(self.folder / "rows.npz"),
            "--public-data", "--rows-per-unit", str(rows_per_unit), "--step", str(_STEP), "--json",
        )  # fmt: skip
        batch: str = json.loads(said)["id"]
        return batch

    def kill_one(self, kind: str) -> None:
        """Kill one process of this kind and start it again; the child's agent does that itself."""
        if kind == CHILD:
            self._kill_child()
            return
        name = SERVER if kind == SERVER else self.draw.choice(self.cars)
        self._processes[name].kill()
        self._processes[name].wait(_END_S)
        self.kills[kind] += 1
        if kind == SERVER:
            self._serve()
        else:
            self._drive(name)

    def pass_time(self, most_s: float) -> None:
        """An instant nobody can foresee, so that every place in the code is met by some kill."""
        self._never.wait(self.draw.uniform(0.0, most_s))

    def is_done(self) -> bool:
        """Whether every batch has ended, read from the database itself."""
        return self.progress()[1] == 0

    def progress(self) -> tuple[int, int]:
        """Units done in all, and batches still running."""
        connection = sqlite3.connect(self._database, timeout=_COMMAND_S)
        try:
            done, running = connection.execute(
                "SELECT coalesce(sum(units_done), 0), coalesce(sum(state = 'running'), 0) FROM batches"
            ).fetchone()
        finally:
            connection.close()
        return done, running

    def wait_until_done(self, timeout_s: float) -> None:
        for _ in range(int(timeout_s / 0.1)):
            if self.is_done():
                return
            self._never.wait(0.1)
        raise AssertionError(f"not done: units done, batches running = {self.progress()}")

    def check(self, batch: str, units: int, rows_per_unit: int = 4) -> None:
        """The answer is an undisturbed run's to the bit, and the database is whole."""
        path = self.folder / f"{batch}.npz"
        self._server("batch", "results", batch, "--output", str(path))
        found = dict(np.load(path))
        sample = models.mlp()
        rows = units * rows_per_unit
        loaded = execution.Loaded.open(self.folder / "mlp.onnx", sample.program(_STEP))
        expected = execution.run(loaded, sample.draw(rows), rows)
        assert not found["row_status"].any(), "failed rows"
        for name, array in expected.items():
            assert found[name].tobytes() == array.tobytes(), name
        check_invariants(self._database)

    # --- processes -------------------------------------------------------------------------------

    @property
    def _database(self) -> Path:
        return self.folder / "project" / DATABASE_FILE

    def _serve(self) -> None:
        self._start(SERVER, "server.cli", "project", "serve", "--port", str(self._port))

    def _drive(self, car: str) -> None:
        self._start(car, "tesla_at_home.cli", car, "run")

    def _start(self, name: str, module: str, folder: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", module, "--dir", str(self.folder / folder), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _until_served(self) -> None:
        for _ in range(int(_END_S / 0.05)):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), _END_S):
                return
            self._never.wait(0.05)
        raise AssertionError((self.folder / f"{SERVER}.log").read_text())

    def _kill_child(self) -> None:
        """The first that is found; with nothing left to compute there may be none."""
        for _ in range(int(_END_S / 0.05)):
            for car in self.draw.sample(self.cars, len(self.cars)):
                for child in _children(self._processes[car].pid):
                    child.kill()
                    self.kills[CHILD] += 1
                    return
            if self.is_done():
                return
            self._never.wait(0.05)

    def _join(self, car: str) -> None:
        _run(
            "tesla_at_home.cli", self.folder / car, "join", f"http://127.0.0.1:{self._port}",
            "--name", car, "--vehicle", "scripted:home", "--accept-terms", "--yes",
        )  # fmt: skip

    def _server(self, *arguments: str) -> str:
        return _run("server.cli", self.folder / "project", *arguments)


def _children(agent: int) -> list[psutil.Process]:
    try:
        return [
            child for child in psutil.Process(agent).children() if _CHILD_MODULE in child.cmdline()
        ]
    except psutil.NoSuchProcess:
        return []


def _run(module: str, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, "--dir", str(folder), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_COMMAND_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
