"""Which element types a graph may use: those that travel, and no others."""

from __future__ import annotations

from typing import Final

from onnx import TensorProto, TypeProto, helper

from workunits.errors import GraphRefused
from workunits.graphs.refusal import refused, shown
from workunits.wire.messages import Dtype

_DTYPES: Final[dict[int, Dtype]] = {
    TensorProto.BOOL: "bool",
    TensorProto.INT8: "int8", TensorProto.INT16: "int16",
    TensorProto.INT32: "int32", TensorProto.INT64: "int64",
    TensorProto.UINT8: "uint8", TensorProto.UINT16: "uint16",
    TensorProto.UINT32: "uint32", TensorProto.UINT64: "uint64",
    TensorProto.FLOAT16: "float16", TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64",
}  # fmt: skip

_ELEM_TYPES: Final = {name: number for number, name in _DTYPES.items()}

_NO_TEXT: Final = (
    "use integer labels in the model, and kind `classify` with --classes to put names to them"
)
_NO_CONTAINERS: Final = "export tensors; with skl2onnx use options={'zipmap': False}"


def dtype(elem_type: int, where: str) -> Dtype:
    """The contract's name of an ONNX element type.

    Raises:
        GraphRefused: text, or a type that does not travel; the message names `where`.
    """
    known = _DTYPES.get(elem_type)
    if known is None:
        raise _foreign(elem_type, where)
    return known


def tensor_dtype(kind: TypeProto, where: str) -> Dtype:
    """As `dtype`, of a declared or inferred type, which must be a dense tensor."""
    field = kind.WhichOneof("value")
    if field == "tensor_type":
        return dtype(kind.tensor_type.elem_type, where)
    if field is None:
        raise refused(f"{where} has no type", "declare it with its dtype and shape")
    container = field.removesuffix("_type").replace("_", " ")
    raise refused(f"{where} is a {container}", _NO_CONTAINERS)


def declared(dtype: Dtype, shape: tuple[int, ...]) -> TypeProto:
    """The ONNX type of a tensor."""
    return helper.make_tensor_type_proto(_ELEM_TYPES[dtype], shape)


def shape(kind: TypeProto) -> list[int | str | None] | None:
    """Its dimensions: a length, the name of a symbolic one, or None; None when nothing is known."""
    if not kind.tensor_type.HasField("shape"):
        return None
    found: list[int | str | None] = []
    for dim in kind.tensor_type.shape.dim:
        field = dim.WhichOneof("value")
        found.append(dim.dim_value if field == "dim_value" else dim.dim_param or None)
    return found


def _foreign(elem_type: int, where: str) -> GraphRefused:
    if elem_type == TensorProto.STRING:
        return refused(f"{where} holds text", _NO_TEXT)
    names = TensorProto.DataType
    name = names.Name(elem_type).lower() if elem_type in names.values() else str(elem_type)
    return refused(
        f"{where} has the element type {shown(name)}",
        f"cast it to one of {', '.join(_DTYPES.values())}",
    )
