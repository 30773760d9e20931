"""The hot route: `POST /v1/work` as a bare ASGI handler, beside the framework for its speed.

Decides what of an envelope is refused before anything is stored (PROTOCOL 8.1): size, type, form and
signature. The signature is checked here in the loop's thread, because the check holds the
interpreter's lock and another thread would only add the cost of a switch.
"""

from __future__ import annotations

from typing import Final

from litestar.types import Receive, Scope, Send

from server.http import bodies, problems
from server.http.forgeries import Strangers
from server.http.gathering import Gathering
from server.services.exchange import Arrival
from workunits.trust import digests, envelope, roles
from workunits.wire import limits

PATH: Final = "/v1/work"

_TYPE: Final = (b"content-type", bodies.MESSAGE_TYPE.encode())
_PRIVATE: Final = (b"cache-control", b"no-store")
_HeaderList = list[tuple[bytes, bytes]]


class WorkRoute:
    """Answers work requests by way of the gathering."""

    def __init__(
        self, gathering: Gathering[Arrival, bytes], room: bodies.Room, strangers: Strangers
    ) -> None:
        self._gathering = gathering
        self._room = room
        self._strangers = strangers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(scope, receive)
        except bodies.Gone:
            return
        except Exception as error:
            await _refuse(send, problems.of_error(error))
        else:
            await _send(send, 200, [_TYPE, _PRIVATE], answer)

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        if scope["method"] != "POST":  # type: ignore[typeddict-item]
            raise problems.WrongMethod("POST")
        # The room is taken until the answer: what waits for its turn holds its attachments.
        host = _host(scope)
        with self._room.share(host) as share:
            with self._strangers.heard(host):
                arrival = arrival_of(await message_body(scope, receive, share))
            return await self._gathering.ask(arrival)


async def message_body(scope: Scope, receive: Receive, share: bodies.Share) -> bytes:
    """The packed message that a request carries, within its limits, held in `share`."""
    headers = scope["headers"]
    bodies.expect_message_type(
        bodies.header(headers, b"content-type"), bodies.header(headers, b"content-encoding")
    )
    bodies.expect_length(bodies.header(headers, b"content-length"), limits.MESSAGE_BYTES)
    return await bodies.whole(receive, limits.MESSAGE_BYTES, share)


def arrival_of(raw: bytes) -> Arrival:
    """A packed message as a verified work request.

    Raises:
        ContractError: it is not one, or not signed by the key inside it.
    """
    message = envelope.unpack_message(raw)
    request = roles.accept_request(message.envelope)
    return Arrival(
        request,
        digests.of_request(message.envelope.payload),
        envelope.by_digest(message, digests.of_tensors),
    )


def _host(scope: Scope) -> str | None:
    client = scope["client"]
    return client[0] if client else None


async def _refuse(send: Send, problem: problems.Problem) -> None:
    headers = [(k.lower().encode(), v.encode()) for k, v in problem.headers().items()]
    await _send(send, problem.status, headers, problem.body())


async def _send(send: Send, status: int, headers: _HeaderList, body: bytes) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
