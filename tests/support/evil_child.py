"""A computing process that was taken over: it is confined as the real one is, and tries everything.

`python -m tests.support.evil_child PLAN` prints one JSON line: what was reported to be in effect, what
of the mischief was refused, and what the kernel says of the process; then it tries to become a shell.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from tesla_at_home.adapters.confinement import confine
from tesla_at_home.ports import Bounds

BECAME_A_SHELL: Final = "it became a shell"
_libc: Final = ctypes.CDLL(None, use_errno=True)
_IOPRIO: Final = {"x86_64": (251, 252), "aarch64": (30, 31)}
_BEST_EFFORT: Final = 2 << 13
_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17
_F_SETSIG, _F_SETOWN_EX, _OWNER_PID = 10, 15, 1
_FIOSETOWN, _SIOCSPGRP = 0x8901, 0x8902
_IPC_PRIVATE, _IPC_RMID = 0, 0
_SEGMENT_BYTES: Final = 4096
_MEMFD_SECRET: Final = 447
_MQ_OPEN: Final = {"x86_64": (240, 241), "aarch64": (180, 181)}


class Plan(msgspec.Struct, frozen=True):
    """What to take, and where what is not its own lies."""

    bounds: Bounds
    measures: tuple[str, ...] | None
    outside: str  # a folder with `key.pem`, `other.steps` and `socket`
    port: int  # on loopback
    beyond_bytes: int  # of memory


def main() -> None:
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    # Loaded before: in there, nothing of the tests can be read.
    mischief = {name: play for name, play in globals().items() if name.startswith("try_")}
    measures = confine(plan.bounds, plan.measures)
    told = {
        "holds": {measure.name: measure.holds for measure in measures},
        "details": {measure.name: measure.detail for measure in measures},
        "refused": {name: _is_refused(play, plan) for name, play in mischief.items()},
        "status": dict(
            line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines()
            if ":\t" in line
        ),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "scheduler": os.sched_getscheduler(0),
        "disk_priority": _libc.syscall(_IOPRIO.get(platform.machine(), (0, -1))[1], 1, 0),
        "oom": Path("/proc/self/oom_score_adj").read_text().strip(),
        "network": os.readlink("/proc/self/ns/net") if os.access("/proc/self/ns/net", 0) else "",
        "directory": os.getcwd(),
        "umask": os.umask(0o077),
        "open": len(os.listdir("/proc/self/fd")),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
    }  # fmt: skip
    print(json.dumps(told), flush=True)
    try:
        os.execv("/bin/sh", ["sh", "-c", f"echo {BECAME_A_SHELL}"])
    except OSError as error:
        print(f"refused: {error.strerror}", flush=True)


def _is_refused(play: Callable[[Plan], None], plan: Plan) -> bool:
    try:
        play(plan)
    except (OSError, MemoryError, ValueError, RuntimeError):
        return True
    return False


def try_connecting(plan: Plan) -> None:
    socket.create_connection(("127.0.0.1", plan.port), timeout=5).close()


def try_a_datagram(plan: Plan) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(b"data", ("127.0.0.1", plan.port))


def try_a_unix_socket(plan: Plan) -> None:
    with socket.socket(socket.AF_UNIX) as out:
        out.connect(f"{plan.outside}/socket")


def try_reading_the_key(plan: Plan) -> None:
    Path(plan.outside, "key.pem").read_bytes()


def try_listing_the_directory(plan: Plan) -> None:
    os.listdir(plan.outside)


def try_writing_outside(plan: Plan) -> None:
    Path(plan.outside, "new").write_bytes(b"x")


def try_changing_another_unit(plan: Plan) -> None:
    with Path(plan.outside, "other.steps").open("r+b") as file:
        file.truncate(0)


def try_changing_what_it_reads(plan: Plan) -> None:
    Path(plan.bounds.reads[0], "model").write_bytes(b"x")


def try_taking_a_name_outside(plan: Plan) -> None:
    os.link(Path(plan.bounds.reads[0], "model"), Path(plan.bounds.writes[0], "model"))


def try_writing_in_its_own_folder(plan: Plan) -> None:
    Path(plan.bounds.writes[0], "own").write_bytes(b"x")


def try_a_file_beyond_the_limit(plan: Plan) -> None:
    with Path(plan.bounds.writes[0], "large").open("wb") as file:
        file.truncate(plan.bounds.file_bytes + 1)


def try_memory_beyond_the_limit(plan: Plan) -> None:
    # Asked for and not touched: the limit counts it, and the computer is spared.
    mmap.mmap(-1, plan.beyond_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()


def try_raising_the_limit(plan: Plan) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def try_a_thread(plan: Plan) -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


def try_a_process(plan: Plan) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def try_a_program(plan: Plan) -> None:
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


def try_signalling_its_agent(plan: Plan) -> None:
    os.kill(os.getppid(), 0)


def try_reading_its_agents_memory(plan: Plan) -> None:
    Path(f"/proc/{os.getppid()}/mem").open("rb").close()


def try_stopping_its_agent(plan: Plan) -> None:
    _expect(_libc.ptrace(_PTRACE_ATTACH, os.getppid(), None, None))
    os.waitpid(os.getppid(), 0)
    _libc.ptrace(_PTRACE_DETACH, os.getppid(), None, None)


def try_owning_a_pipe_for_its_agent(plan: Plan) -> None:
    # From now on the kernel would signal the agent when the pipe can be read.
    _with_pipe(lambda end: fcntl.fcntl(end, fcntl.F_SETOWN, os.getppid()))


def try_owning_a_pipe_for_its_agents_thread(plan: Plan) -> None:
    owner = struct.pack("ii", _OWNER_PID, os.getppid())
    _with_pipe(lambda end: fcntl.fcntl(end, _F_SETOWN_EX, owner))


def try_choosing_the_signal_of_a_pipe(plan: Plan) -> None:
    _with_pipe(lambda end: fcntl.fcntl(end, _F_SETSIG, signal.SIGKILL))


def try_owning_by_the_sockets_call(plan: Plan) -> None:
    _refused_by_filter(_FIOSETOWN)


def try_owning_a_group_by_the_sockets_call(plan: Plan) -> None:
    _refused_by_filter(_SIOCSPGRP)


def _with_pipe(play: Callable[[int], object]) -> None:
    read, write = os.pipe()
    try:
        play(read)
    finally:
        os.close(read)
        os.close(write)


def _refused_by_filter(request: int) -> None:
    # A pipe does not know it and answers ENOTTY; what is asked is whether the kernel looks at all.
    owner = struct.pack("i", os.getppid())
    try:
        _with_pipe(lambda end: fcntl.ioctl(end, request, owner))
    except PermissionError:
        raise
    except OSError:
        return


def try_tying_its_agent_to_processors(plan: Plan) -> None:
    os.sched_setaffinity(os.getppid(), os.sched_getaffinity(os.getppid()))


def try_a_file_in_memory(plan: Plan) -> None:
    os.close(os.memfd_create("beyond"))


def try_a_secret_file_in_memory(plan: Plan) -> None:
    handle = _libc.syscall(_MEMFD_SECRET, 0)
    _expect(handle)
    os.close(handle)


def try_a_shared_segment(plan: Plan) -> None:
    segment = _libc.shmget(_IPC_PRIVATE, ctypes.c_size_t(_SEGMENT_BYTES), 0o600)
    _expect(segment)
    _libc.shmctl(segment, _IPC_RMID, None)


def try_joining_a_shared_segment(plan: Plan) -> None:
    # There is none of this number: the kernel says so, a filter says EPERM.
    _libc.shmat.restype = ctypes.c_ssize_t
    if _libc.shmat(-1, None, 0) == -1 and ctypes.get_errno() == errno.EPERM:
        raise PermissionError(errno.EPERM, "refused")


def try_a_queue_of_messages(plan: Plan) -> None:
    opens, unlinks = _MQ_OPEN[platform.machine()]
    name = b"beyond-%d" % os.getpid()
    handle = _libc.syscall(opens, name, os.O_CREAT | os.O_RDWR, 0o600, None)
    _expect(handle)
    os.close(handle)
    _libc.syscall(unlinks, name)


def try_a_higher_priority(plan: Plan) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, 0)


def try_a_higher_disk_priority(plan: Plan) -> None:
    number = _IOPRIO[platform.machine()][0]
    _expect(_libc.syscall(number, 1, 0, _BEST_EFFORT))


def try_becoming_root_of_a_namespace(plan: Plan) -> None:
    _expect(_libc.unshare(0x10000000))


def _expect(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")


if __name__ == "__main__":
    main()
