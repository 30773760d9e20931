"""The values that shapes are made of: small constants, and what is computed from them.

Exporters compute shapes inside the graph (Shape, Gather, Concat, Reshape). With a definite number
of rows these are constants, and are worked out here with onnx's reference operators. Only small
tensors and only operators that move or count are worked out, so that a file cannot make this costly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Final

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from workunits.graphs.calls import Array, Tensor
from workunits.graphs.dtypes import dtype

# A shape has a few elements, a table of positions some hundreds; weights are never looked at.
KEPT_ELEMENTS: Final = 1024

_WORKED_OUT: Final = frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal",
    "Expand", "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual",
    "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Range", "ReduceMax", "ReduceMin", "ReduceProd",
    "ReduceSum", "Reshape", "Shape", "Size", "Slice", "Split", "Sqrt", "Squeeze", "Sub",
    "Transpose", "Unsqueeze", "Where",
})  # fmt: skip


def constant(tensor: TensorProto, where: str) -> Tensor:
    """An initialiser; its value is kept where it is small."""
    shape = tuple(tensor.dims)
    value = numpy_helper.to_array(tensor) if prod(shape) <= KEPT_ELEMENTS else None
    return Tensor(dtype(tensor.data_type, where), shape, value)


def worked_out(
    node: NodeProto, opset: int, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """`outputs`, with their values where the node is worked out and all it needs is known."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in _WORKED_OUT:
        return tuple(outputs)
    if any(tensor is not None and tensor.size > KEPT_ELEMENTS for tensor in outputs):
        return tuple(outputs)
    values = _values(node, opset, inputs)
    if values is None:
        return tuple(outputs)
    pairs = zip(outputs, values, strict=False)
    return tuple(t and (_with_value(t, value)) for t, value in pairs)


def _values(node: NodeProto, opset: int, inputs: Sequence[Tensor | None]) -> Sequence[Array] | None:
    if node.op_type in ("Shape", "Size"):
        return _measured(node, inputs[0])
    if any(tensor is not None and tensor.value is None for tensor in inputs):
        return None
    feeds = {name: tensor.value for name, tensor in zip(node.input, inputs, strict=True) if tensor}
    wanted = [name for name in node.output if name]
    graph = GraphProto(
        name="one",
        node=[node],
        input=[ValueInfoProto(name=name) for name in feeds],
        output=[ValueInfoProto(name=name) for name in wanted],
    )
    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(graph, opsets={"": opset}).run(None, feeds)
    except Exception:  # a value that cannot be worked out is not known, which is no error here
        return None
    by_name = dict(zip(wanted, found, strict=True))
    return [np.asarray(by_name.get(name, ())) for name in node.output]


def _measured(node: NodeProto, tensor: Tensor | None) -> Sequence[Array] | None:
    """Shape and Size need no value; Shape may give a part of the dimensions."""
    if tensor is None:
        return None
    if node.op_type == "Size":
        return [np.array(tensor.size, dtype=np.int64)]
    part = {attribute.name: attribute.i for attribute in node.attribute}
    return [np.array(tensor.shape[part.get("start", 0) : part.get("end")], dtype=np.int64)]


def _with_value(tensor: Tensor, value: Array) -> Tensor:
    """The tensor with its value, unless that contradicts what was inferred."""
    fits = value.shape == tensor.shape and value.dtype == np.dtype(tensor.dtype)
    return replace(tensor, value=value) if fits else tensor
