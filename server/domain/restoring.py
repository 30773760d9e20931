"""What a restored project must be ahead of (DECISIONS A.3). Pure.

A backup does not know what was said after it was made: in which epoch sessions ran, and which versions of
the metadata vehicles have seen. Both go on from the second of the restore. That is higher than anything
said before, because both grow by one for each change, from 1 or from the second of an earlier
restore, and nothing changes them once a second for years. It stays right if the same backup is restored
twice, which adding a fixed number would not.
"""

from __future__ import annotations

from workunits.values import Milliseconds


def beyond(known: int, now: Milliseconds) -> int:
    """An epoch or a version of metadata that nobody has heard of, `known` being the backup's."""
    return max(known + 1, now // 1000)
