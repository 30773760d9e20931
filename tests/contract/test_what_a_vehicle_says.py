"""Everything a vehicle can say of itself, by name: nothing of where it is, and no room to add it unseen."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from workunits.wire.messages import Departure, Enrolment, WorkRequest


def fields_of(kind: Any) -> set[str]:
    """The names of all fields of a message, and of the messages within."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = get_type_hints(kind)
        inner = (fields_of(hints[name]) for name in kind.__struct_fields__)
        return set(kind.__struct_fields__).union(*inner)
    return set[str]().union(*(fields_of(part) for part in get_args(kind)))


SAID = {
    WorkRequest: {
        "protocol", "key", "epoch", "session", "seq", "previous", "client", "nonce", "holding",
        "reports", "wish",
        # reports
        "lease", "outcome", "output", "output_size", "code", "detail", "runtime", "compute_ms",
        "onnxruntime", "provider", "machine",
        # wish
        "seconds", "units", "models", "manifests", "free_disk",
    },
    Enrolment: {
        "protocol", "key", "session", "client", "vehicle_name", "owner", "consent", "invite",
        "name", "is_public", "code", "lost", "terms", "version", "at", "scopes",
    },
    Departure: {"key", "nonce", "erase"},
}  # fmt: skip


@pytest.mark.parametrize("kind", SAID, ids=lambda kind: kind.__name__)
def test_a_vehicle_says_this_and_nothing_else(kind: type[msgspec.Struct]) -> None:
    assert fields_of(kind) == SAID[kind]
