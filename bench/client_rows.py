"""Client rows: how soon computing stops, what the client costs, and what the idle agent takes.

The first two run the real driver and child against a project in memory, with a model whose step takes
some 20 ms on one core; the others a real `run` beside a real, idle server.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import onnxruntime

from bench.project import served
from bench.rows import Figure, Measure
from server.cli_project import found
from server.settings import ProjectSettings
from tesla_at_home.adapters import joining, settings_file
from tesla_at_home.adapters.clock import SystemClock, SystemRandomness
from tesla_at_home.agent.commands import Command
from tesla_at_home.agent.events import Event, Now, UnitDone, UnitStarted
from tesla_at_home.driver import Driver
from tesla_at_home.outside import Wake
from tests.support import models
from tests.support.project_in_memory import MemoryProject
from tests.support.vehicle_agent import Agent
from workunits.wire.messages import NewOwner

# A step of 32 rows is about a GFLOP: 20 ms and more on one core.
_MODEL: Final = {"features": 512, "hidden": 32_768, "classes": 512}
_ROWS_PER_STEP: Final = 32
_STOPS: Final = 100
# Enough to be computing through all stops; its inputs are 130 MB, below the contract's limit.
_STEPS_TO_STOP: Final = 2000
_STEPS: Final = 150
_ROUNDS: Final = 5
_PATIENCE_S: Final = 120.0
_SETTLE_S: Final = 8.0
_IDLE_S: Final = 30.0
_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


def stop_latency_p99_ms() -> Figure:
    """From "the car is not parked" at the agent's door to no thread of the child running.

    Each stop comes in the middle of a step, at another place of it. The floor is SIGSTOP itself.
    """
    with _agent(_STEPS_TO_STOP) as agent, _running(agent):
        latencies_ms = [_stop_once(agent, number) for number in range(_STOPS)]
    floor_ms = _signal_floor_ms()
    return Figure(_p99(latencies_ms), floor_ms)


def _stop_once(agent: Agent, number: int) -> float:
    _wait_for(lambda: _is_computing(agent))
    time.sleep(0.03 + 0.001 * (number % 20))
    pid = _child(agent)
    began_s = time.monotonic()
    agent.vehicle.tell(parked=False)
    _wait_for(lambda: _is_still(pid), step_s=0.0)
    took_ms = (time.monotonic() - began_s) * 1000
    agent.vehicle.tell(parked=True)
    return took_ms


def _signal_floor_ms() -> float:
    """SIGSTOP to a busy process, without any agent."""
    spin = [sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(spin) as process:
        try:
            took = []
            for _ in range(_STOPS):
                time.sleep(0.01)
                began_s = time.monotonic()
                os.kill(process.pid, 19)
                _wait_for(lambda: _is_still(process.pid), step_s=0.0)
                took.append((time.monotonic() - began_s) * 1000)
                os.kill(process.pid, 18)
            return _p99(took)
        finally:
            process.kill()


def client_efficiency() -> Figure:
    """Rows a second of the client over those of a bare loop, same model, step, threads.

    The client's time goes from the child's first step to the finished, durable output. Both run in
    turns, and the best of each counts: what else the machine does slows either.
    """
    client_s, bare_s = [], []
    for _ in range(_ROUNDS):
        with _agent(_STEPS) as agent:
            client_s.append(_client_once(agent))
            bare_s.append(_bare_once(agent))
    return Figure(min(bare_s) / min(client_s), 1.0)


def _client_once(agent: Agent) -> float:
    times: dict[type[Event], float] = {}
    with agent.driver() as (driver, _, _):
        handle = driver.machine.handle

        def timed(event: Event, now: Now) -> list[Command]:
            times.setdefault(type(event), time.monotonic())
            return handle(event, now)

        driver.machine.handle = timed  # type: ignore[method-assign]
        driver.run(driver.machine.is_idle, timeout_s=_PATIENCE_S)
    return times[UnitDone] - times[UnitStarted]


def _bare_once(agent: Agent) -> float:
    """ONNX Runtime and nothing else: a session, a slice, a call."""
    (batch,) = agent.project.batches
    model = models.mlp(**_MODEL).write(agent.directory / "bare.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, ["CPUExecutionProvider"])
    rows = batch.inputs_of(0)["x"]
    began_s = time.monotonic()
    for first in range(0, len(rows), _ROWS_PER_STEP):
        session.run(None, {"x": rows[first : first + _ROWS_PER_STEP]})
    return time.monotonic() - began_s


def agent_rss_mb() -> Figure:
    """Memory of `run` without its child, after it spoke to a server that has no work."""
    with _idle_agent() as pid:
        time.sleep(_SETTLE_S)
        return Figure(_rss_mb(pid), _bare_python_mb())


def agent_idle_cpu_pct() -> Figure:
    """Share of one core that `run` takes while it waits with the gate open."""
    with _idle_agent() as pid:
        time.sleep(_SETTLE_S)
        before_s = _cpu_s(pid)
        time.sleep(_IDLE_S)
        return Figure(100 * (_cpu_s(pid) - before_s) / _IDLE_S, 0.0)


# --- agents --------------------------------------------------------------------------------------


@contextmanager
def _agent(steps: int) -> Iterator[Agent]:
    """An agent on one core with one unit of `steps` steps to compute."""
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        memory = MemoryProject(SystemClock().now_ms)
        rows = steps * _ROWS_PER_STEP
        memory.publish(models.mlp(**_MODEL), rows, rows, _ROWS_PER_STEP)
        cores = 100.0 / (os.cpu_count() or 1)
        agent = Agent(Path(name) / "vehicle", memory, values={"limits.cores": cores})
        agent.join()
        yield agent


@contextmanager
def _running(agent: Agent) -> Iterator[Driver]:
    """The agent's thread, until the end of the block."""
    with agent.driver() as (driver, inbox, _):
        is_over = threading.Event()
        thread = threading.Thread(target=lambda: driver.run(is_over.is_set), daemon=True)
        thread.start()
        try:
            yield driver
        finally:
            is_over.set()
            inbox.put(Wake())
            thread.join(_PATIENCE_S)


