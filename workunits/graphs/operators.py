"""The allow-list: which operators vehicles run, what each costs, and how each treats rows.

An operator is here if its cost is known from shapes, its result is a tensor of the contract and its
kernel is deterministic. `REFUSED` gives those that people meet a reason and a way out; any other is
refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from workunits.graphs import axes, flops
from workunits.graphs.axes import Along
from workunits.graphs.calls import ML
from workunits.graphs.flops import DIVISION, NORMALISE, SIMPLE, SOFTMAX, SPECIAL, Formula

# Bitwise equal on every kernel: each element is one correctly rounded IEEE 754 operation, a choice
# or a move, so that nothing can be done in another order. "integers": only on integers.
Exact = Literal["always", "integers", "never"]


@dataclass(frozen=True, slots=True)
class Operator:
    flop: Formula
    exact: Exact = "never"
    along: Along = axes.nothing


def _each(flop: int, exact: Exact = "never") -> Operator:
    return Operator(flops.per_output(flop), exact)


def _reduce(flop: int, exact: Exact = "never") -> Operator:
    return Operator(flops.per_input(flop), exact, axes.reduced)


def _move(along: Along = axes.nothing, exact: Exact = "always") -> Operator:
    return Operator(flops.free, exact, along)


_EXACT: Final = _each(SIMPLE, "always")
_SPECIAL: Final = _each(SPECIAL)
# 1 / (1 + exp(-x)) and its like.
_SIGMOID: Final = _each(SPECIAL + SIMPLE + DIVISION)
_SOFTMAX: Final = Operator(flops.per_input(SOFTMAX), "never", axes.attribute(-1, before_13=1))
_ON_FEATURES: Final = axes.from_axis(1)

OPERATORS: Final[dict[str, Operator]] = {
    # Arithmetic, element by element.
    "Add": _EXACT, "Sub": _EXACT, "Mul": _EXACT, "Neg": _EXACT, "Abs": _EXACT, "Sign": _EXACT,
    "Div": _each(DIVISION, "always"), "Sqrt": _each(DIVISION, "always"),
    "Mod": _each(DIVISION, "integers"), "Reciprocal": _each(DIVISION),
    "Floor": _EXACT, "Ceil": _EXACT, "Round": _EXACT, "Relu": _EXACT, "Clip": _each(2, "always"),
    "Max": Operator(flops.variadic, "always"), "Min": Operator(flops.variadic, "always"),
    "Sum": Operator(flops.variadic, "integers"), "Mean": Operator(flops.variadic),
    "Exp": _SPECIAL, "Log": _SPECIAL, "Erf": _SPECIAL, "Tanh": _SPECIAL, "Sin": _SPECIAL,
    "Cos": _SPECIAL, "Tan": _SPECIAL, "Sinh": _SPECIAL, "Cosh": _SPECIAL, "Asin": _SPECIAL,
    "Acos": _SPECIAL, "Atan": _SPECIAL, "Asinh": _SPECIAL, "Acosh": _SPECIAL, "Atanh": _SPECIAL,
    "Pow": _each(2 * SPECIAL), "Softplus": _each(2 * SPECIAL + SIMPLE),
    "Mish": _each(3 * SPECIAL + 2), "Sigmoid": _SIGMOID, "Swish": _SIGMOID,
    "Gelu": _each(SPECIAL + 4 * SIMPLE), "Elu": _each(SPECIAL + 2 * SIMPLE),
    "Selu": _each(SPECIAL + 3 * SIMPLE), "Celu": _each(SPECIAL + DIVISION + 2 * SIMPLE),
    "Softsign": _each(DIVISION + 2 * SIMPLE), "LeakyRelu": _each(2), "PRelu": _each(2),
    "ThresholdedRelu": _each(SIMPLE), "Shrink": _each(3), "HardSigmoid": _each(4),
    "HardSwish": _each(5),
    # Comparisons, logic and bits.
    "Equal": _EXACT, "Greater": _EXACT, "GreaterOrEqual": _EXACT, "Less": _EXACT,
    "LessOrEqual": _EXACT, "And": _EXACT, "Or": _EXACT, "Xor": _EXACT, "Not": _EXACT,
    "IsNaN": _EXACT, "IsInf": _EXACT, "Where": _EXACT, "BitShift": _EXACT, "BitwiseAnd": _EXACT,
    "BitwiseOr": _EXACT, "BitwiseXor": _EXACT, "BitwiseNot": _EXACT,
    # Moves.
    "Cast": _EXACT, "CastLike": _EXACT, "BitCast": _move(), "Identity": _move(),
    "Constant": _move(), "ConstantOfShape": _move(), "Shape": _move(), "Size": _move(),
    "Reshape": _move(), "Flatten": _move(), "Squeeze": _move(), "Unsqueeze": _move(),
    "Transpose": _move(), "Concat": _move(), "Split": _move(), "Expand": _move(),
    "Slice": _move(axes.sliced), "Pad": _move(axes.cut), "Tile": _move(axes.cut),
    "Gather": _move(axes.gathered), "GatherElements": _move(axes.attribute(0)),
    "GatherND": _move(), "ScatterElements": _move(exact="never"), "ScatterND": _move(exact="never"),
    "DepthToSpace": _move(), "SpaceToDepth": _move(), "CenterCropPad": _move(axes.cut),
    "ReverseSequence": _move(exact="never"), "Trilu": _move(), "EyeLike": _move(),
    "OneHot": _move(), "Range": _each(2, "integers"), "Dropout": _move(exact="never"),
    # Reductions and searches.
    "ReduceMax": _reduce(SIMPLE, "always"), "ReduceMin": _reduce(SIMPLE, "always"),
    "ReduceSum": _reduce(SIMPLE, "integers"), "ReduceProd": _reduce(SIMPLE, "integers"),
    "ReduceMean": _reduce(SIMPLE), "ReduceL1": _reduce(2), "ReduceL2": _reduce(2),
    "ReduceSumSquare": _reduce(2), "ReduceLogSum": _reduce(SIMPLE),
    "ReduceLogSumExp": _reduce(SPECIAL + SIMPLE),
    "ArgMax": Operator(flops.per_input(SIMPLE), "always", axes.attribute(0)),
    "ArgMin": Operator(flops.per_input(SIMPLE), "always", axes.attribute(0)),
    "TopK": Operator(flops.top_k, "always", axes.attribute(-1)),
    "CumSum": Operator(flops.per_input(SIMPLE), "integers", axes.axis_input(1)),
    "CumProd": Operator(flops.per_input(SIMPLE), "integers", axes.axis_input(1)),
    "Softmax": _SOFTMAX, "LogSoftmax": _SOFTMAX,
    "Hardmax": Operator(flops.per_input(SIMPLE), "never", axes.attribute(-1, before_13=1)),
    # Products.
    "MatMul": Operator(flops.matrix_product, "never", axes.multiplied(1)),
    "Gemm": Operator(flops.general_product, "never", axes.general),
    "Einsum": Operator(flops.product_of_terms, "never", axes.summed),
    "Conv": Operator(flops.convolution(1, 2), "never", axes.windowed),
    "ConvTranspose": Operator(flops.transposed_convolution, "never", axes.windowed),
    "Attention": Operator(flops.attention, "never", axes.attended),
    "RNN": Operator(flops.recurrent(1), "never", axes.stepped),
    "GRU": Operator(flops.recurrent(3), "never", axes.stepped),
    "LSTM": Operator(flops.recurrent(5), "never", axes.stepped),
    "Det": Operator(flops.determinant),
    "DFT": Operator(flops.fourier, "never", axes.transformed),
    "RotaryEmbedding": _each(3),
    # Normalisation.
    "BatchNormalization": Operator(flops.per_output(2), "never", axes.normalised),
    "LayerNormalization": Operator(flops.per_input(NORMALISE), "never", axes.from_axis(-1)),
    "RMSNormalization": Operator(flops.per_input(NORMALISE), "never", axes.from_axis(-1)),
    "InstanceNormalization": Operator(flops.per_input(NORMALISE), "never", _ON_FEATURES),
    "GroupNormalization": Operator(flops.per_input(NORMALISE), "never", _ON_FEATURES),
    "LpNormalization": Operator(flops.per_input(2 + DIVISION), "never", axes.attribute(-1)),
    "LRN": Operator(flops.local_normalisation, "never", _ON_FEATURES),
    # Images.
    "MaxPool": Operator(flops.pooling(SIMPLE), "never", axes.windowed),
    "AveragePool": Operator(flops.pooling(SIMPLE), "never", axes.windowed),
    "LpPool": Operator(flops.pooling(2), "never", axes.windowed),
    "GlobalMaxPool": Operator(flops.per_input(SIMPLE), "never", axes.windowed),
    "GlobalAveragePool": Operator(flops.per_input(SIMPLE), "never", axes.windowed),
    "GlobalLpPool": Operator(flops.per_input(2), "never", axes.windowed),
    "Resize": Operator(flops.interpolation, "never", axes.cut),
    "Upsample": Operator(flops.interpolation, "never", axes.cut),
    "GridSample": Operator(flops.interpolation, "never"),
    # Static quantisation.
    "QuantizeLinear": _each(DIVISION + 3), "DequantizeLinear": _each(2),
    "QLinearMatMul": Operator(flops.quantised_product, "never", axes.multiplied(3)),
    "QLinearConv": Operator(flops.quantised_convolution, "never", axes.from_axis(1)),
    "MatMulInteger": Operator(flops.matrix_product, "never", axes.multiplied(1)),
    "ConvInteger": Operator(flops.convolution(1, 9), "never", axes.windowed),
    # Loops: the body's cost stands with the calls of the body.
    "Loop": _move(),
    # ai.onnx.ml, as scikit-learn exports it.
    f"{ML}.ArrayFeatureExtractor": _move(axes.extracted),
    f"{ML}.FeatureVectorizer": _move(exact="never"),
    f"{ML}.Binarizer": _each(SIMPLE), f"{ML}.Imputer": _each(2), f"{ML}.LabelEncoder": _each(1),
    f"{ML}.OneHotEncoder": _each(SIMPLE), f"{ML}.Scaler": _each(2),
    f"{ML}.Normalizer": _each(2 + DIVISION),
    f"{ML}.LinearClassifier": Operator(flops.linear_model),
    f"{ML}.LinearRegressor": Operator(flops.linear_model),
    f"{ML}.SVMClassifier": Operator(flops.support_vectors),
    f"{ML}.SVMRegressor": Operator(flops.support_vectors),
    f"{ML}.TreeEnsembleClassifier": Operator(flops.tree_ensemble),
    f"{ML}.TreeEnsembleRegressor": Operator(flops.tree_ensemble),
}  # fmt: skip

_RANDOM: Final = "draws random numbers", "pass the numbers as an input, or hash a counter"
_DATA_SHAPE: Final = "gives a shape that depends on the data", "use TopK or Where instead"
_CONTAINER: Final = (
    "works on sequences, maps or optional values",
    "export tensors; with skl2onnx use options={'zipmap': False}",
)
_TEXT: Final = "works on text", "turn text into integers before the model"
_TRAINING: Final = "is for training", "export the model for inference"

REFUSED: Final[dict[str, tuple[str, str]]] = {
    "DynamicQuantizeLinear": (
        "is dynamic quantisation: results depend on the batch",
        "use static quantisation with reduce_range",
    ),
    "If": ("branches on data", "compute both sides and choose with Where"),
    "Scan": ("is not run on vehicles", "use Loop with a constant number of trips"),
    "ImageDecoder": ("decodes differently from machine to machine", "decode before the model"),
    # onnx infers the shape of its default (one-sided) spectrum wrongly.
    "STFT": ("has no dependable shape", "use Conv or DFT"),
    "TfIdfVectorizer": _TEXT, "StringNormalizer": _TEXT, "StringConcat": _TEXT,
    "StringSplit": _TEXT, "RegexFullMatch": _TEXT, f"{ML}.CategoryMapper": _TEXT,
    "NegativeLogLikelihoodLoss": _TRAINING, "SoftmaxCrossEntropyLoss": _TRAINING,
    **dict.fromkeys(
        ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
         "Bernoulli"), _RANDOM),
    **dict.fromkeys(("NonZero", "Unique", "Compress", "NonMaxSuppression"), _DATA_SHAPE),
    **dict.fromkeys(
        ("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
         "SequenceLength", "SequenceMap", "SplitToSequence", "ConcatFromSequence", "Optional",
         "OptionalGetElement", "OptionalHasElement", f"{ML}.ZipMap", f"{ML}.CastMap",
         f"{ML}.DictVectorizer"), _CONTAINER),
}  # fmt: skip
