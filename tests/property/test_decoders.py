"""Damaged bytes for everything that reads a stranger's: taken, or refused in one line as declared."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.decoders import TARGETS
from tests.support.mutation import Change, changes, mutated
from workunits.wire import limits

# `test_graphs_damage` does it to models at more length.
NAMES = sorted(TARGETS.keys() - {"model"})


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_valid_samples_are_taken(name: str) -> None:
    target = TARGETS[name]
    assert [target.refusal(raw) for raw in target.samples] == [None] * len(target.samples)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), done=changes)
@settings(deadline=None, max_examples=60)
def test_damage_is_refused_as_declared(name: str, data: st.DataObject, done: list[Change]) -> None:
    target = TARGETS[name]
    raw, other = (data.draw(st.sampled_from(target.samples)) for _ in range(2))
    said = target.refusal(mutated(raw, other, done))
    assert said is None or said.isprintable()


DEEP = {
    "lists": b"\x91" * 100_000,
    "maps": b"\x81\xa1a" * 100_000,
    "long": b"\xdd\xff\xff\xff\xff",
    "text": b"[" * 100_000,
    "table": b"a = " + b"[" * 50_000,
    "zeros": bytes(200_000),
}


@pytest.mark.parametrize("shape", sorted(DEEP))
@pytest.mark.parametrize("name", NAMES)
def test_what_is_nested_or_claims_to_be_huge_is_refused_as_declared(name: str, shape: str) -> None:
    said = TARGETS[name].refusal(DEEP[shape])
    assert said is None or said.isprintable()


@pytest.mark.parametrize("field", ["a\nb", "\x1b[2J", "\u202e", "x" * 100_000])
def test_a_field_that_nobody_knows_is_named_harmlessly(field: str) -> None:
    header = msgspec.json.encode({"x": {field: 1}})
    tensors = len(header).to_bytes(8, "little") + header
    for name, raw in (("departed", msgspec.msgpack.encode({field: 1})), ("tensors", tensors)):
        said = TARGETS[name].refusal(raw)
        assert said is not None
        assert said.isprintable()
        assert len(said) <= limits.TEXT_CHARS + 50
