"""What a model takes and gives: names, dtypes, shapes of one row, and where the rows are.

The scope rule (DECISIONS A.8): an input whose leading axis is the batch axis has scope `row`; an
input of fixed shape beside such inputs has scope `unit`. Where no leading axis is symbolic, all
inputs and outputs must share theirs, which then fixes the rows per step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from onnx import GraphProto, ValueInfoProto

from workunits.graphs import dtypes
from workunits.graphs.calls import Tensor
from workunits.graphs.refusal import refused, shown
from workunits.wire import limits
from workunits.wire.messages import Scope, TensorSpec

_SEPARATORS: Final = re.compile(r"[/\\]")
_ADVICE = (
    "fix every dimension but the leading one (python -m onnxruntime.tools.make_dynamic_shape_fixed)"
)


@dataclass(frozen=True, slots=True)
class Interface:
    """The inputs, and the number of rows where the model fixes it."""

    inputs: tuple[TensorSpec, ...]
    batch_rows: int | None

    def tensors(self, rows: int) -> dict[str, Tensor]:
        """The inputs of a call with `rows` rows."""
        return {
            spec.name: Tensor(
                spec.dtype, (rows, *spec.shape) if spec.scope == "row" else spec.shape
            )
            for spec in self.inputs
        }


@dataclass(frozen=True, slots=True)
class _Declared:
    name: str
    tensor_type: ValueInfoProto
    dims: list[int | str | None]


def read(graph: GraphProto) -> Interface:
    """The inputs of a graph by the scope rule; an initialiser listed as an input is a constant.

    Raises:
        GraphRefused: text, containers, unknown or impossible dimensions, no common batch axis.
    """
    constants = {tensor.name for tensor in graph.initializer}
    declared = [_declared(value) for value in graph.input if value.name not in constants]
    _check_count(len(declared), "inputs")
    batch_rows = _batch_rows(declared)
    return Interface(tuple(_spec(one, batch_rows) for one in declared), batch_rows)


def output_specs(graph: GraphProto, few: Mapping[str, Tensor], rows: int) -> tuple[TensorSpec, ...]:
    """The outputs, from the shapes inferred at `rows` rows.

    Raises:
        GraphRefused: an output whose leading axis is not that of the rows, or that stands twice.
    """
    _check_count(len(graph.output), "outputs")
    _check_names_apart(graph)
    specs = []
    for output in graph.output:
        name = _name(output.name, "output")
        dtypes.tensor_dtype(output.type, f"output {shown(name)}")
        tensor = few.get(name)
        if tensor is None:
            raise refused(f"nothing makes output {shown(name)}", "export the model again")
        if not tensor.shape or tensor.shape[0] != rows:
            raise refused(
                f"output {shown(name)} of shape {list(tensor.shape)} has no batch axis in front",
                "give each row its own result, with the batch axis first",
            )
        specs.append(_checked(TensorSpec(name=name, dtype=tensor.dtype, shape=tensor.shape[1:])))
    return tuple(specs)


def _declared(value: ValueInfoProto) -> _Declared:
    name = _name(value.name, "input")
    what = f"input {shown(name)}"
    dtypes.tensor_dtype(value.type, what)
    dims = dtypes.shape(value.type)
    if dims is None:
        raise refused(f"{what} has no shape", _ADVICE)
    for axis, dim in enumerate(dims):
        if axis > 0 and not isinstance(dim, int):
            called = f" ({shown(dim)})" if dim else ""
            raise refused(f"dimension {axis}{called} of {what} is unknown", _ADVICE)
        if isinstance(dim, int) and not 1 <= dim <= limits.INTEGER:
            raise refused(f"dimension {axis} of {what} is {dim}", "use lengths of at least 1")
    return _Declared(name, value, dims)


def _batch_rows(declared: list[_Declared]) -> int | None:
    """The fixed batch axis, or None where it is symbolic."""
    leading = [one.dims[0] for one in declared if one.dims]
    symbolic = {dim for dim in leading if not isinstance(dim, int)}
    if symbolic:
        names = sorted(dim for dim in symbolic if isinstance(dim, str))
        if len(names) > 1:
            raise refused(
                f"inputs have the leading axes {', '.join(map(shown, names[:4]))}",
                "give the batch axis one name, and fix every other dimension",
            )
        return None
    rows = leading[0] if leading else None
    if not isinstance(rows, int) or len(leading) < len(declared) or set(leading) != {rows}:
        raise refused(
            "the inputs share no batch axis", "export with a symbolic leading axis for the rows"
        )
    if rows > limits.ROWS_PER_STEP:
        raise refused(
            f"the batch axis is fixed at {rows:,} rows, at most {limits.ROWS_PER_STEP:,}",
            "export with a symbolic or shorter batch axis",
        )
    return rows


def _spec(one: _Declared, batch_rows: int | None) -> TensorSpec:
    has_rows = bool(one.dims) and (batch_rows is not None or not isinstance(one.dims[0], int))
    scope: Scope = "row" if has_rows else "unit"
    lengths = tuple(dim for dim in one.dims[1 if has_rows else 0 :] if isinstance(dim, int))
    dtype = dtypes.tensor_dtype(one.tensor_type.type, f"input {shown(one.name)}")
    return _checked(TensorSpec(name=one.name, dtype=dtype, shape=lengths, scope=scope))


def _checked(spec: TensorSpec) -> TensorSpec:
    what = f"tensor {shown(spec.name)}"
    if len(spec.shape) > limits.DIMENSIONS or 0 in spec.shape:
        raise refused(
            f"{what} has the shape {list(spec.shape)[:20]}",
            f"use 1 to {limits.DIMENSIONS} dimensions, none of them empty",
        )
    size = Tensor(spec.dtype, spec.shape).bytes
    if size > limits.TENSOR_PAYLOAD_BYTES or (spec.scope == "row" and size >= limits.STEP_BYTES):
        raise refused(f"{what} has {size:,} bytes", "use smaller rows or shared tensors")
    return spec


def _name(name: str, what: str) -> str:
    if not 1 <= len(name) <= limits.TENSOR_NAME_CHARS or not name.isprintable():
        raise refused(
            f"the name {shown(name)} of an {what} is empty, too long or not printable", "rename it"
        )
    # Answers hold files of these names (.npz), which careless programs unpack.
    if ".." in _SEPARATORS.split(name):
        raise refused(f"the name {shown(name)} of an {what} is a way out of a folder", "rename it")
    return name


def _check_names_apart(graph: GraphProto) -> None:
    """Results are kept by name, so that a second one would take the place of the first."""
    names = [output.name for output in graph.output]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise refused(f"two outputs are called {shown(twice)}", "name each output once")


def _check_count(count: int, what: str) -> None:
    if not 1 <= count <= limits.TENSORS:
        raise refused(f"the model has {count} {what}", f"use 1 to {limits.TENSORS}")
