"""Which time to believe, and when a lease ends (DESIGN 4, DECISIONS A.5).

Decides from the wall clock, the boot clock and the highest time the project signed. No client time
stamp is ever a proof of anything.

One wrong clock of the project must not end a vehicle: a time a day ahead of all that is known here is
only in doubt until a second answer says the same an hour later, and a highest time that turned out to
be ahead is given up when both the local clock and a later answer say so. That answer cannot be an old
one: it names a request that was made after the highest time was heard. How far a scheduler may drive
this time at all is bounded by the metadata (`State.vouched`), so that a stolen key ends no vehicle.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from workunits.values import Milliseconds

# More than this is no drift; and the project's metadata are trusted a day past their expiry anyway.
JUMP_MS: Final = 86_400_000
# An administrator who sets a server's clock wrong notices, and sets it right, within this.
CONFIRMED_AFTER_S: Final = 3600.0
# Two answers that say the same: one may have waited for the server's disk.
_SAME_MS: Final = 300_000


class SignedTime(Struct, frozen=True, kw_only=True):
    """The highest time the project signed, and when on the boot clock it was heard."""

    ms: Milliseconds = Milliseconds(0)
    boot_s: float = 0.0
    boot_id: str = ""
    doubt: SignedTime | None = None  # far ahead of all that is known here, and not confirmed

    def heard(
        self, ms: Milliseconds, *, wall_ms: Milliseconds, boot_s: float, boot_id: str
    ) -> SignedTime:
        """With a newly signed time; one a little older (a stored reply, sent again) changes nothing."""
        new = SignedTime(ms=ms, boot_s=boot_s, boot_id=boot_id)
        known_ms = self._known_ms(boot_s, boot_id)
        if ms > max(wall_ms, known_ms) + JUMP_MS and not self._is_confirmed_by(new):
            return replace(self, doubt=self.doubt if self._is_doubted_by(new) else new)
        if ms >= known_ms:
            return new
        is_given_up = any(
            known_ms > max(ms, wall_ms) + most_ms and abs(ms - wall_ms) <= most_ms
            for most_ms in (_SAME_MS, JUMP_MS)
        )
        return new if is_given_up else replace(self, doubt=None)

    def _known_ms(self, boot_s: float, boot_id: str) -> Milliseconds:
        bridged = self.bridged(boot_s, boot_id)
        return self.ms if bridged is None else bridged

    def _is_doubted_by(self, new: SignedTime) -> bool:
        """Whether what is in doubt said the same as `new`."""
        if self.doubt is None:
            return False
        doubted_ms = self.doubt.bridged(new.boot_s, new.boot_id)
        return doubted_ms is not None and abs(new.ms - doubted_ms) <= _SAME_MS

    def _is_confirmed_by(self, new: SignedTime) -> bool:
        if self.doubt is None or not self._is_doubted_by(new):
            return False
        return new.boot_s >= self.doubt.boot_s + CONFIRMED_AFTER_S

    def bridged(self, boot_s: float, boot_id: str) -> Milliseconds | None:
        """The project's time now by the boot clock; None after a reboot."""
        if not self.ms or boot_id != self.boot_id:
            return None
        return Milliseconds(self.ms + int((boot_s - self.boot_s) * 1000))


def trusted_now(
    signed: SignedTime, wall_ms: Milliseconds, boot_s: float, boot_id: str
) -> Milliseconds:
    """The larger of the local clock and the highest signed time: expiry is never put off."""
    bridged = signed.bridged(boot_s, boot_id)
    return max(wall_ms, signed.ms if bridged is None else bridged)


def lease_now(
    signed: SignedTime, wall_ms: Milliseconds, boot_s: float, boot_id: str
) -> Milliseconds:
    """The time that leases are held against: the boot clock, and after a reboot `trusted_now`.

    A wall clock set a year ahead must not throw away a night's work.
    """
    bridged = signed.bridged(boot_s, boot_id)
    return max(wall_ms, signed.ms) if bridged is None else bridged


def clock_off_s(
    signed: SignedTime, wall_ms: Milliseconds, boot_s: float, boot_id: str
) -> float | None:
    """By how much the wall clock is wrong; None while nothing was signed in this boot.

    After a reboot only a clock behind the signed time can be known to be wrong. A time in doubt
    counts here: either clock may be the wrong one, and nothing is computed until that is settled.
    """
    bridged = (signed.doubt or signed).bridged(boot_s, boot_id)
    if bridged is not None:
        return (wall_ms - bridged) / 1000
    if wall_ms < signed.ms:
        return (wall_ms - signed.ms) / 1000
    return None
