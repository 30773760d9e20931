"""What one call of an operator costs, in FLOP.

The convention, so that credit is the same everywhere:

- an addition, subtraction, multiplication or comparison is 1 FLOP, a division or square root 4, an
  exponential, logarithm or trigonometric function 8: McMahon's normalised operations of the
  Livermore loops (UCRL-53745; Hennessy and Patterson, Computer Architecture, 1st ed., section 2.2);
- a multiply-add is therefore 2 FLOP (the LINPACK convention: a product of m x k and k x n matrices
  is 2mkn);
- a Fourier transform of n points is 5 n log2 n FLOP (FFTW's convention, fftw.org/speed);
- integer operations count as floating ones; moving data counts nothing.

Formulas see the call's shapes and never the values. None depends on how a kernel does the work.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log2, prod
from typing import Final

from workunits.graphs import trees
from workunits.graphs.calls import Call, Tensor

Formula = Callable[[Call], int]

SIMPLE: Final = 1
DIVISION: Final = 4
SPECIAL: Final = 8
# exp(x - max) / sum: a comparison, a subtraction, an exponential, an addition, a division.
SOFTMAX: Final = 3 * SIMPLE + SPECIAL + DIVISION
# Mean (1), variance (3), normalise by a reciprocal (2), scale and shift (2).
NORMALISE: Final = 8 * SIMPLE


def free(call: Call) -> int:
    """Moves: nothing is computed."""
    return 0


def per_output(flop: int) -> Formula:
    """`flop` for each element of the result."""
    return lambda call: flop * call.result.size


def per_input(flop: int) -> Formula:
    """`flop` for each element of the first input: reductions and searches."""
    return lambda call: flop * call.first.size


def variadic(call: Call) -> int:
    """Sum, Mean, Max, Min: one operation less than there are inputs, for each element."""
    return max(1, len(call.inputs) - 1) * call.result.size


def matrix_product(call: Call) -> int:
    """2 m k n, over all leading axes."""
    return 2 * call.result.size * call.first.shape[-1]


def general_product(call: Call) -> int:
    """Gemm: the product, and the addition of C."""
    inner = call.first.shape[0 if call.integer("transA", 0) else 1]
    return (2 * inner + (SIMPLE if call.input(2) else 0)) * call.result.size


def convolution(weights_at: int, bias_at: int) -> Formula:
    """Each output element is a sum over the kernel and the channels of its group."""

    def formula(call: Call) -> int:
        kernel = prod(_known(call, weights_at).shape[1:])
        return (2 * kernel + (SIMPLE if call.input(bias_at) else 0)) * call.result.size

    return formula


def transposed_convolution(call: Call) -> int:
    """Each input element is spread over the kernel and the channels of its group."""
    kernel = prod(_known(call, 1).shape[1:])
    return 2 * kernel * call.first.size + (call.result.size if call.input(2) else 0)


def quantised_product(call: Call) -> int:
    """QLinearMatMul: integers multiplied, then scaled, rounded and shifted."""
    return matrix_product(call) + 3 * call.result.size


def quantised_convolution(call: Call) -> int:
    return convolution(3, 8)(call) + 3 * call.result.size


def pooling(flop: int) -> Formula:
    """`flop` for each element of the window, for each output element."""
    return lambda call: flop * prod(call.integers("kernel_shape")) * call.result.size


def top_k(call: Call) -> int:
    """A comparison against a heap of k for each element."""
    axis = call.integer("axis", -1)
    k = call.result.shape[axis] if call.result.shape else 1
    return call.first.size * max(1, ceil(log2(k + 1)))


def recurrent(gates: int) -> Formula:
    """RNN, GRU, LSTM: the input and the state times their weights in each step, then the gates."""

    def formula(call: Call) -> int:
        steps_and_rows = prod(call.first.shape[:2])
        weights, state = _known(call, 1), _known(call, 2)
        hidden = state.shape[0] * state.shape[2]  # directions x units
        return steps_and_rows * (
            2 * (weights.size + state.size) + gates * (SPECIAL + 3 * SIMPLE) * hidden
        )

    return formula


def attention(call: Call) -> int:
    """Two products over the keys (queries by keys, weights by values) and a softmax between."""
    queries, keys, values = _known(call, 0), _known(call, 1), _known(call, 2)
    heads = call.integer("q_num_heads", 0) or queries.shape[1]
    past = call.input(4)
    length = keys.shape[-2] + (past.shape[-2] if past else 0)
    rows = queries.size // (queries.shape[-1] * (1 if len(queries.shape) == 3 else heads))
    products = 2 * queries.size + 2 * rows * _width(values, heads, call) * heads
    return length * (products + SOFTMAX * rows * heads)


def _width(values: Tensor, heads: int, call: Call) -> int:
    """Elements of one value vector of one head."""
    if len(values.shape) == 4:
        return values.shape[-1]
    return values.shape[-1] // max(1, call.integer("kv_num_heads", heads))


def fourier(call: Call) -> int:
    """DFT: 5 n log2 n for each transform; n is the longer side of input and output."""
    shape, result = call.first.shape, call.result.shape
    axis = fourier_axis(call)
    points = max(shape[axis], result[axis])
    transforms = call.result.size // (result[axis] * result[-1]) if call.result.size else 0
    return _transform(points) * transforms


def fourier_axis(call: Call) -> int:
    """The transformed axis: an attribute until opset 19, an input since."""
    if call.opset < 20:
        return call.integer("axis", 1) % len(call.first.shape)
    given = call.input(2)
    axis = given.integers() if given else (-2,)
    return (axis[0] if axis else -2) % len(call.first.shape)


def _transform(points: int) -> int:
    return ceil(5 * points * log2(points)) if points > 1 else 0


def product_of_terms(call: Call) -> int:
    """Einsum: for each combination of all indices, the operands multiplied and added up."""
    lengths: dict[str, int] = {}
    for term, tensor in zip(einsum_terms(call)[0], call.inputs, strict=False):
        if tensor is not None:
            for index, length in zip(term, tensor.shape, strict=False):
                lengths[index] = max(length, lengths.get(index, 1))
    return len(call.inputs) * prod(lengths.values())


def einsum_terms(call: Call) -> tuple[list[str], str]:
    """The indices of each operand and of the result, one character for each axis.

    The axes that "..." stands for get characters of their own, from the last one back. Without
    "->" the result has the indices that occur once.
    """
    left, arrow, right = call.text("equation", "").replace(" ", "").partition("->")
    terms = []
    for term, tensor in zip(left.split(","), call.inputs, strict=False):
        rank = len(tensor.shape) if tensor else 0
        terms.append(term.replace("...", _axes_of_ellipsis(rank - (len(term) - 3))))
    widest = _axes_of_ellipsis(max(map(len, terms), default=0)) if "..." in left else ""
    if arrow:
        named = right.replace("...", "")
        return terms, named + (widest if "..." in right else "")
    return terms, widest + "".join(c for c in sorted(left) if c.isalpha() and left.count(c) == 1)


def _axes_of_ellipsis(count: int) -> str:
    """Characters from Unicode's private use area; the same one for the same place from the end."""
    return "".join(chr(0xE000 + place) for place in reversed(range(count)))


