"""`DIR/membership`: a small copy of what only the owner could say again, should the database be lost.

Which project, what was agreed to, and the owner's wishes; leases, requests and results come again from
the project and the spool. Written whole, with a digest, so that consent is never read out of damage.
When it is written decides `store`, what is made of it `repair`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import msgspec

from tesla_at_home.adapters.files import sync_directory, write_whole
from tesla_at_home.agent.books import Books
from tesla_at_home.ports import ConsentRecord, Membership
from workunits.errors import ContractError
from workunits.trust import digests
from workunits.wire import codec, limits

_FILE_NAME: Final = "membership"
_DIGEST_BYTES: Final = 32


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """The books are those of the moment; their exchange with the project is not in them."""

    membership: Membership
    consents: tuple[ConsentRecord, ...]
    books: Books


def path_in(directory: Path) -> Path:
    return directory / _FILE_NAME


def write(directory: Path, copy: Copy) -> None:
    """Durable when it returns. Raises `OSError`."""
    packed = msgspec.msgpack.encode(copy)
    write_whole(path_in(directory), digests.plain(packed) + packed)


def read(directory: Path) -> Copy | None:
    """None where there is none, or none that is whole."""
    try:
        raw = path_in(directory).read_bytes()
        packed = raw[_DIGEST_BYTES:]
        if digests.plain(packed) != raw[:_DIGEST_BYTES]:
            return None
        return codec.unpack(packed, Copy, most=limits.MIB)
    except (OSError, ContractError):
        return None


def remove(directory: Path) -> None:
    """Rather none than one that says what does not hold any more: this needs no room on the disk."""
    with contextlib.suppress(OSError):
        path_in(directory).unlink(missing_ok=True)
        sync_directory(directory)
