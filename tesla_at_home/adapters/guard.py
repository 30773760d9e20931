"""Connections that can be closed from another thread, and that end when hardly a byte moves.

Decides only when an exchange is over. requests gives no hold on the socket of a request that is
under way; here each new connection is handed to the guard of the exchange that opens it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from contextvars import ContextVar
from math import inf
from typing import Final

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager, ProxyManager

from tesla_at_home.adapters.heads import WholeHead
from tesla_at_home.errors import Cancelled, Unreachable


class Guard:
    """Ends one exchange from outside: cancelled, hardly a byte moving, or longer than `whole_s`."""

    def __init__(self, stall_s: float, stall_bytes: int, whole_s: float = inf) -> None:
        self._stall_s = stall_s
        self._whole_s = whole_s
        self._stall_bytes = stall_bytes
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._over = threading.Event()
        self._moved = 0
        self._ended: Unreachable | None = None

    def start(self) -> None:
        threading.Thread(target=self._watch, name="exchange-stall", daemon=True).start()

    def attach(self, connected: socket.socket) -> None:
        """Keep hold of a connection under a descriptor of our own, which TLS does not take away."""
        with self._lock:
            self._sockets.append(socket.socket(fileno=os.dup(connected.fileno())))
            if self._ended is not None:
                self._shut()

    def moved(self, count: int) -> None:
        self._moved += count

    def cancel(self) -> None:
        """Close the connection; whoever reads from it wakes up."""
        self._end(Cancelled("cancelled: the network is not ours to use now"))

    def check(self) -> None:
        """Raise if the exchange was ended: a closed socket may look like the end of a body."""
        if self._ended is not None:
            raise self._ended

    def finish(self) -> None:
        self._over.set()
        with self._lock:
            # Whoever was ended in the middle of sending leaves no connection that a server waits on.
            self._shut()
            for held in self._sockets:
                held.close()
            self._sockets.clear()

    def _watch(self) -> None:
        left_s = self._whole_s
        while not self._over.wait(window_s := min(self._stall_s, left_s)):
            left_s -= window_s
            if left_s <= 0:
                self._end(Unreachable(f"not at an end after {self._whole_s:g} s"))
                return
            if self._moved < self._stall_bytes:
                self._end(Unreachable(f"stalled: hardly a byte in {self._stall_s:g} s"))
                return
            self._moved = 0

    def _end(self, why: Unreachable) -> None:
        with self._lock:
            if self._ended is None and not self._over.is_set():
                self._ended = why
                self._shut()

    def _shut(self) -> None:
        for held in self._sockets:
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)


# The guard of the exchange that this thread is in.
guarding: Final[ContextVar[Guard]] = ContextVar("guarding")


class _Connection(HTTPConnection):
    response_class = WholeHead

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        guarding.get().attach(connected)
        return connected


class _TlsConnection(HTTPSConnection):
    response_class = WholeHead

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        guarding.get().attach(connected)
        return connected


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    """requests' adapter, with connections that their guard can close."""

    def __init__(self) -> None:
        super().__init__()
        _guard_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: object) -> ProxyManager:
        manager: ProxyManager = super().proxy_manager_for(proxy, **proxy_kwargs)
        _guard_pools(manager)
        return manager


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere: a redirect is not followed, and its body is not read to follow it."""


def _guard_pools(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}


def session() -> requests.Session:
    """A session whose connections are guarded, follow no redirect and are used once."""
    made = _Session()
    # A no-op: without one, requests would put ~/.netrc in the place of our own Authorization.
    made.auth = _unchanged
    made.headers.update({"Accept-Encoding": "identity", "Connection": "close"})
    for scheme in ("http://", "https://"):
        made.mount(scheme, _Adapter())
    return made


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
