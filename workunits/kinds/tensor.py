"""The plain kind: inputs are matched by name, and the answer is one column per model output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from workunits.errors import DataRefused
from workunits.kinds.answers import ColumnAnswer
from workunits.kinds.base import ROW_STATUS, AnswerWriter, KindOptions, RowSource
from workunits.kinds.formats import suffixes
from workunits.kinds.formats.table import Column
from workunits.wire.messages import TensorSpec


class Tensor:
    """Any model: arrays in, arrays out."""

    name: Final = "tensor"

    def check(self, options: KindOptions, outputs: Sequence[TensorSpec]) -> KindOptions:
        if options != KindOptions():
            raise DataRefused("class names, scores and top are for classify: add --kind classify")
        if any(spec.name == ROW_STATUS for spec in outputs):
            raise DataRefused(
                f"the model has an output {ROW_STATUS!r}, as the answer's column for failed rows "
                "is named; rename it and add the model again"
            )
        return options

    def read(self, path: Path, inputs: Sequence[TensorSpec], options: KindOptions) -> RowSource:
        return suffixes.read(path, inputs)

    def open_answer(
        self, path: Path, outputs: Sequence[TensorSpec], options: KindOptions, rows: int
    ) -> AnswerWriter:
        columns = [Column(spec.name, spec.dtype, spec.shape) for spec in outputs]
        return ColumnAnswer(path, columns, rows, dict)
