"""Away for long: a server down for ten days, a vehicle for a year, a project that came from a backup.

The project's own metadata on one side, the vehicle's TUF client on the other; in the world the vehicles'
leases and sessions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from server import cli_project
from server.adapters.keys import TUF_ROLES, KeyFolder
from server.adapters.metadata import ProjectMetadata, role_key
from server.app import Site
from server.http.listening import bound_socket
from server.settings import ProjectSettings
from tesla_at_home.adapters import metadata as client_metadata
from tesla_at_home.adapters.metadata import TufMetadata
from tesla_at_home.errors import NotThere, Untrusted
from tesla_at_home.ports import Cancellation
from tests.support.weather import Crossing, Fault
from tests.support.world import World, world
from workunits.trust import digests
from workunits.values import Milliseconds
from workunits.wire.messages import Project, Terms

NOW = Milliseconds(1_900_000_000_000)
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
DAY_S = 86_400
TERMS = b"Be kind.\n"


def later(days: float) -> Milliseconds:
    return Milliseconds(NOW + int(days * DAY_MS))


class FolderSource:
    """Implements `MetadataSource`: serves `DIR/metadata` as the HTTP side does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def pieces(self, path: str, *, cancel: Cancellation) -> Iterator[bytes]:
        file = self._folder / path.removeprefix("/metadata/")
        if not file.is_file():
            raise NotThere(path)
        yield file.read_bytes()


