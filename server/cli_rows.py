"""Rows of the database as commands name them (by id, its beginning, or name) and show them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, Protocol, TypeVar

from server import cli_shell
from server.domain.records import BatchRow, OwnerRow, VehicleRow
from server.errors import NotFound, Refused
from server.ports import Repositories

_PAGE: Final = 1000
_HEX: Final = re.compile(r"[0-9a-f]{2,64}", re.ASCII)


class _Named(Protocol):
    @property
    def id(self) -> bytes: ...
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)


def find_batch(storage: Repositories, text: str) -> BatchRow:
    """The one batch whose id begins with `text`.

    Raises:
        NotFound, Refused: none, or more than one.
    """
    found = storage.batches.find(text) if _HEX.fullmatch(text) else []
    if not found:
        raise NotFound(f"there is no batch {text}; see: tesla-at-home-server batch list")
    if len(found) > 1:
        raise Refused(f"more than one batch begins with {text}; give more of its id")
    return found[0]


def batch_json(row: BatchRow) -> dict[str, object]:
    """A batch for scripts."""
    return {
        "id": row.id.hex(),
        "model": row.model_name,
        "kind": row.kind,
        "state": row.state,
        "assurance": row.assurance,
        "quorum": row.quorum,
        "rows": row.rows,
        "rows_failed": row.rows_failed,
        "units": row.units,
        "units_done": row.units_done,
        "units_failed": row.units_failed,
        "created": cli_shell.iso(row.created_ms),
        "deadline": cli_shell.iso(row.deadline_ms),
        "ended": cli_shell.iso(row.ended_ms),
    }


def find_vehicle(storage: Repositories, text: str) -> VehicleRow:
    """The one vehicle called `text`, or whose id begins so."""
    return _one("vehicle", text, all_vehicles(storage))


def find_owner(storage: Repositories, text: str) -> OwnerRow:
    """The one owner called `text`, or whose id begins so."""
    return _one("owner", text, all_owners(storage))


def all_vehicles(storage: Repositories) -> Iterator[VehicleRow]:
    """Every vehicle, read in pages."""
    page = storage.vehicles.list(None, _PAGE)
    while page:
        yield from page
        page = storage.vehicles.list(page[-1].id, _PAGE)


def all_owners(storage: Repositories) -> Iterator[OwnerRow]:
    """Every owner, read in pages."""
    page = storage.owners.list(None, _PAGE)
    while page:
        yield from page
        page = storage.owners.list(page[-1].id, _PAGE)


def _one(what: str, text: str, rows: Iterable[N]) -> N:
    found = []
    for row in rows:
        if row.name == text or (_HEX.fullmatch(text) and row.id.hex().startswith(text)):
            found.append(row)
    if not found:
        raise NotFound(f"there is no {what} {text}; see: tesla-at-home-server {what} list")
    if len(found) > 1:
        raise Refused(f"more than one {what} is called {text}; give the beginning of its id")
    return found[0]
