"""The one place where the vehicle reads a clock or draws a number by chance."""

from __future__ import annotations

import random
import secrets
import time
from datetime import datetime
from pathlib import Path
from typing import Final

from workunits.values import Milliseconds

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class SystemClock:
    """The `Clock` port on the kernel's clocks."""

    def __init__(self) -> None:
        self._boot_id = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else secrets.token_hex(16)

    def now_ms(self) -> Milliseconds:
        return Milliseconds(time.time_ns() // 1_000_000)

    def boot_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot_id(self) -> str:
        return self._boot_id

    def monotonic_s(self) -> float:
        return time.monotonic()

    def minute_of_day(self) -> int:
        local = datetime.now().astimezone()
        return local.hour * 60 + local.minute


class SystemRandomness:
    """The `Randomness` port: unguessable bytes, and draws for jitter."""

    def token(self, size: int) -> bytes:
        return secrets.token_bytes(size)

    def fraction(self) -> float:
        return random.random()