@contextmanager
def _idle_agent() -> Iterator[int]:
    """A real `run` on a scripted vehicle beside a real server without work; its process id."""
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        folder, vehicle = Path(name) / "project", Path(name) / "vehicle"
        found(folder, ProjectSettings(name="bench"))
        with served(folder) as url, _run_beside(url, vehicle) as pid:
            yield pid


@contextmanager
def _run_beside(url: str, vehicle: Path) -> Iterator[int]:
    _join(url, vehicle)
    command = [sys.executable, "-m", "tesla_at_home.cli", "--dir", str(vehicle), "run"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield process.pid
        finally:
            process.terminate()


def _join(url: str, directory: Path) -> None:
    clock, randomness = SystemClock(), SystemRandomness()
    entrance = joining.enter(joining.approach(url), directory, clock.now_ms())
    application = joining.Application(
        NewOwner(code=joining.new_owner_code(randomness)), None, None, clock.now_ms()
    )
    joining.enrol(entrance, directory, application, clock, randomness)
    settings_file.change(directory, "vehicle.sources", ("scripted:home",))


# --- what the kernel says ------------------------------------------------------------------------


def _child(agent: Agent) -> int:
    pid = None if agent.runner is None else agent.runner.pid()
    return pid or 0


def _is_computing(agent: Agent) -> bool:
    pid = _child(agent)
    return bool(pid) and _states(pid).count("R") > 0 and _rss_mb(pid) > 100


def _is_still(pid: int) -> bool:
    return set(_states(pid)) == {"T"}


def _states(pid: int) -> list[str]:
    """The state letter of every thread."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        found.append(task.read_text().rpartition(")")[2].split()[0])
    return found


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def _bare_python_mb() -> float:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        time.sleep(1)
        found = _rss_mb(process.pid)
        process.kill()
    return found


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[-1]


def _wait_for(condition: Callable[[], bool], step_s: float = 0.002) -> None:
    until_s = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > until_s:
            raise RuntimeError("did not happen")
        time.sleep(step_s)


MEASURES: Final = (
    Measure("stop_latency_p99_ms", "ms", 250, "lower", stop_latency_p99_ms),
    Measure("client_efficiency", "share", 0.97, "higher", client_efficiency),
    Measure("agent_rss_mb", "MiB", 64, "lower", agent_rss_mb),
    Measure("agent_idle_cpu_pct", "%", 0.2, "lower", agent_idle_cpu_pct),
)
