"""`GET /v1/openapi.json`: the addresses for programs, described as OpenAPI 3.1 (PROTOCOL 10).

Schemas come from the structs that answers are encoded from. Addresses, headers and codes are written
down here, since the hottest handler stands beside the framework and messages are not JSON; a test
holds them against what is really routed and answered. Pages for people are not described.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from litestar import Response, get

from server.http.api import Health, Status
from server.http.bodies import MESSAGE_TYPE
from server.http.problems import CONTENT_TYPE, Problem
from server.http.uploads import Received
from server.http.web import StandingsPage
from workunits.wire import limits
from workunits.wire.messages import PROTOCOL_VERSION

Json = Mapping[str, object]
# Status -> media type and schema, or None where there is no body.
_Answers = Mapping[int, tuple[str, Json] | None]

_JSON: Final = "application/json"
_OCTETS: Final = "application/octet-stream"
_TEXT: Final[Json] = {"type": "string"}
_HEX_32: Final[Json] = {"type": "string", "pattern": "^[0-9a-fA-F]{32}$"}
_HEX_64: Final[Json] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_FILE: Final[Json] = {"type": "string", "pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}$"}
_SIZE: Final[Json] = {"type": "integer", "minimum": 0, "maximum": limits.TENSOR_PAYLOAD_BYTES}
_PAGE: Final[Json] = {"type": "integer", "minimum": 1, "maximum": 10_000}
_PERIOD: Final[Json] = {"type": "string", "enum": ["30d", "all"]}

# What a message may meet before it is understood, and what every address may when all is full.
_OF_MESSAGES: Final = (400, 403, 408, 409, 413, 415, 422, 429, 503)
_OF_READING: Final = (404, 503)
_OF_UPLOADS: Final = (400, 403, 404, 408, 409, 413, 422, 429, 503)


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    place: str  # path, query or header
    schema: Json
    required: bool = False

    def described(self) -> Json:
        return {
            "name": self.name,
            "in": self.place,
            "required": self.required,
            "schema": self.schema,
        }


@dataclass(frozen=True, slots=True)
class Operation:
    method: str
    path: str
    summary: str
    answers: _Answers
    refusals: Sequence[int] = ()
    parameters: Sequence[Parameter] = ()
    takes: str | None = None  # media type of the body
    has_ticket: bool = False  # of the lease, in Authorization

    def described(self) -> Json:
        answers = {str(code): _answer(content) for code, content in self.answers.items()}
        refusals = {str(code): _answer((CONTENT_TYPE, _of(Problem))) for code in self.refusals}
        described: dict[str, object] = {
            "summary": self.summary,
            "parameters": [parameter.described() for parameter in self.parameters],
            "responses": answers | refusals,
        }
        if self.has_ticket:
            described["security"] = [{"ticket": []}]
        if self.takes is not None:
            described["requestBody"] = {"required": True, "content": {self.takes: {}}}
        return described


def _of(kind: type[msgspec.Struct]) -> Json:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _answer(content: tuple[str, Json] | None) -> Json:
    if content is None:
        return {"description": "as the status says"}
    media, schema = content
    return {"description": "as the status says", "content": {media: {"schema": schema}}}


def _message(path: str, summary: str) -> Operation:
    answers: _Answers = {200: (MESSAGE_TYPE, {})}
    return Operation("post", path, summary, answers, _OF_MESSAGES, takes=MESSAGE_TYPE)


def _file(path: str, summary: str) -> tuple[Operation, ...]:
    parameters = [Parameter("file", "path", _FILE, required=True)]
    answers: _Answers = {200: ("*/*", {})}
    return (
        Operation("get", path, summary, answers, _OF_READING, parameters),
        Operation("head", path, summary, {200: None}, _OF_READING, parameters),
    )


_DIGEST: Final = (
    Parameter("digest", "path", _HEX_64, required=True),
    Parameter("range", "header", _TEXT),
    Parameter("if-none-match", "header", _TEXT),
    Parameter("if-range", "header", _TEXT),
)
_LEASE: Final = (Parameter("lease", "path", _HEX_32, required=True),)
_OFFER: Final = (
    Parameter("upload-offset", "header", _SIZE, required=True),
    Parameter("upload-length", "header", _SIZE, required=True),
    Parameter("upload-digest", "header", _HEX_64, required=True),
)
_BLOB_ANSWERS: Final[_Answers] = {200: (_OCTETS, {}), 206: (_OCTETS, {}), 304: None}

OPERATIONS: Final = (
    Operation("get", "/healthz", "Whether it answers at all", {200: (_JSON, _of(Health))}),
    Operation("get", "/v1/openapi.json", "This document", {200: (_JSON, {"type": "object"})}),
    Operation("get", "/v1/status", "What the project is doing", {200: (_JSON, _of(Status))},
               (503,)),
    Operation("get", "/v1/leaderboard", "Public owners by credit",
               {200: (_JSON, _of(StandingsPage))}, (400, 503),
               (Parameter("period", "query", _PERIOD), Parameter("page", "query", _PAGE))),
    _message("/v1/enrol", "A vehicle joins (PROTOCOL 5.2)"),
    _message("/v1/work", "Reports and leases (PROTOCOL 8)"),
    _message("/v1/leave", "A vehicle leaves (PROTOCOL 5.4)"),
    Operation("get", "/v1/blobs/{digest}", "Inputs, manifests, models, terms", _BLOB_ANSWERS,
               (404, 416, 503), _DIGEST),
    Operation("head", "/v1/blobs/{digest}", "How large it is", dict.fromkeys(_BLOB_ANSWERS),
               (404, 416, 503), _DIGEST),
    Operation("get", "/v1/uploads/{lease}", "How much of an output is here",
               {200: (_JSON, _of(Received))}, _OF_UPLOADS, _LEASE, has_ticket=True),
    Operation("patch", "/v1/uploads/{lease}", "More of an output (PROTOCOL 10.4)",
               {200: (_JSON, _of(Received))}, _OF_UPLOADS, (*_LEASE, *_OFFER), takes=_OCTETS,
               has_ticket=True),
    *_file("/metadata/{file}", "TUF metadata"),
    *_file("/metadata/targets/{file}", "TUF targets"),
)  # fmt: skip


def document() -> Json:
    """The whole description."""
    _, schemas = msgspec.json.schema_components(
        [Health, Status, StandingsPage, Received, Problem],
        ref_template="#/components/schemas/{name}",
    )
    paths: dict[str, dict[str, Json]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = operation.described()
    ticket = {"type": "apiKey", "in": "header", "name": "Authorization"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tesla@home", "version": str(PROTOCOL_VERSION)},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"ticket": ticket}},
    }


_ENCODED: Final = msgspec.json.encode(document())


@get("/v1/openapi.json", sync_to_thread=False)
def openapi() -> Response[bytes]:
    """The description."""
    return Response(_ENCODED, media_type=_JSON, headers={"Cache-Control": "public, max-age=3600"})


HANDLERS: Final = (openapi,)
