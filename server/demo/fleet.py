"""The demo's processes: one server, five cars of five owners, one liar. Starts and ends them.

Every process gets a directory of its own below the demo's; nothing is written elsewhere.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

READY_WITHIN_S: Final = 60.0
ENDED_WITHIN_S: Final = 20.0
LOOK_EVERY_S: Final = 0.1

# Real cars wait minutes; here a minute is all there is.
_SHORT_WAITS: Final = """\
[network]
min_wait_s = 0.2
backoff_first_s = 0.5
backoff_most_s = 2
no_work_first_s = 0.5
no_work_most_s = 1

[work]
units = 2
"""
_ALWAYS_HOME: Final = """\
calm_s = 0.0

[start]
parked = true
plugged_in = true
home_wifi = true
in_use = false
metered = false
charge_percent = 80
temperature_c = 40
"""
_DRIVES_OFF: Final = """
[[change]]
after_steps = 3
parked = false
plugged_in = false
home_wifi = false

[[change]]
after_s = 5
parked = true
plugged_in = true
home_wifi = true
"""


class DemoFailed(Exception):
    """A part of the demo did not do what it should; the message says which and what it said."""


@dataclass(frozen=True)
class Car:
    """One owner's client."""

    owner: str
    drives_off: bool = False


CARS: Final = (
    Car("nightjar"),
    Car("tortoise", drives_off=True),
    Car("heron"),
    Car("badger"),
    Car("otter"),
)
LIAR: Final = "too-good-to-be-true"


@dataclass
class Fleet:
    """All processes of one demo in `folder`; use as a context manager, which ends them."""

    folder: Path
    url: str = ""
    _running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def project(self) -> Path:
        return self.folder / "project"

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def server(self, *arguments: str) -> str:
        """What `tesla-at-home-server` prints for these arguments."""
        return _output(_command("server.cli", "--dir", str(self.project), *arguments))

    def client(self, car: Car, *arguments: str) -> str:
        """What `tesla-at-home` prints for these arguments, in the car's directory."""
        return _output(_command("tesla_at_home.cli", "--dir", str(self._home(car)), *arguments))

    def serve(self) -> None:
        """Start the server on a free port of the loopback and wait until it listens."""
        command = ("--dir", str(self.project), "serve", "--port", "0", "--no-work-wait", "1s")
        server = self._start(_command("server.cli", *command), "server.log")
        found_at = self.project / "serve.json"
        until = time.monotonic() + READY_WITHIN_S
        while not found_at.exists():
            if server.poll() is not None or time.monotonic() > until:
                raise DemoFailed(f"the server did not start: {self._tail('server.log')}")
            time.sleep(LOOK_EVERY_S)
        self.url = json.loads(found_at.read_text())["url"]

    def join(self) -> None:
        """All cars join, each as a new public owner."""
        with ThreadPoolExecutor(len(CARS)) as pool:
            list(pool.map(self._join, CARS))

    def lend(self, duty: float) -> None:
        """All owners set the share of the time that they lend, in percent."""
        setting = ("config", "set", "limits.duty", f"{duty:g}")
        with ThreadPoolExecutor(len(CARS)) as pool:
            list(pool.map(lambda car: self.client(car, *setting), CARS))

    def start_liar(self, units: int) -> None:
        """Start the one who returns false results for `units` units."""
        command = [sys.executable, "-m", "server.demo.liar", self.url]
        self._start([*command, "--name", LIAR, "--units", str(units)], "liar.log")

    def start_cars(self) -> None:
        """Start every car's client."""
        for car in CARS:
            run = _command("tesla_at_home.cli", "--dir", str(self._home(car)), "run")
            self._start(run, f"{car.owner}.log")

    def resumed(self) -> int:
        """Units that went on behind a step that had been computed before an interruption."""
        leases = set()
        for car in CARS:
            for line in json.loads(self.client(car, "history", "--json")):
                if line["kind"] == "unit_resumed" and (line["first_step"] or 0) > 0:
                    leases.add(line["lease"])
        return len(leases)

    def check_alive(self) -> None:
        """Raise `DemoFailed` when a process has died."""
        for process in self._running:
            if process.poll() not in (None, 0):
                logs = "; ".join(self._tail(path.name) for path in self.folder.glob("*.log"))
                raise DemoFailed(f"a process ended with {process.returncode}: {logs}")

    def stop(self) -> None:
        """End all, the cars first; whoever does not listen is killed."""
        for process in reversed(self._running):
            process.terminate()
        for process in self._running:
            try:
                process.wait(ENDED_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def wait(self) -> None:
        """Until the server ends by itself."""
        self._running[0].wait()

    def _join(self, car: Car) -> None:
        home = self._home(car)
        home.mkdir(mode=0o700)
        (home / "config.toml").write_text(_SHORT_WAITS)
        script = self.folder / f"{car.owner}.toml"
        script.write_text(_ALWAYS_HOME + (_DRIVES_OFF if car.drives_off else ""))
        names = ("--name", car.owner, "--vehicle-name", f"{car.owner}s-car", "--public")
        agreed = ("--accept-terms", "--yes", "--vehicle", f"scripted:{script}")
        self.client(car, "join", self.url, *names, *agreed)

    def _home(self, car: Car) -> Path:
        return self.folder / car.owner

    def _start(self, command: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("wb") as to:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=to, stderr=subprocess.STDOUT
            )
        self._running.append(process)
        return process

    def _tail(self, log: str) -> str:
        lines = (self.folder / log).read_text(errors="replace").splitlines()
        return f"{log}: {lines[-1] if lines else 'nothing said'}"


def run_module(module: str, *arguments: str) -> str:
    """What a module of this environment prints."""
    return _output(_command(module, *arguments))


def _command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=READY_WITHIN_S,
        check=False,
    )
    if done.returncode != 0:
        said: Any = (done.stderr or done.stdout).strip().splitlines() or ["nothing said"]
        raise DemoFailed(f"`{' '.join(command[2:])}` ended with {done.returncode}: {said[-1]}")
    return done.stdout
