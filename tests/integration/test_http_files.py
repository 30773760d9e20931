"""Blobs by range and metadata files, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
import requests

from server.http.problems import Problem
from tests.support.http_doors import Grounds, grounds
from workunits.trust import digests

PAYLOAD = bytes(range(256)) * 4096  # 1 MiB
NAME = digests.plain(PAYLOAD).hex()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    with grounds(tmp_path_factory.mktemp("project")) as found:
        found.blobs.put(NAME, PAYLOAD)
        found.blobs.put(f"outputs/{NAME}", b"somebody's result")
        (found.folder / "metadata" / "timestamp.json").write_bytes(b'{"t": 1}')
        (found.folder / "metadata" / "1.root.json").write_bytes(b'{"r": 1}')
        targets = found.folder / "metadata" / "targets"
        targets.mkdir()
        (targets / "ab.terms.txt").write_bytes(b"terms")
        (found.folder / "secret.pem").write_bytes(b"secret")
        yield found


def ask(site: Grounds, path: str, method: str = "GET", **headers: str) -> requests.Response:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return requests.request(
        method, site.url + path, headers=named, timeout=30, allow_redirects=False
    )


def test_a_blob_comes_whole_and_for_ever(site: Grounds) -> None:
    answer = ask(site, f"/v1/blobs/{NAME}")
    assert (answer.status_code, answer.content) == (200, PAYLOAD)
    assert answer.headers["Content-Length"] == str(len(PAYLOAD))
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["ETag"] == f'"{NAME}"'
    assert "immutable" in answer.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-99", 0, 100), ("bytes=1000000-", 1_000_000, 1 << 20), ("bytes=-5", -5, 1 << 20)],
)
def test_a_part_of_a_blob(site: Grounds, asked: str, start: int, end: int) -> None:
    answer = ask(site, f"/v1/blobs/{NAME}", range=asked)
    assert (answer.status_code, answer.content) == (206, PAYLOAD[start:end])
    first = start % (1 << 20)
    assert answer.headers["Content-Range"] == f"bytes {first}-{end - 1}/{1 << 20}"
    assert answer.headers["Content-Length"] == str(end - first)


def test_a_download_goes_on_where_it_stopped(site: Grounds) -> None:
    received = b""
    while len(received) < len(PAYLOAD):
        answer = ask(
            site,
            f"/v1/blobs/{NAME}",
            range=f"bytes={len(received)}-{len(received) + 300_000}",
            if_range=f'"{NAME}"',
        )
        assert answer.status_code == 206
        received += answer.content
    assert received == PAYLOAD


def test_a_part_of_another_version_gives_the_whole(site: Grounds) -> None:
    answer = ask(site, f"/v1/blobs/{NAME}", range="bytes=5-", if_range='"other"')
    assert (answer.status_code, len(answer.content)) == (200, len(PAYLOAD))


def test_a_range_past_the_end(site: Grounds) -> None:
    answer = ask(site, f"/v1/blobs/{NAME}", range="bytes=1048576-")
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == "bytes */1048576"
    assert msgspec.json.decode(answer.content, type=Problem).code == "range_not_satisfiable"


def test_head_tells_the_size_and_sends_nothing(site: Grounds) -> None:
    answer = ask(site, f"/v1/blobs/{NAME}", "HEAD")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Length"] == str(len(PAYLOAD))


def test_what_the_client_has_is_not_sent_again(site: Grounds) -> None:
    for tags in (f'"{NAME}"', f'"x", W/"{NAME}"', "*"):
        answer = ask(site, f"/v1/blobs/{NAME}", if_none_match=tags)
        assert (answer.status_code, answer.content) == (304, b"")
    assert ask(site, f"/v1/blobs/{NAME}", if_none_match='"x"').status_code == 200


@pytest.mark.parametrize(
    "name",
    ["00" * 32, NAME.upper(), "ab", "", f"outputs/{NAME}", f"outputs%2F{NAME}", "..%2Fsecret.pem"],
)
def test_no_other_name_is_a_blob(site: Grounds, name: str) -> None:
    answer = ask(site, f"/v1/blobs/{name}")
    assert answer.status_code == 404
    assert msgspec.json.decode(answer.content, type=Problem).code == "not_found"


def test_metadata_is_served_as_it_lies_there(site: Grounds) -> None:
    root = ask(site, "/metadata/1.root.json")
    assert (root.status_code, root.content) == (200, b'{"r": 1}')
    assert root.headers["Content-Type"] == "application/json"
    assert "immutable" in root.headers["Cache-Control"]
    newest = ask(site, "/metadata/timestamp.json")
    assert (newest.content, newest.headers["Cache-Control"]) == (b'{"t": 1}', "no-cache")
    assert ask(site, "/metadata/targets/ab.terms.txt").content == b"terms"
    head = ask(site, "/metadata/1.root.json", "HEAD")
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", "8")


@pytest.mark.parametrize(
    "path",
    [
        "2.root.json",
        "targets",
        "",
        "..%2Fsecret.pem",
        "%2e%2e/secret.pem",
        "targets/..%2f..%2fsecret.pem",
        "1.root.json%00",
        "%2Fetc%2Fpasswd",
    ],
)
def test_nothing_else_is_metadata(site: Grounds, path: str) -> None:
    answer = ask(site, f"/metadata/{path}")
    assert answer.status_code == 404
    assert b"secret" not in answer.content
    assert "no-store" in answer.headers["Cache-Control"]