class Parties:
    """A project's metadata with its keys, and a vehicle that trusts its first root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "metadata"
        self.keys = KeyFolder(folder / "keys")
        for role in (*TUF_ROLES, "batch", "scheduler"):
            self.keys.make(role)
        self.project = ProjectMetadata(self.folder, self.keys)
        self.project.create(self._project(), TERMS, NOW)
        source = FolderSource(self.folder)
        pinned = client_metadata.first_root(source, cancel=Cancellation())
        client_metadata.pin(folder / "vehicle", pinned)
        self.vehicle = TufMetadata(folder / "vehicle", source)

    def _project(self) -> Project:
        return Project(
            name="Test",
            scheduler_keys=(role_key(self.keys.load("scheduler"), NOW),),
            batch_keys=(role_key(self.keys.load("batch"), NOW),),
            terms=Terms(digest=digests.plain(TERMS), size=len(TERMS), version="1"),
            protocol_oldest=1,
            protocol_newest=1,
            sign_up="open",
        )

    def is_fresh(self, now: Milliseconds) -> bool:
        """What the vehicle thinks after a look."""
        return self.vehicle.refresh(now, cancel=Cancellation()).is_fresh

    def rotate(self, now: Milliseconds) -> None:
        """A new root with new keys for every role, signed by the old root key and the new one."""
        version = max(int(p.name.split(".")[0]) for p in self.folder.glob("*.root.json"))
        root = Metadata[Root].from_file(str(self.folder / f"{version}.root.json")).signed
        old = CryptoSigner(self.keys.load("root"))
        for role in TUF_ROLES:
            for keyid in list(root.roles[role].keyids):
                root.revoke_key(keyid, role)
            root.add_key(CryptoSigner(self.keys.make(role)).public_key, role)
        root.version += 1
        root.expires = datetime.fromtimestamp(now // 1000, UTC) + timedelta(days=365)
        signed = Metadata(root)
        signed.sign(old)
        signed.sign(CryptoSigner(self.keys.load("root")), append=True)
        signed.to_file(str(self.folder / f"{root.version}.root.json"))
        self.project.leap(now)  # whatever the old keys signed is signed by the new ones

    def files(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}

    def put_back(self, files: dict[Path, bytes]) -> None:
        for path in self.files():
            path.unlink()
        for path, raw in files.items():
            path.write_bytes(raw)


@pytest.fixture
def parties(tmp_path: Path) -> Parties:
    return Parties(tmp_path)


# --- metadata ----------------------------------------------------------------------------------------


def test_after_ten_days_a_vehicle_takes_no_new_work_until_the_server_has_signed(
    parties: Parties,
) -> None:
    assert parties.is_fresh(NOW)
    # The last expiry is the timestamp's, a day after; a day of grace follows.
    assert parties.is_fresh(later(1.99))
    assert not parties.is_fresh(later(10))
    parties.project.refresh(later(10))
    assert parties.is_fresh(later(10))


def test_a_vehicle_that_was_away_for_a_year_follows_every_root(parties: Parties) -> None:
    assert parties.is_fresh(NOW)
    for days in (100, 200, 300):
        parties.rotate(later(days))
    parties.project.refresh(later(365))
    assert not parties.vehicle.held(later(365)).is_fresh
    assert parties.is_fresh(later(365))
    assert parties.project.roles()[0].version == 4
    # And one that joins now begins at the root that owners compare.
    late = TufMetadata(parties.folder.parent / "late", FolderSource(parties.folder))
    client_metadata.pin(
        parties.folder.parent / "late", (parties.folder / "1.root.json").read_bytes()
    )
    assert late.refresh(later(365), cancel=Cancellation()).is_fresh


def test_a_restored_project_is_taken_by_vehicles_that_saw_newer_metadata(parties: Parties) -> None:
    backup = parties.files()
    for days in range(1, 60):
        parties.project.refresh(later(days))
    assert parties.is_fresh(later(59.5))
    parties.put_back(backup)
    parties.project.refresh(later(60))
    with pytest.raises(Untrusted):
        parties.is_fresh(later(60))
    parties.put_back(backup)
    assert parties.project.leap(later(60)) == ()
    assert parties.is_fresh(later(60))
    assert parties.project.warnings(later(60)) == ()


def test_without_the_targets_key_what_follows_goes_ahead_and_is_said(parties: Parties) -> None:
    (parties.folder.parent / "keys" / "targets.pem").unlink()
    before = {state.role: state.version for state in parties.project.roles()}
    assert parties.project.leap(later(1)) == ("targets",)
    after = {state.role: state.version for state in parties.project.roles()}
    assert after["targets"] == before["targets"]
    assert min(after["snapshot"], after["timestamp"]) >= later(1) // 1000
    assert parties.is_fresh(later(1))


def test_serve_signs_before_it_listens(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    cli_project.found(folder, ProjectSettings("asleep"))
    keys = KeyFolder(folder / "keys")
    metadata = ProjectMetadata(folder / "metadata", keys)
    clock_ms = Milliseconds(int(datetime.now(UTC).timestamp()) * 1000)
    metadata.leap(Milliseconds(clock_ms - 10 * DAY_MS))
    assert metadata.roles()[3].expires_ms < clock_ms
    site = Site(folder, bound_socket("127.0.0.1", 0))
    seen: list[Milliseconds] = []

    def ready() -> None:
        seen.append(metadata.roles()[3].expires_ms)
        site.stop()

    serving = threading.Thread(target=lambda: site.run(ready))
    serving.start()
    serving.join(60)
    assert seen
    assert seen[0] > clock_ms


# --- leases and sessions ------------------------------------------------------------------------------


def down_for(here: World, days: float) -> Callable[[int, Crossing], Fault | None]:
    """Nothing reaches the server until then."""
    until_s = here.clock.boot_s() + days * DAY_S

    def choose(number: int, crossing: Crossing) -> Fault | None:
        return "lost" if here.clock.boot_s() < until_s and crossing.way == "asked" else None

    return choose


def test_a_server_that_was_down_for_ten_days_finishes_its_batches() -> None:
    with world() as here:
        here.publish(small=3, wide=1)
        while not here.vehicles[0].machine.state.units:
            here.vehicles[0].step()
        here.weather.choose = down_for(here, 10)
        here.run()
        here.check()


def test_a_vehicle_that_was_away_for_a_year_goes_on_with_its_key_and_session() -> None:
    with world(owners=(0, 1, 2)) as here:
        away = here.vehicles[0]
        here.publish(small=2, wide=1)
        while not away.machine.state.units:
            assert away.step()
        away.end()
        here.vehicles.remove(away)
        here.run()
        for _ in range(366):
            here.clock.pass_s(DAY_S)
            here.server.settle()
        here.vehicles.append(away)
        away.start()
        here.publish(small=2, wide=0)
        here.run()
        here.check()
        assert here.server.vehicle(away.keys.public).state == "active"
        assert away.store.books().totals.units_valid > 0
