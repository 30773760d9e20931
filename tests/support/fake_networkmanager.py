"""A private bus, and on it a NetworkManager of our own with the real one's names and properties.

Only what the client reads: GetAll of three objects, and PropertiesChanged. What a test sets holds at
once and is announced, as the real one does.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    new_error,
    new_method_return,
    new_signal,
)
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, open_dbus_connection

NAME = "org.freedesktop.NetworkManager"
ROOT = "/org/freedesktop/NetworkManager"
ACTIVE = f"{ROOT}/ActiveConnection/1"
ACCESS_POINT = f"{ROOT}/AccessPoint/7"

_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
  </policy>
</busconfig>
"""


@contextlib.contextmanager
def private_bus(folder: Path, daemon: str) -> Iterator[str]:
    """A dbus-daemon of its own; gives its address."""
    config = folder / "bus.conf"
    config.write_text(_CONFIG.format(socket=folder / "bus"))
    command = [daemon, f"--config-file={config}", "--nofork", "--print-address=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@dataclass
class Connected:
    """What the computer is connected to."""

    kind: str = "802-11-wireless"
    identity: str = "6a1c2f0e-5f5e-4d7e-9d3c-000000000001"
    access_point: str = "02:00:00:AA:BB:CC"
    connectivity: int = 4
    metered: int = 4
    is_connected: bool = True


class FakeNetworkManager:
    """Owns the name until it is closed."""

    def __init__(self, address: str) -> None:
        self.connected = Connected()
        self.broken: set[str] = set()  # paths that answer with an error
        self._orders: queue.Queue[bool] = queue.Queue()
        self._connection = open_dbus_connection(bus=address)
        self._connection.send_and_get_reply(message_bus.RequestName(NAME))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def set(self, **changed: str | int | bool) -> None:
        """Change what it is connected to, and announce it."""
        self.set_quietly(**changed)
        self._orders.put(True)

    def set_quietly(self, **changed: str | int | bool) -> None:
        """Change it without a signal."""
        for name, value in changed.items():
            setattr(self.connected, name, value)

    def close(self) -> None:
        """Leave the bus, as a crashed NetworkManager does."""
        self._orders.put(False)
        self._thread.join()
        self._connection.close()

    def _serve(self) -> None:
        while True:
            with contextlib.suppress(queue.Empty):
                while True:
                    if not self._orders.get_nowait():
                        return
                    self._announce(self._connection)
            with contextlib.suppress(TimeoutError):
                self._answer(self._connection.receive(timeout=0.01))

    def _announce(self, connection: DBusConnection) -> None:
        address = DBusAddress(ROOT, interface="org.freedesktop.DBus.Properties")
        nothing: list[str] = []
        body = (NAME, {"Metered": ("u", self.connected.metered)}, nothing)
        connection.send(new_signal(address, "PropertiesChanged", "sa{sv}as", body))

    def _answer(self, message: Message) -> None:
        if message.header.message_type is not MessageType.method_call:
            return
        path = str(message.header.fields[HeaderFields.path])
        found = self._properties().get(path)
        if found is None or path in self.broken:
            reply = new_error(message, "org.freedesktop.DBus.Error.UnknownObject", "s", (path,))
        else:
            reply = new_method_return(message, "a{sv}", (found,))
        self._connection.send(reply)

    def _properties(self) -> dict[str, dict[str, tuple[str, object]]]:
        now = self.connected
        return {
            ROOT: {
                "PrimaryConnection": ("o", ACTIVE if now.is_connected else "/"),
                "PrimaryConnectionType": ("s", now.kind),
                "Metered": ("u", now.metered),
                "Connectivity": ("u", now.connectivity),
            },
            ACTIVE: {
                "Id": ("s", "Our home"),
                "Uuid": ("s", now.identity),
                "Type": ("s", now.kind),
                "SpecificObject": ("o", ACCESS_POINT if now.access_point else "/"),
            },
            ACCESS_POINT: {
                "Ssid": ("ay", b"Our home"),
                "HwAddress": ("s", now.access_point),
            },
        }
