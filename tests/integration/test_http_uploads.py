"""Resumable uploads over real HTTP: tickets, offsets, interruptions, digests."""

from __future__ import annotations

import hmac
import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import requests

from server.domain.names import output_blob
from server.domain.records import BatchRow, ConsentRow, NewUnit, OwnerRow, VehicleRow
from server.domain.work import LeaseGrant, ReplicaEnd, ReportTaken
from server.http.problems import Problem
from server.http.uploads import Received
from tests.support.http_doors import TICKET_KEY, Grounds, grounds
from workunits.trust import digests
from workunits.values import (
    BatchId,
    Digest,
    KeyId,
    LeaseId,
    Milliseconds,
    OwnerId,
    SessionId,
)
from workunits.wire import limits, tensors
from workunits.wire.messages import TensorSpec

SIZE = 2_800_000  # several pieces
OUTPUTS = (TensorSpec(name="y", dtype="uint8", shape=(SIZE - 80,)),)
PAYLOAD = b"result " * (tensors.payload_bytes(OUTPUTS, 1) // 7 + 1)
PAYLOAD = PAYLOAD[: tensors.payload_bytes(OUTPUTS, 1)]
DIGEST = digests.of_tensors(PAYLOAD)
NOW = Milliseconds(1_800_000_000_000)
BATCH = BatchId(b"b" * 16)
OWNER = OwnerId(b"o" * 16)
VEHICLE = KeyId(b"v" * 32)
UNITS = 48


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    with grounds(tmp_path_factory.mktemp("project")) as found:
        add_batch(found)
        yield found


def add_batch(site: Grounds) -> None:
    with site.database.transaction() as repositories:
        repositories.owners.add(OwnerRow(OWNER, "owner", False, None, "active", NOW))
        repositories.vehicles.add(
            VehicleRow(
                VEHICLE, OWNER, bytes(32), "car", "active", None, "1", NOW, NOW,
                SessionId(bytes(16)), 0, digests.ZERO, None, None,
            ),
            ConsentRow(VEHICLE, Digest(bytes(32)), "1", NOW, "compute", NOW, Digest(bytes(32))),
        )  # fmt: skip
        repositories.batches.add(
            BatchRow(
                BATCH, "model", "tensor", b"{}", "running", 1, "replicated", UNITS, UNITS, 1, 3600,
                NOW, Milliseconds(NOW + 10**9), site.publish(OUTPUTS), "trees/00",
            ),
            [NewUnit(index, index, 1, b"leaf") for index in range(UNITS)],
        )  # fmt: skip


@pytest.fixture
def lease(site: Grounds) -> LeaseId:
    """A lease whose result is awaited."""
    return new_lease(site)


@pytest.fixture
def other_lease(site: Grounds) -> LeaseId:
    return new_lease(site)


def new_lease(site: Grounds) -> LeaseId:
    with site.database.transaction() as repositories:
        ready = repositories.replicas.ready(BATCH, 0, 1)[0]
        found = LeaseId(hmac.digest(b"lease", str(ready.id).encode(), "sha256")[:16])
        deadline = Milliseconds(NOW + 3_600_000)
        repositories.replicas.lease([LeaseGrant(ready.id, OWNER, VEHICLE, found, NOW, deadline)])
    return found


def ticket(lease: LeaseId) -> str:
    return "Ticket " + hmac.digest(TICKET_KEY, lease, "sha256")[:16].hex()


def headers(lease: LeaseId, offset: int, payload: bytes = PAYLOAD) -> dict[str, str]:
    return {
        "Authorization": ticket(lease),
        "Upload-Offset": str(offset),
        "Upload-Length": str(len(payload)),
        "Upload-Digest": digests.of_tensors(payload).hex(),
    }


def send(
    site: Grounds, lease: LeaseId, body: bytes, offset: int = 0, **changed: str
) -> requests.Response:
    named = headers(lease, offset) | {k.replace("_", "-"): v for k, v in changed.items()}
    return requests.patch(
        f"{site.url}/v1/uploads/{lease.hex()}", data=body, headers=named, timeout=30
    )


def standing(site: Grounds, lease: LeaseId) -> Received:
    answer = requests.get(
        f"{site.url}/v1/uploads/{lease.hex()}",
        headers={"Authorization": ticket(lease)},
        timeout=30,
    )
    assert answer.status_code == 200
    return msgspec.json.decode(answer.content, type=Received)


def received(answer: requests.Response) -> Received:
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=Received)


