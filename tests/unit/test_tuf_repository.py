"""The project's TUF repository, read back as a client of the TUF specification would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater

from server.adapters import metadata
from server.adapters.keys import ROLES, KeyFolder
from server.adapters.metadata import LIFE, PROJECT, TERMS, ProjectMetadata, model_path, role_key
from server.errors import NotFound, Outage, Refused
from server.settings import ProjectSettings
from workunits.trust import digests
from workunits.values import Digest, KiloFlop, Milliseconds
from workunits.wire import codec
from workunits.wire.messages import ModelFacts, Project, TensorSpec, Terms

NOW = Milliseconds(1_900_000_000_000)
DAY_MS = 86_400_000
TERMS_TEXT = b"Be kind.\n"
MODEL = Digest(b"\7" * 32)


class Site:
    """A project's directory with its keys."""

    def __init__(self, folder: Path, now: Milliseconds = NOW) -> None:
        self.metadata_folder = folder / "metadata"
        self.keys = KeyFolder(folder / "keys")
        for role in ROLES:
            self.keys.make(role)
        self.metadata = ProjectMetadata(self.metadata_folder, self.keys)
        self.metadata.create(project(self.keys, now), TERMS_TEXT, now)

    def remove_key(self, role: str) -> None:
        (self.metadata_folder.parent / "keys" / f"{role}.pem").unlink()

    def versions(self) -> dict[str, int]:
        return {state.role: state.version for state in self.metadata.roles()}


def project(keys: KeyFolder, now: Milliseconds) -> Project:
    return Project(
        name="Test",
        scheduler_keys=(role_key(keys.load("scheduler"), now),),
        batch_keys=(role_key(keys.load("batch"), now),),
        terms=Terms(digest=digests.plain(TERMS_TEXT), size=len(TERMS_TEXT), version="1"),
        protocol_oldest=1,
        protocol_newest=1,
        sign_up="open",
    )


def facts(name: str = "digits") -> ModelFacts:
    spec = TensorSpec(name="x", dtype="float32", shape=(64,))
    return ModelFacts(
        name=name,
        opset=17,
        inputs=(spec,),
        outputs=(spec,),
        kflop_per_row=KiloFlop(12),
        batch_rows=None,
        precision="fp32",
        is_portable_exact=False,
    )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


