"""One computing process: its command line, its environment, its pipes, its folder, and its end.

Decides how it is started and what its end means. When it is started, stopped and killed is decided by
`runner` and, in the end, by `agent.machine`. What it gives up by itself is `confinement`'s.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import site
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Final, Literal

import tesla_at_home
from tesla_at_home.adapters import frames
from tesla_at_home.adapters.cell import Cell, file_bytes
from tesla_at_home.adapters.conversation import Conversation, Misspoken
from tesla_at_home.agent.events import ChildGone, Event, UnitFailed
from tesla_at_home.agent.mending import DISK_FULL
from tesla_at_home.ports import Bounds, Job, Measure
from workunits import telemetry
from workunits.wire import limits

_LOG_BYTES: Final = 256 * limits.KIB
_LINE_BYTES: Final = 4 * limits.KIB
# The largest frame, beside beats, before the child has begun to read.
_PIPE_BYTES: Final = limits.MIB
# A killed process is gone in milliseconds; one that hangs in the kernel is not waited for.
_REAP_S: Final = 5.0
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
# What the loader, Python, ONNX Runtime and drivers look at. Codes, passwords, proxies, the session's
# sockets and all that nobody thought of stay outside.
_PASSED_ON: Final = frozenset({"PATH", "LANG", "LANGUAGE", "TZ"})
_PASSED_ON_PREFIXES: Final = ("LC_", "LD_", "PYTHON", "CUDA", "NVIDIA", "ORT_", "OMP_")
# The kernel for want of memory, a person, or a session that ends.
_FROM_OUTSIDE: Final = frozenset(
    {signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT}
)


class ChildProcess:
    """A process that was started, until it is buried."""

    def __init__(self, job: Job, log: Path) -> None:
        self.model, self.threads = job.program.model, job.threads
        self.is_expected_to_end = False
        self.fault: Misspoken | frames.Garbled | None = None  # why it is ended
        self.measures: tuple[Measure, ...] = ()  # those of its confinement, once it has begun
        self._has_begun = False
        self._conversation: Conversation | None = None
        self.spool = Path(job.spool)
        self._cell = Cell.make(job)
        cell = self._cell
        self._bounds = Bounds(cell.reads, cell.writes, job.memory_bytes, file_bytes(job))
        try:
            self._start(log)
        except (OSError, RuntimeError):
            cell.remove()
            raise
        self.say(frames.Begin(self._bounds))

    def _start(self, log: Path) -> None:
        in_read, self._in = os.pipe()
        self.out, out_write = os.pipe()
        os.set_blocking(self._in, False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
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
                env=environment(home=self._bounds.writes[0]),
            )  # fmt: skip
        except OSError:
            self._close()
            raise
        finally:
            os.close(in_read)
            os.close(out_write)
        assert self._popen.stdout is not None
        drain = threading.Thread(
            target=_drain, args=(self._popen.stdout, log), name="child-log", daemon=True
        )
        try:
            drain.start()
        except RuntimeError:
            # No more threads can be had; without this one the child would block on its log.
            self._popen.kill()
            self._popen.wait()
            self._close()
            raise

    # --- to it -----------------------------------------------------------------------------------

    def suits(self, job: Job) -> bool:
        """Whether this process can take the job after those it had."""
        return (self.model, self.threads, self._bounds.memory_bytes) == (
            job.program.model, job.threads, job.memory_bytes,
        ) and file_bytes(job) <= self._bounds.file_bytes  # fmt: skip

    def give(self, job: Job) -> None:
        """The next unit. Raises OSError where its files cannot be brought in."""
        inside = self._cell.admit(job)
        self.spool = Path(job.spool)
        self._conversation = Conversation(job)
        self.say(frames.Run(inside))

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
    def has_own_folder(self) -> bool:
        """Whether it sees the files of its unit only, so far as its confinement holds."""
        return self._cell.is_own

    # --- from it ---------------------------------------------------------------------------------

    def hear(self) -> tuple[Event, ...] | None:
        """What it says next; None when it is gone.

        Raises:
            Garbled, Misspoken: it says what no child says.
        """
        frame = frames.read_to_agent(self.out)
        if frame is None:
            return None
        if isinstance(frame, frames.Begun):
            if self._has_begun:
                raise Misspoken("says twice that it has begun")
            self._has_begun, self.measures = True, frame.measures
            return ()
        if self._conversation is None or not self._has_begun:
            raise Misspoken("speaks of a unit before it has begun")
        events = self._conversation.take(frame)
        if isinstance(frame, frames.Done):
            return self._bring_out(frame) or events
        return events

    def _bring_out(self, done: frames.Done) -> tuple[Event, ...]:
        """The output, to where the agent looks for it; what is said instead if that fails."""
        try:
            self._cell.bring_out(done.size)
        except Misspoken as fault:
            return (UnitFailed(done.lease, fault.code, str(fault)),)
        except OSError as error:
            return (UnitFailed(done.lease, DISK_FULL, f"the unit's files: {error.strerror}"),)
        return ()

    def look_at_folder(self) -> None:
        """End it when it writes more than its unit can give, or hides what it writes."""
        try:
            fault = (
                "writes more than the unit can give" if self._cell.is_overfull(self.pid) else None
            )
        except PermissionError:
            # A process without memory is about to end, and then nobody may look into it.
            fault = "hides what it writes" if self.memory_bytes() else None
        except OSError:
            fault = None
        if fault is not None:
            self.fault = Misspoken(fault)
            self.signal(signal.SIGKILL)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def memory_bytes(self) -> int:
        try:
            text = Path(f"/proc/{self._popen.pid}/statm").read_text()
        except OSError:
            return 0
        return int(text.split()[1]) * _PAGE_BYTES

    # --- its end ---------------------------------------------------------------------------------

    def bury(self) -> ChildGone | UnitFailed:
        """After its pipe has ended: kill what is left, and say what became of it."""
        # A child whose pipe is closed or garbled is of no use, even if it still runs.
        self.signal(signal.SIGKILL)
        try:
            code = self._popen.wait(_REAP_S)
        except subprocess.TimeoutExpired:
            code = None
        lease = None if self._conversation is None else self._conversation.unfinished
        if self.fault is not None and lease is not None:
            return UnitFailed(lease, Misspoken.code, f"the computing process {self.fault}")
        return ChildGone(_obituary(code), _cause(code, self._has_begun))

    def clear_away(self) -> None:
        """Its pipes and its folder; nothing may be said to it any more."""
        self._close()
        self._cell.remove()

    def _close(self) -> None:
        os.close(self._in)
        os.close(self.out)


def environment(home: str) -> dict[str, str]:
    """The child imports this very package, wherever it is, and nothing from the working directory.

    Its home is its own folder, where libraries may keep what they keep.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    root = str(Path(tesla_at_home.__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {
        "HOME": home,
        "TMPDIR": home,
        # Else it would look for the owner's own packages below its home.
        "PYTHONUSERBASE": site.getuserbase(),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    return kept | telemetry.OFF | own


def _cause(code: int | None, has_begun: bool) -> Literal["crashed", "killed", "not_started"]:
    # 0 is a child that took its agent for gone: this computer slept, or was very busy.
    if code == 0 or (code is not None and -code in _FROM_OUTSIDE):
        return "killed"
    return "crashed" if has_begun else "not_started"


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
