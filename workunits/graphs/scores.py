"""Does a model say more about a row than a label?

A label alone is easily guessed, and two honest machines may differ on it where scores are nearly
equal (DESIGN 4: a row must return scores). An output counts as scores if it is floating point and
no label in disguise; a model of integers alone passes if a row carries enough of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, log2, prod
from typing import Final

from workunits.graphs.calls import ML, Call
from workunits.graphs.refusal import refused
from workunits.program import DTYPE_BYTES
from workunits.wire.messages import TensorSpec

# A guess at 32 bits is right once in four thousand million rows.
_ENOUGH_BITS: Final = 32

# Outputs that name a place or a class: (operator, output).
_LABELS: Final = frozenset({
    ("ArgMax", 0), ("ArgMin", 0), ("TopK", 1), (f"{ML}.LinearClassifier", 0),
    (f"{ML}.SVMClassifier", 0), (f"{ML}.TreeEnsembleClassifier", 0),
})  # fmt: skip
# Operators that tell no more than the input with this position tells.
_RETOLD: Final[dict[str, int]] = {
    "Cast": 0, "CastLike": 0, "Identity": 0, "Reshape": 0, "Flatten": 0, "Squeeze": 0,
    "Unsqueeze": 0, "Transpose": 0, "Expand": 0, "Tile": 0, "Gather": 1, "OneHot": 0,
    f"{ML}.ArrayFeatureExtractor": 1, f"{ML}.LabelEncoder": 0, f"{ML}.OneHotEncoder": 0,
}  # fmt: skip


def check_scores(outputs: Iterable[TensorSpec], calls: Iterable[Call], rows: int) -> None:
    """Raise `GraphRefused` if the outputs are labels and nothing more."""
    makers = {
        name: (call, position)
        for call in calls
        for position, name in enumerate(call.output_names)
        if name
    }
    bits = 0
    for spec in outputs:
        label_bits = _label_bits(spec.name, makers, rows)
        if label_bits is None and spec.dtype.startswith("float"):
            return
        own = prod(spec.shape) * (1 if spec.dtype == "bool" else 8 * DTYPE_BYTES[spec.dtype])
        bits += own if label_bits is None else min(own, label_bits)
    if bits < _ENOUGH_BITS:
        raise refused(
            f"the model returns labels without scores: {bits} bits a row, fewer than {_ENOUGH_BITS}",
            "return the scores or probabilities that the label is chosen from as well",
        )


def _label_bits(name: str, makers: Mapping[str, tuple[Call, int]], rows: int) -> int | None:
    """Bits of a row if the tensor is a label, however it was cast or moved; else None."""
    while name in makers:
        call, position = makers[name]
        if (call.op, position) in _LABELS:
            return _choice_bits(call, position, rows)
        if call.op not in _RETOLD or not _is_told(call):
            return None
        name = call.input_names[_RETOLD[call.op]]
    return None


def _is_told(call: Call) -> bool:
    """A table that is looked up tells nothing only if it is constant."""
    return _RETOLD[call.op] == 0 or call.first.value is not None


def _choice_bits(call: Call, position: int, rows: int) -> int:
    """The label's elements in a row, each one of so many choices."""
    label = call.outputs[position]
    per_row = label.size / rows if label else 1
    return ceil(per_row * log2(max(2, _choices(call))))


def _choices(call: Call) -> int:
    if call.op.startswith(ML):
        return max(tensor.shape[-1] for tensor in call.outputs if tensor and tensor.shape)
    return call.first.shape[call.integer("axis", -1 if call.op == "TopK" else 0)]
