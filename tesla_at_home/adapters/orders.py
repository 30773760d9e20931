"""Orders from other commands to the running agent: a row in the store, and a datagram to wake it.

With no agent running the command takes the directory's lock and carries the order out itself. What
an order means stands in `agent.machine`; here is only how it gets there (DECISIONS C.3).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tesla_at_home.adapters.store import Store
from tesla_at_home.agent.events import Order
from tesla_at_home.errors import AlreadyRunning

LOCK_NAME: Final = "lock"
SOCKET_NAME: Final = "agent.sock"
# sun_path holds 108 bytes; above this the address is an abstract name (DECISIONS C.3).
_PATH_BYTES: Final = 100
# A command holds the lock for one write; whoever holds it longer is an agent.
_PATIENCE_S: Final = 1.0
_LOOK_AGAIN_S: Final = 0.02


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory: one `run`, or one command in its stead.

    Raises:
        AlreadyRunning: another process holds it, and not only for the moment of an order.
    """
    handle = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(handle, directory)
        yield
    finally:
        os.close(handle)


def is_running(directory: Path) -> bool:
    """Whether an agent listens; asking takes no lock, so that it stands in nobody's way."""
    try:
        _send(_address(directory))
    except OSError:
        return False
    return True


def give(directory: Path, order: Order) -> bool:
    """Give an order; True when a running agent has it, False when it is done without one.

    Pause, resume and finish outlast the agent; leave and reload mean nothing without one.
    """
    if not is_running(directory):
        # An agent that just starts or ends holds the lock and does not listen: it gets a row.
        with contextlib.suppress(AlreadyRunning), locked(directory), Store.open(directory) as store:
            store.apply_order(order)
            return False
    with Store.open(directory, is_writer=False) as store:
        store.add_order(order)
    # The row is the order; a lost datagram only makes it wait for the agent's next tick.
    is_running(directory)
    return True


def _lock(handle: int, directory: Path) -> None:
    ends_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= ends_s:
                raise AlreadyRunning(
                    f"another `tesla-at-home run` uses {directory}; "
                    "stop it first, or give another --dir"
                ) from None
        time.sleep(_LOOK_AGAIN_S)


class OrderSocket:
    """The agent's end: calls `wake` from its own thread for each datagram."""

    def __init__(self, directory: Path, wake: Callable[[], None]) -> None:
        self._address = _address(directory)
        self._wake = wake
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if isinstance(self._address, str):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._address)
        self._socket.bind(self._address)
        self._is_closed = False
        self._thread = threading.Thread(target=self._listen, name="orders", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and take the address away."""
        self._is_closed = True
        _send(self._address)
        self._thread.join()
        self._socket.close()
        if isinstance(self._address, str):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._address)

    def _listen(self) -> None:
        while not self._is_closed:
            self._socket.recv(16)
            self._wake()


def _address(directory: Path) -> str | bytes:
    path = str((directory / SOCKET_NAME).resolve())
    if len(os.fsencode(path)) <= _PATH_BYTES:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    return b"\0tesla-at-home-" + name.encode()


def _send(address: str | bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(b"order", address)
