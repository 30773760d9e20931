"""Damaged and hostile files: `vet` gives facts or one line, and nothing else ever leaves it."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, NodeProto

from tests.support import graphs
from workunits.errors import GraphRefused
from workunits.graphs import vet
from workunits.graphs.operators import OPERATORS
from workunits.wire import limits
from workunits.wire.messages import ModelFacts

GOOD: Final = {name: build() for name, build in graphs.ALLOWED.items()}
NUMBERS: Final = st.one_of(
    st.integers(-3, 20), st.sampled_from([2**31 - 1, 2**31, 2**62, 2**63 - 1, -(2**31), -(2**63)])
)

goods = st.sampled_from(sorted(GOOD)).map(GOOD.__getitem__)


def vetted(raw: bytes) -> ModelFacts | None:
    """The facts, or None after a refusal of one printable line; anything else fails the test."""
    try:
        facts = vet(raw, name="hostile")
    except GraphRefused as refusal:
        line = str(refusal)
        assert line.isprintable()
        assert len(line) <= limits.TEXT_CHARS
        return None
    assert facts.kflop_per_row >= 1
    assert all(spec.scope == "row" for spec in facts.outputs)
    return facts


@given(st.binary(max_size=400))
def test_random_bytes(raw: bytes) -> None:
    assert vetted(raw) is None


@given(goods, st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes(raw: bytes, data: st.DataObject) -> None:
    damaged = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        length = data.draw(st.integers(0, 4))
        damaged[place : place + length] = data.draw(st.binary(max_size=8))
    vetted(bytes(damaged))


@given(goods, st.data())
@settings(max_examples=60, deadline=None)
def test_truncated_files(raw: bytes, data: st.DataObject) -> None:
    vetted(raw[: data.draw(st.integers(0, len(raw) - 1))])


def all_nodes(graph: GraphProto) -> list[NodeProto]:
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [*graph.node, *(node for g in inner for node in all_nodes(g))]


def turn_attribute(proto: ModelProto, data: st.DataObject) -> None:
    attributes = [a for node in all_nodes(proto.graph) for a in node.attribute]
    if not attributes:
        return
    attribute = data.draw(st.sampled_from(attributes))
    if attribute.ints:
        attribute.ints[data.draw(st.integers(0, len(attribute.ints) - 1))] = data.draw(NUMBERS)
    elif attribute.HasField("i"):
        attribute.i = data.draw(NUMBERS)


def turn_operator(proto: ModelProto, data: st.DataObject) -> None:
    node = data.draw(st.sampled_from(all_nodes(proto.graph)))
    node.op_type = data.draw(st.sampled_from(sorted(OPERATORS))).removeprefix("ai.onnx.ml.")
    node.domain = data.draw(st.sampled_from(["", "ai.onnx.ml"]))


def turn_dimension(proto: ModelProto, data: st.DataObject) -> None:
    value = data.draw(st.sampled_from([*proto.graph.input, *proto.graph.output]))
    dim = data.draw(st.sampled_from(list(value.type.tensor_type.shape.dim)))
    dim.dim_value = data.draw(NUMBERS)


def turn_weights(proto: ModelProto, data: st.DataObject) -> None:
    if proto.graph.initializer:
        tensor = data.draw(st.sampled_from(list(proto.graph.initializer)))
        tensor.dims[:] = data.draw(st.lists(NUMBERS, max_size=20))


def rewire(proto: ModelProto, data: st.DataObject) -> None:
    nodes = all_nodes(proto.graph)
    names = sorted({"", *(name for node in nodes for name in (*node.input, *node.output))})
    node = data.draw(st.sampled_from(nodes))
    side = data.draw(st.sampled_from([node.input, node.output]))
    side[:] = data.draw(st.lists(st.sampled_from(names), max_size=6))


@given(goods, st.data())
@settings(max_examples=300, deadline=None)
def test_graphs_turned_hostile(raw: bytes, data: st.DataObject) -> None:
    proto = ModelProto.FromString(raw)
    turns = [turn_attribute, turn_operator, turn_dimension, turn_weights, rewire]
    for turn in data.draw(st.lists(st.sampled_from(turns), min_size=1, max_size=3)):
        turn(proto, data)
    vetted(proto.SerializeToString())


@given(rows=st.integers(1, 64), width=st.integers(1, 64), inner=st.integers(1, 64))
def test_a_product_costs_two_flop_for_each_multiply_add(rows: int, width: int, inner: int) -> None:
    text = f"g (float[{rows}, {inner}, 9] x) => (float[{rows}, {inner}, {width}] y)"
    facts = vet(graphs.model(f"{text} {{ y = MatMul (x, w) }}", {"w": (9, width)}), name="product")
    assert facts.batch_rows == rows
    assert facts.kflop_per_row == -(-2 * inner * width * 9 // 1000)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_vetting_is_a_function_of_the_bytes(name: str) -> None:
    assert vet(GOOD[name], name=name) == vet(GOOD[name], name=name)
