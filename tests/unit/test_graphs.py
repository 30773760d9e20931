"""What `vet` finds out about models that vehicles run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.support import graphs
from workunits.errors import GraphRefused
from workunits.graphs import vet
from workunits.wire.messages import ModelFacts, TensorSpec


def runs_as_vetted(raw: bytes, facts: ModelFacts, rows: int = 7) -> None:
    """ONNX Runtime's outputs have the dtypes and shapes that the facts say."""
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    drawn = np.random.default_rng(1)
    feeds = {}
    for spec in facts.inputs:
        shape = (facts.batch_rows or rows, *spec.shape) if spec.scope == "row" else spec.shape
        feeds[spec.name] = drawn.integers(0, 5, shape).astype(spec.dtype)
    found = session.run([spec.name for spec in facts.outputs], feeds)
    assert [(facts.batch_rows or rows, *spec.shape) for spec in facts.outputs] == [
        array.shape for array in found
    ]
    assert [spec.dtype for spec in facts.outputs] == [str(array.dtype) for array in found]


@pytest.mark.parametrize("build", graphs.ALLOWED.values(), ids=graphs.ALLOWED.keys())
def test_networks_people_submit_are_allowed_and_run_as_vetted(build: Callable[[], bytes]) -> None:
    raw = build()
    runs_as_vetted(raw, vet(raw, name="net"))


def test_a_file_is_vetted_like_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(graphs.conv_net())
    assert vet(path, name="net") == vet(graphs.conv_net(), name="net")


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(GraphRefused, match=r"^none\.onnx cannot be read"):
        vet(tmp_path / "none.onnx", name="net")


def test_the_facts_of_a_network() -> None:
    facts = vet(graphs.conv_net(), name="pictures")
    assert facts.name == "pictures"
    assert facts.opset == 20
    assert facts.inputs == (TensorSpec(name="image", dtype="float32", shape=(3, 16, 16)),)
    assert facts.outputs == (TensorSpec(name="scores", dtype="float32", shape=(10,)),)
    assert (facts.batch_rows, facts.precision, facts.is_portable_exact) == (None, "fp32", False)
    assert facts.calibration is None


# --- rows and scope -----------------------------------------------------------------------------


def dense(inputs: str, output: str, body: str = "y = MatMul (x, w)") -> ModelFacts:
    return vet(
        graphs.model(f"g ({inputs}) => ({output}) {{ {body} }}", {"w": (4, 2)}), name="dense"
    )


@pytest.mark.parametrize("leading", ["N", "batch_size", ""])
def test_a_symbolic_leading_axis_is_the_batch_axis(leading: str) -> None:
    facts = dense(f"float[{leading or '?'}, 4] x", "float[M, 2] y")
    assert facts.batch_rows is None
    assert facts.inputs == (TensorSpec(name="x", dtype="float32", shape=(4,), scope="row"),)


def test_a_fixed_input_beside_rows_is_shared_by_the_unit() -> None:
    facts = dense("float[N, 4] x, float[4, 2] v", "float[N, 2] y", "y = MatMul (x, v)")
    assert [(spec.name, spec.scope, spec.shape) for spec in facts.inputs] == [
        ("x", "row", (4,)),
        ("v", "unit", (4, 2)),
    ]


def test_a_fixed_batch_axis_fixes_the_rows_of_a_step() -> None:
    facts = dense(
        "float[6, 4] x, float[6, 2] b", "float[6, 2] y", "m = MatMul (x, w) y = Add (m, b)"
    )
    assert facts.batch_rows == 6
    assert {spec.scope for spec in facts.inputs} == {"row"}
    assert facts.outputs[0].shape == (2,)


def test_an_initialiser_listed_as_an_input_is_a_constant() -> None:
    facts = vet(
        graphs.model("g (float[N, 4] x, float[4, 2] w) => (float[N, 2] y) { y = MatMul (x, w) }",
                     {"w": (4, 2)}, ir=3),
        name="old",
    )  # fmt: skip
    assert [spec.name for spec in facts.inputs] == ["x"]


