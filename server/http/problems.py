"""Refusals over HTTP as RFC 9457 problem documents: one stable code per cause.

Decides which status and which words an error gets. An error that nobody foresaw becomes one line
without its text, because that text is for the log.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Final

import msgspec

from server.errors import Busy, Outage, Refused, ServerError
from workunits import errors as contract

CONTENT_TYPE: Final = "application/problem+json"
# Soon enough for a passing peak, late enough to let one pass.
RETRY_AFTER_S: Final = 5
# The hourly limits are counted over a sliding hour; a minute later a place may be free.
RETRY_AFTER_LIMIT_S: Final = 60

# After these the connection ends: what still comes of the body is unbounded or too slow.
_ENDS_CONNECTION: Final = frozenset({408, 413})

_log = logging.getLogger("server.http")

_CONTRACT_STATUS: Final[dict[type[contract.ContractError], int]] = {
    contract.LimitExceeded: 413,
    contract.WrongPayloadType: 415,
    contract.BadSignature: 403,
    contract.NotAuthorised: 403,
    contract.BadDigest: 422,
}


class BodyTooSlow(Refused):
    """The request did not arrive in the time that is given for it."""

    code = "too_slow"
    status = 408


class WrongContentType(Refused):
    """The body is of a kind that this address does not take."""

    code = "wrong_content_type"
    status = 415


class WrongMethod(Refused):
    """This address knows other methods."""

    code = "method_not_allowed"
    status = 405

    def __init__(self, allowed: str) -> None:
        super().__init__(f"use {allowed} here")
        self.allowed = allowed


class WrongOffset(Refused):
    """An upload goes on at another place than it stands."""

    code = "wrong_offset"
    status = 409

    def __init__(self, message: str, received: int) -> None:
        super().__init__(message)
        self.received = received


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a refused client gets; `code` is for programs, `detail` for people (PROTOCOL 10)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    received: int | None = None  # an upload: how many bytes are here
    allow: str | None = None  # the methods that are allowed here

    def headers(self) -> dict[str, str]:
        """The headers that belong to it, content type included."""
        found = {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"}
        if self.status in _ENDS_CONNECTION:
            found["Connection"] = "close"
        if self.allow is not None:
            found["Allow"] = self.allow
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            found["Retry-After"] = str(RETRY_AFTER_S)
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            found["Retry-After"] = str(RETRY_AFTER_LIMIT_S)
        return found

    def body(self) -> bytes:
        """The document."""
        return msgspec.json.encode(self)


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    received: int | None = None,
    allow: str | None = None,
) -> Problem:
    """A problem with the phrase of its status as title."""
    return Problem(
        type=f"urn:tesla-at-home:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        received=received,
        allow=allow,
    )


def of_error(error: Exception) -> Problem:
    """The problem that `error` is for the client; what is our own fault is logged."""
    if isinstance(error, contract.ContractError):
        return problem(_CONTRACT_STATUS.get(type(error), 400), error.code, str(error))
    if isinstance(error, WrongOffset):
        return problem(error.status, error.code, str(error), received=error.received)
    if isinstance(error, WrongMethod):
        return problem(error.status, error.code, str(error), allow=error.allowed)
    if isinstance(error, Refused | Busy):
        return problem(error.status, error.code, str(error))
    return _our_fault(error)


def of_status(status: int, detail: str) -> Problem:
    """A problem of HTTP itself: the code is the phrase, such as `method_not_allowed`."""
    code = HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")
    return problem(status, code, detail)


def _our_fault(error: Exception) -> Problem:
    if isinstance(error, Outage):
        _log.error("outage code=%s detail=%r", error.code, str(error))
        return problem(
            503, error.code, "the server cannot store anything at present; nothing is lost"
        )
    _log.error("fault kind=%s", type(error).__name__, exc_info=error)
    return problem(500, ServerError.code, "the server failed to answer; the fault is in its log")
