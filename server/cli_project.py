"""A project's directory: founding a new one, and opening one for a command.

The commands are a second, short writer beside `serve` (DESIGN 6); what they may do at the same time is
decided by the database and by the metadata's lock. Services that load numpy are imported when a
command needs them, so that the others are quick.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from server.adapters import durable_files, serving, settings_file, swapping
from server.adapters.clock import SystemClock, SystemRandomness
from server.adapters.keys import ROLES, KeyFolder, KeySealer
from server.adapters.metadata import ProjectMetadata, role_key
from server.domain.names import public_blob
from server.domain.records import ProjectSecrets
from server.errors import Refused
from server.settings import DATABASE_FILE, ProjectSettings
from server.storage.blobs import FolderBlobs
from server.storage.database import SqliteDatabase
from server.storage.migrations import migrate
from workunits.trust import digests
from workunits.values import Milliseconds
from workunits.wire.messages import PROTOCOL_OLDEST, PROTOCOL_VERSION, Project, Terms

if TYPE_CHECKING:
    from server.services.assembly import Assembly
    from server.services.models import Models
    from server.services.publishing import Publishing

TERMS_VERSION: Final = "1"
_SECRET_BYTES: Final = 32
# What a project that lost its project.toml still has, what an `init` or a `restore` that was cut off
# may have left, and what a new file system begins with.
_OWN_NAMES: Final = re.compile(
    rf"keys|metadata|blobs|{re.escape(DATABASE_FILE)}(-wal|-shm|-journal)?|\..*\.new|lost\+found"
    rf"|{re.escape(swapping.PREPARED)}|\.?re(stor|plac)ed-.*|uploads|{serving.LOCK}|{serving.FOUND_AT}"
)


@dataclass(frozen=True, slots=True)
class Opened:
    """A project as commands use it."""

    folder: Path
    settings: ProjectSettings
    database: SqliteDatabase
    blobs: FolderBlobs
    metadata: ProjectMetadata
    keys: KeyFolder
    clock: SystemClock
    randomness: SystemRandomness

    def models(self) -> Models:
        """The service for models."""
        from server.adapters.recompute import Recompute
        from server.services.models import Models

        return Models(self.database, self.blobs, self.metadata, Recompute(), self.clock)

    def publishing(self) -> Publishing:
        """The service for new batches; needs the batch key."""
        from server.adapters.model_files import TemporaryModelFiles
        from server.adapters.recompute import Recompute
        from server.services.publishing import Publishing

        return Publishing(
            models=self.models(),
            database=self.database,
            blobs=self.blobs,
            model_files=TemporaryModelFiles(self.blobs),
            recompute=Recompute(),
            sealer=KeySealer(self.keys.load("batch")),
            clock=self.clock,
            randomness=self.randomness,
        )

    def assembly(self) -> Assembly:
        """The service for answers."""
        from server.services.assembly import Assembly

        return Assembly(self.database, self.blobs)


@contextmanager
def opened(folder: Path) -> Iterator[Opened]:
    """The project in `folder`.

    Raises:
        NotFound: there is none.
        Refused, Outage: it cannot be used; how to mend it.
    """
    settings = settings_file.read(folder)
    keys = KeyFolder(folder / "keys")
    with swapping.using(folder), SqliteDatabase(folder / DATABASE_FILE) as database:
        yield Opened(
            folder=folder,
            settings=settings,
            database=database,
            blobs=FolderBlobs(folder / "blobs"),
            metadata=ProjectMetadata(folder / "metadata", keys),
            keys=keys,
            clock=SystemClock(),
            randomness=SystemRandomness(),
        )


def is_founded(folder: Path) -> bool:
    """Whether `init` has run to its end here."""
    return (folder / settings_file.FILE).exists()


def found(folder: Path, settings: ProjectSettings) -> ProjectMetadata:
    """Make a project in `folder`; `project.toml` comes last and says that all is there.

    Raises:
        Refused: the folder holds something else.
    """
    refuse_foreign(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    keys = KeyFolder(folder / "keys")
    for role in ROLES:
        keys.make(role)
    now = SystemClock().now_ms()
    metadata = ProjectMetadata(folder / "metadata", keys)
    terms = default_terms()
    metadata.create(_project(settings, keys, terms, now), terms, now)
    FolderBlobs(folder / "blobs").put(public_blob(digests.plain(terms)), terms)
    _found_database(folder / DATABASE_FILE)
    settings_file.write(folder, settings)
    durable_files.sync_folder(folder.parent)
    return metadata


def refuse_foreign(folder: Path) -> None:
    """A folder that is used for something else is not made a project's and closed to others."""
    if not folder.is_dir() or is_founded(folder):
        return
    foreign = sorted(
        name for entry in folder.iterdir() if not _OWN_NAMES.fullmatch(name := entry.name)
    )
    if foreign:
        raise Refused(
            f"{folder} holds other things ({foreign[0]}); give --dir a new or an empty folder"
        )


def serves_this_computer(folder: Path, host: str, trusted_proxies: Sequence[str]) -> bool:
    """Whether only vehicles on this computer can reach the server: loopback, and no proxy before it."""
    if trusted_proxies or settings_file.read(folder).public_address is not None:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def announce_settings(folder: Path) -> str | None:
    """Sign what the operator has changed in `project.toml`; a warning where the key is not here."""
    settings = settings_file.read(folder)
    metadata = ProjectMetadata(folder / "metadata", KeyFolder(folder / "keys"))
    try:
        with swapping.using(folder):
            metadata.align(settings, SystemClock().now_ms())
    except Refused as error:
        return f"owners are not told of the changes in project.toml: {error}"
    return None


def default_terms() -> bytes:
    """The terms that a new project begins with."""
    return resources.files("server.adapters").joinpath("default_terms.txt").read_bytes()


def _project(
    settings: ProjectSettings, keys: KeyFolder, terms: bytes, now: Milliseconds
) -> Project:
    return Project(
        name=settings.name,
        scheduler_keys=(role_key(keys.load("scheduler"), now),),
        batch_keys=(role_key(keys.load("batch"), now),),
        terms=Terms(digest=digests.plain(terms), size=len(terms), version=TERMS_VERSION),
        protocol_oldest=PROTOCOL_OLDEST,
        protocol_newest=PROTOCOL_VERSION,
        sign_up="invite" if settings.sign_up == "invite" else "open",
    )


def _found_database(path: Path) -> None:
    migrate(path)
    path.chmod(durable_files.PRIVATE)
    random = SystemRandomness()
    secrets = ProjectSecrets(1, random.token(_SECRET_BYTES), random.token(_SECRET_BYTES))
    with SqliteDatabase(path) as database, database.transaction() as storage:
        storage.meta.found(secrets)
