"""Who gave how much: pages of the leaderboard, and the days that fall out of the last 30."""

from __future__ import annotations

from typing import Final

from server import settings
from server.domain.credit import first_standing_day
from server.domain.records import Standing
from server.errors import Refused
from server.ports import Database
from workunits.values import Milliseconds

PERIODS: Final = ("30d", "all")


class Standings:
    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, period: str, page: int) -> list[Standing]:
        """Page `page`, from 1, of the owners who want to be seen, most credit first.

        Raises:
            Refused: no such period or page.
        """
        if period not in PERIODS:
            raise Refused(f"period {period!r:.40}: use one of {', '.join(PERIODS)}")
        if page < 1:
            raise Refused(f"page {page}: pages count from 1")
        with self._database.reading() as repos:
            return repos.credit.standings(period, page, settings.STANDINGS_PER_PAGE)

    def fall_out(self, now: Milliseconds) -> int:
        """Take the days before the last 30 out of the month's sums; how many days."""
        first = first_standing_day(now, settings.STANDING_DAYS)
        dropped = 0
        while self._drop_before(first):
            dropped += 1
        return dropped

    def _drop_before(self, first: int) -> bool:
        with self._database.reading() as repos:
            oldest = repos.credit.oldest_day()
        if oldest is None or oldest >= first:
            return False
        with self._database.transaction() as repos:
            repos.credit.drop_day(oldest)
        return True
