"""The sandbox of the computing process, played against: each measure refuses what it says it refuses.

What a kernel forbids (old ones, containers) is not skipped: there the report must say so.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tesla_at_home.adapters.child_process import environment
from tesla_at_home.adapters.confinement import MEASURES
from tesla_at_home.ports import Bounds
from tests.support.evil_child import BECAME_A_SHELL, Plan
from workunits.wire.limits import MIB

# What must still be possible, or nothing could be computed.
ALLOWED: Final = {"try_writing_in_its_own_folder", "try_a_thread"}
# What each measure refuses by itself; "privileges" goes before those that ask for it.
REFUSES: Final[dict[str, set[str]]] = {
    "memory limit": {"try_memory_beyond_the_limit"},
    "file limits": {"try_a_file_beyond_the_limit"},
    "network": {"try_connecting", "try_a_datagram"},
    "files": {
        "try_reading_the_key",
        "try_listing_the_directory",
        "try_writing_outside",
        "try_changing_another_unit",
        "try_changing_what_it_reads",
        "try_taking_a_name_outside",
        "try_reading_its_agents_memory",
        "try_stopping_its_agent",
        "try_a_program",
    },
    "system calls": {
        "try_connecting",
        "try_a_datagram",
        "try_a_unix_socket",
        "try_a_process",
        "try_a_program",
        "try_signalling_its_agent",
        "try_stopping_its_agent",
        "try_a_higher_disk_priority",
        "try_a_higher_priority",
        "try_becoming_root_of_a_namespace",
        "try_owning_a_pipe_for_its_agent",
        "try_owning_a_pipe_for_its_agents_thread",
        "try_choosing_the_signal_of_a_pipe",
        "try_owning_by_the_sockets_call",
        "try_owning_a_group_by_the_sockets_call",
        "try_tying_its_agent_to_processors",
        "try_a_file_in_memory",
        "try_a_secret_file_in_memory",
        "try_a_shared_segment",
        "try_joining_a_shared_segment",
        "try_a_queue_of_messages",
    },
}
# What anybody's program may do who is not confined at all; the rest depends on who runs the tests.
USUAL: Final = {
    "try_connecting", "try_a_datagram", "try_a_unix_socket", "try_reading_the_key",
    "try_listing_the_directory", "try_writing_outside", "try_changing_another_unit",
    "try_changing_what_it_reads", "try_taking_a_name_outside", "try_a_file_beyond_the_limit",
    "try_memory_beyond_the_limit", "try_a_process", "try_a_program", "try_signalling_its_agent",
    "try_owning_a_pipe_for_its_agent", "try_owning_a_pipe_for_its_agents_thread",
    "try_choosing_the_signal_of_a_pipe", "try_owning_by_the_sockets_call",
    "try_owning_a_group_by_the_sockets_call", "try_tying_its_agent_to_processors",
    "try_a_file_in_memory", "try_joining_a_shared_segment",
}  # fmt: skip


class Told(msgspec.Struct):
    """What the evil child prints."""

    holds: dict[str, bool]
    details: dict[str, str]
    refused: dict[str, bool]
    status: dict[str, str]
    nice: int
    scheduler: int
    disk_priority: int
    oom: str
    network: str
    directory: str
    umask: int
    open: int
    core: tuple[int, int]
    last_words: str = ""

    def refusals(self) -> set[str]:
        return {name for name, is_refused in self.refused.items() if is_refused}


@dataclass
class Stage:
    """A vehicle's directory with a cell in it, and listeners outside."""

    folder: Path
    port: int

    def play(self, *measures: str, everything: bool = False, also_read: Path | None = None) -> Told:
        cell = self.folder / "cell"
        bounds = Bounds((str(cell / "in"),), (str(cell / "out"),), 64 * MIB, MIB)
        plan = Plan(
            bounds=bounds,
            measures=None if everything else measures,
            outside=str(self.folder),
            port=self.port,
            beyond_bytes=bounds.memory_bytes + 1024 * MIB,
        )
        environ = environment(bounds.writes[0])
        if also_read is not None:
            environ["PYTHONPATH"] += f"{os.pathsep}{also_read}"
        done = subprocess.run(
            [sys.executable, "-P", "-m", "tests.support.evil_child", msgspec.json.encode(plan)],
            env=environ,
            capture_output=True,
            timeout=60,
            text=True,
            check=False,
        )
        assert done.stdout, done.stderr
        first, _, last = done.stdout.partition("\n")
        told = msgspec.json.decode(first, type=Told)
        told.last_words = last
        return told


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    for name in ("in", "out"):
        (tmp_path / "cell" / name).mkdir(parents=True)
    for name in ("key.pem", "other.steps", "cell/in/model"):
        (tmp_path / name).write_bytes(b"not for it")
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as unix_listener,
    ):
        # A Unix socket's path is short by law.
        before = Path.cwd()
        os.chdir(tmp_path)
        unix_listener.bind("socket")
        os.chdir(before)
        unix_listener.listen()
        yield Stage(tmp_path, listener.getsockname()[1])


