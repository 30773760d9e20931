"""Files that a hostile submitter gives as models; each with words that its refusal must hold.

Small to make and dear to read, or with something inside that must never be followed, named or run.
What merely breaks a rule of ONNX stands in `test_graphs_refused`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from onnx import numpy_helper as arrays

from tests.support import graphs
from workunits.wire import limits

ROW: Final = ("N", 4)
NEG: Final = helper.make_node("Neg", ["x"], ["y"])


@dataclass(frozen=True, slots=True)
class Hostile:
    make: Callable[[], bytes]
    words: str


def value(name: str, shape: Sequence[int | str] = ROW) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(
    *nodes: NodeProto,
    weights: Sequence[TensorProto] = (),
    inputs: Sequence[ValueInfoProto] = (),
    outputs: Sequence[ValueInfoProto] = (),
) -> ModelProto:
    """Four numbers a row in and out, unless said otherwise."""
    graph = helper.make_graph(
        list(nodes), "g", list(inputs) or [value("x")], list(outputs) or [value("y")], list(weights)
    )
    made: ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=8
    )
    return made


def raw(*nodes: NodeProto, **more: Sequence[TensorProto]) -> bytes:
    made: bytes = model(*nodes, **more).SerializeToString()
    return made


# --- protobuf by hand ---------------------------------------------------------------------------


def field(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def nested_graphs() -> bytes:
    """A graph in an attribute of a node of a graph in an attribute of a node of a graph ..."""
    body = b""
    for _ in range(3000):
        body = field(1, field(5, field(6, body)))
    return field(7, body)


def nested_types() -> bytes:
    """An input that is a sequence of sequences of sequences ..."""
    body = b""
    for _ in range(5000):
        body = field(4, field(1, body))
    return field(7, field(1, field(4, b"Neg")) + field(11, field(2, body)))


def length_past_the_end() -> bytes:
    return b"\x3a" + _varint(2**62) + b"abc"


def empty_nodes() -> bytes:
    return field(7, b"\x0a\x00" * 3_000_000)


def zip_archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.onnx", bytes(10_000_000))
    return file.getvalue()


# --- weights elsewhere --------------------------------------------------------------------------


def outside(name: str = "w") -> TensorProto:
    """A tensor that says its numbers lie in a file of the reader's computer."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"
    return tensor


def outside_in_a_loop() -> bytes:
    proto = ModelProto.FromString(graphs.loop())
    proto.graph.node[0].attribute[0].g.initializer.append(outside())
    return bytes(proto.SerializeToString())


def outside_in_a_function() -> bytes:
    proto = model(NEG)
    node = helper.make_node("Constant", [], ["b"], value=outside())
    function = helper.make_function("p", "F", ["a"], ["b"], [node], [helper.make_opsetid("", 20)])
    proto.functions.append(function)
    return bytes(proto.SerializeToString())


def with_attribute(name: str, kind: int, fill: Callable[[AttributeProto], None]) -> bytes:
    """A node with an attribute that no exporter writes."""
    node = NodeProto()
    node.CopyFrom(NEG)
    attribute = node.attribute.add()
    attribute.name, attribute.type = name, kind
    fill(attribute)
    return raw(node)


def outside_in_a_list() -> bytes:
    return with_attribute("many", AttributeProto.TENSORS, lambda a: a.tensors.append(outside()))


def outside_in_a_sparse_tensor() -> bytes:
    return with_attribute(
        "sparse", AttributeProto.SPARSE_TENSOR, lambda a: a.sparse_tensor.values.CopyFrom(outside())
    )


def a_place_without_saying_that_it_is_elsewhere() -> bytes:
    tensor = arrays.from_array(np.ones(4, np.float32), "w")
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../x"
    return raw(helper.make_node("Add", ["x", "w"], ["y"]), weights=[tensor])


# --- names --------------------------------------------------------------------------------------


def named(name: str) -> Callable[[], bytes]:
    node = helper.make_node("Neg", [name], ["y"])
    return lambda: bytes(model(node, inputs=[value(name)]).SerializeToString())


def twice_the_same_output() -> bytes:
    return bytes(model(NEG, outputs=[value("y"), value("y")]).SerializeToString())


def a_node_named_for_the_terminal() -> bytes:
    return raw(helper.make_node("Softmax", ["x"], ["y"], axis=0, name="\x1b]0;owned\x07\n"))


# --- terabytes from bytes -----------------------------------------------------------------------


def grown(operator: str, shape: Sequence[float], dtype: type = np.int64) -> Callable[[], bytes]:
    """A constant grown to `shape` (or by it), and added up so that nothing of it leaves."""
    taken = {"ConstantOfShape": ["s"], "Resize": ["x", "", "s"]}.get(operator, ["x", "s"])
    nodes = (
        helper.make_node(operator, taken, ["large"]),
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    )
    weight = arrays.from_array(np.array(shape, dtype), "s")
    return lambda: raw(*nodes, weights=[weight])


