"""How long stored things must be: trees of n units, payloads of n rows."""

from __future__ import annotations

import pytest

from workunits.trust import merkle
from workunits.values import Digest
from workunits.wire import tensors
from workunits.wire.messages import TensorSpec


@pytest.mark.parametrize("units", [*range(1, 40), 64, 65, 1000])
def test_a_tree_is_as_long_as_its_units_say(units: int) -> None:
    assert len(merkle.build([Digest(bytes(32))] * units)) == merkle.levels_bytes(units)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_a_payload_is_as_long_as_its_program_says(rows: int) -> None:
    specs = (
        TensorSpec(name="label", dtype="int64", shape=()),
        TensorSpec(name="scores", dtype="float16", shape=(3, 5)),
        TensorSpec(name="whole", dtype="bool", shape=(9,), scope="unit"),
    )
    payload = tensors.encode(
        {
            "label": tensors.RawTensor("int64", (rows,), bytes(8 * rows)),
            "scores": tensors.RawTensor("float16", (rows, 3, 5), bytes(30 * rows)),
            "whole": tensors.RawTensor("bool", (9,), bytes(9)),
        }
    )
    assert tensors.payload_bytes(specs, rows) == len(payload)
