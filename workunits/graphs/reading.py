"""From a file's bytes to a graph that is safe to look at.

Decides everything that needs no shapes: sizes, domains, the allow-list, where weights are kept,
which attributes may stand where. Hostile input is met here first, so the checks go from cheap to
dear, and nothing native sees the graph before its attributes are in range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, checker, helper

from workunits.graphs.calls import ML
from workunits.graphs.constants import KEPT_ELEMENTS
from workunits.graphs.dtypes import dtype
from workunits.graphs.operators import OPERATORS, REFUSED
from workunits.graphs.records import check_record_count
from workunits.graphs.refusal import cause, refused, shown
from workunits.program import DTYPE_BYTES
from workunits.wire import limits

_ONNX: Final = ("", "ai.onnx")
# Before opset 7 arithmetic broadcast otherwise; the newest are those whose formulas were read.
_OPSETS: Final = {"": range(7, 27), ML: range(1, 6)}

# Native shape inference divides by these.
_POSITIVE: Final = frozenset({
    "strides", "dilations", "kernel_shape", "group", "num_groups", "blocksize", "num_outputs",
    "hidden_size", "size", "q_num_heads", "kv_num_heads",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    """A graph of allowed operators, and the versions of the two domains."""

    graph: GraphProto
    opsets: Mapping[str, int]
    ir_version: int
    raw: bytes  # the model again, for onnx's checker


class _Room(NamedTuple):
    """How much more the graphs of a model may hold."""

    nodes: int
    links: int


def read(raw: bytes) -> Model:
    """The graph in `raw`.

    Raises:
        GraphRefused: not a model, or one that has what vehicles do not run.
    """
    proto = _parsed(raw)
    if proto.functions:
        raise refused(
            f"the model has functions of its own ({shown(proto.functions[0].name)})",
            "inline them: onnx.inliner.inline_local_functions",
        )
    if proto.training_info:
        raise refused("the model carries training information", "export it for inference")
    opsets = _opsets(proto)
    _check_graph(proto.graph, depth=0, room=_Room(limits.GRAPH_NODES, limits.GRAPH_LINKS))
    light = _without_weights(proto)
    return Model(light.graph, opsets, light.ir_version, _for_checker(light))


def check_structure(model: Model) -> None:
    """onnx's own check of names, order, attributes and their types, before shapes are inferred.

    Raises:
        GraphRefused: something does not keep to ONNX.
    """
    _check(model.raw, full=False)


def check_types(model: Model) -> None:
    """onnx's own full check: declared shapes and types must agree with those inferred.

    Raises:
        GraphRefused: they do not.
    """
    _check(model.raw, full=True)


def where(node: NodeProto, position: int) -> str:
    """How a node is called in a refusal."""
    name = shown(node.name) if node.name else f"#{position}"
    return f"node {name} ({shown(_full_name(node))[1:-1]})"


def operator_name(node: NodeProto) -> str:
    """The key of a node's operator in the allow-list."""
    return f"{ML}.{node.op_type}" if node.domain == ML else node.op_type


def _parsed(raw: bytes) -> ModelProto:
    if len(raw) > limits.MODEL_BYTES:
        raise refused(
            f"the file has {len(raw):,} bytes, at most {limits.MODEL_BYTES:,} are allowed",
            "use a smaller model",
        )
    check_record_count(raw)
    try:
        proto: ModelProto = ModelProto.FromString(raw)
    except (DecodeError, UnicodeDecodeError, ValueError) as error:
        raise refused(f"the file is not an ONNX model: {cause(error)}", "export it again") from None
    if not proto.graph.node:
        raise refused("the file holds no ONNX graph", "export the model again")
    return proto


def _without_weights(proto: ModelProto) -> ModelProto:
    """The model with its large weights cut to one byte: only their size is looked at from here on.

    Changes `proto`, and parses anew because protobuf gives memory back only with the whole message.
    """
    for tensor in proto.graph.initializer:
        if _is_large(tensor):
            tensor.raw_data = b"\0"
    light: ModelProto = ModelProto.FromString(proto.SerializeToString())
    return light


def _for_checker(light: ModelProto) -> bytes:
    """The model with its large weights as inputs, since onnx's checker compares their length."""
    proto = ModelProto()
    proto.CopyFrom(light)
    graph = proto.graph
    inputs = {value.name for value in graph.input}
    large = [tensor for tensor in light.graph.initializer if _is_large(tensor)]
    graph.ClearField("initializer")
    graph.initializer.extend(t for t in light.graph.initializer if not _is_large(t))
    graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in large
        if tensor.name not in inputs
    )
    raw: bytes = proto.SerializeToString()
    return raw


def _is_large(tensor: TensorProto) -> bool:
    return bool(tensor.HasField("raw_data")) and prod(tensor.dims) > KEPT_ELEMENTS


def _check(raw: bytes, *, full: bool) -> None:
    try:
        checker.check_model(raw, full_check=full)
    except Exception as error:  # onnx raises a dozen kinds, some of C++
        raise refused(f"onnx.checker refuses it: {cause(error)}", "export it again") from None


def _opsets(proto: ModelProto) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in proto.opset_import:
        domain = "" if entry.domain in _ONNX else entry.domain
        if domain not in _OPSETS:
            continue  # exporters name domains that no node is of
        # skl2onnx writes a domain twice; runtimes differ on which of two versions counts.
        if found.get(domain, entry.version) != entry.version:
            raise refused(
                f"domain {shown(entry.domain or 'ai.onnx')} has two opsets", "export it again"
            )
        known = _OPSETS[domain]
        if entry.version not in known:
            raise refused(
                f"opset {entry.version} of domain {shown(entry.domain or 'ai.onnx')} is not known",
                f"export with opset {known[0]} to {known[-1]}",
            )
        found[domain] = entry.version
    if "" not in found:
        raise refused("the model names no opset of ai.onnx", "export it again")
    return found


