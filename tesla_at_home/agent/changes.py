"""What one event changed, to be written in one transaction; and what an order does to the books."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from tesla_at_home.agent.books import Books, HeldUnit
from tesla_at_home.agent.events import Order
from tesla_at_home.agent.view import Entry
from tesla_at_home.policy.gates import FOR_EVER, GateView
from workunits.values import LeaseId


@dataclass(frozen=True, slots=True)
class Changes:
    """New values of what changed; None and empty: as it was."""

    books: Books | None = None
    units: tuple[HeldUnit, ...] = ()
    dropped: tuple[LeaseId, ...] = ()
    entries: tuple[Entry, ...] = ()
    gate: GateView | None = None

    def __bool__(self) -> bool:
        return bool(
            self.books or self.units or self.dropped or self.entries or self.gate is not None
        )


def after_order(books: Books, order: Order) -> Books:
    """The books after an order; leave and reload change nothing in them."""
    if order.kind == "pause":
        until_ms = FOR_EVER if order.until_ms is None else order.until_ms
        return replace(books, paused_until_ms=until_ms)
    if order.kind == "resume":
        return replace(books, paused_until_ms=None, is_finishing=False)
    if order.kind == "finish":
        return replace(books, is_finishing=True)
    return books
