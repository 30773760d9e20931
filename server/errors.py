"""What the project's side raises on purpose.

`Refused` is a person's or a vehicle's input that cannot be taken (one line, a stable code, an HTTP
status), `Outage` is something this server depends on that did not answer, and anything else is a bug.
"""

from __future__ import annotations

from typing import ClassVar


class ServerError(Exception):
    """Root of this package's errors."""

    code: ClassVar[str] = "server_error"
    status: ClassVar[int] = 500


class Refused(ServerError):
    """The request cannot be carried out as given; the message says why and how to mend it."""

    code: ClassVar[str] = "refused"
    status: ClassVar[int] = 400


class NotFound(Refused):
    """There is no such thing."""

    code: ClassVar[str] = "not_found"
    status: ClassVar[int] = 404


class Conflict(Refused):
    """It is there already, or in a state that does not allow this."""

    code: ClassVar[str] = "conflict"
    status: ClassVar[int] = 409


class Forbidden(Refused):
    """A wrong code, ticket or invitation."""

    code: ClassVar[str] = "forbidden"
    status: ClassVar[int] = 403


class TooMany(Refused):
    """A rate limit; try again later."""

    code: ClassVar[str] = "too_many_requests"
    status: ClassVar[int] = 429


class NotAvailableYet(Refused):
    """A command or value that belongs to a later version."""

    code: ClassVar[str] = "not_available_yet"


class Outage(ServerError):
    """Something this server depends on failed: disk, database, child process."""

    code: ClassVar[str] = "outage"
    status: ClassVar[int] = 503


class Busy(Outage):
    """More arrives than is being committed; nothing was changed."""

    code: ClassVar[str] = "busy"


class Damaged(Outage):
    """What this server itself stored is gone or is not what was written; nobody else's fault."""

    code: ClassVar[str] = "damaged"


class StateChanged(Outage):
    """A row was no longer as it had been read, or a guard of the database said no; nothing was
    changed, and the same again may succeed."""

    code: ClassVar[str] = "state_changed"
