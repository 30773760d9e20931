"""Rows in pieces of any length, cut anew into blocks of one length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from workunits.arrays import Arrays


def cut(pieces: Iterable[Arrays], rows_per_block: int) -> Iterator[Arrays]:
    """Blocks of exactly `rows_per_block` rows; the last may have fewer."""
    held: list[Arrays] = []
    rows = 0
    for piece in pieces:
        held.append(piece)
        rows += _rows(piece)
        if rows < rows_per_block:
            continue
        joined = _joined(held)
        whole = rows - rows % rows_per_block
        for first in range(0, whole, rows_per_block):
            yield _slice(joined, first, first + rows_per_block)
        held, rows = [_slice(joined, whole, rows)], rows - whole
    if rows:
        yield _joined(held)


def _rows(piece: Arrays) -> int:
    return len(next(iter(piece.values())))


def _joined(pieces: list[Arrays]) -> Arrays:
    if len(pieces) == 1:
        return pieces[0]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _slice(piece: Arrays, first: int, end: int) -> Arrays:
    return {name: array[first:end] for name, array in piece.items()}
