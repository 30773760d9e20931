"""The pages that people look at, and what they are dressed in.

Decides addresses, headers and which template shows what; the words are in `wording`. Every page is
whole without script, and the policy sent along allows none.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from importlib.resources import files
from typing import Final

import jinja2
import msgspec
from litestar import MediaType, Response, get
from litestar.params import FromPath, FromQuery
from litestar.response import Redirect

from server.domain.records import Standing
from server.errors import NotFound, Refused
from server.http import wording
from server.http.api import Open
from server.http.doors import Doors

_MEDIA: Final = {"css": "text/css", "svg": "image/svg+xml"}
# Beyond this the database would count through what nobody reads.
_PAGES: Final = 10_000
_SECURITY: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# The same page serves many readers for a minute; a reload after that asks again.
_PAGE_AGE: Final = "public, max-age=60"


class _Static:
    """The files of `static/`, each under an address that changes with its content."""

    def __init__(self) -> None:
        self.contents: dict[str, tuple[bytes, str]] = {}
        self.addresses: dict[str, str] = {}
        for file in files("server.http").joinpath("static").iterdir():
            raw = file.read_bytes()
            stem, _, kind = file.name.rpartition(".")
            hashed = f"{stem}.{hashlib.sha256(raw).hexdigest()[:12]}.{kind}"
            self.contents[hashed] = (raw, _MEDIA[kind])
            self.addresses[file.name] = f"/static/{hashed}"


_static: Final = _Static()
_templates: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("server.http"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.globals["static"] = _static.addresses
_templates.globals["words"] = wording


class StandingLine(msgspec.Struct, frozen=True):
    rank: int
    name: str
    credit_kflop: int


class StandingsPage(msgspec.Struct, frozen=True):
    """One page of the leaderboard, for programs."""

    period: str
    page: int
    has_more: bool
    standings: tuple[StandingLine, ...]


@get("/v1/leaderboard", sync_to_thread=True)
def leaderboard_json(
    doors: Open, period: FromQuery[str] = "30d", page: FromQuery[str] = "1"
) -> Response[bytes]:
    """Public owners by credit."""
    found = standings(doors, period, page)
    return Response(
        msgspec.json.encode(found),
        media_type="application/json",
        headers={"Cache-Control": _PAGE_AGE, "X-Content-Type-Options": "nosniff"},
    )


@get("/leaderboard", sync_to_thread=True)
def leaderboard(
    doors: Open, period: FromQuery[str] = "30d", page: FromQuery[str] = "1"
) -> Response[str]:
    """Public owners by credit, to look at."""
    found = standings(doors, period, page)
    if found.page > 1 and not found.standings:
        raise NotFound("there is no such page of the leaderboard")
    at = datetime.fromtimestamp(doors.clock.now_ms() // 1000, UTC)
    return _page("leaderboard.html", {"board": found, "at": at, "project": doors.project})


@get("/", sync_to_thread=False)
def start() -> Redirect:
    """The first page, until there is a better one."""
    return Redirect("/leaderboard", status_code=303)


@get("/static/{name:str}", sync_to_thread=False)
def static_file(name: FromPath[str]) -> Response[bytes]:
    """Style sheet and pictures."""
    found = _static.contents.get(name)
    if found is None:
        raise NotFound("there is no such file")
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(found[0], media_type=found[1], headers=headers)


def standings(doors: Doors, period: str, page: str) -> StandingsPage:
    """One page of the leaderboard.

    Raises:
        Refused: no such period, or no number of a page.
    """
    if not (page.isascii() and page.isdecimal() and len(page) <= 6 and int(page) <= _PAGES):
        raise Refused(f"page: use a number from 1 to {_PAGES}")
    number = int(page)
    found = doors.standings.page(period, number)
    beyond = doors.standings.page(period, number + 1)
    return StandingsPage(period, number, bool(beyond), tuple(_line(each) for each in found))


def notice(status: int, project: str) -> Response[str]:
    """The page that says in plain words why there is none."""
    is_missing = status < 500
    values: dict[str, object] = {
        "heading": wording.NOT_FOUND if is_missing else wording.OUR_FAULT,
        "more": wording.NOT_FOUND_MORE if is_missing else wording.OUR_FAULT_MORE,
        "project": project,
    }
    return _page("notice.html", values, status, "no-store")


def _line(standing: Standing) -> StandingLine:
    return StandingLine(standing.rank, standing.name, standing.credit_kflop)


def _page(
    template: str, values: dict[str, object], status: int = 200, age: str = _PAGE_AGE
) -> Response[str]:
    return Response(
        _templates.get_template(template).render(values),
        status_code=status,
        media_type=MediaType.HTML,
        headers={**_SECURITY, "Cache-Control": age},
    )


HANDLERS: Final = (leaderboard_json, leaderboard, start, static_file)
