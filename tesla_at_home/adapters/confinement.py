"""The sandbox of the computing process: it can compute, and nothing else.

Decides what a process that runs strangers' graphs is left: what Python and ONNX Runtime read, the
folders of its job, its share of the memory, the lowest priority. Each measure is best effort, because
containers, old kernels and some distributions forbid some; each says whether it took effect, and
`doctor` shows it. To be called before anything is loaded and while the process has one thread: the
kernel asks for that. Which job it is, is decided elsewhere.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

import tesla_at_home
from tesla_at_home.adapters import landlock, seccomp
from tesla_at_home.ports import Bounds, Measure
from workunits.wire.limits import MIB

_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522
_LOWEST_PRIORITY: Final = 19
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}
_IOPRIO_PROCESS: Final = 1
_IOPRIO_IDLE: Final = 3 << 13
_OOM_FIRST: Final = "1000"
# Python, the shared libraries of CUDA and the files of a unit are under 200.
_OPEN_FILES: Final = 256
# Stacks of threads, and what allocators ask for ahead and do not use: measured 120 MiB without a model.
_UNUSED_MEMORY_BYTES: Final = 512 * MIB
_PRIVATE_UMASK: Final = 0o077
# An old kernel's module, loaded for the first time since boot, from a slow disk.
_DEVICE_TIME_LIMIT_S: Final = 60.0

# Whatever programs are made of; nothing here is private to a person.
_SYSTEM: Final = (
    "/usr", "/lib", "/lib32", "/lib64", "/opt", "/nix/store", "/gnu/store",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload",
    "/etc/localtime", "/etc/nv_tegra_release",
    "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/self",
    "/dev/urandom", "/dev/random", "/dev/zero",
    "/sys/devices/system",
)  # fmt: skip
_NVIDIA_SYSTEM: Final = ("/proc/driver", "/proc/devices", "/proc/modules", "/proc/sys/vm", "/sys")
_NVIDIA_DEVICES: Final = ("nvidia*", "nvidia-caps/*", "nvhost*", "nvmap", "nvgpu/*/*")

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _NotHere(Exception):
    """A measure that is left out on purpose, and why."""


def confine(bounds: Bounds, names: Collection[str] | None = None) -> tuple[Measure, ...]:
    """Give up everything that computing does not need, for good; what took effect.

    `names`: take these measures only, so that each can be seen at work alone.
    """
    if _has_nvidia():
        _make_nvidia_device()
    wanted = MEASURES.keys() if names is None else names
    return tuple(_take(name, bounds) for name in MEASURES if name in wanted)


def _take(name: str, bounds: Bounds) -> Measure:
    try:
        return Measure(name, True, MEASURES[name](bounds))
    except _NotHere as reason:
        return Measure(name, False, str(reason))
    except (OSError, ValueError) as error:
        # ValueError: a limit that is lower already cannot be set to this.
        why = error.strerror if isinstance(error, OSError) else error
        return Measure(name, False, f"this system refuses it: {why}")


# --- what it may take ---------------------------------------------------------------------------


def _have_private_files(bounds: Bounds) -> str:
    os.umask(_PRIVATE_UMASK)
    os.chdir(bounds.writes[0])
    return "what it writes is for this user only"


def _yield_processor(bounds: Bounds) -> str:
    os.nice(_LOWEST_PRIORITY)
    # Not SCHED_IDLE: under load that gets next to nothing, also while it holds what others wait for.
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    return f"nice {_LOWEST_PRIORITY}, batch"


def _yield_disk(bounds: Bounds) -> str:
    number = _IOPRIO_SET.get(platform.machine())
    if number is None:
        raise _NotHere(f"not known for {platform.machine()}")
    _check(_libc.syscall(number, _IOPRIO_PROCESS, 0, _IOPRIO_IDLE))
    return "idle"


def _go_first(bounds: Bounds) -> str:
    # The computer's other programs are worth more than a step that can be computed again.
    Path("/proc/self/oom_score_adj").write_text(_OOM_FIRST)
    return "ended before any other program when memory runs out"


def _limit_memory(bounds: Bounds) -> str:
    if not bounds.memory_bytes:
        raise _NotHere("no limit was given")
    if _has_nvidia():
        raise _NotHere("CUDA maps far more than it uses; the agent looks at it instead")
    most = bounds.memory_bytes + _UNUSED_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    return f"{most // MIB} MiB"


def _limit_files(bounds: Bounds) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (bounds.file_bytes, bounds.file_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    # A core is a copy of a submitter's data.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return f"{bounds.file_bytes // MIB + 1} MiB a file, {_OPEN_FILES} open, no core"


# --- what it may touch --------------------------------------------------------------------------


def _leave_network(bounds: Bounds) -> str:
    _check(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET))
    return "a network of its own with nothing in it"


def _drop_capabilities(bounds: Bounds) -> str:
    # Those of root, and those that a namespace of one's own brings.
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())))
    return "none"


def _gain_nothing(bounds: Bounds) -> str:
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    return "no program can give it more rights"


def _leave_files(bounds: Bounds) -> str:
    root = Path(tesla_at_home.__file__).resolve().parent.parent
    read_whole = tuple(_readable(root))
    version = landlock.restrict(
        landlock.Grants(
            listed=(root,),
            read=(*read_whole, *(Path(folder) for folder in bounds.reads)),
            written=tuple(Path(folder) for folder in bounds.writes),
            devices=(Path("/dev/null"), *_devices()),
        )
    )
    own = Path(bounds.writes[0]).resolve()
    for folder in read_whole:
        if own.is_relative_to(folder.resolve()):
            # Landlock grants and cannot take back: the key and other units lie there too.
            raise _NotHere(
                f"its folder lies below {folder}, which is read whole: keep DIR elsewhere"
            )
    return f"only its own folder and the system's libraries (Landlock {version})"


def _leave_system(bounds: Bounds) -> str:
    seccomp.restrict()
    return "no sockets, no other process, no other program"


# Priorities and limits first: afterwards nothing can be changed. The network before capabilities,
# which it brings; privileges before both filters, which ask for it; system calls last, since they
# end the others.
MEASURES: Final[dict[str, Callable[[Bounds], str]]] = {
    "private files": _have_private_files,
    "processor priority": _yield_processor,
    "disk priority": _yield_disk,
    "out of memory": _go_first,
    "memory limit": _limit_memory,
    "file limits": _limit_files,
    "network": _leave_network,
    "capabilities": _drop_capabilities,
    "privileges": _gain_nothing,
    "files": _leave_files,
    "system calls": _leave_system,
}


def _readable(root: Path) -> Iterator[Path]:
    """What Python, its packages and the system's libraries are read from."""
    # Of the folder that holds our packages only these: in a checkout there is more beside them.
    yield from (root / "tesla_at_home", root / "workunits")
    yield from (Path(prefix) for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix))
    yield from (Path(entry) for entry in sys.path if entry and Path(entry).resolve() != root)
    libraries = os.environ.get("LD_LIBRARY_PATH", "") + ":" + os.environ.get("LD_PRELOAD", "")
    yield from (Path(entry) for entry in libraries.replace(" ", ":").split(":") if entry)
    yield from (Path(path) for path in _SYSTEM)
    if _has_nvidia():
        yield from (Path(path) for path in _NVIDIA_SYSTEM)


def _devices() -> Iterator[Path]:
    for pattern in _NVIDIA_DEVICES:
        yield from Path("/dev").glob(pattern)


def _has_nvidia() -> bool:
    return any(_devices()) or shutil.which("nvidia-modprobe") is not None


def _make_nvidia_device() -> None:
    """CUDA's first user of this boot makes its device by a set-uid program; in here it cannot."""
    program = shutil.which("nvidia-modprobe")
    if program is None or Path("/dev/nvidia-uvm").exists():
        return
    command = [program, "-u", "-c=0"]
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, timeout=_DEVICE_TIME_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"{program}: {error}\n")


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
