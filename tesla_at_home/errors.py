"""What the vehicle's side raises on purpose.

`ClientError` is what the owner can mend (one line on stderr, exit 1), `Unreachable` an outage of the
link or the server (retried, never shown as a fault), `Untrusted` a server or mirror whose words do
not check out (refused, said in one line, work is kept).
"""

from __future__ import annotations

from typing import ClassVar


class TeslaAtHomeError(Exception):
    """Root of this package's errors."""

    code: ClassVar[str] = "client_error"


class ClientError(TeslaAtHomeError):
    """Something the owner can mend; the message says what, where and how."""


class NotJoined(ClientError):
    """This directory belongs to no project yet."""

    code: ClassVar[str] = "not_joined"


class AlreadyRunning(ClientError):
    """Another `run` holds this directory."""

    code: ClassVar[str] = "already_running"


class BadSetting(ClientError):
    """An unknown setting or a value out of its bounds."""

    code: ClassVar[str] = "bad_setting"


class BadScript(ClientError):
    """A scripted vehicle's file with an unknown key or signal."""

    code: ClassVar[str] = "bad_script"


class UnknownVehicle(ClientError):
    """A `--vehicle` of a kind that does not exist."""

    code: ClassVar[str] = "unknown_vehicle"


class CannotSave(ClientError):
    """The disk takes no changes now (full, read-only, held by another program): the same again later."""

    code: ClassVar[str] = "cannot_save"


class StoreDamaged(ClientError):
    """The agent's database cannot be believed any more; `run` sets it aside and begins a new one."""

    code: ClassVar[str] = "store_damaged"


class NotAvailableYet(ClientError):
    """A command or value that belongs to a later version."""

    code: ClassVar[str] = "not_available_yet"


class Unreachable(TeslaAtHomeError):
    """No answer from the server that counts: no link, a stall, a proxy's page, 5xx."""

    code: ClassVar[str] = "unreachable"


class Cancelled(Unreachable):
    """A transfer that was ended from this side, because the network is no longer ours to use."""

    code: ClassVar[str] = "cancelled"


class NotThere(Unreachable):
    """The server answers, and says that it has nothing under this path."""

    code: ClassVar[str] = "not_there"


class Told(Unreachable):
    """An unsigned refusal (problem document): kept work stays kept."""

    code: ClassVar[str] = "told"

    def __init__(self, status: int, problem: str, detail: str, retry_after_s: int | None) -> None:
        super().__init__(f"{status} {problem}: {detail}")
        self.status = status
        self.problem = problem
        self.detail = detail
        self.retry_after_s = retry_after_s


class Untrusted(TeslaAtHomeError):
    """What came is not signed by who may sign it, or is not what was signed."""

    code: ClassVar[str] = "untrusted"
