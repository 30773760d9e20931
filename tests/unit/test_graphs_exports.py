"""Models as scikit-learn exports them, vetted and then run: the facts must be what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    quantize_dynamic,
    quantize_static,
)
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.ensemble import (
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler
from sklearn.svm import SVC

from tests.support import graphs
from workunits.errors import GraphRefused
from workunits.graphs import vet
from workunits.program import FLOAT_DTYPES

pytestmark = pytest.mark.filterwarnings("ignore")  # those of scikit-learn and its exporter

_DIGITS, _LABELS = load_digits(return_X_y=True)
ROWS: Final = _DIGITS[:240].astype(np.float32)
TEN: Final = _LABELS[:240]
TWO: Final = (TEN > 4).astype(np.int64)

CLASSIFIERS: Final = {
    "mlp": (MLPClassifier((16,), max_iter=3, random_state=0), TEN),
    "mlp, two classes": (MLPClassifier((16,), max_iter=3, random_state=0), TWO),
    "forest": (RandomForestClassifier(5, random_state=0), TEN),
    "forest, two classes": (RandomForestClassifier(5, random_state=0), TWO),
    "boosting": (GradientBoostingClassifier(n_estimators=2, random_state=0), TEN),
    "boosting, two classes": (GradientBoostingClassifier(n_estimators=2, random_state=0), TWO),
    "logistic": (LogisticRegression(max_iter=20), TEN),
    "logistic, two classes": (LogisticRegression(max_iter=20), TWO),
    "scaled": (make_pipeline(StandardScaler(), LogisticRegression(max_iter=20)), TEN),
    "normalised": (
        make_pipeline(
            MinMaxScaler(), Normalizer(), MLPClassifier((8,), max_iter=2, random_state=0)
        ),
        TEN,
    ),
    "vectors": (SVC(), TEN),
    "vectors, two classes": (SVC(), TWO),
}
REGRESSORS: Final = {
    "linear": (LinearRegression(), TEN.astype(np.float32)),
    "linear, two targets": (LinearRegression(), np.stack([TEN, TWO], axis=1).astype(np.float32)),
    "forest": (RandomForestRegressor(5, random_state=0), TEN.astype(np.float32)),
}


def exported(estimator: object, answers: object, *, zipmap: bool | None = False) -> bytes:
    estimator.fit(ROWS, answers)  # type: ignore[attr-defined]
    options = None if zipmap is None else {id(estimator): {"zipmap": zipmap}}
    raw: bytes = to_onnx(estimator, ROWS[:1], options=options).SerializeToString()
    return raw


def check(raw: bytes) -> None:
    facts = vet(raw, name="export")
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    (taken,) = facts.inputs
    assert (taken.dtype, taken.shape, taken.scope) == ("float32", (64,), "row")
    found = session.run([spec.name for spec in facts.outputs], {taken.name: ROWS[:7]})
    assert [array.shape for array in found] == [(7, *spec.shape) for spec in facts.outputs]
    assert [str(array.dtype) for array in found] == [spec.dtype for spec in facts.outputs]
    assert facts.batch_rows is None
    assert facts.precision == "fp32"
    assert not facts.is_portable_exact
    assert any(spec.dtype in FLOAT_DTYPES for spec in facts.outputs)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_pass_with_integer_labels_and_scores(name: str) -> None:
    check(exported(*CLASSIFIERS[name]))


@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors_pass(name: str) -> None:
    check(exported(*REGRESSORS[name], zipmap=None))


def test_the_cost_of_a_perceptron() -> None:
    facts = vet(exported(*CLASSIFIERS["mlp"]), name="mlp")
    products = 2 * (64 * 16 + 16 * 10)
    assert products <= 1000 * facts.kflop_per_row < products + 2000


def test_the_cost_of_a_forest_follows_its_depth() -> None:
    flat = RandomForestClassifier(400, max_depth=1, random_state=0)
    deep = RandomForestClassifier(400, max_depth=6, random_state=0)
    shallow_kflop = vet(exported(flat, TEN), name="flat").kflop_per_row
    assert shallow_kflop == 1
    assert 2 <= vet(exported(deep, TEN), name="deep").kflop_per_row <= 4


def test_a_zipmap_is_refused_with_the_option_that_mends_it() -> None:
    raw = exported(LogisticRegression(max_iter=20), TEN, zipmap=True)
    with pytest.raises(GraphRefused, match=r"ZipMap.*zipmap': False"):
        vet(raw, name="zipmap")


def test_text_labels_are_refused_with_the_advice_for_classify() -> None:
    raw = exported(LogisticRegression(max_iter=20), TEN.astype(str))
    with pytest.raises(GraphRefused, match=r"holds text; use integer labels.*classify"):
        vet(raw, name="text")


@pytest.mark.parametrize(
    ("attribute", "place", "value", "why"),
    [
        ("nodes_truenodeids", 0, 0, "two parents|no root|circle"),
        ("nodes_truenodeids", 0, 9999, "leads to no node"),
        ("nodes_nodeids", 1, 0, "given twice"),
        ("nodes_falsenodeids", 0, -1, "out of range"),
        ("nodes_treeids", 0, 2**40, "out of range"),
    ],
)
def test_tree_nodes_that_are_no_trees(attribute: str, place: int, value: int, why: str) -> None:
    proto = ModelProto.FromString(exported(*CLASSIFIERS["forest"]))
    (trees,) = (n for n in proto.graph.node if n.op_type == "TreeEnsembleClassifier")
    (ids,) = (a for a in trees.attribute if a.name == attribute)
    ids.ints[place] = value
    with pytest.raises(GraphRefused, match=rf"do not form trees: .*({why})"):
        vet(proto.SerializeToString(), name="circle")


def test_tree_nodes_of_different_numbers() -> None:
    proto = ModelProto.FromString(exported(*CLASSIFIERS["forest"]))
    (trees,) = (n for n in proto.graph.node if n.op_type == "TreeEnsembleClassifier")
    (modes,) = (a for a in trees.attribute if a.name == "nodes_modes")
    del modes.strings[-1]
    with pytest.raises(GraphRefused, match="different lengths"):
        vet(proto.SerializeToString(), name="lengths")


class Pictures(CalibrationDataReader):  # type: ignore[misc]
    """Random pictures, from which the quantiser takes its ranges."""

    def __init__(self) -> None:
        self._left = iter(np.random.default_rng(3).random((4, 4, 3, 16, 16), dtype=np.float32))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._left, None)
        return None if batch is None else {"image": batch}


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_static_quantisation_by_onnx_runtime_passes(form: QuantFormat, tmp_path: Path) -> None:
    source, made = tmp_path / "net.onnx", tmp_path / "int8.onnx"
    source.write_bytes(graphs.conv_net())
    quantize_static(source, made, Pictures(), quant_format=form, reduce_range=True,
                    op_types_to_quantize=["Conv"])  # fmt: skip
    facts = vet(made, name="int8")
    assert facts.precision == "int8"
    assert not facts.is_portable_exact


def test_dynamic_quantisation_by_onnx_runtime_is_refused(tmp_path: Path) -> None:
    source, made = tmp_path / "net.onnx", tmp_path / "int8.onnx"
    source.write_bytes(graphs.transformer())
    quantize_dynamic(source, made)
    with pytest.raises(GraphRefused, match=r"dynamic quantisation.*static.*reduce_range"):
        vet(made, name="int8")
