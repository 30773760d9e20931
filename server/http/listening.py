"""The listening socket and uvicorn around the application.

Decides how connections are bounded: how many, how long they stay open unused, how long a stop waits
for requests under way. Signals are the business of whoever starts it.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import uvicorn
from litestar.types import ASGIApp

from server.errors import Refused
from server.http.protocol import BoundedProtocol

# Longer than a proxy's pause between two requests, shorter than a vehicle's between two units.
KEEP_ALIVE_S: Final = 20
# An upload that is cut goes on where it stood, so a stop need not wait for it.
STOP_S: Final = 10
BACKLOG: Final = 2048
# File descriptors kept back for the database, blobs and uploads.
_RESERVED_FILES: Final = 256
_MOST_FILES: Final = 65_536


class Listener(uvicorn.Server):
    """Serves `application` on `sock`."""

    def __init__(
        self,
        application: ASGIApp,
        sock: socket.socket,
        trusted_proxies: Sequence[str] = (),
    ) -> None:
        super().__init__(_config(application, trusted_proxies))
        self._sock = sock
        self._on_ready: Callable[[], None] = lambda: None

    def listen(self, on_ready: Callable[[], None]) -> None:
        """Until `stop` is called; requests under way are answered."""
        self._on_ready = on_ready
        self.run(sockets=[self._sock])

    def stop(self) -> None:
        """From any thread or signal handler."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bound_socket(host: str, port: int) -> socket.socket:
    """A listening address; port 0 is any that is free.

    Raises:
        Refused: the address cannot be used.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise Refused(f"cannot listen on {host} port {port}: {reason}") from None


def url_of(sock: socket.socket) -> str:
    """Where the socket is reached."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _config(application: ASGIApp, trusted_proxies: Sequence[str]) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        http=BoundedProtocol,
        loop="uvloop",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
        limit_concurrency=_most_connections(),
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
    )


def _most_connections() -> int:
    """As many as the system lets this process have, raised as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(64, min(soft if soft > 0 else wanted, _MOST_FILES) - _RESERVED_FILES)
