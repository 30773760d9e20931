"""Which time to believe, and when a lease ends (DESIGN 4, DECISIONS A.5).

Decides from the wall clock, the boot clock and the highest time the project signed. No client time
stamp is ever a proof of anything.
"""

from __future__ import annotations

from msgspec import Struct

from workunits.values import Milliseconds


class SignedTime(Struct, frozen=True, kw_only=True):
    """The highest time the project signed, and when on the boot clock it was heard."""

    ms: Milliseconds = Milliseconds(0)
    boot_s: float = 0.0
    boot_id: str = ""

    def heard(self, ms: Milliseconds, boot_s: float, boot_id: str) -> SignedTime:
        """With a newly signed time; an older one (a stored reply, sent again) changes nothing."""
        bridged = self.bridged(boot_s, boot_id)
        if ms < (self.ms if bridged is None else bridged):
            return self
        return SignedTime(ms=ms, boot_s=boot_s, boot_id=boot_id)

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

    After a reboot only a clock behind the signed time can be known to be wrong.
    """
    bridged = signed.bridged(boot_s, boot_id)
    if bridged is not None:
        return (wall_ms - bridged) / 1000
    if wall_ms < signed.ms:
        return (wall_ms - signed.ms) / 1000
    return None
