"""A TCP proxy that counts what crosses it, and cuts a connection after so many bytes.

Knows nothing of HTTP: stands between a real client and a real server, so that a cut falls at any byte.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

Way = Literal["up", "down"]


@dataclass
class Crossed:
    """Bytes of one connection."""

    up: int = 0
    down: int = 0


@dataclass(frozen=True)
class Cut:
    way: Way
    after_bytes: int


@dataclass
class CuttingProxy:
    """`cuts` is for the next connections, one each; None lets one through."""

    url: str
    target: tuple[str, int]
    cuts: list[Cut | None] = field(default_factory=list)
    connections: list[Crossed] = field(default_factory=list)

    def carry(self, client: socket.socket) -> None:
        cut = self.cuts.pop(0) if self.cuts else None
        crossed = Crossed()
        self.connections.append(crossed)
        with client, socket.create_connection(self.target) as server:
            ends = (client, server)
            up = threading.Thread(target=_pump, args=("up", client, server, ends, crossed, cut))
            up.start()
            _pump("down", server, client, ends, crossed, cut)
            up.join()


def _pump(
    way: Way,
    source: socket.socket,
    sink: socket.socket,
    ends: tuple[socket.socket, socket.socket],
    crossed: Crossed,
    cut: Cut | None,
) -> None:
    """Until an end closes, or the cut."""
    left = cut.after_bytes if cut is not None and cut.way == way else None
    with contextlib.suppress(OSError):
        while left != 0 and (piece := source.recv(65_536 if left is None else min(left, 65_536))):
            sink.sendall(piece)
            setattr(crossed, way, getattr(crossed, way) + len(piece))
            left = None if left is None else left - len(piece)
    # An end of one way is the end of both: neither side says anything after it.
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def cutting_proxy(url: str) -> Iterator[CuttingProxy]:
    """In front of `url`, on a free port, until the block ends."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        proxy = CuttingProxy(address, (parts.hostname, parts.port))
        threads: list[threading.Thread] = []
        accepting = threading.Thread(target=_accept, args=(listener, proxy, threads))
        accepting.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


def _accept(listener: socket.socket, proxy: CuttingProxy, threads: list[threading.Thread]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        thread = threading.Thread(target=proxy.carry, args=(client,))
        threads.append(thread)
        thread.start()