def problem_in(answer: requests.Response) -> Problem:
    return msgspec.json.decode(answer.content, type=Problem)


def assert_stored(site: Grounds, lease: LeaseId) -> None:
    assert site.blobs.read(output_blob(DIGEST)) == PAYLOAD
    with site.database.reading() as repositories:
        row = repositories.uploads.get(lease)
    assert row is not None
    assert (row.digest, row.size, row.is_complete) == (DIGEST, len(PAYLOAD), True)
    assert list((site.folder / "uploads").glob(f"{lease.hex()}*")) == []


def test_an_upload_in_one_piece(site: Grounds, lease: LeaseId) -> None:
    assert standing(site, lease) == Received(0, 0, False)
    assert received(send(site, lease, PAYLOAD)) == Received(len(PAYLOAD), len(PAYLOAD), True)
    assert standing(site, lease) == Received(len(PAYLOAD), len(PAYLOAD), True)
    assert_stored(site, lease)


def test_an_upload_goes_on_where_it_stands(site: Grounds, lease: LeaseId) -> None:
    offset = 0
    for size in (1, 1_000_000, 1_500_000, len(PAYLOAD)):
        state = received(send(site, lease, PAYLOAD[offset : offset + size], offset))
        offset = state.received
    assert state.complete
    assert_stored(site, lease)


def test_a_repeated_end_is_answered_again(site: Grounds, lease: LeaseId) -> None:
    assert received(send(site, lease, PAYLOAD)).complete
    assert received(send(site, lease, b"", len(PAYLOAD))).complete
    assert received(send(site, lease, PAYLOAD)).complete


def test_what_came_before_a_break_is_kept(site: Grounds, lease: LeaseId) -> None:
    client = http.client.HTTPConnection(urlsplit(site.url).netloc, timeout=30)
    client.putrequest("PATCH", f"/v1/uploads/{lease.hex()}")
    for name, value in headers(lease, 0).items():
        client.putheader(name, value)
    client.putheader("Content-Length", str(len(PAYLOAD)))
    client.endheaders()
    client.send(PAYLOAD[:1_234_567])
    client.close()
    # The next request waits for its turn, so by then everything that came is on disk.
    states = (standing(site, lease) for _ in range(1000))
    state = next(state for state in states if state.received)
    assert state.received <= 1_234_567
    assert received(send(site, lease, PAYLOAD[state.received :], state.received)).complete
    assert_stored(site, lease)


def test_a_wrong_offset_is_told_the_right_one(site: Grounds, lease: LeaseId) -> None:
    send(site, lease, PAYLOAD[:1000])
    answer = send(site, lease, PAYLOAD[2000:], 2000)
    assert (answer.status_code, problem_in(answer).code) == (409, "wrong_offset")
    assert problem_in(answer).received == 1000
    assert standing(site, lease).received == 1000


def test_another_payload_begins_at_zero_or_not_at_all(site: Grounds, lease: LeaseId) -> None:
    send(site, lease, PAYLOAD[:1000])
    other = PAYLOAD[::-1]
    changed = {"Upload_Digest": digests.of_tensors(other).hex()}
    answer = send(site, lease, other[1000:], 1000, **changed)
    assert (answer.status_code, problem_in(answer).received) == (409, 0)
    assert received(send(site, lease, other, 0, **changed)).complete
    assert site.blobs.read(output_blob(digests.of_tensors(other))) == other