@pytest.mark.parametrize(
    "body",
    [
        "y = Dropout (x)",
        "a = Slice (x, zero, all, zero) y = Neg (a)",
        "a = Reshape (x, flat) b = Neg (a) y = Reshape (b, rows)",
        "t = Transpose <perm = [1, 0]> (x) a = Softmax <axis = 0> (t) y = Transpose <perm = [1, 0]> (a)",
        "y = BatchNormalization (x, w, w, w, w)",
        "y = Softmax <axis = 1> (x)",
        "y = Concat <axis = 1> (x)",
    ],
)
def test_what_keeps_rows_apart_is_allowed(body: str) -> None:
    constants = (
        "<int64[1] zero = {0}, int64[1] all = {9223372036854775807}, int64[1] flat = {-1}, "
        "int64[2] rows = {-1, 4}, float[4] w = {1, 1, 1, 1}>"
    )
    raw = graphs.model(f"g (float[N, 4] x) => (float[N, 4] y) {constants} {{ {body} }}")
    runs_as_vetted(raw, vet(raw, name="apart"))


# --- cost ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "weights", "flop"),
    [
        ("(float[N, 400] x) => (float[N, 50] y) { y = MatMul (x, w) }", {"w": (400, 50)}, 40_000),
        (
            "(float[N, 400] x) => (float[N, 50] y) { y = Gemm <transB = 1> (x, w, b) }",
            {"w": (50, 400), "b": (50,)},
            40_050,
        ),
        (
            "(float[N, 8, 12, 12] x) => (float[N, 4, 10, 10] y) { y = Conv <group = 2> (x, w, b) }",
            {"w": (4, 4, 3, 3), "b": (4,)},
            400 * (2 * 36 + 1),
        ),
        (
            "(float[N, 4, 10, 10] x) => (float[N, 8, 12, 12] y) { y = ConvTranspose (x, w) }",
            {"w": (4, 8, 3, 3)},
            400 * 2 * 72,
        ),
        ("(float[N, 10000] x) => (float[N, 10000] y) { y = Add (x, x) }", {}, 10_000),
        ("(float[N, 10000] x) => (float[N, 10000] y) { y = Sqrt (x) }", {}, 40_000),
        ("(float[N, 10000] x) => (float[N, 10000] y) { y = Exp (x) }", {}, 80_000),
        ("(float[N, 100, 100] x) => (float[N, 100] y) { y = ReduceSum <keepdims = 0> (x, a) }", {}, 10_000),
        ("(float[N, 4, 1024, 1] x) => (float[N, 4, 1024, 2] y) { y = DFT (x) }", {}, 4 * 51_200),
        (
            "(float[N, 20, 30] x) => (float[N, 20, 5] y) { y = Einsum <equation = \"nij,jk->nik\"> (x, w) }",
            {"w": (30, 5)},
            2 * 20 * 30 * 5,
        ),
        (
            """(float[N, 9, 30] s) => (float[N, 20] y) {
                x = Transpose <perm = [1, 0, 2]> (s)
                z, h = GRU <hidden_size = 20> (x, w, r)
                y = Squeeze (h, o)
            }""",
            {"w": (1, 60, 30), "r": (1, 60, 20)},
            9 * (2 * (60 * 30 + 60 * 20) + 3 * 11 * 20),
        ),
        (
            "(float[N, 5, 6, 7] x) => (float[N, 5, 6, 8] y) { y = Einsum <equation = \"...a,ab->...b\"> (x, w) }",
            {"w": (7, 8)},
            2 * 30 * 7 * 8,
        ),
        (
            "(float[N, 2, 64, 16] q) => (float[N, 2, 64, 16] y) { y = Attention (q, q, q) }",
            {},
            2 * (4 * 64 * 64 * 16 + 15 * 64 * 64),
        ),
    ],
    ids=["matmul", "gemm", "conv", "convtranspose", "add", "sqrt", "exp", "sum", "dft", "einsum",
         "gru", "einsum with ellipsis", "attention"],
)  # fmt: skip
def test_flop_of_a_row(text: str, weights: dict[str, tuple[int, ...]], flop: int) -> None:
    constants = "<int64[1] a = {2}, int64[1] o = {0}>"
    raw = graphs.model(f"g {text.replace('{', constants + ' {', 1)}", weights, opset=23)
    assert vet(raw, name="cost").kflop_per_row == -(-flop // 1000)


def test_a_loop_costs_its_body_times_its_trips() -> None:
    assert vet(graphs.loop(trips=125), name="loop").kflop_per_row == 2
    assert vet(graphs.loop(trips=125_000), name="loop").kflop_per_row == 2000


def test_the_cheapest_row_costs_one_kflop() -> None:
    raw = graphs.model("g (float[N, 1] x) => (float[N, 1] y) { y = Identity (x) }")
    assert vet(raw, name="nothing").kflop_per_row == 1


# --- precision and exactness --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "body", "precision"),
    [
        ("double", "y = Exp (x)", "fp64"),
        ("float", "y = Exp (x)", "fp32"),
        ("float16", "y = Exp (x)", "fp16"),
        ("double", "a = Cast <to = 1> (x) b = Exp (a) y = Cast <to = 11> (b)", "fp32"),
        ("float16", "a = Cast <to = 1> (x) b = Exp (a) y = Cast <to = 10> (b)", "fp32"),
        ("int64", "y = Add (x, x)", "int8"),
        ("float", "s = Constant <value = float {0.1}> () q = QuantizeLinear (x, s) y = DequantizeLinear (q, s)", "int8"),
    ],
)  # fmt: skip
def test_precision_is_that_of_the_narrowest_arithmetic(
    dtype: str, body: str, precision: str
) -> None:
    raw = graphs.model(f"g ({dtype}[N, 4] x) => ({dtype}[N, 4] y) {{ {body} }}")
    assert vet(raw, name="precision").precision == precision


