"""The vehicle's TUF client against an honest repository, its outages, and every attack on it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tesla_at_home.adapters import metadata
from tesla_at_home.adapters.metadata import TufMetadata
from tesla_at_home.errors import Cancelled, ClientError, Unreachable, Untrusted
from tesla_at_home.ports import Cancellation
from tests.support.tuf_repository import (
    HOUR_MS,
    NOW,
    TERMS_TEXT,
    TufRepository,
    a_project,
    new_signer,
)
from workunits.trust import digests
from workunits.values import Milliseconds
from workunits.wire import codec

MODEL = b"model bytes"


@pytest.fixture
def repository() -> TufRepository:
    return TufRepository()


@pytest.fixture
def client(repository: TufRepository, tmp_path: Path) -> TufMetadata:
    root = metadata.first_root(repository, cancel=Cancellation())
    metadata.pin(tmp_path / "metadata", root)
    return TufMetadata(tmp_path / "metadata", repository)


def _refresh(client: TufMetadata, now: int = NOW) -> str:
    return client.refresh(Milliseconds(now), cancel=Cancellation()).project.name


def _again(client: TufMetadata, repository: TufRepository, tmp_path: Path) -> TufMetadata:
    """The client after a restart."""
    return TufMetadata(tmp_path / "metadata", repository)


def test_a_refresh_gives_the_signed_project(client: TufMetadata) -> None:
    view = client.refresh(NOW, cancel=Cancellation())
    assert view.project == a_project()
    assert view.is_fresh


def test_nothing_is_held_before_the_first_refresh(client: TufMetadata, tmp_path: Path) -> None:
    with pytest.raises(Untrusted, match="held"):
        client.held(NOW)
    with pytest.raises(ClientError, match="missing or damaged"):
        TufMetadata(tmp_path / "elsewhere", TufRepository()).held(NOW)


def test_a_restart_without_a_link_knows_the_project(
    client: TufMetadata, repository: TufRepository, tmp_path: Path
) -> None:
    repository.put_model("m", MODEL)
    repository.publish()
    _refresh(client)
    repository.is_down = True
    after = _again(client, repository, tmp_path)
    with pytest.raises(Unreachable):
        _refresh(after)
    assert after.held(NOW).project.name == "test"
    assert after.model_size(digests.plain(MODEL)) == len(MODEL)


def test_a_model_that_no_target_names_is_untrusted(
    client: TufMetadata, repository: TufRepository
) -> None:
    repository.put_model("m", MODEL)
    repository.publish()
    _refresh(client)
    with pytest.raises(Untrusted, match="does not name"):
        client.model_size(digests.plain(b"another"))
    del repository.targets.targets[f"models/m/{digests.plain(MODEL).hex()}"]
    repository.publish()
    _refresh(client)
    with pytest.raises(Untrusted):
        client.model_size(digests.plain(MODEL))


def test_a_model_counts_only_under_its_own_digest(
    client: TufMetadata, repository: TufRepository
) -> None:
    repository.put("models-m", MODEL)
    repository.put_model("m", MODEL)
    for path in [p for p in repository.targets.targets if p.startswith("models/")]:
        target = repository.targets.targets.pop(path)
        repository.targets.targets["models/m/" + "0" * 64] = target
    repository.publish()
    _refresh(client)
    with pytest.raises(Untrusted):
        client.model_size(digests.plain(MODEL))


@pytest.mark.parametrize(
    ("hours", "is_fresh"),
    [(0, True), (23, True), (25, True), (47, True), (48, False), (999, False)],
)
def test_metadata_is_stale_a_day_after_its_expiry(
    hours: int, is_fresh: bool, client: TufMetadata, repository: TufRepository
) -> None:
    _refresh(client)  # the timestamp lives 24 h
    later = Milliseconds(NOW + hours * HOUR_MS)
    assert client.held(later).is_fresh is is_fresh
    # The server, reachable but never signed again, cannot make it fresher: a freeze.
    assert client.refresh(later, cancel=Cancellation()).is_fresh is is_fresh


def test_a_new_vehicle_does_not_begin_with_what_has_expired(client: TufMetadata) -> None:
    with pytest.raises(Untrusted, match="expired"):
        _refresh(client, NOW + 25 * HOUR_MS)


def test_expired_by_trusted_time_and_not_by_the_wall_clock(
    client: TufMetadata, repository: TufRepository
) -> None:
    # The repository's times lie far from this computer's clock, on both sides of it.
    early = Milliseconds(1_000_000_000_000)
    for role, life in (("targets", 90 * 24), ("snapshot", 7 * 24), ("timestamp", 24)):
        repository.renew(role, at=early, life=timedelta(hours=life))
    repository.publish()
    assert _refresh(client, early) == "test"


def test_a_changed_project_arrives(client: TufMetadata, repository: TufRepository) -> None:
    _refresh(client)
    repository.put("project.json", codec.to_json(a_project("renamed")))
    repository.publish()
    assert _refresh(client) == "renamed"


def test_an_unchanged_project_is_not_fetched_again(
    client: TufMetadata, repository: TufRepository
) -> None:
    _refresh(client)
    repository.asked.clear()
    _refresh(client)
    assert not [path for path in repository.asked if "targets/" in path]


def test_a_refresh_cut_short_leaves_what_was_held(
    client: TufMetadata, repository: TufRepository, tmp_path: Path
) -> None:
    _refresh(client)
    repository.publish()
    del repository.files[f"{repository.snapshot.version}.snapshot.json"]
    with pytest.raises(Unreachable):
        _refresh(client)
    assert _again(client, repository, tmp_path).held(NOW).project.name == "test"


def test_roots_follow_each_other(
    client: TufMetadata, repository: TufRepository, tmp_path: Path
) -> None:
    old = repository.signers["root"]
    repository.signers["root"] = new_signer()
    repository.root.revoke_key(old.public_key.keyid, "root")
    repository.root.add_key(repository.signers["root"].public_key, "root")
    repository.rotate_root(old)
    repository.publish()
    assert _refresh(client) == "test"
    assert _again(client, repository, tmp_path).held(NOW).project.name == "test"


def _wrong_key(role: str) -> Callable[[TufRepository], None]:
    def attack(repository: TufRepository) -> None:
        repository.steal(role)
        repository.publish()

    return attack


def _root_by_a_stranger(repository: TufRepository) -> None:
    repository.steal("root")
    repository.rotate_root()


def _root_that_skips_a_version(repository: TufRepository) -> None:
    repository.root.version += 2
    repository.write("2.root.json", repository.root, "root")


def _mix_and_match(repository: TufRepository) -> None:
    old = repository.files[f"{repository.targets.version}.targets.json"]
    repository.publish()
    repository.files[f"{repository.targets.version}.targets.json"] = old


def _another_projects_file(repository: TufRepository) -> None:
    repository.put("project.json", codec.to_json(a_project("changed")))
    repository.publish()
    for name in [n for n in repository.files if n.endswith("project.json")]:
        repository.files[name] = codec.to_json(a_project("evil"))


def _snapshot_forgets_the_targets(repository: TufRepository) -> None:
    repository.publish()
    repository.snapshot.version += 1
    repository.timestamp.version += 1
    repository.snapshot.meta["targets.json"].version = 1
    repository.timestamp.snapshot_meta.version = repository.snapshot.version
    repository.write(
        f"{repository.snapshot.version}.snapshot.json", repository.snapshot, "snapshot"
    )
    repository.write("timestamp.json", repository.timestamp, "timestamp")


def _no_project(repository: TufRepository) -> None:
    del repository.targets.targets["project.json"]
    repository.publish()


def _project_of_another_form(repository: TufRepository) -> None:
    repository.put("project.json", b'{"name":"test","surprise":1}')
    repository.publish()


def _huge_project(repository: TufRepository) -> None:
    repository.put("project.json", bytes(2_000_000))
    repository.publish()


def _served(raw: bytes) -> Callable[[TufRepository], None]:
    def attack(repository: TufRepository) -> None:
        repository.files["timestamp.json"] = raw

    return attack


ATTACKS: dict[str, Callable[[TufRepository], None]] = {
    "timestamp by a stranger": _wrong_key("timestamp"),
    "snapshot by a stranger": _wrong_key("snapshot"),
    "targets by a stranger": _wrong_key("targets"),
    "root by a stranger": _root_by_a_stranger,
    "root that skips a version": _root_that_skips_a_version,
    "targets of another time": _mix_and_match,
    "a project file that was not signed": _another_projects_file,
    "a snapshot with older targets": _snapshot_forgets_the_targets,
    "no project named": _no_project,
    "a project of another form": _project_of_another_form,
    "a huge project": _huge_project,
    "not JSON": _served(b"<html>log in</html>"),
    "empty": _served(b""),
    "deeply nested": _served(b"[" * 10_000),
    "another type": _served(json.dumps({"signed": {"_type": "root"}, "signatures": []}).encode()),
    "a number for everything": _served(b"1"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_and_what_was_held_stays(
    name: str, client: TufMetadata, repository: TufRepository, tmp_path: Path
) -> None:
    _refresh(client)
    repository.publish()
    _refresh(client)
    ATTACKS[name](repository)
    with pytest.raises(Untrusted) as caught:
        _refresh(client)
    assert "\n" not in str(caught.value)
    assert client.held(NOW).project == a_project()
    assert _again(client, repository, tmp_path).held(NOW).project == a_project()


# A rollback is one only to a vehicle that has seen more.
@pytest.mark.parametrize("name", [n for n in ATTACKS if n != "a snapshot with older targets"])
def test_an_attack_on_a_new_vehicle_is_refused(
    name: str, client: TufMetadata, repository: TufRepository
) -> None:
    ATTACKS[name](repository)
    with pytest.raises(Untrusted):
        _refresh(client)


def test_a_rollback_of_everything_is_refused(
    client: TufMetadata, repository: TufRepository, tmp_path: Path
) -> None:
    before = dict(repository.files)
    repository.put("project.json", codec.to_json(a_project("newer")))
    repository.publish()
    _refresh(client)
    repository.roll_back_to(before)
    for each in (client, _again(client, repository, tmp_path)):
        with pytest.raises(Untrusted):
            _refresh(each)
        assert each.held(NOW).project.name == "newer"


@pytest.mark.parametrize("which", ["timestamp", "snapshot", "targets.json", "root", "project"])
def test_an_endless_body_ends_at_the_limit(
    which: str, client: TufMetadata, repository: TufRepository
) -> None:
    repository.endless = which
    with pytest.raises((Unreachable, Untrusted)):
        _refresh(client)


def test_a_cancelled_refresh_is_no_attack(client: TufMetadata) -> None:
    cancel = Cancellation()
    cancel.cancel()
    with pytest.raises(Cancelled):
        client.refresh(NOW, cancel=cancel)


@pytest.mark.parametrize("damage", [b"", b"garbage", bytes(100)])
def test_damaged_copies_on_disk_are_never_believed(
    damage: bytes, client: TufMetadata, repository: TufRepository, tmp_path: Path
) -> None:
    _refresh(client)
    (tmp_path / "metadata" / "held").write_bytes(damage)
    after = _again(client, repository, tmp_path)
    with pytest.raises(Untrusted):
        after.held(NOW)
    assert _refresh(after) == "test"  # and it mends itself


def test_the_first_root_must_sign_itself(repository: TufRepository) -> None:
    root = json.loads(repository.files["1.root.json"])
    root["signed"]["version"] = 7
    repository.files["1.root.json"] = json.dumps(root).encode()
    with pytest.raises(Untrusted, match="first root"):
        metadata.first_root(repository, cancel=Cancellation())


def test_pinning_another_project_forgets_the_first(
    client: TufMetadata, repository: TufRepository, tmp_path: Path
) -> None:
    _refresh(client)
    other = TufRepository(a_project("other"))
    root = metadata.first_root(other, cancel=Cancellation())
    metadata.pin(tmp_path / "metadata", root)
    assert _refresh(TufMetadata(tmp_path / "metadata", other)) == "other"


def test_the_terms_are_what_the_project_signed(
    client: TufMetadata, repository: TufRepository
) -> None:
    project = client.refresh(NOW, cancel=Cancellation()).project
    assert client.terms(project, cancel=Cancellation()) == TERMS_TEXT
    name = next(n for n in repository.files if n.endswith("terms.txt"))
    repository.files[name] = TERMS_TEXT.upper().encode()
    with pytest.raises(Untrusted, match="not what it signed"):
        client.terms(project, cancel=Cancellation())
    repository.endless = "terms.txt"
    with pytest.raises(Untrusted, match="longer"):
        client.terms(project, cancel=Cancellation())


def test_a_directory_that_cannot_be_written_is_an_outage(
    client: TufMetadata, tmp_path: Path
) -> None:
    folder = tmp_path / "metadata" / "root_history"
    folder.write_text("a file where a folder must be")
    with pytest.raises(Unreachable, match="cannot be kept"):
        _refresh(client)
    assert os.path.isfile(folder)


def _every_file(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _vanish(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x08
    path.write_bytes(raw)


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("damage", [_vanish, _empty, _flip, _cut_short])
def test_a_damaged_file_is_fetched_again_and_the_pin_outlasts_it(
    damage: Callable[[Path], None],
    client: TufMetadata,
    repository: TufRepository,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "metadata"
    _refresh(client)
    pinned = (folder / "pinned.json").read_bytes()
    names = [path.relative_to(folder) for path in _every_file(folder)]
    assert len(names) >= 7
    for name in names:
        damage(folder / name)
        after = _again(client, repository, tmp_path)
        _refresh(after)
        assert after.held(NOW).project == a_project(), name
        assert metadata.is_pinned(folder, pinned), name
        metadata.pin(folder, pinned)
        _refresh(_again(client, repository, tmp_path))


@pytest.mark.parametrize("damage", [_vanish, _empty, _flip, _cut_short])
def test_what_a_server_says_never_becomes_the_pin(
    damage: Callable[[Path], None],
    client: TufMetadata,
    repository: TufRepository,
    tmp_path: Path,
) -> None:
    _refresh(client)
    for path in (tmp_path / "metadata").glob("pinned*"):
        damage(path)
    with pytest.raises(ClientError, match=r"pinned\.json: missing or damaged"):
        _refresh(_again(client, repository, tmp_path))
    with pytest.raises(ClientError, match="restore it"):
        _again(client, repository, tmp_path).held(NOW)