def test_bytes_of_another_digest_are_thrown_away(site: Grounds, lease: LeaseId) -> None:
    wrong = PAYLOAD[:-1] + b"!"
    answer = send(site, lease, wrong)
    assert (answer.status_code, problem_in(answer).code) == (422, "bad_digest")
    assert standing(site, lease) == Received(0, len(PAYLOAD), False)
    assert received(send(site, lease, PAYLOAD)).complete


def test_no_more_than_was_announced_is_taken(site: Grounds, lease: LeaseId) -> None:
    answer = send(site, lease, PAYLOAD + b"more")
    assert (answer.status_code, problem_in(answer).code) == (413, "limit_exceeded")


@pytest.mark.parametrize(
    "size", [1, len(PAYLOAD) - 1, len(PAYLOAD) + 1, limits.TENSOR_PAYLOAD_BYTES]
)
def test_only_the_size_of_the_units_output_is_taken(
    site: Grounds, lease: LeaseId, size: int
) -> None:
    answer = send(site, lease, b"x", Upload_Length=str(size))
    assert (answer.status_code, problem_in(answer).code) == (422, "wrong_size")
    assert standing(site, lease) == Received(0, 0, False)


def test_a_new_payload_takes_the_place_of_the_former_one(site: Grounds, lease: LeaseId) -> None:
    payloads = [bytes([number]) * len(PAYLOAD) for number in range(3)]
    for payload in payloads:
        digest = digests.of_tensors(payload)
        assert received(send(site, lease, payload, Upload_Digest=digest.hex())).complete
    kept = [site.blobs.size(output_blob(digests.of_tensors(payload))) for payload in payloads]
    assert kept == [None, None, len(PAYLOAD)]


def test_a_payload_that_another_lease_sent_too_stays(
    site: Grounds, lease: LeaseId, other_lease: LeaseId
) -> None:
    assert received(send(site, lease, PAYLOAD)).complete
    assert received(send(site, other_lease, PAYLOAD)).complete
    other = PAYLOAD[::-1]
    digest = digests.of_tensors(other)
    assert received(send(site, lease, other, Upload_Digest=digest.hex())).complete
    assert_stored(site, other_lease)


def test_a_payload_that_is_a_result_stays(
    site: Grounds, lease: LeaseId, other_lease: LeaseId
) -> None:
    assert received(send(site, other_lease, PAYLOAD)).complete
    with site.database.transaction() as repositories:
        held = repositories.replicas.by_leases([other_lease])[other_lease]
        repositories.replicas.take(
            [ReportTaken(held.id, "leased", OWNER, DIGEST, len(PAYLOAD), None, 1, NOW)]
        )
        repositories.uploads.delete([other_lease])
    assert received(send(site, lease, PAYLOAD)).complete
    other = digests.of_tensors(PAYLOAD[::-1])
    assert received(send(site, lease, PAYLOAD[::-1], Upload_Digest=other.hex())).complete
    assert site.blobs.size(output_blob(DIGEST)) == len(PAYLOAD)


def test_a_complete_upload_whose_blob_is_gone_is_sent_anew(site: Grounds, lease: LeaseId) -> None:
    assert received(send(site, lease, PAYLOAD)).complete
    site.blobs.delete(output_blob(DIGEST))
    assert standing(site, lease) == Received(0, len(PAYLOAD), False)
    assert received(send(site, lease, PAYLOAD)).complete
    assert_stored(site, lease)


def test_a_full_disk_costs_no_byte_that_came(site: Grounds, lease: LeaseId) -> None:
    site.blobs.fail_after(0)
    answer = send(site, lease, PAYLOAD)
    assert (answer.status_code, problem_in(answer).code) == (503, "outage")
    site.blobs.work_again()
    assert standing(site, lease) == Received(len(PAYLOAD), len(PAYLOAD), True)
    assert_stored(site, lease)


