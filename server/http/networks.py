"""Where a caller sits, as the network prefix that is all that is kept of an address."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

_UNKNOWN: Final = "unknown"


# Of those that called last; a vehicle calls again within a day.
@lru_cache(maxsize=4096)
def network_of(host: str | None, *, is_behind_proxy: bool = False) -> str | None:
    """The network prefix that an address belongs to, which is all that is kept of it.

    A /24 or a /56 is one household or one small site; None stands for this machine itself. Behind a
    proxy the address is what somebody wrote: who claims to be this machine, or writes nonsense, is
    one of the many who are counted together.
    """
    try:
        # A zone would make many networks of one.
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return _UNKNOWN
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:
        return _UNKNOWN if is_behind_proxy else None
    bits = 24 if address.version == 4 else 56
    return str(ipaddress.ip_network(f"{address}/{bits}", strict=False))
