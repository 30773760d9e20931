"""Shapes through a graph, node by node, for one definite number of rows.

Each node's schema infers its outputs from the shapes and the small constants at hand
(`constants`), so that a dimension that cannot be told is met at the node that makes it. A Loop's
body is gone through once: its states must keep their shapes. Nothing of the graph is run.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from onnx import GraphProto, NodeProto, TypeProto, defs, helper, numpy_helper
from onnx.shape_inference import infer_node_outputs

from workunits.graphs import constants, dtypes, learned
from workunits.graphs.calls import ML, Call, Tensor
from workunits.graphs.reading import Model, operator_name, where
from workunits.graphs.refusal import cause, refused, shown
from workunits.wire import limits

_Scope = MutableMapping[str, Tensor]
_Tensors = tuple[Tensor | None, ...]


@dataclass(frozen=True, slots=True)
class Inferred:
    """A model at `rows` rows: its calls in order, and the tensors of its outermost graph."""

    rows: int
    calls: tuple[Call, ...]
    tensors: Mapping[str, Tensor]


def infer(model: Model, inputs: Mapping[str, Tensor], rows: int) -> Inferred:
    """Shapes of everything that `model` makes of these inputs.

    Raises:
        GraphRefused: a shape that is unknown or past a limit, a node that does not fit its inputs,
            a name that nothing makes, a Loop that is not bounded; the message names the place.
    """
    walk = _Walk(model, rows)
    scope: _Scope = dict(inputs)
    walk.through(model.graph, scope, times=1)
    return Inferred(rows, tuple(walk.calls), scope)


class _Walk:
    """The way through one model; `calls` grows as it goes."""

    def __init__(self, model: Model, rows: int) -> None:
        self._opsets = model.opsets
        self._imports = [helper.make_opsetid(*entry) for entry in model.opsets.items()]
        self._ir_version = model.ir_version
        self._rows = rows
        self.calls: list[Call] = []

    def through(self, graph: GraphProto, scope: _Scope, times: int) -> None:
        """Add the graph's tensors to `scope`, and its calls, each made `times` times."""
        for tensor in graph.initializer:
            scope[tensor.name] = constants.constant(tensor, f"initialiser {shown(tensor.name)}")
        for position, node in enumerate(graph.node):
            call = self._call(node, where(node, position), scope, times)
            outputs = self._outputs(node, call, scope)
            self.calls.append(replace(call, outputs=outputs))
            for name, tensor in zip(node.output, outputs, strict=True):
                if tensor is not None:
                    self._check_size(name, tensor, call.where)
                    scope[name] = tensor

    def _call(self, node: NodeProto, place: str, scope: _Scope, times: int) -> Call:
        domain = ML if node.domain == ML else ""
        if domain not in self._opsets:
            raise refused(f"{place} is of domain {ML}, whose opset is missing", "export it again")
        return Call(
            op=operator_name(node),
            where=place,
            opset=self._opsets[domain],
            attributes={attribute.name: attribute for attribute in node.attribute},
            input_names=tuple(node.input),
            output_names=tuple(node.output),
            inputs=tuple(_found(name, place, scope) if name else None for name in node.input),
            outputs=(),
            times=times,
        )

    def _outputs(self, node: NodeProto, call: Call, scope: _Scope) -> _Tensors:
        if node.op_type == "Loop":
            return self._loop(node, call, scope)
        if node.domain == ML:
            made = learned.outputs(call)
            return tuple(t if n else None for t, n in zip(made, node.output, strict=False))
        return constants.worked_out(node, call.opset, call.inputs, self._inferred(node, call))

    def _inferred(self, node: NodeProto, call: Call) -> _Tensors:
        _check_axis(call)
        _check_dropout(call)
        given = {n: t for n, t in zip(node.input, call.inputs, strict=True) if t is not None}
        types = {
            name: dtypes.declared(tensor.dtype, tensor.shape) for name, tensor in given.items()
        }
        values = {
            name: numpy_helper.from_array(tensor.value)
            for name, tensor in given.items()
            if tensor.value is not None
        }
        try:
            schema = defs.get_schema(node.op_type, call.opset, "")
            made = infer_node_outputs(
                schema,
                node,
                types,
                values,
                opset_imports=self._imports,
                ir_version=self._ir_version,
            )
        except Exception as error:  # onnx raises a dozen kinds, some of C++
            raise refused(
                f"{call.where} does not fit its inputs: {cause(error)}",
                "export with a dynamic batch axis, or with a fixed one throughout",
            ) from None
        return tuple(
            _known(name, made.get(name), call.where) if name else None for name in node.output
        )

    def _check_size(self, name: str, tensor: Tensor, place: str) -> None:
        most = limits.TENSOR_BYTES_PER_ROW * self._rows
        if tensor.bytes > most:
            raise refused(
                f"tensor {shown(name)} of {place} has {tensor.bytes // self._rows:,} bytes a row, "
                f"at most {limits.TENSOR_BYTES_PER_ROW:,} are allowed",
                "use a smaller model or smaller rows",
            )

    def _loop(self, node: NodeProto, call: Call, scope: _Scope) -> _Tensors:
        """The outputs of a Loop: its states, then what its trips put on top of each other."""
        trips = _trips(call)
        body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
        states = call.inputs[2:]
        if len(body.input) != len(states) + 2 or len(body.output) != len(node.output) + 1:
            raise refused(f"the body of {call.where} has other states", "export the model again")
        inner: _Scope = ChainMap({}, scope)
        # The condition is true in each trip, unless the body makes another one of it.
        flag = np.array(True)
        taken = (Tensor("int64", ()), Tensor("bool", (), flag), *map(_unvalued, states))
        for declared, tensor in zip(body.input, taken, strict=True):
            if tensor is None:
                raise refused(f"a state of {call.where} has no start", "give it one")
            inner[declared.name] = _ranked(declared.type, tensor) if tensor.shape == () else tensor
        self.through(body, inner, call.times * trips)
        goes_on, *made = [_found(output.name, call.where, inner) for output in body.output]
        if goes_on.value is None or not goes_on.value.all():
            raise refused(
                f"{call.where} may stop early, when a neighbouring row says so",
                "let its condition be constantly true and keep finished states with Where",
            )
        return _carried(call, states, made) + _stacked(trips, made[len(states) :])


