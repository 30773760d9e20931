"""Any tensors give the safetensors library's bytes; any damage is refused or harmless."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from workunits import arrays
from workunits.arrays import Arrays
from workunits.errors import ContractError
from workunits.wire import limits, tensors
from workunits.wire.messages import Dtype, TensorSpec

MOST = 1_000_000
# Every text that a model may carry: no lone surrogates, which have no UTF-8.
NAMES = st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=limits.TENSOR_NAME_CHARS
).filter(lambda name: name != "__metadata__")


@st.composite
def tensor_sets(draw: st.DrawFn) -> Arrays:
    names = draw(st.lists(NAMES, max_size=6, unique=True))
    given: Arrays = {}
    for name in names:
        dtype = np.dtype(draw(st.sampled_from(get_args(Dtype))))
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
        size = int(np.prod(shape)) * dtype.itemsize
        raw = draw(st.binary(min_size=size, max_size=size))
        if dtype == np.bool_:
            raw = bytes(byte & 1 for byte in raw)
        given[name] = np.frombuffer(raw, dtype).reshape(shape)
    return given


@given(tensor_sets())
def test_ours_and_the_librarys_bytes_are_one(given: Arrays) -> None:
    raw = arrays.to_payload(given)
    assert raw == save(dict(given))
    theirs = load(raw)
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in theirs.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in given.items()
    }


@given(tensor_sets())
def test_there_and_back(given: Arrays) -> None:
    specs = [
        TensorSpec(name=n, dtype=arrays.dtype_of(a), shape=a.shape, scope="unit")
        for n, a in given.items()
    ]
    back = arrays.from_payload(arrays.to_payload(given), specs, None, most=MOST)
    assert {n: a.tobytes() for n, a in back.items()} == {n: a.tobytes() for n, a in given.items()}
    assert all(a.flags.aligned and not a.flags.writeable for a in back.values())


@given(tensor_sets(), st.data())
def test_damage_is_refused_or_gives_a_payload_of_its_own(
    given: Arrays, data: st.DataObject
) -> None:
    raw = bytearray(arrays.to_payload(given))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    assert_canonical(bytes(raw))


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_refused_or_canonical(raw: bytes, has_length: bool) -> None:
    assert_canonical(len(raw).to_bytes(8, "little") + raw if has_length else raw)


@given(tensor_sets(), st.data())
def test_a_cut_payload_is_refused(given: Arrays, data: st.DataObject) -> None:
    raw = arrays.to_payload(given)
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    with pytest.raises(ContractError):
        tensors.decode(cut, most=MOST)


def assert_canonical(raw: bytes) -> None:
    """What is taken at all is exactly what would be written: equal tensors have one digest."""
    try:
        decoded = tensors.decode(raw, most=MOST)
    except ContractError:
        return
    assert tensors.encode(decoded) == raw
