"""A project as one file, and a project made of such a file: the work behind `backup` and `restore`.

Decides the order of the steps: a copy begins with the database, whatever its rows name is there by then;
a restored project is whole, of this version and ahead of all that vehicles have heard before it takes the
place of another. What the file holds is `adapters.backup_files`, the taking of the place
`adapters.swapping`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from server import cli_shell
from server.adapters import backup_files, durable_files, serving, swapping
from server.adapters.backup_files import BackupFacts
from server.adapters.keys import ROLES, KeyFolder
from server.adapters.metadata import ProjectMetadata
from server.cli_project import Opened
from server.errors import Conflict, NotFound, Refused, ServerError
from server.services.restoring import begin_epoch
from server.settings import DATABASE_FILE
from server.storage import snapshots
from server.storage.database import SqliteDatabase
from server.storage.migrations import HEAD, migrate
from workunits.values import Milliseconds


@dataclass(frozen=True, slots=True)
class Copied:
    """A backup that is on disk."""

    facts: BackupFacts
    blobs: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Restored:
    """A project that is in its place."""

    facts: BackupFacts
    behind: tuple[str, ...]  # roles of the metadata that could not be signed anew
    absent_keys: tuple[str, ...]
    aside: Path | None  # where the former project lies


def back_up(project: Opened, file: Path, *, replaces: bool, with_keys: bool) -> Copied:
    """Write the project to `file`, whoever works on it meanwhile.

    Raises:
        Refused: there is such a file. Outage: the database cannot be read, or the disk is full.
    """
    with backup_files.new_file(file, replaces=replaces) as target:
        facts = _facts(project, with_keys=with_keys)
        with _database_copy(project, file) as database:
            metadata = project.metadata.current()
            blobs = backup_files.write(target, facts, project.folder, database, metadata)
    return Copied(facts, blobs, file.stat().st_size)


def restore(folder: Path, source: IO[bytes], now: Milliseconds) -> Restored:
    """Put the project that the backup `source` holds in the place of the one in `folder`.

    Raises:
        Refused: why not; the project in `folder` is as it was.
    """
    with _taken(folder):
        try:
            facts, behind = _prepare(folder, source, now)
        except BaseException:
            swapping.drop(folder)
            raise
        swapping.decide(folder, now)
        aside = swapping.finish_alone(folder)
    keys = KeyFolder(folder / "keys")
    absent = tuple(role for role in ROLES if not keys.has(role))
    return Restored(facts, behind, absent, aside)


def _facts(project: Opened, *, with_keys: bool) -> BackupFacts:
    return BackupFacts(
        format=backup_files.FORMAT,
        schema=HEAD,
        # Before the copy is taken, so that nothing that is lost is older than what is said.
        made_ms=project.clock.now_ms(),
        name=project.settings.name,
        fingerprint=project.metadata.fingerprint(),
        keys=tuple(role for role in ROLES if with_keys and project.keys.has(role)),
    )


@contextmanager
def _database_copy(project: Opened, file: Path) -> Iterator[Path]:
    """Beside the backup, where there must be room for it anyway."""
    copy = backup_files.passing_name(file, ".database")
    copy.unlink(missing_ok=True)
    try:
        snapshots.copy(project.folder / DATABASE_FILE, copy)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


@contextmanager
def _taken(folder: Path) -> Iterator[None]:
    """Nobody else works in `folder`; if it was not there, a restore that failed leaves none."""
    is_new = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            try:
                stack.enter_context(serving.only_one(folder))
            except Conflict as error:
                raise Conflict(f"{error}; stop it first") from None
            stack.enter_context(swapping.alone(folder))
            yield
    except BaseException:
        if is_new:
            (folder / serving.LOCK).unlink(missing_ok=True)
            folder.rmdir()
        raise


def _prepare(
    folder: Path, source: IO[bytes], now: Milliseconds
) -> tuple[BackupFacts, tuple[str, ...]]:
    """The new project, whole, beside the one that still holds; with the roles that stay behind."""
    made = swapping.prepare(folder)
    try:
        facts = backup_files.unpack(source, made, HEAD)
        _expect_past(facts, now)
        _renew_database(made / DATABASE_FILE, now)
        return facts, _renew_metadata(made, folder, now)
    except ServerError as error:
        raise Refused(f"{source.name} cannot be restored: {error}") from None


def _expect_past(facts: BackupFacts, now: Milliseconds) -> None:
    """The present is what the project must be ahead of (`domain.restoring`): it must be known."""
    if now < facts.made_ms:
        raise Refused(
            f"it was made at {cli_shell.moment(facts.made_ms)}, which is still to come by this "
            "computer's clock; set the clock right"
        )


def _renew_database(path: Path, now: Milliseconds) -> None:
    snapshots.expect_sound(path)
    migrate(path)
    with SqliteDatabase(path) as database:
        begin_epoch(database, now)
    path.chmod(durable_files.PRIVATE)


def _renew_metadata(made: Path, folder: Path, now: Milliseconds) -> tuple[str, ...]:
    """Sign what is above all that was published; the roles for which no key is here."""
    metadata = ProjectMetadata(made / "metadata", KeyFolder(made / "keys"))
    if foreign := metadata.foreign_keys():
        raise Refused(f"keys/{foreign[0]}.pem in it is not the key that the metadata names")
    _keep_keys(folder, made, metadata)
    return metadata.leap(now)


def _keep_keys(folder: Path, made: Path, metadata: ProjectMetadata) -> None:
    """Keys that the backup was made without, and that lie in the same project's directory, stay."""
    here = KeyFolder(folder / "keys")
    former = ProjectMetadata(folder / "metadata", here)
    try:
        if former.fingerprint() != metadata.fingerprint():
            return
    except NotFound:
        return
    for role in ROLES:
        path = made / "keys" / f"{role}.pem"
        if here.has(role) and not path.exists():
            raw = (folder / "keys" / path.name).read_bytes()
            durable_files.replace(path, raw, durable_files.PRIVATE)
    for role in metadata.foreign_keys():
        (made / "keys" / f"{role}.pem").unlink()
