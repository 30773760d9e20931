"""The home network over a real D-Bus, with a NetworkManager of our own on a private bus."""

from __future__ import annotations

import os
import queue
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tesla_at_home.adapters import network
from tesla_at_home.adapters.network import NetworkManagerSource
from tesla_at_home.errors import ClientError
from tesla_at_home.policy.signals import Heard
from tests.support.fake_networkmanager import FakeNetworkManager, private_bus
from tests.support.still_clock import StillClock

DAEMON = shutil.which("dbus-daemon")
pytestmark = pytest.mark.skipif(
    DAEMON is None and "CI" not in os.environ, reason="dbus-daemon is not installed"
)

YES, NO, UNKNOWN = True, False, None
Said = tuple[bool | float | None, bool | float | None]


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[str]:
    with private_bus(tmp_path, str(DAEMON)) as address:
        yield address


@pytest.fixture
def manager(bus: str) -> Iterator[FakeNetworkManager]:
    running = FakeNetworkManager(bus)
    yield running
    running.close()


class Listener:
    """What a source posts, one at a time."""

    def __init__(self) -> None:
        self.posted: queue.Queue[Heard] = queue.Queue()

    def next(self) -> Said:
        home, metered = self.posted.get(timeout=10).readings
        assert (home.signal, metered.signal) == ("home_wifi", "metered")
        return home.value, metered.value

    def until(self, wanted: Said) -> None:
        """Wait for it; an answer may repeat the one before."""
        while self.next() != wanted:
            pass


@pytest.fixture
def listening(bus: str) -> Iterator[Callable[[list[str], float], Listener]]:
    sources: list[NetworkManagerSource] = []

    def listen(trusted: list[str], poll_s: float = 60.0) -> Listener:
        listener = Listener()
        source = NetworkManagerSource(StillClock(), lambda: trusted, bus=bus, poll_s=poll_s)
        sources.append(source)
        source.start(listener.posted.put)
        return listener

    yield listen
    for source in sources:
        source.stop()


def _trusted(bus: str, *, wired: bool = False) -> list[str]:
    return [network.trust(network.current(bus), wired=wired)]


def test_a_trusted_wifi_is_home(
    bus: str, manager: FakeNetworkManager, listening: Callable[..., Listener]
) -> None:
    assert listening(_trusted(bus)).next() == (YES, NO)


def test_what_is_kept_names_no_network(bus: str, manager: FakeNetworkManager) -> None:
    (kept,) = _trusted(bus)
    assert manager.connected.identity not in kept
    assert manager.connected.access_point.lower() not in kept.lower()
    assert _trusted(bus) != [kept]  # salted


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"identity": "another"}, (NO, NO)),
        ({"access_point": "02:00:00:00:00:01"}, (NO, NO)),
        ({"kind": "gsm"}, (NO, NO)),
        ({"is_connected": False}, (NO, NO)),
        ({"connectivity": 2}, (NO, NO)),  # a captive portal
        ({"connectivity": 3}, (NO, NO)),
        ({"connectivity": 0}, (UNKNOWN, NO)),
        ({"metered": 0}, (YES, UNKNOWN)),
        ({"metered": 1}, (YES, YES)),
        ({"metered": 2}, (YES, NO)),
        ({"metered": 3}, (YES, YES)),
        ({"metered": 99}, (YES, UNKNOWN)),
    ],
)
def test_every_change_is_told_as_it_happens(
    changed: dict[str, str | int | bool],
    said: Said,
    bus: str,
    manager: FakeNetworkManager,
    listening: Callable[..., Listener],
) -> None:
    listener = listening(_trusted(bus))
    assert listener.next() == (YES, NO)
    manager.set(**changed)
    assert listener.next() == said


def test_a_change_without_a_signal_is_found_by_the_poll(
    bus: str, manager: FakeNetworkManager, listening: Callable[..., Listener]
) -> None:
    listener = listening(_trusted(bus), 0.05)
    assert listener.next() == (YES, NO)
    manager.set_quietly(metered=1)
    listener.until((YES, YES))


def test_a_wired_connection_counts_only_when_the_owner_trusts_it(
    bus: str, manager: FakeNetworkManager, listening: Callable[..., Listener]
) -> None:
    trusted = _trusted(bus)
    manager.set_quietly(kind=network.WIRED, access_point="")
    with pytest.raises(ClientError, match="--wired"):
        network.trust(network.current(bus), wired=False)
    assert listening(trusted).next() == (NO, NO)
    assert listening(_trusted(bus, wired=True)).next() == (YES, NO)


def test_a_phone_cannot_be_trusted_as_home(bus: str, manager: FakeNetworkManager) -> None:
    manager.set_quietly(kind="gsm")
    with pytest.raises(ClientError, match="gsm"):
        network.trust(network.current(bus), wired=True)


def test_no_networkmanager_is_unknown_until_it_comes(
    bus: str, listening: Callable[..., Listener]
) -> None:
    with pytest.raises(ClientError, match="does not answer"):
        network.current(bus)
    listener = listening([], 0.05)
    assert listener.next() == (UNKNOWN, UNKNOWN)
    manager = FakeNetworkManager(bus)
    listener.until((NO, NO))
    manager.close()
    listener.until((UNKNOWN, UNKNOWN))


def test_an_object_that_cannot_be_read_is_unknown(
    bus: str, manager: FakeNetworkManager, listening: Callable[..., Listener]
) -> None:
    trusted = _trusted(bus)
    manager.broken.add("/org/freedesktop/NetworkManager/AccessPoint/7")
    assert listening(trusted, 0.05).next() == (UNKNOWN, UNKNOWN)


def test_no_bus_at_all_is_unknown(tmp_path: Path) -> None:
    listener = Listener()
    nowhere = f"unix:path={tmp_path / 'nothing'}"
    source = NetworkManagerSource(StillClock(), list, bus=nowhere)
    source.start(listener.posted.put)
    assert listener.next() == (UNKNOWN, UNKNOWN)
    source.stop()


def test_not_connected_is_said(bus: str, manager: FakeNetworkManager) -> None:
    manager.set_quietly(is_connected=False)
    with pytest.raises(ClientError, match="not connected"):
        network.current(bus)
