"""Messages with bad signatures, counted by network: who sends too many is not read for the minute.

Checking a signature is what a stranger can make this server do most cheaply for himself. Networks are
those of `server.http.networks`; this computer is not counted, as with enrolments. A provider has a
bound, too, so that many networks of one home are no more than a few. What is remembered is bounded;
who is not remembered is read: a check costs less than keeping honest vehicles out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from server import settings
from server.domain.networks import provider_of
from server.errors import TooMany
from server.http.networks import network_of
from server.ports import Clock
from workunits.errors import BadSignature
from workunits.values import Milliseconds

_MINUTE_MS: Final = 60_000


class TooManyForgeries(TooMany):
    """From this network came too many messages that nobody signed."""

    code = "too_many_bad_signatures"


class Forgeries:
    """Used from one event loop."""

    def __init__(
        self,
        most: int = settings.BAD_SIGNATURES_PER_MINUTE,
        most_of_provider: int = settings.BAD_SIGNATURES_PER_PROVIDER,
        networks: int = settings.NETWORKS_REMEMBERED,
    ) -> None:
        self._most = most
        self._most_of_provider = most_of_provider
        self._networks = networks
        self._minute = -1
        self._counts: dict[str, int] = {}

    def is_quiet(self) -> bool:
        """Whether nothing is remembered at all, so that no address need be looked at."""
        return not self._counts

    def expect_welcome(self, network: str | None, now: Milliseconds) -> None:
        """Raise `TooManyForgeries` while `network` or its provider has used up its minute."""
        self._turn_to(now)
        rings = () if network is None else self._rings(network)
        if any(self._counts.get(name, 0) >= most for name, most in rings):
            raise TooManyForgeries(
                "too many messages with bad signatures came from this network; wait a minute"
            )

    def note(self, network: str | None, now: Milliseconds) -> None:
        """One more came from `network`."""
        self._turn_to(now)
        # The provider first: of a flood from its many networks it is the one to remember.
        for name, _ in reversed(() if network is None else self._rings(network)):
            if name in self._counts or len(self._counts) < self._networks:
                self._counts[name] = self._counts.get(name, 0) + 1

    def _rings(self, network: str) -> tuple[tuple[str, int], ...]:
        provider = provider_of(network)
        own = (network, self._most)
        return (own,) if provider is None else (own, (provider, self._most_of_provider))

    def _turn_to(self, now: Milliseconds) -> None:
        if now // _MINUTE_MS != self._minute:
            self._minute = now // _MINUTE_MS
            self._counts.clear()


class Strangers:
    """Everybody whose message is not verified yet."""

    def __init__(
        self, clock: Clock, forgeries: Forgeries | None = None, *, is_behind_proxy: bool = False
    ) -> None:
        self._clock = clock
        self._forgeries = Forgeries() if forgeries is None else forgeries
        self._is_behind_proxy = is_behind_proxy

    @contextmanager
    def heard(self, host: str | None) -> Iterator[None]:
        """While a message from `host` is read and its signature checked.

        Raises:
            TooManyForgeries: it is not read at all.
        """
        if not self._forgeries.is_quiet():
            self._forgeries.expect_welcome(self._network(host), self._clock.now_ms())
        try:
            yield
        except BadSignature:
            self._forgeries.note(self._network(host), self._clock.now_ms())
            raise

    def _network(self, host: str | None) -> str | None:
        return network_of(host, is_behind_proxy=self._is_behind_proxy)