def test_taken_over_it_can_do_nothing_but_compute(stage: Stage) -> None:
    told = stage.play(everything=True)
    assert set(told.holds) == set(MEASURES)
    should = {name for measure, names in REFUSES.items() if told.holds[measure] for name in names}
    assert should <= told.refusals()
    assert not told.refusals() & ALLOWED
    if told.holds["files"] or told.holds["system calls"]:
        assert told.last_words.startswith("refused")
    if all(told.holds.values()):
        assert told.refusals() == set(told.refused) - ALLOWED
    assert not (stage.folder / "new").exists()
    assert (stage.folder / "other.steps").read_bytes() == b"not for it"


def test_the_report_is_what_the_kernel_says(stage: Stage) -> None:
    told = stage.play(everything=True)
    status = told.status
    assert told.holds["privileges"] == (status["NoNewPrivs"] == "1")
    assert told.holds["system calls"] == (status["Seccomp"] == "2")
    assert told.holds["capabilities"] == (int(status["CapEff"], 16) == 0)
    assert told.holds["network"] == (told.network != os.readlink("/proc/self/ns/net"))
    assert told.holds["processor priority"] == (told.nice == 19)
    assert told.scheduler == os.SCHED_BATCH
    assert told.holds["disk priority"] == (told.disk_priority >> 13 == 3)
    assert told.holds["out of memory"] == (told.oom == "1000")
    assert told.holds["private files"]
    assert (told.umask, told.directory) == (0o077, str(stage.folder / "cell" / "out"))
    assert told.core == (0, 0)
    # Its three streams, and the folder that is being listed.
    assert told.open == 4


def test_without_measures_all_of_it_is_done(stage: Stage) -> None:
    told = stage.play()
    assert not told.refusals() & USUAL
    assert told.last_words.strip() == BECAME_A_SHELL


@pytest.mark.parametrize("measure", REFUSES)
def test_each_measure_refuses_it_alone(stage: Stage, measure: str) -> None:
    told = stage.play("privileges", measure)
    if not told.holds[measure]:
        assert told.details[measure]
        return
    assert told.refusals() >= REFUSES[measure]
    assert not told.refusals() & ALLOWED
    # And nothing else does: what it does not speak of is still done.
    others = {name for other, names in REFUSES.items() if other != measure for name in names}
    may_too = REFUSES[measure] | {
        "files": {"try_connecting", "try_signalling_its_agent"},
        "system calls": {"try_raising_the_limit"},
    }.get(measure, set())
    assert not told.refusals() & (others - may_too) & USUAL


def test_what_this_system_forbids_is_said(stage: Stage) -> None:
    # A limit below what was asked for, as a container may have it.
    import resource

    low = MIB // 2
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (low, low))

    bounds = Bounds((str(stage.folder / "cell/in"),), (str(stage.folder / "cell/out"),), 0, MIB)
    code = (
        "import msgspec, sys\n"
        "from tesla_at_home.adapters import confinement, seccomp\n"
        "from tesla_at_home.ports import Bounds\n"
        "seccomp.platform.machine = lambda: 'z80'\n"
        "told = confinement.confine(msgspec.json.decode(sys.argv[1], type=Bounds))\n"
        "print(msgspec.json.encode(told).decode())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, msgspec.json.encode(bounds)],
        env=environment(bounds.writes[0]),
        preexec_fn=lower,
        capture_output=True,
        timeout=60,
        check=True,
    )
    told = {one["name"]: one for one in json.loads(done.stdout)}
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == before
    assert not told["memory limit"]["holds"]
    assert told["memory limit"]["detail"] == "no limit was given"
    assert not told["system calls"]["holds"]
    assert "z80" in told["system calls"]["detail"]


def test_a_folder_below_what_is_read_whole_is_said(stage: Stage) -> None:
    # As a directory below the virtual environment is: Landlock grants, and cannot take back.
    told = stage.play("privileges", "files", also_read=stage.folder)
    assert "try_reading_the_key" not in told.refusals()
    assert not told.holds["files"]
    if "try_writing_outside" in told.refusals():
        assert str(stage.folder) in told.details["files"]


def test_its_environment_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "TESLA_AT_HOME_OWNER_CODE", "https_proxy", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK",
        "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "MQTT_PASSWORD",
    }  # fmt: skip
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/local/cuda/lib64")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    found = environment("/own")
    assert "secret" not in found.values()
    assert (found["HOME"], found["ORT_DISABLE_TELEMETRY"]) == ("/own", "1")
    assert found["LD_LIBRARY_PATH"] == "/usr/local/cuda/lib64"
    assert found["CUDA_VISIBLE_DEVICES"] == "0"
