"""The agent's end of the computing process: starts it, stops it within milliseconds, ends it.

Decides nothing: which unit, and when to stop, comes from `agent.machine`. The child is started from a
thread that lives as long as the agent, because the kernel's parent-death signal follows the thread
that forked. Nothing is posted once the child was killed on purpose.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

import tesla_at_home
from tesla_at_home.adapters import frames, spool
from tesla_at_home.agent.events import (
    ChildGone,
    ChildReady,
    Event,
    StepDone,
    UnitDone,
    UnitFailed,
    UnitStarted,
)
from tesla_at_home.ports import Job
from workunits import telemetry
from workunits.values import Digest
from workunits.wire import limits

# Three beats fit into the time after which the child takes the agent for stopped.
_BEAT_S: Final = 0.9
_LOG_BYTES: Final = 256 * limits.KIB
_LINE_BYTES: Final = 4 * limits.KIB
# A killed process is gone in milliseconds; one that hangs in the kernel is not waited for.
_REAP_S: Final = 5.0
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class _Process:
    """One child process and its pipes."""

    def __init__(self, job: Job, log: Path) -> None:
        in_read, self._in = os.pipe()
        self.out, out_write = os.pipe()
        os.set_blocking(self._in, False)
        self.model: Digest = job.program.model
        self.threads = job.threads
        self.spool = Path(job.spool)
        self.is_expected_to_end = False
        self._popen = subprocess.Popen(
            [
                sys.executable, "-P", "-m", "tesla_at_home.adapters.runner_child",
                str(in_read), str(out_write), str(os.getpid()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(in_read, out_write),
            process_group=0,
            env=_environment(),
        )  # fmt: skip
        os.close(in_read)
        os.close(out_write)
        assert self._popen.stdout is not None
        drain = threading.Thread(
            target=_drain, args=(self._popen.stdout, log), name="child-log", daemon=True
        )
        drain.start()

    def say(self, frame: frames.ToChild) -> None:
        raw = frames.pack(frame)
        # A full or broken pipe means a child that is dead or hangs; its reader notices the end.
        with contextlib.suppress(OSError):
            if os.write(self._in, raw) < len(raw):
                self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def reap(self) -> int | None:
        try:
            return self._popen.wait(_REAP_S)
        except subprocess.TimeoutExpired:
            return None

    def memory_bytes(self) -> int:
        try:
            text = Path(f"/proc/{self._popen.pid}/statm").read_text()
        except OSError:
            return 0
        return int(text.split()[1]) * _PAGE_BYTES

    def close(self) -> None:
        os.close(self._in)
        os.close(self.out)


class ChildRunner:
    """The `Runner` port on real processes."""

    def __init__(self, post: Callable[[Event], None], log: Path) -> None:
        self._post = post
        self._log = log
        self._lock = threading.RLock()  # `post` may look at the runner
        self._process: _Process | None = None
        self._is_stopped = False
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._wanted: Job | None = None  # a job asked for before the last kill is not begun
        self._closed = threading.Event()
        self._starter = threading.Thread(target=self._start_jobs, name="runner", daemon=True)
        self._beater = threading.Thread(target=self._beat, name="beats", daemon=True)
        self._starter.start()
        self._beater.start()

    def run(self, job: Job) -> None:
        with self._lock:
            self._is_stopped = False
            self._wanted = job
        self._jobs.put(job)

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            process = self._process
            if process is not None:
                process.signal(signal.SIGSTOP)
        if process is not None:
            # Steps that cannot be brought to the disk now are computed again if they are lost.
            with contextlib.suppress(OSError):
                spool.make_durable(process.spool)

    def go_on(self) -> None:
        with self._lock:
            self._is_stopped = False
            if self._process is not None:
                # The beat first: a child that wakes after a long stop must find it in its pipe.
                self._process.say(frames.Beat())
                self._process.signal(signal.SIGCONT)

    def kill(self) -> None:
        with self._lock:
            self._wanted = None
            self._end_process()

    def memory_bytes(self) -> int:
        with self._lock:
            return 0 if self._process is None else self._process.memory_bytes()

    def pid(self) -> int | None:
        """The child's process id, for measurements."""
        with self._lock:
            return None if self._process is None else self._process.pid

    def close(self) -> None:
        """Kill the child and end the threads."""
        self.kill()
        self._closed.set()
        self._jobs.put(None)
        self._starter.join()
        self._beater.join()

    def _start_jobs(self) -> None:
        while (job := self._jobs.get()) is not None:
            with self._lock:
                # Killed before it began.
                if self._wanted is not job:
                    continue
                try:
                    self._start(job)
                except OSError as error:
                    self._post(ChildGone(f"cannot be started: {error}"))
        # This thread forked the children: the kernel kills what is left of them when it ends.

    def _start(self, job: Job) -> None:
        process = self._process
        if process is None or (process.model, process.threads) != (job.program.model, job.threads):
            self._end_process()
            process = self._process = _Process(job, self._log)
            reader = threading.Thread(
                target=self._read, args=(process,), name="child-pipe", daemon=True
            )
            reader.start()
        process.spool = Path(job.spool)
        process.say(frames.Run(job))
        if self._is_stopped:
            process.signal(signal.SIGSTOP)

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.is_expected_to_end = True
            process.signal(signal.SIGKILL)

    def _read(self, process: _Process) -> None:
        """Post what the child says until its pipe ends, then bury it."""
        while (frame := frames.read_to_agent(process.out)) is not None:
            with self._lock:
                if process.is_expected_to_end:
                    continue
                for event in _events(frame):
                    self._post(event)
        # A child whose pipe is closed or garbled is of no use, even if it still runs.
        process.signal(signal.SIGKILL)
        code = process.reap()
        with self._lock:
            process.close()
            if process.is_expected_to_end:
                return
            self._process = None
            self._post(ChildGone(_obituary(code)))

    def _beat(self) -> None:
        while not self._closed.wait(_BEAT_S):
            with self._lock:
                if self._process is not None and not self._is_stopped:
                    self._process.say(frames.Beat())


def _events(frame: frames.ToAgent) -> tuple[Event, ...]:
    match frame:
        case frames.Ready():
            return (
                ChildReady(frame.lease, frame.provider, frame.onnxruntime),
                UnitStarted(frame.lease, frame.first_step),
            )
        case frames.Stepped():
            return (StepDone(frame.lease, frame.step, frame.took_ms),)
        case frames.Done():
            return (UnitDone(frame.lease, frame.output, frame.size),)
        case frames.Failed():
            return (UnitFailed(frame.lease, frame.code, frame.detail),)


def _environment() -> dict[str, str]:
    """The child imports this very package, wherever it is, and nothing from the working directory."""
    root = str(Path(tesla_at_home.__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | telemetry.OFF | {"PYTHONPATH": os.pathsep.join(paths)}


def _obituary(code: int | None) -> str:
    if code is None:
        return "does not end"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with {code}"


def _drain(stream: IO[bytes], log: Path) -> None:
    """What the child prints, into a log that does not grow: a library must not block on a pipe."""
    with stream:
        # A disk that is full or not to be written loses these lines, and nothing else.
        with contextlib.suppress(OSError), log.open("ab", buffering=0) as file:
            while line := stream.readline(_LINE_BYTES):
                if file.tell() > _LOG_BYTES:
                    file.truncate(0)
                file.write(line)
        while stream.read(_LINE_BYTES):
            pass
