"""What a bad link, a hostile mirror or a confused server does to the agent: delays, never losses."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest
from msgspec.structs import replace

from tesla_at_home.adapters.clock import SystemClock
from tesla_at_home.adapters.store import Store
from tesla_at_home.agent import hearing
from tesla_at_home.driver import Driver
from tests.support import models
from tests.support.project_in_memory import MemoryProject
from tests.support.vehicle_agent import Agent
from workunits.trust import envelope
from workunits.values import LeaseId
from workunits.wire.messages import Abort, Lease, Verdict


@pytest.fixture
def project() -> MemoryProject:
    project = MemoryProject(SystemClock().now_ms)
    project.publish(models.mlp(), rows=24, rows_per_unit=8)
    return project


@pytest.fixture
def agent(tmp_path: Path, project: MemoryProject) -> Agent:
    agent = Agent(tmp_path / "vehicle", project)
    agent.join()
    return agent


def outcomes(project: MemoryProject) -> list[str]:
    return sorted(report.outcome for report in project.reports.values())


FAULTS = {
    "a lost request": lambda project: project.lose_request(2),
    "a lost reply": lambda project: project.lose_reply(2),
    "a busy server": lambda project: project.refuse("busy", 503, times=2),
    "too many requests": lambda project: project.refuse("too_many", 429, times=2),
    "a stranger's signature": lambda project: project.sign_with_wrong_key(2),
    "a captive portal": lambda project: project.answer_garbage(2),
    "a resync": lambda project: project.want_resync(),
    "a restored database": lambda project: project.forget_vehicle(),
    "swapped attachments": lambda project: project.swap_attachments(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_unit_is_done_in_spite_of(fault: str, project: MemoryProject, agent: Agent) -> None:
    FAULTS[fault](project)
    agent.run()
    assert outcomes(project) == ["done"] * 3


@pytest.mark.parametrize("fault", FAULTS)
def test_results_in_hand_outlast(fault: str, project: MemoryProject, agent: Agent) -> None:
    agent.run_until(
        lambda driver: (
            any(u.state == "to_report" for u in driver.machine.state.units.values())
            and not project.reports
        )
    )
    FAULTS[fault](project)
    agent.run()
    assert outcomes(project) == ["done"] * 3


def test_the_saved_request_is_repeated_byte_for_byte(project: MemoryProject, agent: Agent) -> None:
    project.lose_reply(3)
    agent.run()
    payloads = [envelope.unpack_message(body).envelope for body in project.bodies]
    assert payloads[0] == payloads[1] == payloads[2] == payloads[3]
    assert [request.seq for request in project.requests] == list(
        range(1, len(project.requests) + 1)
    )


def test_the_same_request_is_sent_by_the_next_process(project: MemoryProject, agent: Agent) -> None:
    project.lose_reply(1000)
    agent.run_until(
        lambda driver: bool(project.bodies) and driver.machine.state.books.fault is not None
    )
    project.heal()
    agent.run()
    first, second = (envelope.unpack_message(body).envelope for body in project.bodies[:2])
    assert first == second
    assert outcomes(project) == ["done"] * 3


def test_an_answer_to_an_earlier_request_is_not_taken(project: MemoryProject, agent: Agent) -> None:
    project.units_per_reply = 1
    agent.run_until(lambda driver: bool(driver.machine.state.units))
    project.answer_stale()
    agent.run()
    assert outcomes(project) == ["done"] * 3


def test_a_foreign_lease_goes_back_with_its_code(project: MemoryProject, agent: Agent) -> None:
    def wrong_unit(lease: Lease) -> Lease:
        return replace(lease, unit=lease.unit.replace(b"\xa5index\x00", b"\xa5index\x01"))

    project.tamper(wrong_unit)
    agent.run_until(lambda driver: bool(project.reports))
    (report, *_) = project.reports.values()
    assert (report.outcome, report.code) == ("returned", "bad_proof")
    project.heal()
    agent.run()
    assert outcomes(project) == ["done", "done", "returned"]
    assert project.requests


def test_a_model_that_tuf_does_not_name_is_not_run(project: MemoryProject, agent: Agent) -> None:
    project.models.clear()
    agent.run()
    assert {(r.outcome, r.code) for r in project.reports.values()} == {("returned", "untrusted")}
    with Store.open(agent.directory) as store:
        assert any("does not name" in entry.text for entry in store.history())


def test_a_model_whose_bytes_are_not_the_target_is_never_kept(
    project: MemoryProject, agent: Agent
) -> None:
    (name,) = (digest.hex() for digest in project.models)
    right = project.blobs[name]
    project.blobs[name] = right[:-1] + b"!"
    agent.run_until(
        lambda driver: any(tries.failures >= 2 for tries in driver.machine.state.down.values())
    )
    assert not list((agent.directory / "models").iterdir())
    project.blobs[name] = right
    agent.run()
    assert outcomes(project) == ["done"] * 3


def test_a_manifest_signed_by_a_stranger_goes_back(project: MemoryProject, agent: Agent) -> None:
    project.batch_key = project.scheduler
    agent.run()
    assert {r.code for r in project.reports.values()} == {"bad_signature"}


def test_stale_metadata_take_no_new_work(project: MemoryProject, agent: Agent) -> None:
    project.is_fresh = False
    agent.run_until(lambda driver: driver.machine.state.project_seen_s is not None)
    assert not project.requests


def test_stale_metadata_let_held_work_be_finished(project: MemoryProject, agent: Agent) -> None:
    project.units_per_reply = 1
    agent.run_until(lambda driver: bool(driver.machine.state.units))
    project.is_fresh = False
    agent.run_until(lambda driver: bool(project.reports))
    assert outcomes(project) == ["done"]


def test_a_report_that_is_refused_three_times_is_set_aside(
    project: MemoryProject, agent: Agent
) -> None:
    agent.values["network.min_wait_s"] = 0.0
    project.lose_request(0)
    refused: list[LeaseId] = []
    agent.run_until(lambda driver: len(driver.machine.state.units) == 1)
    (first,) = project.leases
    project.refuse_reports_of(first)
    refused.append(first)
    agent.run()
    assert outcomes(project) == ["done"] * 2
    with Store.open(agent.directory) as store:
        (unit,) = store.units()
    assert (unit.lease, unit.state, unit.code) == (first, "quarantined", "malformed_message")


def test_a_lost_payload_is_sent_again(project: MemoryProject, agent: Agent) -> None:
    agent.run_until(lambda driver: bool(driver.machine.state.units))
    for lease in project.leases:
        project.want_payload_again(lease)
    agent.run()
    assert outcomes(project) == ["done"] * 3


def test_aborted_units_are_dropped(project: MemoryProject, agent: Agent) -> None:
    agent.values["limits.duty"] = 5.0
    agent.run_until(lambda driver: driver.machine.state.progress >= 1)
    (lease,) = project.leases
    project.aborts.append(Abort(lease=lease, code="cancelled"))
    project.aborts.append(Abort(lease=LeaseId(bytes(16)), code="cancelled"))
    project.want_resync()
    agent.values.clear()
    agent.run()
    assert lease not in project.reports or len(project.reports) == 3


def test_an_old_client_stops_asking_and_says_so(project: MemoryProject, agent: Agent) -> None:
    project.want_upgrade()
    agent.run_until(lambda driver: driver.machine.state.books.talk.state == "outdated")
    with Store.open(agent.directory) as store:
        assert "update" in (store.books().fault or "")


def test_a_client_that_is_ahead_of_its_project_is_not_told_to_update(
    project: MemoryProject, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "PROTOCOL_VERSION", 10)
    project.want_upgrade()
    agent.run_until(lambda driver: driver.machine.state.books.talk.state == "outdated")
    with Store.open(agent.directory) as store:
        assert "the project must be updated" in (store.books().fault or "")


def test_verdicts_and_notices_are_kept(project: MemoryProject, agent: Agent) -> None:
    project.notice = "quarantined: ask the operator"
    project.verdicts = [
        Verdict(lease=LeaseId(bytes(16)), verdict="valid", kflop=5),
        Verdict(lease=LeaseId(bytes(16)), verdict="invalid"),
        Verdict(lease=LeaseId(bytes(16)), verdict="inconclusive"),
    ]
    agent.run()
    with Store.open(agent.directory) as store:
        books = store.books()
    assert books.notice == project.notice
    totals = books.totals
    assert (totals.units_valid, totals.units_invalid, totals.kflop) == (1, 1, 5)
    assert totals.units_reported == 3


def test_units_past_their_deadline_go_back(project: MemoryProject, agent: Agent) -> None:
    project.lease_s = 1
    agent.values["limits.duty"] = 0.05
    agent.run_until(lambda driver: bool(project.reports))
    assert [(r.outcome, r.code) for r in project.reports.values()] == [("returned", "deadline")]


def test_a_transfer_is_cut_when_the_network_is_no_longer_home(
    project: MemoryProject, agent: Agent
) -> None:
    project.rides_along = False
    project.holds = Event()
    cut: list[bool] = []

    def was_cut(driver: Driver) -> bool:
        is_fetching = driver.machine.state.fetching is not None
        if is_fetching and not cut:
            cut.append(True)
            agent.vehicle.tell(home_wifi=False)
        return bool(cut) and not is_fetching

    agent.run_until(was_cut)
    with Store.open(agent.directory) as store:
        assert store.books().fault is None, "a cut of our own is nobody's fault"
    project.holds = None
    agent.vehicle.values["home_wifi"] = True
    agent.run()
    assert outcomes(project) == ["done"] * 3
