"""Shapes and types of the operators of ai.onnx.ml, which onnx itself infers only in part.

Written from the operators' specification (onnx/docs/Operators-ml.md) and from what ONNX Runtime
returns where that says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from onnx import TensorProto

from workunits.errors import GraphRefused
from workunits.graphs.calls import ML, Call, Tensor
from workunits.graphs.dtypes import dtype
from workunits.graphs.refusal import refused
from workunits.wire.messages import Dtype

Shapes = Callable[[Call], tuple[Tensor, ...]]


def outputs(call: Call) -> tuple[Tensor, ...]:
    """The outputs of a call of an ai.onnx.ml operator, all of those it could give.

    Raises:
        GraphRefused: inputs of an impossible rank, text, or attributes that contradict each other.
    """
    if not call.inputs or any(tensor is None for tensor in call.inputs):
        raise refused(f"{call.where} lacks an input", "export the model again")
    return _SHAPES[call.op.removeprefix(f"{ML}.")](call)


def _same(kind: Dtype | None) -> Shapes:
    return lambda call: (Tensor(kind or call.first.dtype, call.first.shape),)


def _encoded(call: Call) -> tuple[Tensor, ...]:
    by_values = {"values_int64s": TensorProto.INT64, "values_floats": TensorProto.FLOAT}
    by_default = call.attributes["values_tensor"].t if "values_tensor" in call.attributes else None
    found: list[int] = [kind for name, kind in by_values.items() if name in call.attributes]
    if by_default is not None:
        found = [by_default.data_type]
    elem_type = found[0] if found else TensorProto.STRING
    return (Tensor(dtype(elem_type, f"the output of {call.where}"), call.first.shape),)


def _one_hot(call: Call) -> tuple[Tensor, ...]:
    return (Tensor("float32", (*call.first.shape, call.length("cats_int64s", "cats_strings"))),)


def _joined(call: Call) -> tuple[Tensor, ...]:
    width = sum(tensor.shape[-1] if tensor and tensor.shape else 1 for tensor in call.inputs)
    return (Tensor("float32", (_rows(call), width)),)


def _extracted(call: Call) -> tuple[Tensor, ...]:
    places = call.inputs[1]
    leading = call.first.shape[:-1] or (1,)
    return (Tensor(call.first.dtype, (*leading, places.size if places else 0)),)


def _regressor(*names: str) -> Shapes:
    """[rows, targets]; the number of targets is the attribute of one of these names, or 1."""

    def shapes(call: Call) -> tuple[Tensor, ...]:
        targets = max((call.integer(name, 1) for name in names), default=1)
        return (Tensor("float32", (_rows(call), targets)),)

    return shapes


def _classifier(call: Call) -> tuple[Tensor, ...]:
    """A label for each row, and a score for each class."""
    return _classified(call, max(2, _classes(call)))


def _vector_classifier(call: Call) -> tuple[Tensor, ...]:
    """Without calibrated probabilities the scores are those of each pair of classes."""
    classes = _classes(call)
    pairs = classes * (classes - 1) // 2
    has_pairs = not call.length("prob_a") and call.length("vectors_per_class")
    return _classified(call, max(2, pairs if has_pairs else classes))


def _classified(call: Call, scores: int) -> tuple[Tensor, ...]:
    has_numbers = call.length("classlabels_ints", "classlabels_int64s")
    elem_type = TensorProto.INT64 if has_numbers else TensorProto.STRING
    label = dtype(elem_type, f"the label of {call.where}")
    rows = _rows(call)
    return Tensor(label, (rows,)), Tensor("float32", (rows, scores))


def _classes(call: Call) -> int:
    return call.length("classlabels_ints", "classlabels_int64s", "classlabels_strings")


def _rows(call: Call) -> int:
    """Rows of features [rows, features]; a single row may come without its axis."""
    if len(call.first.shape) not in (1, 2):
        raise _wrong_rank(call)
    return call.first.shape[0] if len(call.first.shape) == 2 else 1


def _wrong_rank(call: Call) -> GraphRefused:
    return refused(
        f"{call.where} takes [rows, features], not {list(call.first.shape)}",
        "reshape its input to two axes",
    )


_SHAPES: Final[dict[str, Shapes]] = {
    "ArrayFeatureExtractor": _extracted,
    "Binarizer": _same(None),
    "FeatureVectorizer": _joined,
    "Imputer": _same(None),
    "LabelEncoder": _encoded,
    "LinearClassifier": _classifier,
    "LinearRegressor": _regressor("targets"),
    "Normalizer": _same("float32"),
    "OneHotEncoder": _one_hot,
    "SVMClassifier": _vector_classifier,
    "SVMRegressor": _regressor(),
    "Scaler": _same("float32"),
    "TreeEnsembleClassifier": _classifier,
    "TreeEnsembleRegressor": _regressor("n_targets"),
}
