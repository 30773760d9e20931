"""`/v1/uploads/{lease}`: where an upload stands, and its next bytes (PROTOCOL 10.4).

Decides the order: one request at a time for each lease, what came is kept even when the client goes
away in the middle, and the end is checked before it is said. The rules are in `server.http.uploads`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

import msgspec
from litestar import Response, get, patch
from litestar.params import FromPath

from server.http import bodies
from server.http.api import Asked, Open
from server.http.uploads import Offer, Received, Uploads, lease_of, offer_of
from server.http.writers import Writers

# Written at once: large enough that threads and disks are not bothered for each packet.
_WRITE_BYTES: Final = 1024 * 1024


@get("/v1/uploads/{lease:str}", status_code=200)
async def upload_standing(request: Asked, doors: Open, lease: FromPath[str]) -> Response[bytes]:
    """How far an upload is."""
    named = lease_of(lease)
    uploads = doors.uploads
    await asyncio.to_thread(uploads.admit, named, request.headers.get("authorization"))
    async with doors.turns.of(named):
        return _json(await doors.writers.run(uploads.standing, named))


@patch("/v1/uploads/{lease:str}", status_code=200, request_max_body_size=None)
async def upload_more(request: Asked, doors: Open, lease: FromPath[str]) -> Response[bytes]:
    """The next bytes of an upload."""
    named, headers = lease_of(lease), request.headers
    uploads = doors.uploads
    held = await asyncio.to_thread(uploads.admit, named, headers.get("authorization"))
    offer = offer_of(
        named,
        headers.get("upload-offset"),
        headers.get("upload-length"),
        headers.get("upload-digest"),
    )
    offer = replace(offer, vehicle=held.vehicle_id)
    await asyncio.to_thread(uploads.expect_size, held, offer.size)
    async with doors.turns.of(named):
        return _json(await _take(request, uploads, doors.writers, offer))


async def _take(request: Asked, uploads: Uploads, writers: Writers, offer: Offer) -> Received:
    begun = await writers.run(uploads.begin, offer)
    if begun.complete:
        return begun
    bodies.expect_length(request.headers.get("content-length"), offer.size - offer.offset)
    try:
        await _keep(request, uploads, offer)
    finally:
        standing = await writers.run(uploads.touch, offer)
    if standing.received == offer.size:
        return await writers.run(uploads.finish, offer)
    return standing


async def _keep(request: Asked, uploads: Uploads, offer: Offer) -> None:
    gathered = bytearray()
    try:
        async for piece in bodies.pieces(request.receive, offer.size - offer.offset):
            gathered += piece
            if len(gathered) >= _WRITE_BYTES:
                await asyncio.to_thread(uploads.append, offer.lease, bytes(gathered))
                gathered.clear()
    finally:
        if gathered:
            await asyncio.to_thread(uploads.append, offer.lease, bytes(gathered))


def _json(received: Received) -> Response[bytes]:
    return Response(
        msgspec.json.encode(received),
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


HANDLERS: Final = (upload_standing, upload_more)