def weights_by_shape(*dims: int, data: bytes | None = None) -> Callable[[], bytes]:
    """Weights of which the file holds the shape and nothing else."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=data)
    return lambda: raw(helper.make_node("Add", ["x", "w"], ["y"]), weights=[tensor])


def range_to_the_end_of_numbers() -> bytes:
    ends = [arrays.from_array(np.array(n), name) for name, n in (("a", 0), ("b", 2**62), ("d", 1))]
    return raw(
        helper.make_node("Range", ["a", "b", "d"], ["r"]),
        helper.make_node("ReduceSum", ["r"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
        weights=ends,
    )


# --- time ---------------------------------------------------------------------------------------


def nodes_with_very_many_inputs() -> bytes:
    nodes = [helper.make_node("Sum", ["x"] * 1000, [f"t{i}"]) for i in range(250)]
    return raw(*nodes, NEG)


def very_many_weights() -> bytes:
    small = TensorProto(
        data_type=TensorProto.FLOAT, dims=[1], raw_data=bytes(4)
    ).SerializeToString()
    proto = bytes(raw(NEG))
    return proto + field(7, field(5, small) * (limits.GRAPH_LINKS + 1))


def einsum(equation: str) -> Callable[[], bytes]:
    """With one operand; telling its cost once took time by the square of its length."""
    return lambda: raw(helper.make_node("Einsum", ["x"], ["r"], equation=equation), NEG)


def loops_in_a_loop() -> bytes:
    inner = """w = Loop (trips, , x_in) <body = t2 (int64 j, bool g2, float[n, 8] z)
        => (bool g3, float[n, 8] z2) { g3 = Identity (g2) z2 = Neg (z) }>
        x_out = Identity (w)"""
    return graphs.loop(limits.LOOP_TRIPS, body=inner)


HOSTILE: Final[dict[str, Hostile]] = {
    "graphs nested 3,000 deep": Hostile(nested_graphs, "not an ONNX model"),
    "types nested 5,000 deep": Hostile(nested_types, "not an ONNX model"),
    "a length of 2^62": Hostile(length_past_the_end, "not an ONNX model"),
    "groups without end": Hostile(lambda: b"\x0b" * 2_000_000, "not an ONNX model"),
    "three million empty nodes": Hostile(empty_nodes, "fields"),
    "a zip archive": Hostile(zip_archive, "not an ONNX model"),
    "weights outside, in a loop": Hostile(outside_in_a_loop, "kept in another file"),
    "weights outside, in a function": Hostile(outside_in_a_function, "functions of its own"),
    "weights outside, in a list": Hostile(outside_in_a_list, "kept in another file"),
    "weights outside, in a sparse tensor": Hostile(outside_in_a_sparse_tensor, "sparse"),
    "a place outside beside the numbers": Hostile(
        a_place_without_saying_that_it_is_elsewhere, "kept in another file"),
    "a name that leads out": Hostile(named("../../etc/cron.d/x"), "a way out of a folder"),
    "a name that leads out, backwards": Hostile(named("..\\x"), "a way out of a folder"),
    "a name that steers the terminal": Hostile(named("\x1b[2J"), "'\\x1b[2J'"),
    "a name that turns the line around": Hostile(named("x\u202ey"), "not printable"),
    "a name with a null byte": Hostile(named("x\0y"), "not printable"),
    "a name of a megabyte": Hostile(named("x" * 1_000_000), "too long"),
    "a node that steers the terminal": Hostile(a_node_named_for_the_terminal, "\\x1b]0;owned"),
    "one output twice": Hostile(twice_the_same_output, "two outputs are called 'y'"),
    "2^40 weights without numbers": Hostile(weights_by_shape(2**40), "says 1,099,511,627,776"),
    "2^64 weights without numbers": Hostile(weights_by_shape(2**32, 2**32), "holds 0"),
    "no weights of 2^62": Hostile(weights_by_shape(0, 2**62, data=b""), "impossible dimensions"),
    "ConstantOfShape to terabytes": Hostile(grown("ConstantOfShape", [2**20, 2**20]), "bytes a row"),
    "ConstantOfShape past 2^64": Hostile(grown("ConstantOfShape", [2**40, 2**40]), "impossible"),
    "ConstantOfShape below zero": Hostile(grown("ConstantOfShape", [-(2**40)]), "non-negative"),
    "Expand to terabytes": Hostile(grown("Expand", [2**30, 2**10, 1, 4]), "bytes a row"),
    "Tile to terabytes": Hostile(grown("Tile", [1, 2**40]), "bytes a row"),
    "Pad to terabytes": Hostile(grown("Pad", [0, 2**40, 0, 2**40]), "bytes a row"),
    "Resize to terabytes": Hostile(grown("Resize", [1, 1e12], np.float32), "bytes a row"),
    "Resize to infinity": Hostile(grown("Resize", [1, np.inf], np.float32), "impossible"),
    "Range to 2^62": Hostile(range_to_the_end_of_numbers, "impossible"),
    "nodes with a quarter of a million inputs": Hostile(nodes_with_very_many_inputs, "links"),
    "weights without number": Hostile(very_many_weights, "links"),
    "an equation of a million ellipses": Hostile(einsum("..." * 1_000_000), "longer than"),
    "an equation of blanks": Hostile(einsum(" " * 1_000_000 + "za->za"), "longer than"),
    "10^12 trips": Hostile(loops_in_a_loop, "a row writes"),
}  # fmt: skip
