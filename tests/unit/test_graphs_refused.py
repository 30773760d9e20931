"""What `vet` refuses: each with what is wrong, where, and how to mend it, on one line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.support import graphs
from workunits.errors import GraphRefused
from workunits.graphs import vet
from workunits.wire import limits

ROWS = "float[N, 4] x) => (float[N, 4] y)"


def refusal(raw: bytes) -> str:
    with pytest.raises(GraphRefused) as caught:
        vet(raw, name="bad")
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) <= limits.TEXT_CHARS
    assert "; " in line, "a refusal ends with what to do"
    return line


def refused_text(text: str, weights: graphs.Weights | None = None, *, opset: int = 20) -> str:
    return refusal(graphs.model(f"g {text}", weights or {}, opset=opset))


def refused_body(body: str) -> str:
    return refused_text(f"({ROWS} {{ {body} }}")


def changed(change: Callable[[ModelProto], None]) -> str:
    """The refusal of a good model after `change`."""
    proto = graphs.proto(
        "g (float[N, 4] x) => (float[N, 2] y) { y = MatMul (x, w) }", {"w": (4, 2)}
    )
    change(proto)
    return refusal(proto.SerializeToString())


# --- operators ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("y = com.example.Magic (x)", ["'com.example'", "custom domain", "ai.onnx"]),
        ("y = RandomNormalLike (x)", ["(RandomNormalLike)", "random"]),
        ("y = Bernoulli (x)", ["random"]),
        ("q, s, z = DynamicQuantizeLinear (x) y = DequantizeLinear (q, s, z)",
         ["dynamic quantisation", "depend on the batch", "static quantisation", "reduce_range"]),
        ("r = Constant <value = float {0.5}> () t = Constant <value = bool {1}> () "
         "y = Dropout (x, r, t)", ["random", "for inference"]),
        ("n = NonZero (x) y = Cast <to = 1> (n)", ["depends on the data"]),
        ("s = SequenceConstruct (x, x) y = ConcatFromSequence <axis = 0> (s)", ["zipmap"]),
        ("y = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1, 2, 3]> (x)", ["ZipMap", "zipmap"]),
        ("y = Hardly (x)", ["(Hardly)", "not on the list"]),
        ("y = MeanVarianceNormalization (x)", ["not on the list"]),
    ],
)  # fmt: skip
def test_operators_that_vehicles_do_not_run(body: str, words: list[str]) -> None:
    line = refused_body(body)
    assert all(word in line for word in words), line
    assert "node #" in line


def test_a_branch_is_refused_and_its_way_out_named() -> None:
    line = refused_text(
        """(float[N, 4] x, bool c) => (float[N, 4] y) {
            y = If (c) <then_branch = t () => (float[N, 4] a) { a = Neg (x) },
                        else_branch = e () => (float[N, 4] b) { b = Abs (x) }>
        }"""
    )
    assert "(If)" in line
    assert "Where" in line


def test_functions_of_the_model_are_refused() -> None:
    function = helper.make_function(
        "pkg", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    line = changed(lambda proto: proto.functions.append(function))
    assert "'Double'" in line
    assert "inline" in line


# --- where weights and values are kept ----------------------------------------------------------


def test_weights_in_another_file_are_refused() -> None:
    def move_out(proto: ModelProto) -> None:
        weights = proto.graph.initializer[0]
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        entry = weights.external_data.add()
        entry.key, entry.value = "location", "/etc/passwd"

    line = changed(move_out)
    assert "initialiser 'w' is kept in another file" in line
    assert "save_as_external_data=False" in line


def test_a_constant_in_another_file_is_refused() -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    assert "another file" in changed(lambda proto: proto.graph.node.insert(0, node))


def test_sparse_initialisers_are_refused() -> None:
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, dtype=np.float32), "s"),
        numpy_helper.from_array(np.zeros(1, dtype=np.int64), "i"),
        [4],
    )
    line = changed(lambda proto: proto.graph.sparse_initializer.append(sparse))
    assert "sparse" in line


def test_weights_that_do_not_fill_their_shape_are_refused() -> None:
    def grow(proto: ModelProto) -> None:
        proto.graph.initializer[0].dims[0] = 2**40

    assert "initialiser 'w' says 2,199,023,255,552 elements and holds 8" in changed(grow)


def test_negative_dimensions_of_weights_are_refused() -> None:
    def turn(proto: ModelProto) -> None:
        proto.graph.initializer[0].dims[:] = [-4, -2]

    assert "impossible dimensions" in changed(turn)


# --- dtypes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("string", ["input 'x' holds text", "integer labels", "classify"]),
        ("bfloat16", ["input 'x'", "'bfloat16'", "float32"]),
        ("complex64", ["'complex64'"]),
        ("float8e4m3fn", ["'float8e4m3fn'"]),
        ("int4", ["'int4'"]),
    ],
)
def test_types_that_do_not_travel(dtype: str, words: list[str]) -> None:
    line = refused_text(f"({dtype}[N, 4] x) => ({dtype}[N, 4] y) {{ y = Identity (x) }}")
    assert all(word in line for word in words), line


def test_a_type_that_does_not_travel_inside_the_graph() -> None:
    line = refused_body("a = Cast <to = 16> (x) y = Cast <to = 1> (a)")
    assert "tensor 'a' of node #0 (Cast)" in line
    assert "'bfloat16'" in line


def test_text_as_labels_gets_the_advice_for_classify() -> None:
    line = refused_text(
        """(float[N, 4] x) => (string[N] label, float[N, 2] scores) {
            label, scores = ai.onnx.ml.LinearClassifier
                <coefficients = [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0],
                 classlabels_strings = ["cat", "dog"]> (x)
        }"""
    )
    assert "LinearClassifier" in line
    assert "integer labels" in line


@pytest.mark.parametrize("container", ["seq(float[N])", "optional(float[N])"])
def test_containers_are_refused(container: str) -> None:
    line = refused_text(f"({container} x) => ({container} y) {{ y = Identity (x) }}")
    assert "input 'x' is a" in line
    assert "zipmap" in line


# --- shapes and rows ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (
            "float[N, T] x",
            ["dimension 1 ('T') of input 'x' is unknown", "make_dynamic_shape_fixed"],
        ),
        ("float[N, ?] x", ["dimension 1 of input 'x' is unknown"]),
        ("float[N, 0] x", ["dimension 1 of input 'x' is 0"]),
        ("float x", ["share no batch axis", "symbolic"]),
        ("float[] x", ["input 'x' has no shape"]),
        ("float[4] x, float[5] z", ["share no batch axis"]),
        ("float[N, 4] x, float[M, 4] z", ["leading axes 'M', 'N'", "one name"]),
        ("float[70000, 4] x", ["fixed at 70,000 rows"]),
    ],
)
def test_inputs_without_a_clear_batch_axis(inputs: str, words: list[str]) -> None:
    line = refused_text(f"({inputs}) => (float[N, 4] y) {{ y = Identity (x) }}")
    assert all(word in line for word in words), line


def test_negative_dimensions_of_inputs_are_refused() -> None:
    def turn(proto: ModelProto) -> None:
        proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -4

    assert "dimension 1 of input 'x' is -4" in changed(turn)


def test_an_output_without_the_batch_axis() -> None:
    line = refused_text("(float[N, 4] x) => (float[4, N] y) { y = Transpose <perm = [1, 0]> (x) }")
    assert "output 'y' of shape [4, 32] has no batch axis in front" in line


def test_a_shape_that_depends_on_data_is_named() -> None:
    line = refused_text("(float[N, 4] x, int64[1] k) => (float[N, 4] y) { y, i = TopK (x, k) }")
    assert "tensor 'y' of node #0 (TopK)" in line
    assert "let shapes depend on no data" in line


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("m = ReduceMean <keepdims = 1> (x, zero) y = Sub (x, m)", "axis 0"),
        ("m = ReduceMean (x) y = Sub (x, m)", "axis 0"),
        ("y = Softmax <axis = 0> (x)", "axis 0"),
        ("y = CumSum (x, at)", "axis 0"),
        ("a, i = TopK <axis = 0> (x, n) y = Sub (x, a)", "axis 0"),
        ("t = Transpose <perm = [1, 0]> (x) a = MatMul (t, x) y = MatMul (x, a)", "axis 1"),
        ("t = Transpose <perm = [1, 0]> (x) a = MatMul (x, t) y = MatMul (a, x)", "pairs the rows"),
        ("y, m, v = BatchNormalization <training_mode = 1> (x, w, w, w, w)", "axis 0"),
        ("a = Gather <axis = 0> (x, zero) y = Sub (x, a)", "axis 0"),
        ("a = Slice (x, zero, n, zero) y = Sub (x, a)", "axis 0"),
        ("y = Slice (x, last, before, zero, back)", "axis 0"),
        ("a = Reshape (x, turned) b = ReduceMax <keepdims = 0> (a, zero) "
         "c = Unsqueeze (b, one) y = Sub (x, c)", "takes the rows apart"),
    ],
)  # fmt: skip
def test_rows_that_are_mixed(body: str, why: str) -> None:
    constants = (
        "<int64[1] zero = {0}, int64[1] one = {1}, int64[1] n = {1}, int64[1] last = {-1}, "
        "int64[1] before = {-9223372036854775807}, int64[1] back = {-1}, int64 at = {0}, "
        "int64[2] turned = {4, -1}, float[4] w = {1, 1, 1, 1}>"
    )
    line = refused_text(f"({ROWS} {constants} {{ {body} }}")
    assert why in line
    assert "each row" in line


def test_a_fixed_batch_axis_hides_no_mixing() -> None:
    line = refused_text("(float[6, 4] x) => (float[6, 4] y) { y = Softmax <axis = 0> (x) }")
    assert "works along the rows" in line


def test_labels_alone_are_refused() -> None:
    for cast in ("y = Identity (a)", "y = Cast <to = 1> (a)"):
        kind = "int64" if "Identity" in cast else "float"
        line = refused_text(
            f"(float[N, 4] x) => ({kind}[N] y) {{ a = ArgMax <axis = 1, keepdims = 0> (x) {cast} }}"
        )
        assert "labels without scores" in line


def test_labels_looked_up_in_a_table_are_labels() -> None:
    line = refused_text(
        """(float[N, 4] x) => (int64[N] y) <int64[4] names = {100, 200, 300, 400}> {
            a = ArgMax <axis = 1, keepdims = 0> (x)
            y = Gather (names, a)
        }"""
    )
    assert "labels without scores" in line


# --- loops --------------------------------------------------------------------------------------


def test_a_loop_without_a_constant_count() -> None:
    proto = ModelProto.FromString(graphs.loop())
    del proto.graph.initializer[0]
    proto.graph.input.append(helper.make_tensor_value_info("trips", TensorProto.INT64, []))
    assert "no constant number of trips" in refusal(proto.SerializeToString())


@pytest.mark.parametrize("trips", [0, -1, limits.LOOP_TRIPS + 1])
def test_a_loop_with_an_impossible_count(trips: int) -> None:
    assert "no constant number of trips" in refusal(graphs.loop(trips))


def test_a_loop_that_may_stop_early() -> None:
    proto = ModelProto.FromString(graphs.loop())
    body = proto.graph.node[0].attribute[0].g
    body.node[0].CopyFrom(helper.make_node("Less", ["i", "trips"], ["goes_on"]))
    assert "may stop early" in refusal(proto.SerializeToString())


def test_a_loop_whose_state_grows() -> None:
    line = refusal(graphs.loop(body="x_out = Concat <axis = 1> (x_in, x_in)"))
    assert "changes its shape" in line


def test_loops_too_deep() -> None:
    proto = ModelProto.FromString(graphs.loop())
    for _ in range(limits.GRAPH_DEPTH):
        outer = ModelProto.FromString(graphs.loop())
        body = outer.graph.node[0].attribute[0].g
        del body.node[1:]
        body.node.append(proto.graph.node[0])
        proto = outer
    assert "deep" in refusal(proto.SerializeToString())


# --- structure ----------------------------------------------------------------------------------


def test_circles_are_refused() -> None:
    line = refused_text("(float[N, 4] x) => (float[N, 4] a) { a = Neg (b) b = Neg (a) }")
    assert "topologically sorted" in line


def test_opsets_out_of_range() -> None:
    assert "opset 6" in refused_text(f"({ROWS} {{ y = Neg (x) }}", opset=6)
    line = refused_text(f"({ROWS} {{ y = Neg (x) }}", opset=999)
    assert "export with opset 7 to" in line


def test_two_opsets_of_one_domain() -> None:
    line = changed(lambda proto: proto.opset_import.append(helper.make_opsetid("ai.onnx", 13)))
    assert "has two opsets" in line


def test_too_many_nodes() -> None:
    nodes = "".join(f"t{i + 1} = Neg (t{i})\n" for i in range(limits.GRAPH_NODES + 1))
    line = refused_text(f"(float[N, 4] t0) => (float[N, 4] t1) {{ {nodes} }}")
    assert "more than 20,000 nodes" in line


def test_names_out_of_the_file_are_made_harmless() -> None:
    def rename(proto: ModelProto) -> None:
        proto.graph.node[0].op_type = "\x1b[31m\n" + "x" * 10_000

    assert "\\x1b" in changed(rename)


def test_declared_shapes_must_be_true() -> None:
    line = refused_text("(float[N, 4] x) => (float[N, 7] y) { y = Neg (x) }")
    assert "onnx.checker" in line


# --- limits -------------------------------------------------------------------------------------


def test_too_much_work_for_a_row() -> None:
    raw = graphs.loop(
        limits.LOOP_TRIPS,
        body="""big = Expand (step, wide)
                m = MatMul (big, big)
                s = ReduceSum (m)
                x_out = Add (x_in, s)""",
    )
    proto = ModelProto.FromString(raw)
    shape = numpy_helper.from_array(np.array([4096, 4096], dtype=np.int64), "wide")
    proto.graph.initializer.append(shape)
    assert "a row costs" in refusal(proto.SerializeToString())


def test_too_much_moving_for_a_row() -> None:
    raw = graphs.loop(
        limits.LOOP_TRIPS,
        body="big = Expand (step, wide) x_out = Identity (x_in)",
    )
    proto = ModelProto.FromString(raw)
    shape = numpy_helper.from_array(np.array([1024, 1024, 1024], dtype=np.int64), "wide")
    proto.graph.initializer.append(shape)
    assert "a row writes" in refusal(proto.SerializeToString())


def test_a_tensor_too_large_for_a_vehicle() -> None:
    doubled = "".join(f"t{i + 1} = Concat <axis = 1> (t{i}, t{i})\n" for i in range(60))
    line = refused_text(f"(float[N, 4] t0) => (float[N, 4] t60) {{ {doubled} }}")
    assert "bytes a row" in line


@pytest.mark.parametrize("raw", [b"", b"\x00", b"not a model at all", b"\x08\x07", b"\xff" * 100])
def test_what_is_no_model(raw: bytes) -> None:
    refusal(raw)


def test_a_small_file_of_very_many_records() -> None:
    body = b"\x0a\x00" * 1_500_000
    length, size = len(body), bytearray()
    while length >= 128:
        size.append(length & 127 | 128)
        length >>= 7
    assert "fields" in refusal(b"\x3a" + bytes([*size, length]) + body)


# --- native code that would abort the process ---------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "y, z = Split <axis = 1, num_outputs = 3> (x)",
        "y = Split <axis = 1, num_outputs = 2> (x)",
        "y = LayerNormalization <axis = 9223372036854775807> (x, w)",
        "y = LayerNormalization <axis = 2147483648> (x, w)",
        "y = Conv <strides = [0, 0]> (x, w)",
        "y = SpaceToDepth <blocksize = 0> (x)",
    ],
)
def test_attributes_that_native_inference_does_not_survive(body: str) -> None:
    refused_text(f"({ROWS} <float[4] w = {{1, 1, 1, 1}}> {{ {body} }}")
