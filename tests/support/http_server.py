"""A real listener on a free loopback port, in a thread of the test's process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from litestar.types import ASGIApp

from server.http.listening import Listener, bound_socket, url_of


@contextmanager
def served(application: ASGIApp, trusted_proxies: Sequence[str] = ()) -> Iterator[str]:
    """Serves `application` inside the block; gives its address."""
    sock = bound_socket("127.0.0.1", 0)
    url = url_of(sock)
    listener = Listener(application, sock, trusted_proxies)
    with running(lambda ready: listener.listen(ready.set), listener.stop):
        yield url


@contextmanager
def running(run: Callable[[threading.Event], None], stop: Callable[[], None]) -> Iterator[None]:
    """`run(ready)` in a thread until the block ends; fails if it never gets ready."""
    ready = threading.Event()
    thread = threading.Thread(target=run, args=(ready,), daemon=True)
    thread.start()
    try:
        assert ready.wait(30), "the server did not start"
        yield
    finally:
        stop()
        thread.join(30)
    assert not thread.is_alive(), "the server did not stop"
