"""Everything that the HTTP side reaches, as one frozen value that `server.app` fills."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from server.http.bodies import Room
from server.http.forgeries import Strangers
from server.http.gathering import Gathering
from server.http.turns import Turns
from server.http.uploads import Uploads
from server.http.writers import Writers
from server.ports import Blobs, Clock, Database
from server.services.enrolment import Enrolments
from server.services.exchange import Arrival
from server.services.standings import Standings


@dataclass(frozen=True, slots=True)
class Doors:
    project: str  # its name, as pages show it
    database: Database
    blobs: Blobs
    clock: Clock
    enrolments: Enrolments
    standings: Standings
    work: Gathering[Arrival, bytes]  # answered with packed Messages
    uploads: Uploads
    turns: Turns  # one upload at a time and lease
    metadata: Path  # the folder of TUF metadata, served as it is
    writers: Writers  # threads for what writes
    room: Room  # memory for request bodies
    strangers: Strangers  # whose messages are not verified yet
    is_behind_proxy: bool = False  # then nobody who asks sits at this machine
