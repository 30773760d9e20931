"""A recomputing process with a fault, named by the environment variable FAULT."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Final

from server.adapters import recompute_messages as messages
from workunits.wire import codec

VARIABLE: Final = "FAULT"


def main() -> None:
    reply = Path(sys.argv[1]) / messages.REPLY
    match os.environ[VARIABLE]:
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            signal.pause()
        case "silent":
            print("about to say nothing")
            sys.exit(3)
        case "garbage":
            reply.write_bytes(b"\xc1")
        case "flood":
            with reply.open("wb") as file:
                file.truncate(messages.REPLY_BYTES + 1)
        case "other answer":
            reply.write_bytes(codec.pack(messages.Reply(messages.Version(version="1"))))
        case "unknown refusal":
            refusal = messages.Failed(code="of_a_later_version", text="no")
            reply.write_bytes(codec.pack(messages.Reply(refusal)))


if __name__ == "__main__":
    main()
