"""What a backup holds: which files of a project, in which order, and what the first of them says.

The database comes first, as of one moment; metadata, keys and blobs after it, because whatever its rows
name was written before them. Unpacking takes these files and no others. Copying the database and making
a project of what was unpacked is the commands' business.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import msgspec

from server.adapters import durable_files
from server.adapters.archive import ArchiveReader, ArchiveWriter, BadArchive, Member
from server.adapters.keys import ROLES
from server.errors import Conflict, NotFound, Refused
from server.settings import DATABASE_FILE

FORMAT: Final = 1
_FACTS: Final = "backup.json"
_FACTS_BYTES: Final = 64 * 1024
_MEMBER: Final = re.compile(
    rf"{re.escape(DATABASE_FILE)}|project\.toml|keys/(?:{'|'.join(ROLES)})\.pem"
    r"|metadata/(?:timestamp|[1-9][0-9]{0,18}\.(?:root|targets|snapshot))\.json"
    r"|metadata/targets/[0-9a-f]{64}\.(?:project\.json|terms\.txt)"
    r"|blobs/[a-z]{1,16}/[0-9a-f]{2}/[0-9a-f]{2,128}"
)
_LATER: Final = "a later version of tesla-at-home-server made it; install that one"
# Without one of these nothing can be made of what was unpacked.
_NEEDED: Final = (DATABASE_FILE, "project.toml", "metadata/timestamp.json", "metadata/1.root.json")
_FOLDERS: Final = ("keys", "metadata/targets", "blobs")


class BackupFacts(msgspec.Struct, frozen=True, kw_only=True):
    """`backup.json`, the first member."""

    format: int
    schema: str  # of the database
    made_ms: int
    name: str
    fingerprint: str  # of the first root, in hex
    keys: tuple[str, ...]  # roles whose secret keys are in it


class _Format(msgspec.Struct):
    """Enough of `backup.json` to know whether the rest can be understood."""

    format: int


@contextmanager
def new_file(path: Path, *, replaces: bool) -> Iterator[IO[bytes]]:
    """A file that only its user may read, and that has its name only when it is whole and on disk.

    Raises:
        Conflict: there is something of that name.
    """
    if path.is_dir():
        raise Refused(f"{path} is a directory; name a file")
    if path.exists() and not replaces:
        raise Conflict(f"{path} is there already; choose another name, or replace it with --force")
    passing = passing_name(path)
    passing.unlink(missing_ok=True)
    descriptor = os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, durable_files.PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        passing.replace(path)
    except BaseException:
        passing.unlink(missing_ok=True)
        raise
    durable_files.sync_folder(path.parent)


def passing_name(path: Path, of: str = "") -> Path:
    """Beside `path`; the same each time, so that what a crash left goes with the next backup."""
    return path.with_name(f".{path.name}{of}.new")


def write(
    file: IO[bytes],
    facts: BackupFacts,
    folder: Path,
    database: Path,
    metadata: Mapping[str, bytes],
) -> int:
    """Write a backup of the project in `folder`, whose database was copied to `database`.

    Returns how many blobs are in it.
    """
    archive = ArchiveWriter(file)
    archive.add(_FACTS, msgspec.json.encode(facts))
    _add(archive, database, DATABASE_FILE)
    _add(archive, folder / "project.toml", "project.toml")
    for name, raw in metadata.items():
        archive.add(f"metadata/{name}", raw)
    for role in facts.keys:
        _add(archive, folder / "keys" / f"{role}.pem", f"keys/{role}.pem")
    blobs = sum(_add_if_there(archive, folder, path) for path in _blobs(folder))
    archive.end()
    return blobs


def unpack(file: IO[bytes], into: Path, newest_schema: str) -> BackupFacts:
    """Write what a backup holds into the empty folder `into`, and check all of it.

    Raises:
        BadArchive: it is no whole backup, or not one of this version; `into` holds a part of it.
    """
    members = iter(ArchiveReader(file))
    facts = _facts(next(members, None), newest_schema)
    for name in _FOLDERS:
        (into / name).mkdir(mode=0o700, parents=True)
    for member in members:
        if _MEMBER.fullmatch(member.name) is None:
            raise BadArchive(f"it holds {member.name!r:.80}, which belongs to no project")
        _unpack_one(member, into / member.name)
    for name in (*_NEEDED, *(f"keys/{role}.pem" for role in facts.keys)):
        if not (into / name).exists():
            raise BadArchive(f"{name} is not in it")
    return facts


def _facts(member: Member | None, newest_schema: str) -> BackupFacts:
    if member is None or member.name != _FACTS:
        raise BadArchive("it is no backup of a project")
    raw = member.read(_FACTS_BYTES)
    try:
        if msgspec.json.decode(raw, type=_Format).format > FORMAT:
            raise BadArchive(_LATER)
        facts = msgspec.json.decode(raw, type=BackupFacts)
    except msgspec.MsgspecError:
        raise BadArchive(f"{_FACTS} in it cannot be read") from None
    # Revisions are numbers of equal length (`storage/migrations`).
    if facts.schema > newest_schema:
        raise BadArchive(_LATER)
    return facts


def _unpack_one(member: Member, path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    is_public = member.name.startswith("metadata/")
    mode = durable_files.PUBLIC if is_public else durable_files.PRIVATE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise BadArchive(f"it holds {member.name} twice") from None
    with os.fdopen(descriptor, "wb") as file:
        for piece in member.pieces:
            file.write(piece)


def _add(archive: ArchiveWriter, path: Path, name: str) -> None:
    try:
        with path.open("rb") as source:
            archive.add_file(name, source)
    except FileNotFoundError:
        raise NotFound(f"{name} is missing; is this a project's directory?") from None


def _add_if_there(archive: ArchiveWriter, folder: Path, path: Path) -> bool:
    """An output that nothing names any more may go while the backup is made."""
    try:
        with path.open("rb") as source:
            archive.add_file(path.relative_to(folder).as_posix(), source)
    except FileNotFoundError:
        return False
    return True


def _blobs(folder: Path) -> Iterator[Path]:
    """Every whole blob; those with a passing name are being written and no row names them."""
    for place, _, names in os.walk(folder / "blobs"):
        for name in names:
            path = Path(place, name)
            if _MEMBER.fullmatch(path.relative_to(folder).as_posix()):
                yield path
