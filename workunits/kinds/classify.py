"""Scores become labels: the best class of each row by name, and the best few with their scores.

Equal scores: the lower class number first. Formats that know text carry class names, the others
class numbers. DECISIONS E.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from workunits.arrays import Array, Arrays
from workunits.errors import DataRefused
from workunits.kinds.answers import ColumnAnswer
from workunits.kinds.base import AnswerWriter, KindOptions, RowSource
from workunits.kinds.formats import refusals, suffixes
from workunits.kinds.formats.table import Column
from workunits.program import FLOAT_DTYPES
from workunits.wire import limits
from workunits.wire.messages import TensorSpec

DEFAULT_TOP: Final = 5
# A million class names of 64 characters; a longer file is not a list of classes.
_CLASSES_BYTES: Final = 64 * limits.MIB
_CLASSES: Final = 1_000_000
_CLASS_CHARS: Final = 1000
# Unseen or steering characters that words need: a tab, and what joins or parts letters in Persian,
# Hindi and some emoji.
_ALLOWED: Final = frozenset("\t\u200c\u200d")


class Classify:
    """A model with one float output [rows, classes]."""

    name: Final = "classify"

    def check(self, options: KindOptions, outputs: Sequence[TensorSpec]) -> KindOptions:
        scores = _scores(options.scores, outputs)
        classes = scores.shape[0]
        names = options.class_names
        if names is None:
            names = tuple(map(str, range(classes)))
        if len(names) != classes:
            raise DataRefused(
                f"there are {len(names)} class names, output {scores.name!r} has {classes} classes"
            )
        top = min(DEFAULT_TOP, classes) if options.top is None else options.top
        if not 1 <= top <= classes:
            raise DataRefused(f"--top {top} of {classes} classes: choose 1 to {classes}")
        return KindOptions(class_names=names, scores=scores.name, top=top)

    def read(self, path: Path, inputs: Sequence[TensorSpec], options: KindOptions) -> RowSource:
        return suffixes.read(path, inputs)

    def open_answer(
        self, path: Path, outputs: Sequence[TensorSpec], options: KindOptions, rows: int
    ) -> AnswerWriter:
        filled = self.check(options, outputs)
        spec = _scores(filled.scores, outputs)
        top, words = filled.top or 1, filled.class_names
        label = Column("label", "int64", (), words)
        columns = [
            label,
            Column("score", spec.dtype),
            Column("top_labels", "int64", (top,), words),
            Column("top_scores", spec.dtype, (top,)),
        ]

        def arrange(found: Mapping[str, Array]) -> Arrays:
            return best(found[spec.name], top)

        return ColumnAnswer(path, columns, rows, arrange, label)


def best(scores: Array, top: int) -> Arrays:
    """The columns of an answer from scores [n, c]; equal scores by lower class number."""
    # A stable order of what is negated keeps the lower number first; NaN comes last.
    order = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :top].astype(np.int64)
    ordered = np.take_along_axis(scores, order, axis=1)
    return {
        "label": order[:, 0],
        "score": ordered[:, 0],
        "top_labels": order,
        "top_scores": ordered,
    }


def read_class_names(path: Path) -> tuple[str, ...]:
    """The class names in a file, one a line, class 0 first.

    Raises:
        DataRefused: not UTF-8 text, an empty line, or a name that stands twice.
    """
    refusals.expect_file(path)
    with refusals.reading(path, "text"), path.open("rb") as file:
        raw = file.read(_CLASSES_BYTES + 1)
        if len(raw) > _CLASSES_BYTES or raw.count(b"\n") > _CLASSES:
            raise DataRefused(f"{path}: too long for a list of class names")
        lines = raw.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name:
            raise DataRefused(f"{path}: line {number} is empty; one class name a line")
        _check_class_name(path, number, name)
        if name in seen:
            raise DataRefused(
                f"{path}: lines {seen[name]} and {number} both say {refusals.shortened(name)!r}"
            )
        seen[name] = number
    return tuple(seen)


def _check_class_name(path: Path, number: int, name: str) -> None:
    if len(name) > _CLASS_CHARS:
        raise DataRefused(f"{path}: line {number} is longer than {_CLASS_CHARS} characters")
    hidden = next((c for c in name if not c.isprintable() and c not in _ALLOWED), None)
    if hidden is not None:
        raise DataRefused(
            f"{path}: line {number} holds U+{ord(hidden):04X}, which cannot be seen; leave it out"
        )


def _scores(name: str | None, outputs: Sequence[TensorSpec]) -> TensorSpec:
    fitting = [s for s in outputs if s.dtype in FLOAT_DTYPES and len(s.shape) == 1 and s.shape[0]]
    found = [spec for spec in fitting if name in (None, spec.name)]
    if len(found) == 1:
        return found[0]
    names = refusals.listed([spec.name for spec in fitting])
    if not fitting:
        raise DataRefused("classify needs a model with a float output [rows, classes]; use tensor")
    if name is None:
        raise DataRefused(f"several outputs could be the scores; say --scores with one of {names}")
    raise DataRefused(f"--scores {refusals.shortened(name)!r} is not one of {names}")
