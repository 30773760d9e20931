"""The server's one clock and its one source of random bits; everything else takes both as arguments."""

from __future__ import annotations

import secrets
import time

from workunits.values import Milliseconds


class SystemClock:
    """UTC by the machine's wall clock."""

    def now_ms(self) -> Milliseconds:
        """Milliseconds since the epoch."""
        return Milliseconds(time.time_ns() // 1_000_000)


class SystemRandomness:
    """The operating system's generator: ids, nonces and tickets must not be guessed."""

    def token(self, size: int) -> bytes:
        """`size` random bytes."""
        return secrets.token_bytes(size)
