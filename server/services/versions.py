"""Which versions of the protocol are spoken, and since when no older ones (DESIGN 4, "Evolution").

The moment is kept in the database, because what was given out under a version that is spoken no more is
taken back for a while. What is done with a request is `domain.sessions`.
"""

from __future__ import annotations

from typing import Final

from server import settings
from server.domain.sessions import Spoken
from server.ports import Database
from workunits.values import Milliseconds
from workunits.wire.messages import PROTOCOL_OLDEST, PROTOCOL_VERSION

_KEY: Final = "protocol_oldest"  # the version, a space, and the time from which on it is the oldest


def spoken(
    database: Database,
    now: Milliseconds,
    oldest: int = PROTOCOL_OLDEST,
    newest: int = PROTOCOL_VERSION,
) -> Spoken:
    """What this server speaks from now on; a change is written down."""
    with database.transaction() as repos:
        kept = (repos.meta.get(_KEY) or b"0 0").split()
        since = Milliseconds(int(kept[1]))
        if int(kept[0]) != oldest:
            since = now
            repos.meta.put(_KEY, b"%d %d" % (oldest, now))
    return Spoken(oldest, newest, Milliseconds(since + settings.OLD_REPORTS_TAKEN_MS))
