"""How much one vehicle gets, which replicas, and which names people may have."""

from __future__ import annotations

import pytest

from server.domain import names, pseudonyms
from server.domain.assignment import Pick, duration_s, leases_wanted, pick
from server.domain.records import BatchProgress
from server.domain.work import ReadyRow
from tests.support.server_rows import BATCH
from workunits.values import BatchId, Digest, Milliseconds, OwnerId
from workunits.wire.messages import Wish

OWNER = OwnerId(b"o" * 16)
OTHER = OwnerId(b"p" * 16)


def wish(units: int, seconds: int = 3600) -> Wish:
    return Wish(seconds=seconds, units=units, free_disk=0)


def ready(*places: tuple[int, int]) -> list[ReadyRow]:
    return [ReadyRow(number, unit, BatchId(bytes(16)), unit, 4, b"") for number, unit in places]


@pytest.mark.parametrize(
    ("wished", "held", "wanted"),
    [
        (wish(3), 0, 3),
        (wish(50), 48, 2),
        (wish(5), 60, 0),
        (wish(5, seconds=0), 0, 0),
        (wish(0), 0, 0),
        (None, 0, 0),
    ],
)
def test_a_vehicle_gets_what_it_wishes_within_what_it_may_hold(
    wished: Wish | None, held: int, wanted: int
) -> None:
    assert leases_wanted(wished, held, 50) == wanted


def test_picks_in_order_and_never_two_of_one_unit() -> None:
    rows = ready((1, 1), (2, 1), (3, 2), (4, 2), (5, 3))
    found = pick(rows, OWNER, {}, set(), 2)
    assert found == Pick((rows[0], rows[2]), seen_to=3)


def test_passes_over_units_of_its_own_and_what_is_gone() -> None:
    rows = ready((1, 1), (2, 2), (3, 3), (4, 4))
    found = pick(rows, OWNER, {1: {OWNER}, 2: {OTHER}}, {3}, 5)
    assert found == Pick((rows[1], rows[3]), seen_to=4)


def test_wanting_nothing_looks_at_nothing() -> None:
    assert pick(ready((1, 1)), OWNER, {}, set(), 0) == Pick((), 0)


def test_a_lease_ends_with_its_batch() -> None:
    assert duration_s(3600, Milliseconds(10_000_000), Milliseconds(0)) == 3600
    assert duration_s(3600, Milliseconds(10_999), Milliseconds(0)) == 10
    assert duration_s(3600, Milliseconds(0), Milliseconds(5_000)) == 0


@pytest.mark.parametrize(
    ("ready_", "leased", "owners", "waits"),
    [(1, 0, 1, True), (1, 0, 2, False), (1, 1, 1, False), (0, 0, 1, False)],
)
def test_a_batch_waits_for_an_owner_when_there_are_fewer_than_its_quorum(
    ready_: int, leased: int, owners: int, waits: bool
) -> None:
    assert BatchProgress(BATCH, ready_, leased, owners).waits_for_owner is waits


def test_names_are_tidied() -> None:
    assert pseudonyms.clean("  Amber   Lynx ", "owner") == "Amber Lynx"
    assert pseudonyms.clean("é", "owner") == "é"
    assert pseudonyms.key("ＡMBER") == pseudonyms.key("amber")


@pytest.mark.parametrize(
    "name", ["", "   ", "a" * 65, "a\nb", "a\u202eb", "a\u200bb", "\x00", "a\u2028b", "\ue000"]
)
def test_names_that_cannot_stand_on_a_page_are_refused(name: str) -> None:
    with pytest.raises(pseudonyms.BadName, match="owner"):
        pseudonyms.clean(name, "owner")


def test_invented_names_are_clean_and_erased_ones_say_nothing() -> None:
    name = pseudonyms.invented(bytes((3, 4, 0, 7)))
    assert name == pseudonyms.clean(name, "owner")
    assert name.endswith("-0007")
    assert pseudonyms.erased(b"\x01\x02") == "erased-0102"


def test_only_public_blobs_have_plain_names() -> None:
    digest = Digest(b"\x01" * 32)
    assert "/" not in names.public_blob(digest)
    assert names.output_blob(digest).startswith("outputs/")
    assert names.tree_blob(BatchId(bytes(16))).startswith("trees/")


@pytest.mark.parametrize(
    "name",
    ["\u3164", "\u2800", "bo\u034fb", "bob\ufe0f", "bob\u115f", "bob\U000e0101", "bob\u202e"],
)
def test_a_name_with_something_that_does_not_show_is_refused(name: str) -> None:
    with pytest.raises(pseudonyms.BadName, match="cannot be seen"):
        pseudonyms.clean(name, "owner")


def test_accents_are_fine_and_towers_of_them_are_not() -> None:
    assert pseudonyms.clean("Nguye\u0302\u0303n", "owner") == "Nguy\u1ec5n"
    assert pseudonyms.clean("x\u0336\u0301y", "owner") == "x\u0336\u0301y"
    with pytest.raises(pseudonyms.BadName, match="accents"):
        pseudonyms.clean("x\u0336\u0301\u0302y", "owner")


def test_spaces_of_every_width_are_one_space() -> None:
    assert pseudonyms.clean("bob\u2003\u00a0bob\u3000", "owner") == "bob bob"