def test_a_lease_past_the_time_for_late_results_takes_nothing(
    site: Grounds, lease: LeaseId
) -> None:
    with site.database.transaction() as repositories:
        ready = repositories.replicas.ready(BATCH, 0, 1)[0]
        late = LeaseId(hmac.digest(b"late", str(ready.id).encode(), "sha256")[:16])
        grant = LeaseGrant(ready.id, OWNER, VEHICLE, late, Milliseconds(1), Milliseconds(3))
        repositories.replicas.lease([grant])
    answer = send(site, late, PAYLOAD)
    assert (answer.status_code, problem_in(answer).code) == (409, "lease_ended")


def test_a_damaged_manifest_is_our_fault(tmp_path: Path) -> None:
    with grounds(tmp_path) as site:
        add_batch(site)
        lease = new_lease(site)
        for blob in (tmp_path / "blobs" / "public").rglob("*"):
            if blob.is_file():
                blob.write_bytes(b"damaged")
        answer = send(site, lease, PAYLOAD)
        assert (answer.status_code, problem_in(answer).code) == (503, "damaged")


def test_no_more_than_the_limit_is_taken(site: Grounds, lease: LeaseId) -> None:
    answer = send(site, lease, b"", Upload_Length=str(limits.TENSOR_PAYLOAD_BYTES + 1))
    assert (answer.status_code, problem_in(answer).code) == (413, "limit_exceeded")


@pytest.mark.parametrize("wrong", ["", "Ticket 00", "Bearer x", "Ticket " + "00" * 16])
def test_only_the_ticket_opens_it(site: Grounds, lease: LeaseId, wrong: str) -> None:
    answer = send(site, lease, PAYLOAD, Authorization=wrong)
    assert (answer.status_code, problem_in(answer).code) == (403, "forbidden")
    asked = requests.get(
        f"{site.url}/v1/uploads/{lease.hex()}", headers={"Authorization": wrong}, timeout=30
    )
    assert asked.status_code == 403


def test_a_lease_that_is_not_there_or_over_takes_nothing(site: Grounds, lease: LeaseId) -> None:
    unknown = LeaseId(b"?" * 16)
    answer = send(site, unknown, PAYLOAD)
    assert (answer.status_code, problem_in(answer).code) == (409, "lease_ended")
    with site.database.transaction() as repositories:
        held = repositories.replicas.by_leases([lease])[lease]
        repositories.replicas.end(
            [ReplicaEnd(held.id, "leased", "cancelled", None, None, NOW, False)]
        )
    answer = send(site, lease, PAYLOAD)
    assert (answer.status_code, problem_in(answer).code) == (409, "lease_ended")


@pytest.mark.parametrize("name", ["Upload-Offset", "Upload-Length", "Upload-Digest"])
def test_a_missing_header_is_named(site: Grounds, lease: LeaseId, name: str) -> None:
    named = headers(lease, 0) | {name: ""}
    answer = requests.patch(
        f"{site.url}/v1/uploads/{lease.hex()}", data=PAYLOAD, headers=named, timeout=30
    )
    assert answer.status_code == 400
    assert name in problem_in(answer).detail


def test_no_other_address_is_an_upload(site: Grounds) -> None:
    for name in ("x", "00", "..%2Fserver.sqlite3", "g" * 32):
        answer = requests.get(f"{site.url}/v1/uploads/{name}", timeout=30)
        assert answer.status_code == 404


def test_uploads_at_once_for_one_lease_do_not_mix(site: Grounds, lease: LeaseId) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: send(site, lease, PAYLOAD), range(6)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert any(answer.status_code == 200 for answer in answers)
    assert_stored(site, lease)


def test_a_part_that_was_whole_before_a_crash_is_completed(site: Grounds, lease: LeaseId) -> None:
    send(site, lease, PAYLOAD[:10])
    # As if the process had died after the last byte and before the blob.
    with (site.folder / "uploads" / f"{lease.hex()}.part").open("ab") as file:
        file.write(PAYLOAD[10:])
    assert standing(site, lease) == Received(len(PAYLOAD), len(PAYLOAD), True)
    assert_stored(site, lease)
