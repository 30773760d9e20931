"""The agent's end of the computing process: starts it, stops it within milliseconds, ends it.

Decides nothing: which unit, and when to stop, comes from `agent.machine`. The child is started from a
thread that lives as long as the agent, because the kernel's parent-death signal follows the thread
that forked. Nothing is posted once the child was killed on purpose. The process itself, with its
pipes and its folder, is `child_process`; what it may say is `conversation`.
"""

from __future__ import annotations

import contextlib
import errno
import queue
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tesla_at_home.adapters import cell, frames, spool
from tesla_at_home.adapters.child_process import ChildProcess
from tesla_at_home.adapters.conversation import Misspoken
from tesla_at_home.agent.events import ChildGone, Event, UnitFailed
from tesla_at_home.agent.mending import DISK_FULL, FILE_MISSING
from tesla_at_home.ports import Job, Measure

# Three beats fit into the time after which the child takes the agent for stopped.
_BEAT_S: Final = 0.9
# The unit's files, and not the process: what follows is the machine's.
_FILE_FAULTS: Final = {
    errno.ENOENT: FILE_MISSING,
    errno.ENOSPC: DISK_FULL,
    errno.EDQUOT: DISK_FULL,
    errno.EROFS: DISK_FULL,
}


class ChildRunner:
    """The `Runner` port on real processes."""

    def __init__(self, post: Callable[[Event], None], log: Path) -> None:
        self._post = post
        self._log = log
        self._lock = threading.RLock()  # `post` may look at the runner
        self._process: ChildProcess | None = None
        self._is_stopped = False
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._wanted: Job | None = None  # a job asked for before the last kill is not begun
        self._is_first = True
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

    def measures(self) -> tuple[Measure, ...]:
        """What confines the child, for `doctor`; nothing before it has begun."""
        with self._lock:
            if self._process is None:
                return ()
            if self._process.has_own_folder:
                return self._process.measures
            shared = Measure("own folder", False, "this file system has no hard links")
            return (*self._process.measures, shared)

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
                except (OSError, RuntimeError) as error:
                    # RuntimeError: no more threads can be had.
                    self._end_process()
                    self._post(_not_begun(job, error))
        # This thread forked the children: the kernel kills what is left of them when it ends.

    def _start(self, job: Job) -> None:
        if self._is_first:
            cell.remove_left_over(job)
            self._is_first = False
        process = self._process
        if process is None or not process.suits(job):
            self._end_process()
            process = self._process = ChildProcess(job, self._log)
            reader = threading.Thread(
                target=self._read, args=(process,), name="child-pipe", daemon=True
            )
            reader.start()
        process.give(job)
        if self._is_stopped:
            process.signal(signal.SIGSTOP)

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.is_expected_to_end = True
            process.signal(signal.SIGKILL)

    def _read(self, process: ChildProcess) -> None:
        """Post what the child says until its pipe ends, then bury it."""
        try:
            while (events := process.hear()) is not None:
                with self._lock:
                    if not process.is_expected_to_end:
                        for event in events:
                            self._post(event)
        except (frames.Garbled, Misspoken) as fault:
            process.fault = fault
        last_word = process.bury()
        with self._lock:
            process.clear_away()
            if process.is_expected_to_end:
                return
            self._process = None
            self._post(last_word)

    def _beat(self) -> None:
        while not self._closed.wait(_BEAT_S):
            with self._lock:
                process = None if self._is_stopped else self._process
                if process is not None:
                    process.say(frames.Beat())
            if process is not None:
                process.look_at_folder()


def _not_begun(job: Job, error: OSError | RuntimeError) -> Event:
    if isinstance(error, OSError) and error.filename != sys.executable:
        code = _FILE_FAULTS.get(error.errno or 0)
        if code is not None:
            return UnitFailed(job.lease, code, f"the unit's files: {error.strerror}")
    return ChildGone(f"cannot be started: {error}", "not_started")
