"""How many enrolments a network, its provider and everybody together have in an hour (DECISIONS D.2).

Every attempt counts, also a refused one, but not those beyond a limit: what is remembered is bounded.
Who has the key of a vehicle that is here may enrol as often as `enrolment` allows one vehicle to.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from server import settings
from server.domain.networks import Ring, rings
from server.errors import TooMany
from server.ports import Repositories
from workunits.values import KeyId, Milliseconds

_PREFIX_BYTES: Final = 16


def count_attempt(repos: Repositories, key: KeyId, network: str, now: Milliseconds) -> None:
    """Note an attempt of `key` to enrol from `network`.

    Raises:
        TooMany: there were as many as there may be.
    """
    if repos.vehicles.by_ids([key]):
        return
    secret = repos.meta.secrets().ticket_key
    since = Milliseconds(now - settings.HOUR_MS)
    counted = [(_prefix(secret, ring), ring.most) for ring in _rings(network)]
    if any(repos.joining.attempts(prefix, since) >= most for prefix, most in counted):
        raise TooMany("too many have joined from this network; try again in an hour")
    for prefix, _ in counted:
        repos.joining.note_attempt(prefix, now)


def _rings(network: str) -> tuple[Ring, ...]:
    return rings(
        network,
        settings.ENROLMENTS_PER_HOUR,
        settings.ENROLMENTS_PER_HOUR_OF_PROVIDER,
        settings.ENROLMENTS_PER_HOUR_IN_ALL,
    )


def _prefix(secret: bytes, ring: Ring) -> bytes:
    """A keyed hash: the database says nothing about where anybody lives."""
    found = hmac.new(secret, b"network " + ring.name.encode(), hashlib.sha256).digest()
    return found[:_PREFIX_BYTES]
