"""The machine-readable part of the server but for work requests: joining, blobs, uploads, metadata.

Decides addresses, methods and headers (PROTOCOL 10). Each handler calls one service in a thread and
gives its answer back; whatever they raise becomes a problem document in `server.http.front`.
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from pathlib import Path
from typing import Final

import msgspec
from litestar import Request, Response, get, post, route
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.enums import HttpMethod
from litestar.params import FromPath
from litestar.response import Stream

from server.domain.records import ProjectTotals
from server.errors import NotFound
from server.http import bodies, ranges
from server.http.doors import Doors
from server.http.networks import network_of
from server.http.work import message_body
from workunits.trust import digests, envelope, roles

Open = NamedDependency[Doors]
Asked = Request[None, None, State]

_BLOB: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}", re.ASCII)
_READS: Final = [HttpMethod.GET, HttpMethod.HEAD]
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_OCTETS: Final = "application/octet-stream"


class Health(msgspec.Struct, frozen=True):
    status: str


class Status(msgspec.Struct, frozen=True):
    """What anyone may know about the project."""

    project: str
    server_time_ms: int
    owners: int
    vehicles: int
    batches_running: int
    replicas_leased: int
    units_to_check: int
    credit_kflop: int


@get("/healthz", sync_to_thread=False)
def healthz() -> Response[bytes]:
    """Whether the process answers at all."""
    return _json(Health("ok"))


@get("/v1/status", sync_to_thread=True)
def status(doors: Open) -> Response[bytes]:
    """What the project is doing."""
    with doors.database.reading() as repositories:
        totals: ProjectTotals = repositories.credit.totals()
    return _json(
        Status(
            project=doors.project,
            server_time_ms=doors.clock.now_ms(),
            owners=totals.owners,
            vehicles=totals.vehicles,
            batches_running=totals.batches_running,
            replicas_leased=totals.replicas_leased,
            units_to_check=totals.units_to_check,
            credit_kflop=totals.credit_kflop,
        )
    )


@post("/v1/enrol", status_code=200)
async def enrol(request: Asked, doors: Open) -> Response[bytes]:
    """A vehicle joins."""
    host = request.client.host if request.client else None
    network = network_of(host, is_behind_proxy=doors.is_behind_proxy)
    with doors.room.share(host) as share:
        with doors.strangers.heard(host):
            raw = await message_body(request.scope, request.receive, share)
            message = envelope.unpack_message(raw)
            wanted = roles.accept_enrolment(message.envelope)
        digest = digests.of_request(message.envelope.payload)
        answer = await doors.writers.run(doors.enrolments.enrol, wanted, digest, network)
    return _message(envelope.pack_message(answer))


@post("/v1/leave", status_code=200)
async def leave(request: Asked, doors: Open) -> Response[bytes]:
    """A vehicle, and with it perhaps its owner, leaves."""
    host = request.client.host if request.client else None
    with doors.room.share(host) as share:
        with doors.strangers.heard(host):
            raw = await message_body(request.scope, request.receive, share)
            message = envelope.unpack_message(raw)
            wanted = roles.accept_departure(message.envelope)
        digest = digests.of_request(message.envelope.payload)
        answer = await doors.writers.run(doors.enrolments.leave, wanted, digest)
    return _message(envelope.pack_message(answer))


@route("/v1/blobs/{name:str}", http_method=_READS, status_code=200)
async def blob(request: Asked, doors: Open, name: FromPath[str]) -> Response[bytes] | Stream:
    """A model, a manifest, a large input or the terms, by digest."""
    size = await asyncio.to_thread(doors.blobs.size, name) if _BLOB.fullmatch(name) else None
    if size is None:
        raise NotFound("there is no such blob")
    tag = f'"{name}"'
    headers = {"ETag": tag, "Accept-Ranges": "bytes", "Cache-Control": _FOR_EVER}
    if _names(request.headers.get("if-none-match"), tag):
        return Response(b"", status_code=304, headers=headers)
    wanted = request.headers.get("range")
    if request.headers.get("if-range", tag) != tag:
        wanted = None
    part = ranges.asked_for(wanted, size)
    return _part(request, doors, name, part, size, headers)


@route("/metadata/{path:path}", http_method=_READS, status_code=200, sync_to_thread=True)
def metadata(request: Asked, doors: Open, path: FromPath[Path]) -> Response[bytes]:
    """A file of the TUF metadata, as it lies in the folder."""
    file = metadata_file(doors.metadata, str(path))
    try:
        raw = file.read_bytes()
    except OSError:
        raise NotFound("there is no such metadata") from None
    headers = {"Content-Length": str(len(raw)), "Cache-Control": _freshness(file.name)}
    media = "application/json" if file.suffix == ".json" else _OCTETS
    body = b"" if request.method == HttpMethod.HEAD else raw
    return Response(body, headers=headers, media_type=media)


def metadata_file(folder: Path, path: str) -> Path:
    """The file that `path` names below `folder`.

    Raises:
        NotFound: it names nothing, or something elsewhere.
    """
    segments = path.strip("/").split("/")
    if not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise NotFound("there is no such metadata")
    file = folder.joinpath(*segments)
    # A link inside the folder must not lead out of it.
    if not file.resolve().is_relative_to(folder.resolve()):
        raise NotFound("there is no such metadata")
    return file


def _part(
    request: Asked,
    doors: Doors,
    name: str,
    part: ranges.Slice | None,
    size: int,
    headers: dict[str, str],
) -> Response[bytes] | Stream:
    sent = part or ranges.Slice(0, size, size)
    headers["Content-Length"] = str(sent.end - sent.start)
    if part is not None:
        headers["Content-Range"] = part.content_range()
    code = HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT
    if request.method == HttpMethod.HEAD:
        return Response(b"", status_code=code, headers=headers, media_type=_OCTETS)
    chunks = doors.blobs.chunks(name, sent.start, sent.end)
    return Stream(chunks, status_code=code, headers=headers, media_type=_OCTETS)


def _names(if_none_match: str | None, tag: str) -> bool:
    tags = [each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")]
    return tag in tags or tags == ["*"]


def _freshness(name: str) -> str:
    """Numbered and hashed files never change; the timestamp is what says what is new."""
    return "no-cache" if name == "timestamp.json" else _FOR_EVER


def _json(value: msgspec.Struct) -> Response[bytes]:
    return Response(
        msgspec.json.encode(value),
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _message(raw: bytes) -> Response[bytes]:
    return Response(raw, media_type=bodies.MESSAGE_TYPE, headers={"Cache-Control": "no-store"})


HANDLERS: Final = (healthz, status, enrol, leave, blob, metadata)
