"""What was sent to a client and not taken by it yet, and whether it takes enough.

Bytes that wait in this process say little: the kernel takes megabytes at once, and then nothing for
minutes on a slow line. What it has, and the client's computer has not acknowledged, is counted too.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
from typing import Final

# Below 55 bytes/s a vehicle gives up by itself; a file that waits holds a connection and a buffer.
READ_S: Final = 60.0
READ_BYTES: Final = 3300


def unread_bytes(transport: asyncio.Transport) -> int:
    """How many bytes wait, here and in the kernel."""
    waits = int(transport.get_write_buffer_size())
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None:
        return waits
    try:
        queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):
        return waits  # closed meanwhile, or a system that does not say
    return waits + int.from_bytes(queued, sys.byteorder)


def drop(transport: asyncio.Transport) -> None:
    """End it now; the kernel forgets what it still has, and the client learns of it at once."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def is_taken(before_bytes: int, now_bytes: int) -> bool:
    """Whether a client that `READ_S` ago had not read `before_bytes` has taken enough of them."""
    return now_bytes <= max(0, before_bytes - READ_BYTES)
