"""A filter of system calls: what computes needs no socket, no other process and no other program.

Works on every kernel that a vehicle is likely to have, also where Landlock and namespaces do not: a
Jetson's or a Raspberry Pi's often lacks the one, Ubuntu forbids the other. A list of what is refused
and not of what is allowed, because ONNX Runtime and drivers call what they like; the refused calls
answer EPERM, and nobody is killed. Numbers are those of the kernel's syscall tables.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2

# Parts of struct seccomp_data, and the few instructions of classic BPF that are needed.
_AT_NUMBER, _AT_ARCHITECTURE, _AT_FIRST_ARGUMENT, _AT_SECOND_ARGUMENT = 0, 4, 16, 24
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | errno.EPERM
# glibc then makes its threads with `clone`, whose flags a filter can read.
_NOT_KNOWN: Final = 0x00050000 | errno.ENOSYS

_CLONE_THREAD: Final = 0x10000
# Whom the kernel signals for a file that becomes ready, and how: F_SETOWN, F_SETSIG, F_SETOWN_EX,
# and for `ioctl` FIOSETOWN, SIOCSPGRP.
_SIGNALS_BY_FCNTL: Final = (8, 10, 15)
_SIGNALS_BY_IOCTL: Final = (0x8901, 0x8902)
# x86-64 answers to a second set of numbers from here on.
_X32: Final = 0x40000000


@dataclass(frozen=True, slots=True)
class _Machine:
    architecture: int
    numbers: dict[str, int]


# Outwards: sockets of any family, and io_uring, which would open them past this filter.
# To other programs and processes: start, look into, signal, borrow descriptors of, slow down.
# Back to what was given up: namespaces, priorities.
# Memory that no limit of the process counts, also after it is unmapped.
# Large pieces of the kernel that nothing here needs.
_X86_64: Final = {
    "socket": 41, "io_uring_setup": 425,
    "execve": 59, "execveat": 322, "fork": 57, "vfork": 58,
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "process_madvise": 440,
    "pidfd_open": 434, "pidfd_getfd": 438, "pidfd_send_signal": 424,
    "tkill": 200, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297,
    "unshare": 272, "setns": 308, "open_by_handle_at": 304,
    "ioprio_set": 251, "setpriority": 141, "sched_setscheduler": 144, "sched_setattr": 314,
    "shmget": 29, "shmat": 30, "memfd_create": 319, "memfd_secret": 447, "mq_open": 240,
    "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
    "add_key": 248, "request_key": 249, "keyctl": 250,
    "clone": 56, "clone3": 435, "kill": 62, "tgkill": 234, "prlimit64": 302,
    "sched_setaffinity": 203, "fcntl": 72, "ioctl": 16,
}  # fmt: skip
_AARCH64: Final = {
    "socket": 198, "io_uring_setup": 425,
    "execve": 221, "execveat": 281,
    "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "process_madvise": 440,
    "pidfd_open": 434, "pidfd_getfd": 438, "pidfd_send_signal": 424,
    "tkill": 130, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240,
    "unshare": 97, "setns": 268, "open_by_handle_at": 265,
    "ioprio_set": 30, "setpriority": 140, "sched_setscheduler": 119, "sched_setattr": 274,
    "shmget": 194, "shmat": 196, "memfd_create": 279, "memfd_secret": 447, "mq_open": 180,
    "bpf": 280, "perf_event_open": 241, "userfaultfd": 282,
    "add_key": 217, "request_key": 218, "keyctl": 219,
    "clone": 220, "clone3": 435, "kill": 129, "tgkill": 131, "prlimit64": 261,
    "sched_setaffinity": 122, "fcntl": 25, "ioctl": 29,
}  # fmt: skip
_MACHINES: Final = {
    "x86_64": _Machine(0xC000003E, _X86_64),
    "aarch64": _Machine(0xC00000B7, _AARCH64),
}
# Not refused as a whole: see `_program`.
_LOOKED_INTO: Final = frozenset(
    {"clone", "clone3", "kill", "tgkill", "prlimit64", "sched_setaffinity", "fcntl", "ioctl"}
)


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("first", ctypes.POINTER(_Instruction)))


class UnknownMachine(OSError):
    """The numbers of this architecture are not in the table."""


def restrict() -> None:
    """Refuse those calls, in this thread and all that it starts, for good.

    The process must not be able to gain privileges any more (PR_SET_NO_NEW_PRIVS).

    Raises:
        UnknownMachine: another architecture. OSError: the kernel has no filters.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise UnknownMachine(errno.ENOSYS, f"not known for {platform.machine()}")
    steps = list(_program(machine, os.getpid()))
    array = (_Instruction * len(steps))(*steps)
    program = _Program(len(steps), array)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _program(machine: _Machine, pid: int) -> Iterator[_Instruction]:
    numbers = machine.numbers
    yield _step(_LOAD, _AT_ARCHITECTURE)
    yield _step(_IF_EQUAL, machine.architecture, 1, 0)
    yield _step(_RETURN, _REFUSE)
    yield _step(_LOAD, _AT_NUMBER)
    yield _step(_IF_AT_LEAST, _X32, 0, 1)
    yield _step(_RETURN, _REFUSE)
    for name in numbers.keys() - _LOOKED_INTO:
        yield from _answer(numbers[name], _REFUSE)
    yield from _answer(numbers["clone3"], _NOT_KNOWN)
    # Threads, and no processes.
    yield from _unless_first(numbers["clone"], _IF_ANY_BIT, _CLONE_THREAD)
    # To itself: `abort` is a signal, and the limits may be read.
    yield from _unless_first(numbers["kill"], _IF_EQUAL, pid)
    yield from _unless_first(numbers["tgkill"], _IF_EQUAL, pid)
    yield from _unless_first(numbers["prlimit64"], _IF_EQUAL, 0)
    yield from _unless_first(numbers["sched_setaffinity"], _IF_EQUAL, 0)
    yield from _if_second(numbers["fcntl"], _SIGNALS_BY_FCNTL)
    yield from _if_second(numbers["ioctl"], _SIGNALS_BY_IOCTL)
    yield _step(_RETURN, _ALLOW)


def _answer(number: int, answer: int) -> Iterator[_Instruction]:
    yield _step(_IF_EQUAL, number, 0, 1)
    yield _step(_RETURN, answer)


def _unless_first(number: int, test: int, value: int) -> Iterator[_Instruction]:
    """Refuse the call unless its first argument passes the test (lower half: all are int)."""
    yield _step(_IF_EQUAL, number, 0, 4)
    yield _step(_LOAD, _AT_FIRST_ARGUMENT)
    yield _step(test, value, 1, 0)
    yield _step(_RETURN, _REFUSE)
    yield _step(_RETURN, _ALLOW)


def _if_second(number: int, refused: tuple[int, ...]) -> Iterator[_Instruction]:
    """Refuse the call if its second argument is one of these (lower half: the kernel reads no more)."""
    yield _step(_IF_EQUAL, number, 0, len(refused) + 3)
    yield _step(_LOAD, _AT_SECOND_ARGUMENT)
    for left, value in zip(range(len(refused), 0, -1), refused, strict=True):
        yield _step(_IF_EQUAL, value, left, 0)
    yield _step(_RETURN, _ALLOW)
    yield _step(_RETURN, _REFUSE)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> _Instruction:
    return _Instruction(code, if_true, if_false, value)
