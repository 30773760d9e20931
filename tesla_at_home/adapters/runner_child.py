"""The computing process: `python -m tesla_at_home.adapters.runner_child IN OUT PARENT`.

Ties itself to its agent, and only then loads what computes (`computation`), which takes a second. It
dies with the agent: the kernel kills it when its parent's thread ends, the pipe ends, or no beat comes
for three seconds (an agent that is stopped cannot close its gate). Stopping it is the agent's business
(SIGSTOP). Has no network where the kernel lets an ordinary process give it up.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import select
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tesla_at_home.adapters import frames

if TYPE_CHECKING:
    from tesla_at_home.adapters.computation import Jobs

# DESIGN 5: an agent that has not been heard for so long can no longer stop what computes here.
BEAT_LOST_S: Final = 3.0
_PR_SET_PDEATHSIG: Final = 1
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_LOWEST_PRIORITY: Final = 19
_libc: Final = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> None:
    """Tie this process to its agent, then work."""
    pipe_in, pipe_out, parent = (int(text) for text in arguments)
    _leave_network()
    _die_with(parent)
    os.nice(_LOWEST_PRIORITY)
    # Ctrl-C is for the agent, which then ends this process in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jobs: Jobs = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe_in, jobs), name="agent", daemon=True).start()
    # Not before: the agent may be stopped while this loads.
    from tesla_at_home.adapters.computation import Child

    with contextlib.suppress(BrokenPipeError):
        Child(jobs, pipe_out).work()


def _leave_network() -> None:
    """Into a network of its own, with nothing in it: a library that phones home reaches nobody.

    Best effort. Containers and some distributions forbid it, and then the child's log says so. The
    kernel lets only a process of one thread do this, so it comes before all else.
    """
    if shutil.which("nvidia-modprobe") and not Path("/dev/nvidia-uvm").exists():
        # CUDA's first user of this boot makes its device by a set-uid program, which no longer
        # works on the other side.
        why = "the NVIDIA driver must make its device first"
    elif _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        why = os.strerror(ctypes.get_errno())
    else:
        return
    sys.stderr.write(f"this process keeps its network: {why}\n")


def _die_with(parent: int) -> None:
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0 or os.getppid() != parent:
        # It ended before the kernel was told to watch it.
        os._exit(0)


def _listen(pipe: int, jobs: Jobs) -> None:
    """Take jobs until the agent says `End`, is gone or silent; then end in the middle of a step."""
    while _hears(pipe):
        frame = frames.read_to_child(pipe)
        if frame is None or isinstance(frame, frames.End):
            break
        if isinstance(frame, frames.Run):
            jobs.put(frame.job)
    # The spool is the truth.
    os._exit(0)


def _hears(pipe: int) -> bool:
    """Whether the agent says something within the time it has."""
    if select.select([pipe], [], [], BEAT_LOST_S)[0]:
        return True
    # After a long stop the time is over although a beat lies in the pipe: look once more.
    return bool(select.select([pipe], [], [], 0)[0])


if __name__ == "__main__":
    main(sys.argv[1:])
