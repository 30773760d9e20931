"""A disk that damages or loses files under the agent: they come again, and every unit is done."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event

import pytest

from tesla_at_home.adapters.clock import SystemClock
from tesla_at_home.adapters.shelf import FileShelf
from tesla_at_home.agent import events
from tesla_at_home.agent.commands import Command
from tesla_at_home.agent.events import Consented, Need
from tesla_at_home.driver import Driver
from tests.support import models
from tests.support.project_in_memory import MemoryProject
from tests.support.vehicle_agent import Agent
from workunits.trust import digests
from workunits.values import Digest, LeaseId


@pytest.fixture
def project() -> MemoryProject:
    return MemoryProject(SystemClock().now_ms)


@pytest.fixture
def agent(tmp_path: Path, project: MemoryProject) -> Agent:
    agent = Agent(tmp_path / "vehicle", project)
    agent.join()
    return agent


def outcomes(project: MemoryProject) -> list[str]:
    return sorted(report.outcome for report in project.reports.values())


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x5A
    path.write_bytes(raw)


def stop_with_one_done(project: MemoryProject, agent: Agent) -> None:
    """The first unit has shown how fast this computer is; two more are in hand, files and all."""
    project.publish(models.mlp(), rows=24, rows_per_unit=8)

    def is_enough(driver: Driver) -> bool:
        states = [unit.state for unit in driver.machine.state.units.values()]
        return bool(project.reports) and "computing" in states

    agent.run_until(is_enough)


@pytest.mark.parametrize("is_lost", [True, False])
@pytest.mark.parametrize("folder", ["models", "spool/inputs", "spool/manifests"])
def test_damaged_files_come_again(
    project: MemoryProject, agent: Agent, folder: str, is_lost: bool
) -> None:
    stop_with_one_done(project, agent)
    paths = list((agent.directory / folder).iterdir())
    assert paths
    for path in paths:
        path.unlink() if is_lost else flip(path)
    agent.run()
    assert outcomes(project) == ["done"] * 3


@pytest.mark.parametrize("folder", ["models", "spool/inputs", "spool/manifests"])
def test_files_damaged_while_the_unit_is_ready_come_again(
    project: MemoryProject, agent: Agent, folder: str
) -> None:
    project.publish(models.mlp(), rows=8, rows_per_unit=8)
    project.holds = Event()
    damaged: list[Path] = []

    def damage_once(driver: Driver) -> bool:
        state = driver.machine.state
        assert project.holds is not None
        if damaged:
            return driver.machine.is_idle()
        if any(unit.state == "ready" for unit in state.units.values()):
            damaged.extend((agent.directory / folder).iterdir())
            for path in damaged:
                flip(path)
            agent.vehicle.tell(parked=True)
        elif state.fetching is not None and state.gate.is_open:
            agent.vehicle.tell(parked=False)
        elif state.fetching is not None:
            project.holds.set()
        return False

    agent.run_until(damage_once, timeout_s=20)
    assert damaged
    assert outcomes(project) == ["done"]


@pytest.mark.parametrize("width", [4, 20_000])
@pytest.mark.parametrize("is_lost", [True, False])
def test_a_damaged_output_is_put_together_again(
    project: MemoryProject, agent: Agent, width: int, is_lost: bool
) -> None:
    project.publish(models.identity(width=width), rows=8, rows_per_unit=8)

    def is_computed(driver: Driver) -> bool:
        outputs = list((agent.directory / "spool").glob("*.output"))
        return any(u.outcome for u in driver.machine.state.units.values()) and bool(outputs)

    agent.run_until(is_computed)
    (output,) = (agent.directory / "spool").glob("*.output")
    if not project.reports:
        output.unlink() if is_lost else flip(output)
    agent.run()
    assert outcomes(project) == ["done"]


def test_consent_is_asked_for_before_the_gate_speaks(agent: Agent) -> None:
    told: list[events.Event] = []
    reasons: list[str | None] = []
    with agent.driver() as (driver, _, _):
        machine = driver.machine
        handle = machine.handle

        def watch(event: events.Event, now: events.Now) -> list[Command]:
            commands = handle(event, now)
            told.append(event)
            reasons.append(machine.state.gate.view().reason)
            return commands

        machine.handle = watch  # type: ignore[method-assign]
        driver.run(lambda: True, timeout_s=30)
    assert isinstance(told[0], Consented)
    assert "consent" not in reasons


# --- the shelf ----------------------------------------------------------------------------------


def test_only_what_is_damaged_is_forgotten(tmp_path: Path) -> None:
    shelf = FileShelf(tmp_path)
    right, wrong = (Need("input", digests.of_tensors(raw), 5) for raw in (b"right", b"wrong"))
    for need, raw in ((right, b"right"), (wrong, b"wrong")):
        shelf.put(need, raw)
    flip(shelf.path(wrong))
    for need in (right, wrong, Need("model", Digest(bytes(32)), 1)):
        shelf.recheck(need)
    assert (shelf.has(right), shelf.has(wrong)) == (True, False)


def test_an_output_is_known_by_its_digest(tmp_path: Path) -> None:
    shelf, lease = FileShelf(tmp_path), LeaseId(b"l" * 16)
    assert not shelf.has_output(lease, digests.of_tensors(b"right"))
    shelf.output(lease).write_bytes(b"right")
    assert shelf.has_output(lease, digests.of_tensors(b"right"))
    flip(shelf.output(lease))
    assert not shelf.has_output(lease, digests.of_tensors(b"right"))


def test_old_manifests_that_nothing_needs_go(tmp_path: Path) -> None:
    shelf = FileShelf(tmp_path)
    needs = [Need("manifest", digests.of_manifest(bytes([n])), 9) for n in range(5)]
    for number, need in enumerate(needs):
        shelf.put(need, bytes([number]))
        os.utime(shelf.path(need), (number, number))
    assert shelf.evict_manifests({needs[0].digest}, 2)
    assert [shelf.has(need) for need in needs] == [True, False, False, True, True]
    assert not shelf.evict_manifests({needs[0].digest}, 2)