@pytest.mark.parametrize(
    ("dtype", "body", "is_exact"),
    [
        ("float", "y = Div (x, x)", True),
        ("float", "a = Sqrt (x) y = Where (c, a, x)", True),
        ("double", "y = Mul (x, x)", True),
        ("float16", "y = Mul (x, x)", False),
        ("float", "y = Exp (x)", False),
        ("float", "y = Reciprocal (x)", False),
        ("float", "a = ReduceMax (x, k) y = Sub (x, a)", True),
        ("float", "a = ReduceSum (x, k) y = Sub (x, a)", False),
        ("int32", "a = ReduceSum (x, k) y = Sub (x, a)", True),
        ("float", "y = Sum (x, x, x)", False),
        ("float", "y = Softmax (x)", False),
    ],
)
def test_portable_exact_is_told_from_operators_and_types(
    dtype: str, body: str, is_exact: bool
) -> None:
    constants = "<int64[1] k = {1}, bool c = {1}>"
    raw = graphs.model(f"g ({dtype}[N, 4] x) => ({dtype}[N, 4] y) {constants} {{ {body} }}")
    assert vet(raw, name="exact").is_portable_exact is is_exact


def test_one_inexact_node_in_a_loop_makes_the_model_inexact() -> None:
    assert vet(graphs.loop(), name="exact").is_portable_exact
    raw = graphs.loop(body="a = Sin (x_in) x_out = Add (x_in, a)")
    assert not vet(raw, name="inexact").is_portable_exact


# --- labels -------------------------------------------------------------------------------------


def test_scores_beside_the_label_are_enough() -> None:
    facts = dense(
        "float[N, 4] x", "int64[N] label, float[N, 2] y",
        "y = MatMul (x, w) label = ArgMax <axis = 1, keepdims = 0> (y)",
    )  # fmt: skip
    assert [spec.name for spec in facts.outputs] == ["label", "y"]


def test_integers_that_carry_enough_are_enough() -> None:
    raw = graphs.model("g (uint32[N, 1] x) => (uint32[N, 1] y) { y = Mul (x, x) }")
    assert vet(raw, name="hash").outputs[0].dtype == "uint32"
    picture = graphs.model(
        "g (float[N, 4, 8, 8] x) => (int64[N, 8, 8] y) { y = ArgMax <axis = 1, keepdims = 0> (x) }"
    )
    assert vet(picture, name="segments").outputs[0].shape == (8, 8)
