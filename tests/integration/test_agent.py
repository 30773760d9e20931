"""A whole agent with a real child against a project in memory: what it reports is what was asked."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from msgspec.structs import replace as structs_replace

from tesla_at_home.adapters import orders
from tesla_at_home.adapters.clock import SystemClock
from tesla_at_home.adapters.store import Store
from tesla_at_home.agent.events import Order
from tesla_at_home.agent.view import Entry
from tesla_at_home.errors import AlreadyRunning
from tesla_at_home.outside import Wake
from tests.support import models
from tests.support.project_in_memory import MemoryProject
from tests.support.vehicle_agent import Agent, wait_for
from workunits import arrays
from workunits.execution import Loaded, run
from workunits.trust import digests
from workunits.values import Milliseconds


@pytest.fixture
def project() -> MemoryProject:
    return MemoryProject(SystemClock().now_ms)


@pytest.fixture
def agent(tmp_path: Path, project: MemoryProject) -> Agent:
    agent = Agent(tmp_path / "vehicle", project)
    agent.join()
    return agent


def check_all_right(project: MemoryProject, sample: models.Sample, tmp_path: Path) -> None:
    """Every unit was reported done, with exactly the bytes of an undisturbed run."""
    done = {}
    for lease, report in project.reports.items():
        batch, index = project.leases[lease]
        if report.outcome == "done":
            done[batch.manifest.batch, index] = report.output
    model = sample.write(tmp_path / "sample.onnx")
    for batch in project.batches:
        loaded = Loaded.open(model, batch.manifest.program, threads=1)
        for index in range(len(batch.units)):
            rows = len(next(iter(batch.inputs[index].values())))
            raw = arrays.to_payload(run(loaded, batch.inputs_of(index), rows))
            output = done[batch.manifest.batch, index]
            assert output is not None
            assert project.outputs[output] == raw


@pytest.mark.parametrize("rides_along", [True, False])
def test_computes_all_units_and_ends_idle(
    project: MemoryProject, agent: Agent, tmp_path: Path, rides_along: bool
) -> None:
    sample = models.mlp()
    project.rides_along = rides_along
    project.publish(sample, rows=50, rows_per_unit=12)
    agent.run()
    check_all_right(project, sample, tmp_path)


def test_shared_inputs_and_integers(project: MemoryProject, agent: Agent, tmp_path: Path) -> None:
    sample = models.shared()
    project.publish(sample, rows=30, rows_per_unit=10)
    agent.run()
    check_all_right(project, sample, tmp_path)


def test_large_outputs_are_uploaded(project: MemoryProject, agent: Agent, tmp_path: Path) -> None:
    sample = models.identity(width=2000)
    project.publish(sample, rows=20, rows_per_unit=10)
    agent.run()
    check_all_right(project, sample, tmp_path)
    assert all(len(raw) > 65536 for raw in project.outputs.values())


def test_an_agent_that_was_ended_goes_on_at_the_next_step(
    project: MemoryProject, agent: Agent, tmp_path: Path
) -> None:
    sample = models.mlp()
    project.publish(sample, rows=40, rows_per_unit=40)
    agent.values["limits.duty"] = 2.0
    agent.run_until(lambda driver: driver.machine.state.progress >= 3)
    agent.values.clear()
    agent.run()
    check_all_right(project, sample, tmp_path)
    firsts = [entry.first_step for entry in entries(agent, "unit_resumed")]
    assert len(firsts) == 1
    assert (firsts[0] or 0) >= 3


def test_a_child_killed_in_the_middle_is_begun_again_bit_for_bit(
    project: MemoryProject, agent: Agent, tmp_path: Path
) -> None:
    sample = models.mlp()
    project.publish(sample, rows=40, rows_per_unit=40)
    agent.values["limits.duty"] = 5.0
    killed: list[int] = []

    def kill_once(steps: int, units: int) -> None:
        pid = None if agent.runner is None else agent.runner.pid()
        if steps >= 4 and not killed and pid is not None:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    agent.vehicle.on_count = kill_once
    agent.run()
    assert killed
    check_all_right(project, sample, tmp_path)
    resumed = entries(agent, "unit_resumed")
    assert [entry.first_step is not None and entry.first_step >= 4 for entry in resumed] == [True]
    assert [entry.reason for entry in entries(agent, "unit_interrupted")] == ["child_crashed"]


def test_a_car_that_drives_off_stops_the_child_and_comes_back(
    project: MemoryProject, agent: Agent, tmp_path: Path
) -> None:
    sample = models.mlp()
    project.publish(sample, rows=40, rows_per_unit=40)
    agent.values["limits.duty"] = 5.0
    states: list[str] = []

    def drive_off_once(steps: int, units: int) -> None:
        if steps != 3 or states:
            return
        states.append("away")
        agent.vehicle.tell(parked=False)
        Thread(target=come_back, daemon=True).start()

    def come_back() -> None:
        assert agent.runner is not None
        pid = agent.runner.pid()
        wait_for(lambda: state_of(pid) == "T")
        states.append("stopped")
        agent.vehicle.tell(parked=True)

    agent.vehicle.on_count = drive_off_once
    agent.run()
    assert states == ["away", "stopped"]
    check_all_right(project, sample, tmp_path)
    assert [entry.reason for entry in entries(agent, "unit_interrupted")] == ["parked"]
    assert [(entry.first_step or 0) >= 3 for entry in entries(agent, "unit_resumed")] == [True]


def test_a_long_absence_ends_the_process_and_keeps_the_steps(
    project: MemoryProject, agent: Agent, tmp_path: Path
) -> None:
    sample = models.mlp()
    project.publish(sample, rows=40, rows_per_unit=40)
    agent.values |= {"limits.duty": 5.0, "work.kill_after_s": 0.05}
    seen: list[int] = []

    def drive_off_once(steps: int, units: int) -> None:
        if steps != 3 or seen:
            return
        assert agent.runner is not None
        seen.append(agent.runner.pid() or 0)
        agent.vehicle.tell(plugged_in=None)
        Thread(target=come_back, daemon=True).start()

    def come_back() -> None:
        wait_for(lambda: state_of(seen[0]) in ("", "Z"))
        agent.vehicle.tell(plugged_in=True)

    agent.vehicle.on_count = drive_off_once
    agent.run()
    check_all_right(project, sample, tmp_path)
    assert [entry.reason for entry in entries(agent, "unit_interrupted")] == ["plugged_in"]
    assert all((entry.first_step or 0) >= 3 for entry in entries(agent, "unit_resumed"))


def test_two_runs_of_one_directory_are_not_possible(agent: Agent) -> None:
    with (
        orders.locked(agent.directory),
        pytest.raises(AlreadyRunning),
        orders.locked(agent.directory),
    ):
        pass


def test_no_consent_no_work(project: MemoryProject, agent: Agent) -> None:
    project.publish(models.mlp(), rows=10, rows_per_unit=10)
    with Store.open(agent.directory) as store:
        record = store.consent()
        assert record is not None
        store.add_consent(replace(record, withdrawn_ms=Milliseconds(5)))
    agent.run_until(lambda driver: bool(driver.machine.state.gate.conditions))
    with Store.open(agent.directory) as store:
        gate = store.gate()
    assert gate is not None
    assert (gate.is_open, gate.reason) == (False, "consent")
    assert not project.requests


def test_terms_that_changed_need_a_new_consent(project: MemoryProject, agent: Agent) -> None:
    with Store.open(agent.directory) as store:
        record = store.consent()
        assert record is not None
        older = structs_replace(record.consent, terms=digests.plain(b"Older terms"))
        store.add_consent(replace(record, consent=older))
    agent.run_until(lambda driver: bool(driver.machine.state.gate.conditions))
    assert not project.requests


def test_a_pause_by_another_command_stops_and_resume_goes_on(
    project: MemoryProject, agent: Agent, tmp_path: Path
) -> None:
    sample = models.mlp()
    project.publish(sample, rows=40, rows_per_unit=40)
    agent.values["limits.duty"] = 5.0
    with agent.driver() as (driver, inbox, _), orders.locked(agent.directory):
        socket = orders.OrderSocket(agent.directory, lambda: inbox.put(Wake()))
        given: list[bool] = []

        def pause_once(steps: int, units: int) -> None:
            if steps == 2 and not given:
                given.append(orders.give(agent.directory, Order(kind="pause")))
                Thread(target=resume, daemon=True).start()

        def resume() -> None:
            assert agent.runner is not None
            pid = agent.runner.pid()
            wait_for(lambda: state_of(pid) == "T")
            given.append(orders.give(agent.directory, Order(kind="resume")))

        agent.vehicle.on_count = pause_once
        try:
            driver.run(driver.machine.is_idle, timeout_s=60)
        finally:
            socket.close()
    assert given == [True, True]
    check_all_right(project, sample, tmp_path)
    assert [entry.reason for entry in entries(agent, "gate_closed")] == ["paused"]


def test_orders_without_an_agent_are_carried_out_on_the_books(agent: Agent) -> None:
    assert not orders.give(agent.directory, Order(kind="pause", until_ms=7))
    with Store.open(agent.directory) as store:
        assert store.books().paused_until_ms == 7
    assert not orders.give(agent.directory, Order(kind="finish"))
    assert not orders.give(agent.directory, Order(kind="resume"))
    with Store.open(agent.directory) as store:
        assert (store.books().paused_until_ms, store.books().is_finishing) == (None, False)


def test_leaving_ends_the_run(project: MemoryProject, agent: Agent) -> None:
    with agent.driver() as (driver, inbox, store):
        store.add_order(Order(kind="leave"))
        inbox.put(Wake())
        driver.run(timeout_s=30)


def entries(agent: Agent, kind: str) -> list[Entry]:
    with Store.open(agent.directory) as store:
        return [entry for entry in store.history() if entry.kind == kind]


def state_of(pid: int | None) -> str:
    """The process's state letter as Linux has it; empty when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]