def interpolation(call: Call) -> int:
    """Resize, Upsample, GridSample: 2 FLOP for each neighbour that a result is made of."""
    axes = max(1, len(call.first.shape) - 2)
    by_mode = {"linear": 2, "bilinear": 2, "cubic": 4, "bicubic": 4}
    return 2 * int(by_mode.get(call.text("mode", "nearest"), 1) ** min(axes, 3)) * call.result.size


def local_normalisation(call: Call) -> int:
    """LRN: a sum of squares over `size` channels, a power, a division."""
    return (2 * call.integer("size", 1) + SPECIAL + DIVISION) * call.first.size


def determinant(call: Call) -> int:
    """LU decomposition: 2/3 n^3."""
    return ceil(2 * call.first.size * call.first.shape[-1] / 3)


# --- ai.onnx.ml ---------------------------------------------------------------------------------


def linear_model(call: Call) -> int:
    """A product with the coefficients; a classifier then turns the scores into probabilities."""
    rows, coefficients = _rows(call), call.length("coefficients")
    return rows * 2 * coefficients + SOFTMAX * call.largest


def support_vectors(call: Call) -> int:
    """A kernel (a product and a special function) with each vector, then the weighted sums."""
    rows, features = _rows(call), call.first.shape[-1]
    vectors = max(1, call.length("support_vectors") // max(1, features))
    weighted = 2 * call.length("coefficients") + SOFTMAX * call.result.size
    return rows * (vectors * (2 * features + SPECIAL) + weighted)


def tree_ensemble(call: Call) -> int:
    """A comparison on each level of each tree, and the addition of its leaf."""
    return _rows(call) * trees.comparisons(call) + SOFTMAX * call.largest


def _rows(call: Call) -> int:
    return call.first.shape[0] if len(call.first.shape) > 1 else 1


def _known(call: Call, position: int) -> Tensor:
    tensor = call.input(position)
    if tensor is None:
        raise ValueError(f"input {position} is missing")
    return tensor
