"""What the owner sees: whether a pause holds is a matter of the moment."""

from __future__ import annotations

from tesla_at_home.agent.books import Totals
from tesla_at_home.agent.view import View


def seen(paused_until_ms: int | None) -> View:
    return View(
        url="http://127.0.0.1:1",
        vehicle_name="car",
        owner_name="anna",
        is_running=False,
        is_finishing=False,
        paused_until_ms=paused_until_ms,
        gate=None,
        units=(),
        quarantined=(),
        totals=Totals(),
        notice=None,
        fault=None,
        last_contact_ms=None,
        next_contact_ms=None,
    )


def test_a_pause_holds_until_its_end() -> None:
    assert not seen(None).is_paused(5)
    assert seen(6).is_paused(5)
    assert not seen(5).is_paused(5)
