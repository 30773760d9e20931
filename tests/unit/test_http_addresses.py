"""Addresses from outside: networks, files of metadata, uploads and their tickets."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import NotFound, Refused
from server.http.api import metadata_file
from server.http.networks import network_of
from server.http.uploads import lease_of, offer_of, ticket_opens
from workunits.errors import LimitExceeded
from workunits.values import LeaseId
from workunits.wire import limits

LEASE = LeaseId(bytes(range(16)))
KEY = b"k" * 32
DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("127.0.0.1", None),
        ("127.3.2.1", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("203.0.113.77", "203.0.113.0/24"),
        ("::ffff:203.0.113.77", "203.0.113.0/24"),
        ("2001:db8:1:2ff::9", "2001:db8:1:200::/56"),
        ("2001:db8:1:2ff::9%eth0", "2001:db8:1:200::/56"),
        ("proxy", "unknown"),
        ("garbage, 1", "unknown"),
        (None, "unknown"),
    ],
)
def test_an_address_is_kept_as_its_network(host: str | None, network: str | None) -> None:
    assert network_of(host) == network


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "localhost", "", None])
def test_behind_a_proxy_nobody_is_this_machine(host: str | None) -> None:
    assert network_of(host, is_behind_proxy=True) == "unknown"
    assert network_of("203.0.113.77", is_behind_proxy=True) == "203.0.113.0/24"


def test_a_metadata_file_is_found_below_the_folder(tmp_path: Path) -> None:
    assert metadata_file(tmp_path, "/1.root.json") == tmp_path / "1.root.json"
    nested = metadata_file(tmp_path, "targets/ab.project.json")
    assert nested == tmp_path / "targets" / "ab.project.json"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "..",
        "../keys/root.pem",
        "targets/../../x",
        ".hidden",
        "a//b",
        "a\0b",
        "a\\..\\b",
        "ä",
    ],
)
def test_no_path_leads_elsewhere(tmp_path: Path, path: str) -> None:
    with pytest.raises(NotFound):
        metadata_file(tmp_path, path)


def test_a_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "metadata"
    folder.mkdir()
    (tmp_path / "secret").write_text("s")
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(NotFound):
        metadata_file(folder, "link")


@given(st.text(max_size=60))
def test_whatever_path_is_asked_it_stays_below(path: str) -> None:
    folder = Path("/srv/metadata")
    try:
        found = metadata_file(folder, path)
    except NotFound:
        return
    assert folder in found.parents


def test_only_its_own_ticket_opens_an_upload() -> None:
    ticket = hmac.digest(KEY, LEASE, "sha256")[:16].hex()
    assert ticket_opens(KEY, LEASE, f"Ticket {ticket}")
    assert ticket_opens(KEY, LEASE, f"ticket  {ticket.upper()}")
    assert not ticket_opens(KEY, LeaseId(bytes(16)), f"Ticket {ticket}")
    for wrong in (
        None,
        "",
        ticket,
        f"Bearer {ticket}",
        "Ticket ",
        f"Ticket {ticket}00",
        "Ticket é",
    ):
        assert not ticket_opens(KEY, LEASE, wrong)


def test_a_lease_is_named_by_its_32_digits() -> None:
    assert lease_of(LEASE.hex()) == LEASE
    for wrong in ("", "00", LEASE.hex() + "00", "g" * 32, " " + LEASE.hex()[1:]):
        with pytest.raises(NotFound):
            lease_of(wrong)


@pytest.mark.parametrize("wrong", [None, "", "-1", "1.0", "1e3", " 1", "٣", "9" * 16])
def test_an_offer_needs_plain_numbers(wrong: str | None) -> None:
    with pytest.raises(Refused):
        offer_of(LEASE, wrong, "10", DIGEST)
    with pytest.raises(Refused):
        offer_of(LEASE, "0", wrong, DIGEST)


def test_an_offer_needs_a_digest() -> None:
    for wrong in (None, "", "ab", "zz" * 32):
        with pytest.raises(Refused):
            offer_of(LEASE, "0", "10", wrong)


@pytest.mark.parametrize("size", [0, limits.TENSOR_PAYLOAD_BYTES + 1])
def test_an_offer_keeps_to_the_limit(size: int) -> None:
    with pytest.raises(LimitExceeded):
        offer_of(LEASE, "0", str(size), DIGEST)
