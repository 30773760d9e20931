"""A mirror, or a thief of one of the project's keys, against the vehicle's TUF client.

What `tests/unit/test_metadata_client.py` does not play already: each role rolled back, expired, short
of signatures or of another version; roots without end; files of another length; a project past its
limits; and a clock that was driven ahead. What was held stays, and comes back by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from tesla_at_home.adapters import metadata
from tesla_at_home.adapters.metadata import GRACE_MS, TufMetadata
from tesla_at_home.errors import Unreachable, Untrusted
from tesla_at_home.ports import Cancellation
from tests.support.tuf_repository import (
    HOUR_MS,
    NOW,
    TufRepository,
    a_project,
    new_signer,
)
from workunits.values import Milliseconds
from workunits.wire import codec, limits

Attack = Callable[[TufRepository], None]
YEAR_9999_MS = Milliseconds(253_370_764_800_000)


@pytest.fixture
def repository() -> TufRepository:
    return TufRepository()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "metadata"


@pytest.fixture
def client(repository: TufRepository, folder: Path) -> TufMetadata:
    """A vehicle that has seen two versions of everything."""
    metadata.pin(folder, metadata.first_root(repository, cancel=Cancellation()))
    client = TufMetadata(folder, repository)
    refresh(client)
    repository.publish()
    refresh(client)
    return client


def refresh(client: TufMetadata, now: int = NOW) -> str:
    return client.refresh(Milliseconds(now), cancel=Cancellation()).project.name


def _older(role: str) -> Attack:
    """Only this role goes back; those that name it are signed anew, by the right keys."""

    def attack(repository: TufRepository) -> None:
        signed = {
            "timestamp": repository.timestamp,
            "snapshot": repository.snapshot,
            "targets": repository.targets,
        }[role]
        signed.version -= 2
        repository.publish()

    return attack


def _first_root_again(repository: TufRepository) -> None:
    repository.files["2.root.json"] = repository.files["1.root.json"]


def _expired(role: str) -> Attack:
    def attack(repository: TufRepository) -> None:
        repository.renew(role, at=Milliseconds(NOW - 1000 * HOUR_MS), life=timedelta(hours=999))
        repository.put("project.json", codec.to_json(a_project("changed")))
        repository.publish()

    return attack


def _two_needed(role: str) -> Attack:
    """A root, rightly signed, that asks for two signatures; the role goes on with one."""

    def attack(repository: TufRepository) -> None:
        second = new_signer()
        repository.root.add_key(second.public_key, role)
        repository.root.roles[role].threshold = 2
        if role == "root":
            repository.root.version += 1
            # One signature twice is one signature.
            repository.write_root(repository.signers["root"])
        else:
            repository.rotate_root()
        repository.publish()

    return attack


def _new_root_by_the_new_key_alone(repository: TufRepository) -> None:
    old, new = repository.signers["root"], new_signer()
    repository.root.revoke_key(old.public_key.keyid, "root")
    repository.root.add_key(new.public_key, "root")
    repository.signers["root"] = new
    repository.rotate_root()


def _of_another_spec(role: str) -> Attack:
    def attack(repository: TufRepository) -> None:
        getattr(repository, role).spec_version = "2.0.0"
        repository.publish()

    return attack


def _longer(repository: TufRepository) -> None:
    _serve(repository, lambda raw: raw + b" ")


def _shorter(repository: TufRepository) -> None:
    _serve(repository, lambda raw: raw[:-1])


def _serve(repository: TufRepository, change: Callable[[bytes], bytes]) -> None:
    repository.put("project.json", codec.to_json(a_project("changed")))
    repository.publish()
    for name in [n for n in repository.files if n.endswith("project.json")]:
        repository.files[name] = change(repository.files[name])


def _project(change: bytes, to: bytes) -> Attack:
    """A project file that the right key signed, and that no vehicle can take."""

    def attack(repository: TufRepository) -> None:
        raw = codec.to_json(a_project())
        assert change in raw
        repository.put("project.json", raw.replace(change, to))
        repository.publish()

    return attack


def _too_many_keys(repository: TufRepository) -> None:
    project = a_project()
    keys = project.batch_keys * (limits.KEYS_PER_ROLE + 1)
    repository.put("project.json", codec.to_json(replace(project, batch_keys=keys)))
    repository.publish()


def _huge_roots(repository: TufRepository) -> None:
    repository.root.unrecognized_fields["fat"] = "x" * 450_000
    for _ in range(40):
        repository.rotate_root()


ATTACKS: dict[str, tuple[Attack, str]] = {
    "an older timestamp": (_older("timestamp"), "New timestamp version"),
    "an older snapshot": (_older("snapshot"), "New snapshot version"),
    "older targets": (_older("targets"), "Expected targets.json version"),
    "the first root as the second": (_first_root_again, "Expected root version"),
    "too few signatures on a root": (_two_needed("root"), "root was signed by 1/2"),
    "too few signatures on the targets": (_two_needed("targets"), "targets was signed by 1/2"),
    "too few signatures on a snapshot": (_two_needed("snapshot"), "snapshot was signed by 1/2"),
    "too few signatures on a timestamp": (_two_needed("timestamp"), "timestamp was signed by 1/2"),
    "a new root by the new key alone": (_new_root_by_the_new_key_alone, "root was signed by 0/1"),
    "a timestamp of another spec": (_of_another_spec("timestamp"), "does not check out"),
    "targets of another spec": (_of_another_spec("targets"), "does not check out"),
    "a project file that goes on": (_longer, "exceeding the maximum"),
    "a project file that ends too soon": (_shorter, "Observed length"),
    "a project with a name of a thousand letters": (
        _project(b'"test"', b'"' + b"t" * 1000 + b'"'),
        "length <= 64",
    ),
    "a project with terms of no length": (_project(b'"size":30', b'"size":0'), "terms.size"),
    "a project with endless terms": (_project(b'"size":30', b'"size":99999999999'), "terms.size"),
    "a project of no protocol": (
        _project(b'"protocol_oldest":1', b'"protocol_oldest":-1'),
        "protocol_oldest",
    ),
    "a project with too many keys": (_too_many_keys, "batch_keys"),
    "more roots than are kept": (_huge_roots, "at most"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused_in_one_line_and_what_was_held_stays(
    name: str, client: TufMetadata, repository: TufRepository, folder: Path
) -> None:
    attack, line = ATTACKS[name]
    attack(repository)
    with pytest.raises((Untrusted, Unreachable), match=line) as caught:
        refresh(client)
    assert "\n" not in str(caught.value)
    for each in (client, TufMetadata(folder, repository)):
        assert each.held(NOW).project == a_project()
        assert each.held(NOW).is_fresh


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_what_has_expired_is_not_news(
    role: str, client: TufMetadata, repository: TufRepository, folder: Path
) -> None:
    _expired(role)(repository)
    assert refresh(client) == "test"
    metadata.pin(folder, metadata.first_root(repository, cancel=Cancellation()))
    with pytest.raises(Untrusted, match="expired"):
        refresh(TufMetadata(folder, repository))


def test_an_expired_root_begins_nothing(repository: TufRepository, folder: Path) -> None:
    metadata.pin(folder, metadata.first_root(repository, cancel=Cancellation()))
    with pytest.raises(Untrusted, match="expired"):
        refresh(TufMetadata(folder, repository), NOW + 366 * 24 * HOUR_MS)


def test_roots_without_end_are_followed_only_so_far(
    client: TufMetadata, repository: TufRepository
) -> None:
    for _ in range(300):
        repository.rotate_root()
    repository.asked.clear()
    assert refresh(client) == "test"
    assert len([path for path in repository.asked if path.endswith(".root.json")]) == 256


def test_a_thief_of_the_timestamp_key_blocks_nothing_once_the_key_is_replaced(
    client: TufMetadata, repository: TufRepository
) -> None:
    repository.timestamp.version = 2**31
    repository.publish()
    refresh(client)
    repository.timestamp.version = 5
    old = repository.signers["timestamp"]
    repository.signers["timestamp"] = new_signer()
    repository.root.revoke_key(old.public_key.keyid, "timestamp")
    repository.root.add_key(repository.signers["timestamp"].public_key, "timestamp")
    repository.rotate_root()
    repository.put("project.json", codec.to_json(a_project("recovered")))
    repository.publish()
    assert refresh(client) == "recovered"


# --- a scheduler that drove the time ahead ----------------------------------------------------------


@pytest.mark.parametrize("driven_ms", [NOW + 48 * HOUR_MS, YEAR_9999_MS])
def test_a_time_driven_ahead_keeps_no_new_keys_out(
    driven_ms: int, client: TufMetadata, repository: TufRepository
) -> None:
    repository.renew("timestamp", at=Milliseconds(NOW + HOUR_MS), life=timedelta(hours=24))
    repository.put("project.json", codec.to_json(a_project("new keys")))
    repository.publish()
    view = client.refresh(Milliseconds(driven_ms), cancel=Cancellation())
    assert view.project.name == "new keys"
    assert client.held(NOW).is_fresh


def test_metadata_vouch_for_as_long_as_they_are_not_stale(client: TufMetadata) -> None:
    view = client.held(NOW)
    assert view.until_ms == NOW + 24 * HOUR_MS + GRACE_MS
    assert client.held(Milliseconds(view.until_ms - 1)).is_fresh
    assert not client.held(view.until_ms).is_fresh
