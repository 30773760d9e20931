"""Pages and small documents over real HTTP: the leaderboard, status, errors, and their headers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

import msgspec
import pytest
import requests

from server.domain.records import ConsentRow, OwnerRow, VehicleRow
from server.domain.work import Crediting
from server.http import wording
from server.http.problems import Problem
from server.http.web import StandingsPage
from server.settings import STANDINGS_PER_PAGE
from tests.support.http_doors import Grounds, grounds
from workunits.trust import digests
from workunits.values import Digest, KeyId, Milliseconds, OwnerId, SessionId

COBBLESTONE = 432_000_000


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    with grounds(tmp_path_factory.mktemp("project")) as found:
        yield found


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    with grounds(tmp_path_factory.mktemp("project")) as found:
        add_owner(found, 1, "nightjar <i>", 3 * COBBLESTONE)
        add_owner(found, 2, "hidden owl", 5 * COBBLESTONE, is_public=False)
        for number in range(3, STANDINGS_PER_PAGE + 4):
            add_owner(found, number, f"owner {number}", number * 1000)
        yield found


def add_owner(site: Grounds, number: int, name: str, kflop: int, *, is_public: bool = True) -> None:
    owner = OwnerId(number.to_bytes(16, "big"))
    vehicle = KeyId(number.to_bytes(32, "big"))
    now = Milliseconds(1_800_000_000_000)
    with site.database.transaction() as repositories:
        repositories.owners.add(OwnerRow(owner, name, is_public, None, "active", now))
        repositories.vehicles.add(
            VehicleRow(
                vehicle, owner, bytes(32), "car", "active", None, "1", now, now,
                SessionId(bytes(16)), 0, digests.ZERO, None, None,
            ),
            ConsentRow(vehicle, Digest(bytes(32)), "1", now, "compute", now, Digest(bytes(32))),
        )  # fmt: skip
        repositories.credit.grant([Crediting(number, owner, vehicle, kflop, now, "valid")])


def ask(site: Grounds, path: str) -> requests.Response:
    return requests.get(site.url + path, timeout=30, allow_redirects=False)


class Page(HTMLParser):
    """What a reader, a screen reader and a strict policy look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def count(self, tag: str) -> int:
        return sum(1 for name, _ in self.tags if name == tag)

    def links(self) -> list[str]:
        return [attrs.get("href") or "" for name, attrs in self.tags if name == "a"]


PAGES = ("/leaderboard", "/leaderboard?period=all", "/leaderboard?page=2", "/nothing", "/?x=1")


@pytest.mark.parametrize("path", PAGES)
def test_pages_keep_to_a_strict_policy(busy: Grounds, path: str) -> None:
    answer = requests.get(busy.url + path, timeout=30)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert not re.search(r"<style|<script|\sstyle=|\son\w+=|javascript:", answer.text)


@pytest.mark.parametrize("path", PAGES)
def test_pages_can_be_read_by_everybody(busy: Grounds, path: str) -> None:
    page = Page(requests.get(busy.url + path, timeout=30).text)
    assert [page.count(tag) for tag in ("h1", "main", "header", "footer")] == [1, 1, 1, 1]
    assert ("html", {"lang": "en"}) in page.tags
    assert page.links()[0] == "#main"
    assert all("alt" in attrs for tag, attrs in page.tags if tag == "img")
    assert all(attrs.get("scope") for tag, attrs in page.tags if tag == "th")


@pytest.mark.parametrize("path", PAGES)
def test_every_local_link_leads_somewhere(busy: Grounds, path: str) -> None:
    page = Page(requests.get(busy.url + path, timeout=30).text)
    addresses = [
        attrs.get("href") or attrs.get("src") or ""
        for tag, attrs in page.tags
        if tag in ("a", "link", "img")
    ]
    for address in (a for a in addresses if a.startswith("/")):
        assert ask(busy, address).status_code == 200, address


def test_the_leaderboard_shows_who_wants_to_be_seen(busy: Grounds) -> None:
    answer = ask(busy, "/leaderboard?period=all")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "nightjar &lt;i&gt;" in answer.text
    assert "<i>" not in answer.text
    assert "hidden owl" not in answer.text
    assert wording.credit(3 * COBBLESTONE) in answer.text
    assert "Night &amp; Co &lt;b&gt;" in answer.text


