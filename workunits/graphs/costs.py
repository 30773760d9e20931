"""What is told of a model from all its calls: cost of a row, precision, whether it is portable-exact."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from workunits.graphs.calls import Call
from workunits.graphs.flops import free
from workunits.graphs.inference import Inferred
from workunits.graphs.operators import OPERATORS
from workunits.graphs.refusal import cause, refused
from workunits.wire import limits
from workunits.wire.messages import Dtype

Precision = Literal["fp64", "fp32", "fp16", "int8"]

_FLOP_PER_KFLOP: Final = 1000

_QUANTISING: Final = frozenset(
    {"QuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger"}
)
_CONVERTING: Final = frozenset({"Cast", "CastLike"})


def kflop_per_row(seen: Inferred) -> int:
    """The FLOP of a whole step over its rows, rounded up to kFLOP; what all rows share counts too.

    Raises:
        GraphRefused: a row costs more than the limits, or a node's cost cannot be told.
    """
    flop = sum(_flop(call) * call.times for call in seen.calls)
    kflop = max(1, -(-flop // (_FLOP_PER_KFLOP * seen.rows)))
    if kflop > limits.KFLOP_PER_ROW:
        raise refused(
            f"a row costs {kflop:,} kFLOP, at most {limits.KFLOP_PER_ROW:,} are allowed",
            "use a smaller model, or cut the work into more rows",
        )
    return kflop


def check_traffic(seen: Inferred) -> None:
    """Raise `GraphRefused` if a row writes more than the limit; moves cost no FLOP but time."""
    written = sum(
        call.times * tensor.bytes for call in seen.calls for tensor in call.outputs if tensor
    )
    per_row = written // seen.rows
    if per_row > limits.TRAFFIC_BYTES_PER_ROW:
        raise refused(
            f"a row writes {per_row:,} bytes, at most {limits.TRAFFIC_BYTES_PER_ROW:,} are allowed",
            "use a smaller model, or fewer trips of its loops",
        )


def precision(seen: Inferred) -> Precision:
    """int8 where it quantises or has no floats at all, else the narrowest float it computes in."""
    if any(call.op in _QUANTISING for call in seen.calls):
        return "int8"
    floats = _floats(call for call in seen.calls if _computes(call)) or _floats(seen.calls)
    if "float16" in floats:
        return "fp16"
    if "float32" in floats:
        return "fp32"
    return "fp64" if floats else "int8"


def is_portable_exact(seen: Inferred) -> bool:
    """Only operations that no kernel may reorder or round otherwise (DESIGN 4).

    Half precision is never so: ONNX Runtime may compute it in single precision.
    """
    return all(map(_is_exact, seen.calls))


def _flop(call: Call) -> int:
    try:
        return OPERATORS[call.op].flop(call)
    except (ArithmeticError, LookupError, ValueError) as error:
        raise refused(
            f"the cost of {call.where} cannot be told: {cause(error)}", "export the model again"
        ) from None


def _computes(call: Call) -> bool:
    return OPERATORS[call.op].flop is not free and call.op not in _CONVERTING


def _floats(calls: Iterable[Call]) -> set[Dtype]:
    return {
        tensor.dtype
        for call in calls
        for tensor in (*call.inputs[:1], *call.outputs)
        if tensor is not None and tensor.is_float
    }


def _is_exact(call: Call) -> bool:
    floats = [t.dtype for t in (*call.inputs, *call.outputs) if t is not None and t.is_float]
    exact = OPERATORS[call.op].exact
    return "float16" not in floats and (exact == "always" or (exact == "integers" and not floats))