def _check_graph(graph: GraphProto, depth: int, room: _Room) -> _Room:
    """Raise unless all is allowed; gives back what there is still room for."""
    if depth > limits.GRAPH_DEPTH:
        raise refused(f"loops stand more than {limits.GRAPH_DEPTH} deep", "write them side by side")
    room = _room_beside(graph, room)
    if graph.sparse_initializer:
        raise refused("the model has sparse initialisers", "export them dense")
    _check_names(graph)
    for tensor in graph.initializer:
        _check_tensor(tensor, f"initialiser {shown(tensor.name)}")
    for position, node in enumerate(graph.node):
        place = where(node, position)
        _check_operator(node, place)
        for attribute in node.attribute:
            room = _check_attribute(node, attribute, place, depth, room)
    return room


def _room_beside(graph: GraphProto, room: _Room) -> _Room:
    """A few nodes with very many inputs cost as much time as very many nodes."""
    names = len(graph.initializer) + sum(len(n.input) + len(n.output) for n in graph.node)
    left = _Room(room.nodes - len(graph.node), room.links - names)
    if left.nodes < 0:
        raise refused(
            f"the graph has more than {limits.GRAPH_NODES:,} nodes", "use Loop for what repeats"
        )
    if left.links < 0:
        raise refused(
            f"the graph has more than {limits.GRAPH_LINKS:,} links between nodes and weights",
            "join small weights into one, and take less in one node",
        )
    return left


def _check_names(graph: GraphProto) -> None:
    """Protobuf hands out as bytes what is not UTF-8."""
    named: list[Iterable[object]] = [(n.name, n.op_type, n.domain) for n in graph.node]
    named += [names for n in graph.node for names in (n.input, n.output)]
    named += [[x.name for x in group] for group in (graph.initializer, graph.input, graph.output)]
    named += [[attribute.name for attribute in n.attribute] for n in graph.node]
    if not all(isinstance(name, str) for names in named for name in names):
        raise refused("a name in the file is not UTF-8 text", "export the model again")


def _check_operator(node: NodeProto, place: str) -> None:
    if node.domain not in (*_ONNX, ML):
        raise refused(
            f"{place} is of the custom domain {shown(node.domain)}",
            "export with operators of ai.onnx and ai.onnx.ml only, unoptimised",
        )
    name = operator_name(node)
    if name in REFUSED:
        what, mend = REFUSED[name]
        raise refused(f"{place} {what}", mend)
    if name not in OPERATORS:
        raise refused(f"{place} is not on the list of operators", "express it by simpler ones")
    for attribute in node.attribute:
        # Native shape inference writes as many outputs as this says.
        if attribute.name == "num_outputs" and attribute.i != len(node.output):
            raise refused(
                f"{place} has {len(node.output)} outputs, not {attribute.i}", "export it again"
            )


def _check_attribute(
    node: NodeProto, attribute: AttributeProto, place: str, depth: int, room: _Room
) -> _Room:
    name = f"attribute {shown(attribute.name)} of {place}"
    if attribute.ref_attr_name:
        raise refused(f"{name} refers to a function", "inline functions before export")
    if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
        raise refused(f"{name} is sparse", "export it dense")
    if attribute.HasField("tp") or attribute.type_protos:
        raise refused(f"{name} is a type", "export tensors only")
    if attribute.name == "equation" and len(attribute.s) > limits.EINSUM_CHARS:
        raise refused(f"{name} is longer than {limits.EINSUM_CHARS}", "multiply in several steps")
    numbers = [*attribute.ints, *([attribute.i] if attribute.HasField("i") else [])]
    if attribute.name in _POSITIVE and min(numbers, default=1) < 1:
        raise refused(f"{name} is not positive", "export the model again")
    if attribute.graphs or (
        attribute.HasField("g") and (node.op_type, attribute.name) != ("Loop", "body")
    ):
        raise refused(f"{name} is a graph", "only the body of a Loop may be one")
    for tensor in _tensors(attribute):
        _check_tensor(tensor, name)
    return _check_graph(attribute.g, depth + 1, room) if attribute.HasField("g") else room


def _tensors(attribute: AttributeProto) -> Iterable[TensorProto]:
    return [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]


def _check_tensor(tensor: TensorProto, place: str) -> None:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise refused(
            f"{place} is kept in another file",
            "save it inside: onnx.save(..., save_as_external_data=False)",
        )
    width = DTYPE_BYTES[dtype(tensor.data_type, place)]
    # A length of 0 must not hide the others from whoever multiplies them.
    largest = prod(max(1, dim) for dim in tensor.dims[: limits.GRAPH_RANK])
    if (
        len(tensor.dims) > limits.GRAPH_RANK
        or any(dim < 0 for dim in tensor.dims)
        or (0 in tensor.dims and largest > limits.INTEGER)
    ):
        raise refused(f"{place} has impossible dimensions", "export the model again")
    wanted = prod(tensor.dims)
    if tensor.HasField("raw_data"):
        given = len(tensor.raw_data) / width
    else:
        lists = tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data
        given = sum(map(len, (*lists, tensor.uint64_data)))
    if given != wanted:
        raise refused(
            f"{place} says {wanted:,} elements and holds {given:,.0f}", "export the model again"
        )


def _full_name(node: NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in _ONNX else node.op_type
