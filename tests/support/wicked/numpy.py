"""In the place of numpy: what a computing process imports last, and here it goes wrong.

The fault is named by the environment variable PYTHONFAULT. Lies in a folder of its own, which the
tests put in front of the computing process's path; it is confined as the real one is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

from tesla_at_home.adapters import frames
from workunits.values import Digest, LeaseId
from workunits.wire.tensors import Form, encode_header

OUT = int(sys.argv[2])
LEASE = LeaseId(b"\x01" * 16)
STEPS = 10
PR_SET_DUMPABLE = 4
DIGEST = Digest(bytes(32))
OUTPUT = Path(os.environ["HOME"]) / "1.output"


def say(*spoken: frames.ToAgent) -> None:
    for frame in spoken:
        os.write(OUT, frames.pack(frame))


def begin() -> None:
    say(frames.Begun("1.0", ()))


def ready(provider: str = "CPUExecutionProvider", first_step: int = 0) -> frames.Ready:
    return frames.Ready(LEASE, provider, "1.0", first_step)


def stepped(step: int, lease: LeaseId = LEASE) -> frames.Stepped:
    return frames.Stepped(lease, step, 1)


def do_all_steps() -> None:
    begin()
    say(ready(), *(stepped(number) for number in range(STEPS)))


match os.environ["PYTHONFAULT"]:
    case "no_start":
        raise ImportError("a library is missing")
    case "crash":
        begin()
        os.kill(os.getpid(), signal.SIGSEGV)
    case "abort":
        begin()
        os.abort()
    case "exit":
        begin()
        os._exit(3)
    case "ended":
        begin()
        os.kill(os.getpid(), signal.SIGTERM)
    case "garbage":
        begin()
        os.write(OUT, b"\xff" * 64)
    case "no_frame":
        begin()
        os.write(OUT, b"\x02\x00\x00\x00\xc1\xc1")
    case "endless":
        while True:
            begin()
    case "unasked":
        say(ready())
    case "long_words":
        begin()
        say(ready(provider="X" * 100_000))
    case "a_step_ahead":
        begin()
        say(ready(first_step=5))
    case "out_of_turn":
        begin()
        say(ready(), stepped(1))
    case "twice":
        begin()
        say(ready(), stepped(0), stepped(0))
    case "a_step_more":
        do_all_steps()
        say(stepped(STEPS))
    case "foreign":
        begin()
        say(ready(), stepped(0, LeaseId(b"\x02" * 16)))
    case "done_at_once":
        begin()
        say(ready(), frames.Done(LEASE, DIGEST, 1))
    case "no_output":
        do_all_steps()
        say(frames.Done(LEASE, DIGEST, 1))
    case "short_output":
        do_all_steps()
        OUTPUT.write_bytes(b"short")
        say(frames.Done(LEASE, DIGEST, 5))
    case "other_output":
        do_all_steps()
        # As long as the right one, and of another name.
        size = int(os.environ["PYTHONFAULT_BYTES"])
        header = encode_header({"other": Form("float32", (40, 3))})
        OUTPUT.write_bytes(header.ljust(size, b"\0"))
        say(frames.Done(LEASE, DIGEST, size))
    case "floods":
        begin()
        for number in range(100):
            (OUTPUT.parent / str(number)).touch()
    case "floods_without_names" | "hides" as fault:
        begin()
        kept = []
        for _ in range(10):
            kept.append((OUTPUT.parent / "unnamed").open("wb"))
            kept[-1].truncate(4096)
            (OUTPUT.parent / "unnamed").unlink()
        if fault == "hides":
            ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    case "too_large":
        begin()
        with (OUTPUT.parent / "1.steps").open("wb") as file:
            try:
                file.truncate(10**9)
            except OSError:
                os._exit(4)

# What does not end by itself says nothing more.
threading.Event().wait()