def _check_axis(call: Call) -> None:
    """Native inference reads past the shape for an axis that the tensor does not have."""
    rank = len(call.inputs[0].shape) if call.inputs and call.inputs[0] else 0
    axis = call.integer("axis", 0)
    if not -rank - 1 <= axis <= rank:
        raise refused(
            f"axis {axis} of {call.where} is not one of its input's {rank}", "export it again"
        )


def _check_dropout(call: Call) -> None:
    """Dropout is for training, and passes rows on unchanged when told so or by default."""
    is_training = call.input(2) if call.op == "Dropout" else None
    if is_training is not None and (is_training.value is None or is_training.value.any()):
        raise refused(f"{call.where} draws random numbers", "export the model for inference")


def _trips(call: Call) -> int:
    """The constant number of trips; an initial condition must be true."""
    count, goes = call.input(0), call.input(1)
    known = count.integers() if count else None
    if known is None or len(known) != 1 or not 1 <= known[0] <= limits.LOOP_TRIPS:
        raise refused(
            f"{call.where} has no constant number of trips from 1 to {limits.LOOP_TRIPS:,}",
            "make its first input a constant",
        )
    if goes is not None and (goes.value is None or not goes.value.all()):
        raise refused(f"{call.where} may not begin at all", "leave its second input out")
    return known[0]


def _unvalued(tensor: Tensor | None) -> Tensor | None:
    """A state: its value changes from trip to trip."""
    return replace(tensor, value=None) if tensor is not None else None


def _ranked(kind: TypeProto, tensor: Tensor) -> Tensor:
    """Counter and condition may be declared [1] instead of []."""
    wanted = (1,) * len(kind.tensor_type.shape.dim)
    if len(wanted) > 1:
        return tensor
    value = None if tensor.value is None else tensor.value.reshape(wanted)
    return replace(tensor, shape=wanted, value=value)


def _carried(call: Call, states: Sequence[Tensor | None], made: Sequence[Tensor]) -> _Tensors:
    for before, after in zip(states, made, strict=False):
        if before is None or (before.dtype, before.shape) != (after.dtype, after.shape):
            raise refused(
                f"a state of {call.where} changes its shape or type from trip to trip",
                "keep its shape, for example by writing into a tensor of full size",
            )
    return tuple(map(_unvalued, states))


def _stacked(trips: int, made: Sequence[Tensor]) -> _Tensors:
    return tuple(Tensor(tensor.dtype, (trips, *tensor.shape)) for tensor in made)


def _found(name: str, place: str, scope: Mapping[str, Tensor]) -> Tensor:
    if name not in scope:
        raise refused(
            f"{place} takes {shown(name)}, which nothing before it makes",
            "order the nodes, without circles",
        )
    return scope[name]


def _known(name: str, kind: TypeProto | None, place: str) -> Tensor:
    """What was inferred, as a tensor whose every dimension is a number."""
    what = f"tensor {shown(name)} of {place}"
    if kind is None or kind.WhichOneof("value") is None:
        raise refused(f"the type of {what} is unknown", "export with shapes: onnx.shape_inference")
    dtype, dims = dtypes.tensor_dtype(kind, what), dtypes.shape(kind)
    if dims is None or len(dims) > limits.GRAPH_RANK:
        raise refused(
            f"the number of axes of {what} is unknown or over {limits.GRAPH_RANK}",
            "let shapes depend on no data",
        )
    lengths = tuple(dim for dim in dims if isinstance(dim, int) and dim >= 0)
    if len(lengths) != len(dims) or prod(lengths) > limits.INTEGER:
        axis = next((i for i, d in enumerate(dims) if not isinstance(d, int) or d < 0), 0)
        raise refused(
            f"dimension {axis} of {what} is unknown or impossible",
            "fix every dimension but the batch axis, and let shapes depend on no data",
        )
    return Tensor(dtype, lengths)
