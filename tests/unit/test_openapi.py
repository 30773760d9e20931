"""The description of the HTTP side is of what is really routed, encoded and refused."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from server.http import api, openapi, upload_routes, web, work
from server.http.problems import Problem

DESCRIBED = {(o.method.upper(), o.path.split("{")[0]) for o in openapi.OPERATIONS}
# For people, or a redirect to them.
PAGES = {"/", "/leaderboard", "/static/"}


def routed() -> set[tuple[str, str]]:
    """Method and path up to its first parameter, of every handler for programs."""
    handlers = (*api.HANDLERS, *upload_routes.HANDLERS, *web.HANDLERS, *openapi.HANDLERS)
    found = {
        (str(method), path.split("{")[0])
        for handler in handlers
        for path in handler.paths
        for method in handler.http_methods
    }
    return {(method, path) for method, path in found if path not in PAGES} | {("POST", work.PATH)}


def test_every_address_for_programs_is_described_and_no_other() -> None:
    # Targets lie below the metadata, in one route.
    assert {(m, p.replace("targets/", "")) for m, p in DESCRIBED} == routed()


def test_it_is_whole(tmp_path: Path) -> None:
    document = json.loads(msgspec.json.encode(openapi.document()))
    assert document["openapi"] == "3.1.0"
    schemas = document["components"]["schemas"]
    text = json.dumps(document)
    for name in schemas:
        assert f"#/components/schemas/{name}" in text
    assert set(schemas["Problem"]["required"]) == {"type", "title", "status", "detail", "code"}


@pytest.mark.parametrize("operation", openapi.OPERATIONS, ids=lambda o: f"{o.method} {o.path}")
def test_every_refusal_is_described_as_a_problem(operation: openapi.Operation) -> None:
    described = json.loads(msgspec.json.encode(operation.described()))
    for status in operation.refusals:
        content = described["responses"][str(status)]["content"]
        reference = f"#/components/schemas/{Problem.__name__}"
        assert content["application/problem+json"]["schema"] == {"$ref": reference}
