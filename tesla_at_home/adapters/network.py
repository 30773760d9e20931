"""Whether this computer is on its owner's network, as NetworkManager says over D-Bus.

Decides what counts as home: a connection that the owner trusted while being on it, known by its
NetworkManager identity together with the access point's address, fully connected. Names of networks
stay in this process; kept are salted digests, posted are yes, no and unknown.
Source: NetworkManager's D-Bus introspection, NMMetered, NMConnectivityState.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from jeepney import DBusAddress, MatchRule, Message, MessageType, new_method_call
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, open_dbus_connection
from jeepney.wrappers import DBusErrorResponse

from tesla_at_home.errors import ClientError
from tesla_at_home.policy.signals import POLLED_MAX_AGE_INTERVALS, Heard, Reading, Signal
from tesla_at_home.ports import Clock

SOURCE: Final = "NetworkManager"
_NAME: Final = "org.freedesktop.NetworkManager"
_ROOT: Final = "/org/freedesktop/NetworkManager"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
WIFI: Final = "802-11-wireless"
WIRED: Final = "802-3-ethernet"

# Changes are pushed; the poll only finds out that NetworkManager has gone without a word.
POLL_S: Final = 10.0
_ANSWER_S: Final = 5.0
_RECONNECT_S: Final = 5.0

_FULL: Final = 4  # NMConnectivityState
_NO_CONNECTIVITY_KNOWN: Final = 0
# NMMetered: YES, NO, GUESS_YES, GUESS_NO; its UNKNOWN is ours, too.
_METERED: Final = {1: True, 2: False, 3: True, 4: False}
_SALT_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Network:
    """The primary connection. `identity` and `access_point` never leave this computer."""

    kind: str  # NetworkManager's type; empty: not connected
    identity: str = ""  # the connection's UUID
    access_point: str = ""  # BSSID, Wi-Fi only
    connectivity: int = 0
    metered: int = 0


class NetworkManagerSource:
    """The port `VehicleSource` for `home_wifi` and `metered`."""

    def __init__(
        self,
        clock: Clock,
        trusted: Callable[[], Iterable[str]],
        *,
        bus: str = "SYSTEM",
        poll_s: float = POLL_S,
    ) -> None:
        self._clock = clock
        self._trusted = trusted
        self._bus = bus
        self._poll_s = poll_s
        self._stopped = threading.Event()
        self._connection: DBusConnection | None = None
        self._thread: threading.Thread | None = None

    @property
    def calm_s(self) -> float | None:
        return None

    def start(self, post: Callable[[Heard], None]) -> None:
        self._thread = threading.Thread(
            target=self._live, args=(post,), name="networkmanager", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        connection = self._connection
        if connection is not None:
            # Wakes the thread that waits for a signal.
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join()

    def count(self, steps: int, units: int) -> None:
        pass

    def _live(self, post: Callable[[Heard], None]) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(OSError, DBusErrorResponse, ValueError, KeyError):
                self._watch(post)
            if not self._stopped.is_set():
                post(self._heard(None, None))
                self._stopped.wait(min(self._poll_s, _RECONNECT_S))

    def _watch(self, post: Callable[[Heard], None]) -> None:
        """Tell how things are, after every change and every poll, until the bus is gone."""
        with open_dbus_connection(bus=self._bus) as connection:
            self._connection = connection
            changes: deque[Message] = deque(maxlen=1)
            with contextlib.ExitStack() as filters:
                for rule in _rules():
                    filters.enter_context(connection.filter(rule, queue=changes))
                    _call(connection, message_bus.AddMatch(rule))
                while not self._stopped.is_set():
                    changes.clear()
                    found = look(connection)
                    post(self._heard(is_home(found, self._trusted()), is_metered(found)))
                    with contextlib.suppress(TimeoutError):
                        connection.recv_until_filtered(changes, timeout=self._poll_s)

    def _heard(self, home: bool | None, metered: bool | None) -> Heard:
        at_s = self._clock.boot_s()
        age_s = self._poll_s * POLLED_MAX_AGE_INTERVALS
        said: tuple[tuple[Signal, bool | None], ...] = (("home_wifi", home), ("metered", metered))
        return Heard(tuple(Reading(s, value, SOURCE, at_s, age_s) for s, value in said))


def current(bus: str = "SYSTEM") -> Network:
    """The network that this computer is on now.

    Raises:
        ClientError: no NetworkManager here, or not connected.
    """
    try:
        with open_dbus_connection(bus=bus) as connection:
            found = look(connection)
    except (OSError, DBusErrorResponse, ValueError, KeyError):
        raise ClientError(
            "NetworkManager does not answer on this computer; without it the home network cannot "
            "be told from others"
        ) from None
    if not found.kind:
        raise ClientError("this computer is not connected to a network")
    return found


def trust(network: Network, *, wired: bool) -> str:
    """What is kept of a network that the owner trusts.

    Raises:
        ClientError: neither Wi-Fi nor wired, or wired without the owner saying so.
    """
    if network.kind == WIRED and not wired:
        raise ClientError(
            "this is a wired connection; say --wired if it is one that only this home has"
        )
    if network.kind not in (WIFI, WIRED):
        raise ClientError(f"a connection of type {network.kind} cannot be a home network")
    return _digest(network, secrets.token_hex(_SALT_BYTES))


def is_trusted(network: Network, trusted: Iterable[str]) -> bool:
    """Whether the owner has trusted this network, wherever it may lead now."""
    return any(_digest(network, kept.partition(":")[0]) == kept for kept in trusted)


def is_home(network: Network, trusted: Iterable[str]) -> bool | None:
    """Whether this is a trusted network that leads somewhere; None where that is not known."""
    if not is_trusted(network, trusted):
        return False
    if network.connectivity == _NO_CONNECTIVITY_KNOWN:
        return None
    return network.connectivity == _FULL


def is_metered(network: Network) -> bool | None:
    """Whether the owner pays by the byte; None where NetworkManager does not know."""
    return _METERED.get(network.metered)


def look(connection: DBusConnection) -> Network:
    """The primary connection as NetworkManager tells it now."""
    root = _properties(connection, _ROOT, _NAME)
    connectivity, metered = _number(root["Connectivity"]), _number(root["Metered"])
    active_path = str(root["PrimaryConnection"])
    if active_path == "/":
        return Network("", connectivity=connectivity, metered=metered)
    active = _properties(connection, active_path, f"{_NAME}.Connection.Active")
    kind = str(active["Type"])
    access_point = ""
    if kind == WIFI:
        beside = _properties(connection, str(active["SpecificObject"]), f"{_NAME}.AccessPoint")
        access_point = str(beside["HwAddress"])
    return Network(kind, str(active["Uuid"]), access_point, connectivity, metered)


def _digest(network: Network, salt: str) -> str:
    parts = (salt, network.kind, network.identity, network.access_point.lower())
    return f"{salt}:{hashlib.sha256('|'.join(parts).encode()).hexdigest()}"


def _properties(connection: DBusConnection, path: str, interface: str) -> dict[str, object]:
    address = DBusAddress(path, bus_name=_NAME, interface=_PROPERTIES)
    (found,) = _call(connection, new_method_call(address, "GetAll", "s", (interface,)))
    if not isinstance(found, dict):
        raise ValueError("not a dictionary of properties")
    return {str(name): value for name, (_, value) in found.items()}


def _call(connection: DBusConnection, message: Message) -> tuple[object, ...]:
    reply = connection.send_and_get_reply(message, timeout=_ANSWER_S)
    if reply.header.message_type == MessageType.error:
        raise DBusErrorResponse(reply)
    body: tuple[object, ...] = reply.body
    return body


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise ValueError("not a number")
    return value


def _rules() -> tuple[MatchRule, ...]:
    """A change below NetworkManager's root, or NetworkManager itself coming and going."""
    changed = MatchRule(
        type="signal", interface=_PROPERTIES, member="PropertiesChanged", path_namespace=_ROOT
    )
    owner = MatchRule(
        type="signal", interface="org.freedesktop.DBus", member="NameOwnerChanged",
        sender="org.freedesktop.DBus",
    )  # fmt: skip
    owner.add_arg_condition(0, _NAME)
    return changed, owner
