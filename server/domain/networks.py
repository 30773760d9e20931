"""The rings around a network prefix in which strangers are counted. Pure.

One household may have few, its provider more, everybody together a bound that a disk can take. What
prefix an address has is `server.http.api`'s business.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

EVERYBODY: Final = "everybody"
# What a provider is given at least; nobody gets many of these for nothing.
_PROVIDER_BITS: Final = {4: 16, 6: 32}


@dataclass(frozen=True, slots=True)
class Ring:
    name: str
    most: int


def rings(network: str, most: int, most_of_provider: int, most_in_all: int) -> tuple[Ring, ...]:
    """The rings that an enrolment from `network` counts in, the narrowest first."""
    found = [Ring(network, most)]
    provider = provider_of(network)
    if provider is not None:
        found.append(Ring(provider, most_of_provider))
    return (*found, Ring(EVERYBODY, most_in_all))


# Asked for each piece of a body; a vehicle calls again within a day.
@lru_cache(maxsize=4096)
def provider_of(network: str) -> str | None:
    """The ring around it; None where it is no prefix ('unknown')."""
    try:
        prefix = ipaddress.ip_network(network)
    except ValueError:
        return None
    return str(prefix.supernet(new_prefix=_PROVIDER_BITS[prefix.version]))
