"""The kinds of work there are, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from workunits.arrays import Arrays
from workunits.errors import DataRefused
from workunits.kinds.base import Kind
from workunits.kinds.classify import Classify
from workunits.kinds.formats import suffixes
from workunits.kinds.tensor import Tensor
from workunits.wire.messages import TensorSpec

_KINDS: Final[tuple[Kind, ...]] = (Tensor(), Classify())
NAMES: Final = tuple(kind.name for kind in _KINDS)


def kind(name: str) -> Kind:
    """The kind of this name.

    Raises:
        DataRefused: there is none.
    """
    for found in _KINDS:
        if found.name == name:
            return found
    raise DataRefused(f"there is no kind {name!r}; choose one of {', '.join(NAMES)}")


def read_shared(path: Path, specs: Sequence[TensorSpec]) -> Arrays:
    """What all rows of a unit share: arrays named as the inputs of scope unit, of their shapes.

    Raises:
        DataRefused: what does not fit, where, and how to mend it.
    """
    return suffixes.read_whole(path, specs)
