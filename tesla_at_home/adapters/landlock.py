"""Landlock: a process gives up all files but those it names, for good (Linux 5.13 and newer).

Knows the kernel's three calls and its versions, and nothing of what the child needs: that is decided
in `confinement`. What a kernel cannot refuse yet stays open; `restrict` says which version it met.
The numbers are those of <linux/landlock.h>.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# The same on every architecture.
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_ASK_VERSION: Final = 1
_PATH_BENEATH: Final = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_FILE, _MAKE_REG = 1 << 5, 1 << 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
# Which rights the kernel can refuse, by the version in which it learned to.
_FILES_V1: Final = (1 << 13) - 1
_SINCE: Final = {2: _REFER, 3: _TRUNCATE, 5: _IOCTL_DEV}
_TCP: Final = 0b11  # bind and connect, since version 4
_TCP_SINCE: Final = 4
_SIGNALS_AND_SOCKETS: Final = 0b11  # to processes outside, since version 6
_SCOPES_SINCE: Final = 6

_ON_FILES: Final = _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_LISTING: Final = _READ_DIR
_READING: Final = _READ_FILE | _READ_DIR
_DEVICE: Final = _READ_FILE | _WRITE_FILE | _IOCTL_DEV
# Regular files only, and no folders: what is here can be counted without a walk.
_WRITING: Final = _READING | _WRITE_FILE | _TRUNCATE | _MAKE_REG | _REMOVE_FILE

_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Grants:
    """What stays open; a path that is not there is passed over. Nothing may be executed."""

    listed: tuple[Path, ...] = ()  # names only
    read: tuple[Path, ...] = ()
    written: tuple[Path, ...] = ()
    devices: tuple[Path, ...] = ()


class _RulesetAttr(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """The kernel's version of Landlock.

    Raises:
        OSError: it has none, or none that was turned on.
    """
    return _call(_CREATE_RULESET, None, 0, _ASK_VERSION)


def restrict(grants: Grants) -> int:
    """Give up everything else, in this thread and all that it starts; the version that did it.

    The process must not be able to gain privileges any more (PR_SET_NO_NEW_PRIVS).

    Raises:
        OSError: the kernel has no Landlock, or refuses it.
    """
    known = version()
    handled = _FILES_V1 | sum(right for since, right in _SINCE.items() if known >= since)
    wanted = _RulesetAttr(
        handled,
        _TCP if known >= _TCP_SINCE else 0,
        _SIGNALS_AND_SOCKETS if known >= _SCOPES_SINCE else 0,
    )
    ruleset = _call(_CREATE_RULESET, ctypes.byref(wanted), ctypes.sizeof(wanted), 0)
    try:
        for right, paths in (
            (_LISTING, grants.listed),
            (_READING, grants.read),
            (_WRITING, grants.written),
            (_DEVICE, grants.devices),
        ):
            _allow(ruleset, right & handled, paths)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return known


def _allow(ruleset: int, right: int, paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            # What is a right on folders only may not be asked for on a file.
            allowed = right if path.is_dir() else right & _ON_FILES
            rule = _PathBeneathAttr(allowed, handle)
            _call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
        finally:
            os.close(handle)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
