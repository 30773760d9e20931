"""`run` as a process: how it ends, that only one runs, and that it carries no numerical library."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tesla_at_home import app
from tesla_at_home.adapters import joining, metadata, orders, settings_file
from tesla_at_home.adapters.clock import SystemClock, SystemRandomness
from tesla_at_home.adapters.keystore import FileKeys
from tesla_at_home.agent.events import Order
from tesla_at_home.errors import ClientError, NotJoined
from tests.support.project_in_memory import MemoryProject
from tests.support.tuf_repository import TufRepository
from tests.support.vehicle_agent import Agent, wait_for

AWAY = "[start]\nparked = false\nplugged_in = true\nhome_wifi = false\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A joined vehicle that is not at home, so that it speaks to nobody."""
    agent = Agent(tmp_path / "vehicle", MemoryProject(SystemClock().now_ms))
    agent.join()
    FileKeys.open_or_create(agent.directory)
    metadata.pin(agent.directory / joining.METADATA, TufRepository().files["1.root.json"])
    script = tmp_path / "away.toml"
    script.write_text(AWAY)
    settings_file.change(agent.directory, "vehicle.sources", (f"scripted:{script}",))
    return agent.directory


@contextmanager
def running(directory: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tesla_at_home.cli", "--dir", str(directory), "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: process.poll() is not None or app.view(directory).gate is not None)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("way", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_ends_in_order(directory: Path, way: signal.Signals, code: int) -> None:
    with running(directory) as process:
        view = app.view(directory)
        assert view.is_running
        assert view.gate is not None
        assert (view.gate.is_open, view.gate.reason) == (False, "parked")
        process.send_signal(way)
        assert process.wait(30) == code
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert not app.view(directory).is_running
    assert not (directory / orders.SOCKET_NAME).exists()


def test_the_agent_loads_no_numerical_library(directory: Path) -> None:
    with running(directory) as process:
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "sqlite3" in maps, "extension modules can be seen"
    for name in ("numpy", "onnxruntime", "/onnx/"):
        assert name not in maps


def test_importing_the_agent_loads_no_numerical_library() -> None:
    code = (
        "import sys, tesla_at_home.app; "
        "print([m for m in ('numpy', 'onnx', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_a_second_run_says_so_in_one_line(directory: Path) -> None:
    with running(directory):
        done = subprocess.run(
            [sys.executable, "-m", "tesla_at_home.cli", "--dir", str(directory), "run"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert f"another `tesla-at-home --dir {directory} run`" in done.stderr


def test_it_says_calmly_what_it_does(directory: Path) -> None:
    command = [sys.executable, "-m", "tesla_at_home.cli", "--dir", str(directory), "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "Ctrl-C stops it" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.stdout.read().strip().endswith("ended")
        finally:
            process.kill()


def test_a_source_written_by_hand_that_is_none_names_the_file(directory: Path) -> None:
    settings_file.change(directory, "vehicle.sources", ("bicycle",))
    with pytest.raises(
        ClientError, match=r"config\.toml: vehicle\.sources: 'bicycle'.*mend the line"
    ):
        app.run(directory)


def test_an_order_reaches_it_and_leave_ends_it(directory: Path) -> None:
    with running(directory) as process:
        assert orders.give(directory, Order(kind="pause"))
        wait_for(lambda: app.view(directory).paused_until_ms is not None)
        view = app.view(directory)
        assert view.gate is not None
        wait_for(lambda: (gate := app.view(directory).gate) is not None and gate.reason == "paused")
        assert orders.give(directory, Order(kind="leave"))
        assert process.wait(30) == 0
    assert [entry.kind for entry in app.history(directory)][-1] == "ordered"


def test_a_run_that_does_not_get_idle_in_time_says_so(directory: Path) -> None:
    with pytest.raises(ClientError, match=r"not idle after 0\.2 s"):
        app.run(directory, until_idle=True, timeout_s=0.2)


def test_a_directory_of_no_project(tmp_path: Path) -> None:
    with pytest.raises(NotJoined):
        app.run(tmp_path)


def test_an_address_that_is_too_long_for_a_path_is_an_abstract_one(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    woken: list[int] = []
    socket = orders.OrderSocket(deep, lambda: woken.append(1))
    assert orders.is_running(deep)
    wait_for(lambda: bool(woken))
    socket.close()
    assert not (deep / orders.SOCKET_NAME).exists()
    assert not orders.is_running(deep)


def test_clocks_and_chance_are_the_kernels() -> None:
    clock, randomness = SystemClock(), SystemRandomness()
    assert clock.boot_s() >= clock.monotonic_s() - 1
    assert clock.boot_id() == SystemClock().boot_id()
    assert 0 <= clock.minute_of_day() < 1440
    assert len(randomness.token(16)) == 16
    assert 0 <= randomness.fraction() < 1