class FolderFetcher(FetcherInterface):
    """Serves `DIR/metadata` as the HTTP side does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self._folder / url.removeprefix("http://project/metadata/")
        if not path.is_file():
            raise DownloadHTTPError("not found", 404)
        yield path.read_bytes()


def updater(site: Site, tmp_path: Path) -> Updater:
    return Updater(
        metadata_dir=str(tmp_path / "trusted"),
        metadata_base_url="http://project/metadata/",
        target_dir=str(tmp_path),
        target_base_url="http://project/metadata/targets/",
        fetcher=FolderFetcher(site.metadata_folder),
        bootstrap=(site.metadata_folder / "1.root.json").read_bytes(),
    )


def test_a_tuf_client_accepts_it_and_finds_the_model(tmp_path: Path) -> None:
    now = Milliseconds(int(datetime.now(UTC).timestamp()) * 1000)
    site = Site(tmp_path, now)
    site.metadata.add_model(MODEL, 1234, facts(), now)
    (tmp_path / "trusted").mkdir()

    client = updater(site, tmp_path)
    client.refresh()

    found = client.get_targetinfo(model_path("digits", MODEL))
    assert found is not None
    assert (found.length, found.hashes["sha256"]) == (1234, MODEL.hex())
    assert codec.from_json(found.custom["facts"].encode(), ModelFacts, most=9999) == facts()
    for name in (PROJECT, TERMS):
        target = client.get_targetinfo(name)
        assert target is not None
        client.download_target(target)


def test_every_role_lives_as_long_as_designed(site: Site) -> None:
    lives = {s.role: timedelta(milliseconds=s.expires_ms - NOW) for s in site.metadata.roles()}
    assert lives == LIFE


def test_each_role_has_a_key_of_its_own(site: Site) -> None:
    root = Metadata[Root].from_file(str(site.metadata_folder / "1.root.json")).signed
    keyids = [role.keyids for role in root.roles.values()]
    assert len({keyid for group in keyids for keyid in group}) == 4
    assert root.consistent_snapshot


def test_what_was_written_is_read_back(site: Site) -> None:
    assert site.metadata.project() == project(site.keys, NOW)
    assert site.metadata.terms() == TERMS_TEXT
    assert site.metadata.models() == ()
    site.metadata.add_model(MODEL, 10, facts(), NOW)
    (model,) = site.metadata.models()
    assert (model.digest, model.size, model.facts) == (MODEL, 10, facts())


def test_a_retired_model_is_gone(site: Site) -> None:
    site.metadata.add_model(MODEL, 10, facts(), NOW)
    site.metadata.retire_model("digits", MODEL, NOW)
    assert site.metadata.models() == ()
    assert site.versions() == {"root": 1, "targets": 3, "snapshot": 3, "timestamp": 3}


def test_refresh_signs_nothing_that_has_time_left(site: Site) -> None:
    assert site.metadata.refresh(Milliseconds(NOW + 15 * 3_600_000)) == ()
    assert set(site.versions().values()) == {1}


@pytest.mark.parametrize(
    ("days", "renewed"),
    [
        (0.7, {"timestamp"}),
        (5, {"snapshot", "timestamp"}),
        (61, {"targets", "snapshot", "timestamp"}),
        (244, {"root", "targets", "snapshot", "timestamp"}),
        (500, {"root", "targets", "snapshot", "timestamp"}),
    ],
)
def test_refresh_renews_what_has_less_than_a_third_left(
    site: Site, days: float, renewed: set[str]
) -> None:
    now = Milliseconds(NOW + int(days * DAY_MS))
    assert site.metadata.refresh(now) == ()
    assert {role for role, version in site.versions().items() if version == 2} == renewed
    assert all(state.expires_ms > now for state in site.metadata.roles())


def test_refreshed_metadata_still_verifies_from_the_first_root(site: Site) -> None:
    site.metadata.refresh(Milliseconds(NOW + 250 * DAY_MS))
    folder = site.metadata_folder
    first = Metadata[Root].from_file(str(folder / "1.root.json"))
    second = Metadata[Root].from_file(str(folder / "2.root.json"))
    first.verify_delegate("root", second)
    second.verify_delegate("root", second)
    second.verify_delegate(
        "timestamp", Metadata[Timestamp].from_file(str(folder / "timestamp.json"))
    )
    second.verify_delegate(
        "snapshot", Metadata[Snapshot].from_file(str(folder / "2.snapshot.json"))
    )
    second.verify_delegate("targets", Metadata[Targets].from_file(str(folder / "2.targets.json")))


def test_signing_targets_prolongs_the_keys_they_name(site: Site) -> None:
    before = site.metadata.project().batch_keys[0]
    site.metadata.refresh(Milliseconds(NOW + 61 * DAY_MS))
    after = site.metadata.project().batch_keys[0]
    assert after.key == before.key
    assert after.not_before == before.not_before
    assert after.not_after - before.not_after == 61 * DAY_MS


def test_an_absent_key_is_warned_about_from_thirty_days(site: Site) -> None:
    site.remove_key("root")
    assert site.metadata.refresh(Milliseconds(NOW + 334 * DAY_MS)) == ()
    (warning,) = site.metadata.refresh(Milliseconds(NOW + 336 * DAY_MS))
    assert warning == (
        "the root metadata expires in 29 days and is not renewed here: it needs keys/root.pem"
    )
    (warning,) = site.metadata.refresh(Milliseconds(NOW + 400 * DAY_MS))
    assert "has expired" in warning


def test_targets_are_left_alone_when_their_followers_cannot_be_signed(site: Site) -> None:
    site.remove_key("snapshot")
    warnings = site.metadata.refresh(Milliseconds(NOW + 61 * DAY_MS))
    assert site.versions() == {"root": 1, "targets": 1, "snapshot": 1, "timestamp": 2}
    assert any("the snapshot metadata has expired" in warning for warning in warnings)


def test_a_model_is_refused_in_one_line_without_the_keys(site: Site) -> None:
    site.remove_key("targets")
    with pytest.raises(Refused, match="not here: targets"):
        site.metadata.add_model(MODEL, 10, facts(), NOW)
    assert set(site.versions().values()) == {1}


def test_a_change_cut_short_before_the_timestamp_never_counts(site: Site) -> None:
    whole = (site.metadata_folder / "timestamp.json").read_bytes()
    site.metadata.add_model(MODEL, 10, facts(), NOW)
    (site.metadata_folder / "timestamp.json").write_bytes(whole)

    assert site.metadata.models() == ()
    site.metadata.add_model(MODEL, 10, facts("other"), NOW)
    assert [model.facts.name for model in site.metadata.models()] == ["other"]


def test_damaged_metadata_is_named(site: Site) -> None:
    (site.metadata_folder / "1.snapshot.json").write_bytes(b"{")
    with pytest.raises(Outage, match=r"metadata/1\.snapshot\.json is damaged"):
        site.metadata.models()
    (site.metadata_folder / "1.snapshot.json").unlink()
    with pytest.raises(NotFound, match="is missing"):
        site.metadata.models()


def test_keys_are_private_and_checked(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "keys" / "batch.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(Refused, match="chmod 600"):
        site.keys.load("batch")
    path.chmod(0o600)
    path.write_bytes(b"not a key")
    with pytest.raises(Refused, match="not a private key"):
        site.keys.load("batch")
    path.unlink()
    with pytest.raises(NotFound, match="the batch key is not here"):
        site.keys.load("batch")


def test_no_temporary_files_stay(site: Site) -> None:
    site.metadata.add_model(MODEL, 10, facts(), NOW)
    names = [name for _, _, files in os.walk(site.metadata_folder) for name in files]
    assert not [name for name in names if name.startswith(".")]


def test_changed_settings_are_told_in_signed_metadata(site: Site) -> None:
    assert not site.metadata.align(ProjectSettings("Test", "open"), NOW)
    assert site.metadata.align(ProjectSettings("Renamed", "invite"), NOW)
    told = site.metadata.project()
    assert (told.name, told.sign_up) == ("Renamed", "invite")
    assert not site.metadata.align(ProjectSettings("Renamed", "invite"), NOW)
    site.remove_key("targets")
    with pytest.raises(Refused, match="not here: targets"):
        site.metadata.align(ProjectSettings("Again", "invite"), NOW)


def test_a_program_that_speaks_other_versions_says_so(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "PROTOCOL_VERSION", 2)
    assert site.metadata.align(ProjectSettings("Test", "open"), NOW)
    assert site.metadata.project().protocol_newest == 2


def test_a_key_that_nobody_takes_is_named(site: Site) -> None:
    assert site.metadata.foreign_keys() == ()
    for role in ("snapshot", "batch"):
        site.keys.make(role)
    assert site.metadata.foreign_keys() == ("snapshot", "batch")
