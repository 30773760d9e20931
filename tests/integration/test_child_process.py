"""The computing process as a real process: it never outlives its agent, and leaves nothing half said."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tesla_at_home.adapters import frames, spool
from tesla_at_home.adapters.computation import Child, Jobs
from tesla_at_home.adapters.runner import ChildRunner
from tesla_at_home.agent.events import (
    ChildGone,
    ChildReady,
    Event,
    StepDone,
    UnitDone,
    UnitFailed,
    UnitStarted,
)
from tesla_at_home.ports import Bounds, InputFile, Job
from tests.support import models
from tests.support.vehicle_agent import wait_for
from workunits import arrays
from workunits.execution import Loaded, run
from workunits.trust import digests
from workunits.values import LeaseId

ROWS = 40


class Posted:
    """What the runner posts, waited for."""

    def __init__(self) -> None:
        self._events: queue.Queue[Event] = queue.Queue()
        self.put = self._events.put

    def next(self, kind: type[Event] | tuple[type[Event], ...]) -> Event:
        """The next event of a kind; others before it are dropped."""
        while True:
            event = self._events.get(timeout=30)
            if isinstance(event, kind):
                return event


@pytest.fixture
def posted() -> Posted:
    return Posted()


@pytest.fixture
def runner(tmp_path: Path, posted: Posted) -> Iterator[ChildRunner]:
    runner = ChildRunner(posted.put, tmp_path / "child.log")
    yield runner
    runner.close()


def job_in(folder: Path, sample: models.Sample, *, duty: float = 100.0, lease: int = 1) -> Job:
    """A unit of 40 rows in steps of 4, on disk."""
    model = sample.write(folder / f"{digests.plain(sample.raw).hex()}.onnx")
    drawn = sample.draw(ROWS)
    files = []
    for scope in ("row", "unit"):
        names = [spec.name for spec in sample.inputs if spec.scope == scope]
        if names:
            raw = arrays.to_payload({name: drawn[name] for name in names})
            path = folder / f"{scope}.input"
            path.write_bytes(raw)
            files.append(
                InputFile(str(path), "row" if scope == "row" else "unit", digests.of_tensors(raw))
            )
    return Job(
        lease=LeaseId(bytes([lease]) * 16),
        model=str(model),
        model_name="sample",
        program=sample.program(rows_per_step=4),
        rows=ROWS,
        inputs=tuple(files),
        spool=str(folder / f"{lease}.steps"),
        output=str(folder / f"{lease}.output"),
        first_step=0,
        threads=1,
        duty=duty,
        checkpoint_s=0.0,
    )


def undisturbed(sample: models.Sample, job: Job) -> bytes:
    loaded = Loaded.open(Path(job.model), job.program, threads=1)
    return arrays.to_payload(run(loaded, sample.draw(ROWS), ROWS))


def test_a_unit_in_one_go(tmp_path: Path, runner: ChildRunner, posted: Posted) -> None:
    sample = models.shared()
    job = job_in(tmp_path, sample)
    runner.run(job)
    ready = posted.next(ChildReady)
    assert isinstance(ready, ChildReady)
    assert ready.provider.endswith("ExecutionProvider")
    assert posted.next(UnitStarted) == UnitStarted(job.lease, 0)
    done = posted.next(UnitDone)
    assert isinstance(done, UnitDone)
    raw = Path(job.output).read_bytes()
    assert raw == undisturbed(sample, job)
    assert (done.output, done.size) == (digests.of_tensors(raw), len(raw))
    assert runner.memory_bytes() > 1_000_000


def test_the_next_unit_of_the_model_uses_the_same_process(
    tmp_path: Path, runner: ChildRunner, posted: Posted
) -> None:
    sample = models.mlp()
    runner.run(job_in(tmp_path, sample, lease=1))
    posted.next(UnitDone)
    pid = runner.pid()
    runner.run(job_in(tmp_path, sample, lease=2))
    posted.next(UnitDone)
    assert runner.pid() == pid
    other = msgspec.structs.replace(sample.program(4), optimisation="off")
    runner.run(msgspec.structs.replace(job_in(tmp_path, sample, lease=3), program=other))
    posted.next(UnitDone)
    assert runner.pid() == pid
    runner.run(job_in(tmp_path, models.integers(), lease=4))
    posted.next(UnitDone)
    assert runner.pid() != pid


@pytest.mark.parametrize("steps", [0, 1, 6, 9])
def test_killed_at_any_step_it_goes_on_bit_for_bit(
    tmp_path: Path, runner: ChildRunner, posted: Posted, steps: int
) -> None:
    sample = models.mean()
    job = job_in(tmp_path, sample, duty=1.0)
    runner.run(job)
    posted.next(UnitStarted)
    for _ in range(steps):
        posted.next(StepDone)
    pid = runner.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert posted.next(ChildGone) == ChildGone("was killed by SIGKILL")
    found = spool.scan(Path(job.spool))
    assert len(found.steps) >= steps
    again = msgspec.structs.replace(job, first_step=len(found.steps), duty=100.0)
    runner.run(again)
    assert posted.next(UnitStarted) == UnitStarted(job.lease, len(found.steps))
    posted.next(UnitDone)
    assert Path(job.output).read_bytes() == undisturbed(sample, job)


def test_steps_of_another_kind_of_computer_are_not_joined(
    tmp_path: Path, runner: ChildRunner, posted: Posted
) -> None:
    sample = models.mlp()
    job = job_in(tmp_path, sample)
    file = spool.Spool.begin(
        Path(job.spool),
        spool.Origin(lease=job.lease, provider="other", onnxruntime="0", threads=1),
    )
    file.append(0, b"from elsewhere")
    file.close()
    runner.run(msgspec.structs.replace(job, first_step=1))
    assert posted.next(UnitStarted) == UnitStarted(job.lease, 0)
    posted.next(UnitDone)
    assert Path(job.output).read_bytes() == undisturbed(sample, job)


def test_stopped_it_does_nothing_and_then_goes_on(
    tmp_path: Path, runner: ChildRunner, posted: Posted
) -> None:
    sample = models.mlp()
    job = job_in(tmp_path, sample, duty=1.0)
    runner.run(job)
    posted.next(StepDone)
    runner.stop()
    pid = runner.pid()
    wait_for(lambda: state_of(pid) == "T")
    size = Path(job.spool).stat().st_size
    # A second long: longer than any step, shorter than the patience of a stopped watchdog matters.
    assert not queue_has_news(posted)
    assert Path(job.spool).stat().st_size == size
    runner.go_on()
    posted.next(UnitDone)
    assert Path(job.output).read_bytes() == undisturbed(sample, job)


def queue_has_news(posted: Posted) -> bool:
    """Whether steps come although the process is stopped; those that were on their way are taken."""
    try:
        posted._events.get(timeout=0.5)
        posted._events.get(timeout=0.5)
    except queue.Empty:
        return False
    return True


def test_stopped_before_it_began_it_does_not_begin(
    tmp_path: Path, runner: ChildRunner, posted: Posted
) -> None:
    runner.run(job_in(tmp_path, models.mlp()))
    runner.stop()
    wait_for(lambda: runner.pid() is not None)
    wait_for(lambda: state_of(runner.pid()) == "T")
    runner.go_on()
    posted.next(UnitDone)


def test_killed_on_purpose_it_says_nothing_more(
    tmp_path: Path, runner: ChildRunner, posted: Posted
) -> None:
    runner.run(job_in(tmp_path, models.mlp(), duty=1.0))
    posted.next(StepDone)
    pid = runner.pid()
    runner.stop()
    runner.kill()
    wait_for(lambda: state_of(pid) in ("", "Z"))
    assert runner.pid() is None
    assert runner.memory_bytes() == 0
    runner.run(job_in(tmp_path, models.mlp(), lease=2))
    assert isinstance(posted.next((ChildGone, UnitDone)), UnitDone)


def bad_model(job: Job, folder: Path) -> Job:
    Path(job.model).write_bytes(b"not a model")
    return job


def bad_input(job: Job, folder: Path) -> Job:
    Path(job.inputs[0].path).write_bytes(b"not the input")
    return job


def unvetted_model(job: Job, folder: Path) -> Job:
    raw = b"\x08\x07garbage that is no graph"
    Path(job.model).write_bytes(raw)
    program = msgspec.structs.replace(job.program, model=digests.plain(raw))
    return msgspec.structs.replace(job, program=program)


def other_runtime(job: Job, folder: Path) -> Job:
    program = msgspec.structs.replace(job.program, runtime_below="1.0.1", runtime_from="1.0")
    return msgspec.structs.replace(job, program=program)


def damaged_spool(job: Job, folder: Path) -> Job:
    Path(job.spool).write_bytes(b"this was never a spool file, so it is damaged")
    return job


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (bad_model, "bad_digest"),
        (bad_input, "bad_digest"),
        (unvetted_model, "graph_refused"),
        (other_runtime, "runtime_out_of_range"),
        (damaged_spool, "spool_damaged"),
    ],
)
def test_what_it_will_not_run_it_says_in_one_line(
    tmp_path: Path,
    runner: ChildRunner,
    posted: Posted,
    change: Callable[[Job, Path], Job],
    code: str,
) -> None:
    job = change(job_in(tmp_path, models.mlp()), tmp_path)
    runner.run(job)
    failed = posted.next(UnitFailed)
    assert isinstance(failed, UnitFailed)
    assert (failed.lease, failed.code) == (job.lease, code)
    assert "\n" not in failed.detail
    pid = runner.pid()
    runner.run(job_in(tmp_path, models.mlp(), lease=2))
    posted.next(UnitDone)
    assert pid is not None


def test_nothing_is_written_at_home(
    tmp_path: Path, posted: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ONNX Runtime writes an identifier below ~/.cache and phones home, unless it is told not to.
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    runner = ChildRunner(posted.put, tmp_path / "child.log")
    try:
        runner.run(job_in(tmp_path, models.mlp()))
        assert isinstance(posted.next((UnitDone, ChildGone)), UnitDone)
    finally:
        runner.close()
    assert list(home.rglob("*")) == []


def test_an_agent_that_is_silent_while_it_loads_ends_it(tmp_path: Path) -> None:
    # In the place of numpy lies a module that never finishes loading.
    (tmp_path / "numpy.py").write_text("import threading\nthreading.Event().wait()\n")
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    bounds = Bounds((), (str(tmp_path),), 0, 2**20)
    os.write(in_write, frames.pack(frames.Begin(bounds)))
    try:
        done = subprocess.run(
            [
                sys.executable, "-m", "tesla_at_home.adapters.runner_child",
                str(in_read), str(out_write), str(os.getpid()),
            ],
            pass_fds=(in_read, out_write),
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            timeout=30,
            check=False,
        )  # fmt: skip
    finally:
        for pipe in (in_read, in_write, out_read, out_write):
            os.close(pipe)
    assert done.returncode == 0


def test_a_log_that_cannot_be_written_stops_nothing(
    tmp_path: Path, posted: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A child that is told to talk much would block on a pipe that nobody reads.
    monkeypatch.setenv("PYTHONVERBOSE", "1")
    for log in (Path("/dev/full"), tmp_path / "no" / "folder" / "log"):
        runner = ChildRunner(posted.put, log)
        try:
            runner.run(job_in(tmp_path, models.mlp()))
            assert isinstance(posted.next((UnitDone, ChildGone)), UnitDone)
        finally:
            runner.close()


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    # The part of the process that computes, without the sandbox, which would hide /dev/full.
    (tmp_path / "1.part").symlink_to("/dev/full")
    jobs: Jobs = queue.SimpleQueue()
    jobs.put(job_in(tmp_path, models.mlp()))
    read, write = os.pipe()

    def work() -> None:
        with contextlib.suppress(BrokenPipeError):
            Child(jobs, write).work(())

    worker = threading.Thread(target=work)
    worker.start()
    said = iter(lambda: frames.read_to_agent(read), None)
    failed = next(frame for frame in said if isinstance(frame, frames.Failed | frames.Done))
    os.close(read)
    jobs.put(job_in(tmp_path, models.mlp()))
    worker.join()
    os.close(write)
    assert isinstance(failed, frames.Failed)
    assert (failed.code, failed.detail) == (
        "disk_full",
        "the unit's files: No space left on device",
    )


AGENT = """
import sys, threading
from pathlib import Path
import msgspec
from tesla_at_home.adapters.runner import ChildRunner
from tesla_at_home.agent.events import StepDone
from tesla_at_home.ports import Job

job = msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes(), type=Job)
def post(event):
    if isinstance(event, StepDone):
        print(runner.pid(), flush=True)
runner = ChildRunner(post, Path(sys.argv[1]).with_suffix(".log"))
runner.run(job)
threading.Event().wait()
"""


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_it_never_outlives_its_agent(tmp_path: Path, way: signal.Signals) -> None:
    job = job_in(tmp_path, models.mlp(), duty=0.05)
    packed = tmp_path / "job"
    packed.write_bytes(msgspec.msgpack.encode(job))
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, str(packed)], stdout=subprocess.PIPE, text=True
    ) as agent:
        try:
            assert agent.stdout is not None
            child = int(agent.stdout.readline())
            assert state_of(child) not in ("", "Z")
            agent.send_signal(way)
            wait_for(lambda: state_of(child) in ("", "Z"), timeout_s=30)
        finally:
            agent.kill()


def test_an_agent_that_is_gone_before_it_was_watched_is_noticed(tmp_path: Path) -> None:
    read, write = os.pipe()
    done = subprocess.run(
        [sys.executable, "-m", "tesla_at_home.adapters.runner_child", str(read), str(write), "1"],
        pass_fds=(read, write),
        timeout=60,
        check=False,
    )
    os.close(read)
    os.close(write)
    assert done.returncode == 0


def test_garbage_in_the_pipe_is_known_for_it(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, b"\xff\xff\xff\xff")
    with pytest.raises(frames.Garbled):
        frames.read_to_child(read)
    os.write(write, b"\x01\x00\x00\x00\xc1")
    with pytest.raises(frames.Garbled):
        frames.read_to_agent(read)
    os.close(write)
    assert frames.read_to_child(read) is None
    os.close(read)


def state_of(pid: int | None) -> str:
    """The process's state letter as Linux has it; empty when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]
