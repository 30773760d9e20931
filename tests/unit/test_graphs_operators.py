"""Single operators: what vetting says of their outputs is what ONNX Runtime returns."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from tests.support import graphs
from workunits.graphs import vet
from workunits.graphs.operators import OPERATORS, REFUSED

ML = "ai.onnx.ml"
CONSTANTS = (
    "<float scale = {0.1}, uint8 zero = {0}, uint8[4, 4] q = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}, "
    "float[4] sizes = {1, 1, 2, 2}, int64[2] picked = {0, 2}>"
)
CASES = {
    "QLinearMatMul": (
        "(uint8[N, 4] x) => (uint8[N, 4] y)",
        "y = QLinearMatMul (x, scale, zero, q, scale, zero, scale, zero)",
    ),
    "MatMulInteger": ("(uint8[N, 4] x) => (int32[N, 4] y)", "y = MatMulInteger (x, q)"),
    "Resize": (
        "(float[N, 2, 5, 5] x) => (float[N, 2, 10, 10] y)",
        'y = Resize <mode = "linear"> (x, , sizes)',
    ),
    "LRN": ("(float[N, 4, 5, 5] x) => (float[N, 4, 5, 5] y)", "y = LRN <size = 3> (x)"),
    "Det": ("(float[N, 3, 3] x) => (float[N] y)", "y = Det (x)"),
    "AveragePool": (
        "(float[N, 2, 6, 6] x) => (float[N, 2, 5, 5] y)",
        "y = AveragePool <kernel_shape = [2, 2]> (x)",
    ),
    "Einsum": (
        "(float[N, 3, 4] x) => (float[N, 3, 3] y)",
        'y = Einsum <equation = "nij,nkj->nik"> (x, x)',
    ),
    "Max": ("(float[N, 4] x, float[N, 4] z) => (float[N, 4] y)", "y = Max (x, z, x)"),
    "ArrayFeatureExtractor": (
        "(float[N, 4] x) => (float[N, 2] y)",
        f"y = {ML}.ArrayFeatureExtractor (x, picked)",
    ),
    "Binarizer": ("(float[N, 4] x) => (float[N, 4] y)", f"y = {ML}.Binarizer (x)"),
    "FeatureVectorizer": (
        "(float[N, 4] x, float[N, 2] z) => (float[N, 6] y)",
        f"y = {ML}.FeatureVectorizer <inputdimensions = [4, 2]> (x, z)",
    ),
    "Imputer": (
        "(float[N, 4] x) => (float[N, 4] y)",
        f"y = {ML}.Imputer <imputed_value_floats = [1.0], replaced_value_float = 2.0> (x)",
    ),
    "LabelEncoder": (
        "(int64[N, 4] x) => (float[N, 4] y)",
        f"y = {ML}.LabelEncoder <keys_int64s = [0, 1], values_floats = [0.5, 1.5]> (x)",
    ),
    "OneHotEncoder": (
        "(int64[N, 4] x) => (float[N, 4, 3] y)",
        f"y = {ML}.OneHotEncoder <cats_int64s = [0, 1, 2]> (x)",
    ),
    "LinearRegressor": (
        "(float[N, 2] x) => (float[N, 1] y)",
        f"y = {ML}.LinearRegressor <coefficients = [1.0, 2.0], intercepts = [0.5]> (x)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_as_vetted(name: str) -> None:
    signature, body = CASES[name]
    raw = graphs.model(f"g {signature} {CONSTANTS} {{ {body} }}")
    facts = vet(raw, name=name)
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    feeds = {spec.name: np.ones((5, *spec.shape), spec.dtype) for spec in facts.inputs}
    found = session.run([spec.name for spec in facts.outputs], feeds)
    assert [(array.shape, str(array.dtype)) for array in found] == [
        ((5, *spec.shape), spec.dtype) for spec in facts.outputs
    ]


def test_no_operator_is_both_allowed_and_refused() -> None:
    assert not OPERATORS.keys() & REFUSED.keys()


def test_nothing_that_adds_up_floats_in_some_order_is_called_exact() -> None:
    adding = {
        "MatMul",
        "Gemm",
        "Conv",
        "ReduceSum",
        "ReduceMean",
        "CumSum",
        "Softmax",
        "DFT",
        "Sum",
    }
    assert not {name for name in adding if OPERATORS[name].exact == "always"}
