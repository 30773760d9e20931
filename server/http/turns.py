"""One after the other for each lease: requests for the same upload must not mix their bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from workunits.values import LeaseId


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Turns:
    """One lock for each lease that somebody is uploading for."""

    def __init__(self) -> None:
        self._turns: dict[LeaseId, _Turn] = {}

    @asynccontextmanager
    async def of(self, lease: LeaseId) -> AsyncIterator[None]:
        """Waits until no other request for this lease is at work."""
        turn = self._turns.setdefault(lease, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if turn.users == 0:
                del self._turns[lease]
