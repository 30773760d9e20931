"""The computing process: `python -m tesla_at_home.adapters.runner_child IN OUT PARENT`.

Hears what it may touch, gives up all else (`confinement`), ties itself to its agent, and only then
loads what computes (`computation`), which takes a second. It dies with the agent: the kernel kills it
when its parent's thread ends, the pipe ends, or no beat comes for three seconds (an agent that is
stopped cannot close its gate). Stopping it is the agent's business (SIGSTOP).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import select
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final

from tesla_at_home.adapters import frames
from tesla_at_home.adapters.confinement import confine
from tesla_at_home.ports import Bounds, Measure

if TYPE_CHECKING:
    from tesla_at_home.adapters.computation import Jobs

# DESIGN 5: an agent that has not been heard for so long can no longer stop what computes here.
BEAT_LOST_S: Final = 3.0
_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> None:
    """Tie this process to its agent, then work."""
    pipe_in, pipe_out, parent = (int(text) for text in arguments)
    bounds = _first_words(pipe_in)
    # While this process has one thread: the kernel asks for that.
    measures = confine(bounds)
    # Later than the measures, which would undo it.
    _die_with(parent)
    _tell(measures)
    # Ctrl-C is for the agent, which then ends this process in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jobs: Jobs = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe_in, jobs), name="agent", daemon=True).start()
    # Not before: the agent may be stopped while this loads.
    from tesla_at_home.adapters.computation import Child

    with contextlib.suppress(BrokenPipeError):
        Child(jobs, pipe_out).work(measures)


def _first_words(pipe: int) -> Bounds:
    frame = _next_frame(pipe) if _hears(pipe) else None
    if not isinstance(frame, frames.Begin):
        os._exit(0)
    return frame.bounds


def _tell(measures: tuple[Measure, ...]) -> None:
    """Into the child's log: `doctor` shows all of them."""
    for measure in measures:
        if not measure.holds:
            sys.stderr.write(f"not in effect: {measure.name}: {measure.detail}\n")


def _die_with(parent: int) -> None:
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0 or os.getppid() != parent:
        # It ended before the kernel was told to watch it.
        os._exit(0)


def _listen(pipe: int, jobs: Jobs) -> None:
    """Take jobs until the agent says `End`, is gone or silent; then end in the middle of a step."""
    while _hears(pipe):
        frame = _next_frame(pipe)
        if frame is None or isinstance(frame, frames.End):
            break
        if isinstance(frame, frames.Run):
            jobs.put(frame.job)
    # The spool is the truth.
    os._exit(0)


def _next_frame(pipe: int) -> frames.ToChild | None:
    try:
        return frames.read_to_child(pipe)
    except frames.Garbled:
        return None


def _hears(pipe: int) -> bool:
    """Whether the agent says something within the time it has."""
    if select.select([pipe], [], [], BEAT_LOST_S)[0]:
        return True
    # After a long stop the time is over although a beat lies in the pipe: look once more.
    return bool(select.select([pipe], [], [], 0)[0])


if __name__ == "__main__":
    main(sys.argv[1:])