def test_the_leaderboard_is_paged(busy: Grounds) -> None:
    first = Page(ask(busy, "/leaderboard?period=all").text)
    assert "/leaderboard?period=all&page=2" in first.links()
    second = Page(ask(busy, "/leaderboard?period=all&page=2").text)
    assert "/leaderboard?period=all&page=1" in second.links()
    assert "/leaderboard?period=all&page=3" not in second.links()
    assert first.count("tr") == STANDINGS_PER_PAGE + 1
    assert second.count("tr") == 2 + 1


def test_the_leaderboard_for_programs(busy: Grounds) -> None:
    answer = ask(busy, "/v1/leaderboard?period=all")
    page = msgspec.json.decode(answer.content, type=StandingsPage)
    assert (page.period, page.page, page.has_more) == ("all", 1, True)
    assert len(page.standings) == STANDINGS_PER_PAGE
    assert page.standings[0].name == "nightjar <i>"
    assert page.standings[0].credit_kflop == 3 * COBBLESTONE
    assert [line.rank for line in page.standings] == list(range(1, STANDINGS_PER_PAGE + 1))
    last = msgspec.json.decode(
        ask(busy, "/v1/leaderboard?period=all&page=2").content, type=StandingsPage
    )
    assert (len(last.standings), last.has_more) == (2, False)


@pytest.mark.parametrize("query", ["period=year", "page=0", "page=-1", "page=x", "page=99999999"])
def test_a_wrong_page_is_told_so(busy: Grounds, query: str) -> None:
    answer = ask(busy, f"/v1/leaderboard?{query}")
    assert answer.status_code == 400
    assert msgspec.json.decode(answer.content, type=Problem).code == "refused"
    page = ask(busy, f"/leaderboard?{query}")
    assert page.status_code == 400
    assert wording.NOT_FOUND in page.text


def test_an_empty_leaderboard_says_what_comes_next(empty: Grounds) -> None:
    answer = ask(empty, "/leaderboard")
    assert answer.status_code == 200
    assert wording.NOBODY_YET in answer.text
    assert "<table" not in answer.text
    assert ask(empty, "/leaderboard?page=2").status_code == 404


def test_the_first_page_leads_to_the_leaderboard(empty: Grounds) -> None:
    answer = ask(empty, "/")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/leaderboard")


def test_the_style_sheet_never_changes_under_its_address(empty: Grounds) -> None:
    page = ask(empty, "/leaderboard").text
    found = re.search(r"/static/style\.[0-9a-f]{12}\.css", page)
    assert found is not None
    answer = ask(empty, found[0])
    assert answer.headers["Content-Type"].startswith("text/css")
    assert "immutable" in answer.headers["Cache-Control"]
    assert ask(empty, "/static/style.css").status_code == 404
    assert ask(empty, "/static/..%2Fweb.py").status_code == 404


def test_a_missing_page_says_so_in_plain_words(empty: Grounds) -> None:
    answer = ask(empty, "/owners/nobody")
    assert answer.status_code == 404
    assert wording.NOT_FOUND in answer.text
    assert answer.headers["Content-Type"].startswith("text/html")


def test_a_missing_address_for_programs_is_a_document(empty: Grounds) -> None:
    for path in ("/v1/", "/v1/nothing", "/v1/blobs"):
        answer = ask(empty, path)
        assert answer.status_code == 404
        assert msgspec.json.decode(answer.content, type=Problem).code == "not_found"


def test_a_wrong_method_names_the_right_ones(empty: Grounds) -> None:
    answer = requests.post(f"{empty.url}/v1/status", timeout=30)
    assert answer.status_code == 405
    assert msgspec.json.decode(answer.content, type=Problem).code == "method_not_allowed"
    assert "GET" in answer.headers["Allow"]


def test_status_and_health(busy: Grounds) -> None:
    assert ask(busy, "/healthz").json() == {"status": "ok"}
    status = ask(busy, "/v1/status").json()
    assert status["project"] == "Night & Co <b>"
    assert status["owners"] == STANDINGS_PER_PAGE + 3
    assert status["batches_running"] == 0
