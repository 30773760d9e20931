"""The shape of a tree ensemble (TreeEnsembleClassifier, TreeEnsembleRegressor).

Decides whether its nodes form trees at all - a circle would keep a vehicle busy for ever - and how
many comparisons a row takes.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np

from workunits.graphs.calls import Call
from workunits.graphs.refusal import refused

_Ints: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

# Ids below this make pairs (tree, node) that fit one 64-bit number.
_IDS: Final = 2**31


def comparisons(call: Call) -> int:
    """The depth of each tree plus one (the addition of its leaf), added up over the trees.

    Raises:
        GraphRefused: the nodes do not form trees.
    """
    trees = _column(call, "nodes_treeids")
    columns = [_column(call, f"nodes_{name}ids") for name in ("node", "truenode", "falsenode")]
    if trees.size == 0 or {c.size for c in columns} | {call.length("nodes_modes")} != {trees.size}:
        raise _no_trees(call, "their lists have different lengths")
    if any(ids.min() < 0 or ids.max() >= _IDS for ids in (trees, *columns)):
        raise _no_trees(call, "an id is out of range")
    is_leaf = np.array([mode == b"LEAF" for mode in call.attributes["nodes_modes"].strings])
    own, yes, no = (trees * _IDS + ids for ids in columns)
    children = np.full((2, trees.size), -1, dtype=np.int64)
    children[:, ~is_leaf] = _places(call, own, np.stack([yes[~is_leaf], no[~is_leaf]]))
    return _count_levels(call, trees, children)


def _column(call: Call, name: str) -> _Ints:
    return np.array(call.integers(name), dtype=np.int64)


def _places(call: Call, own: _Ints, wanted: _Ints) -> _Ints:
    """Where in the lists the nodes `wanted` stand."""
    order = np.argsort(own)
    ordered = own[order]
    if (ordered[1:] == ordered[:-1]).any():
        raise _no_trees(call, "a node is given twice")
    found = np.minimum(np.searchsorted(ordered, wanted), own.size - 1)
    if (ordered[found] != wanted).any():
        raise _no_trees(call, "a branch leads to no node")
    return np.asarray(order[found], dtype=np.int64)


def _count_levels(call: Call, trees: _Ints, children: _Ints) -> int:
    """Level by level from the roots; a node in a circle has a parent and is never reached."""
    parents = np.bincount(children[children >= 0], minlength=trees.size)
    level = np.flatnonzero(parents == 0)
    if (parents > 1).any() or level.size != np.unique(trees).size:
        raise _no_trees(call, "a node has two parents, or a tree no root")
    reached = levels = 0
    while level.size:
        reached += level.size
        levels += np.unique(trees[level]).size
        below = children[:, level].reshape(-1)
        level = below[below >= 0]
    if reached != trees.size:
        raise _no_trees(call, "some form a circle")
    return levels


def _no_trees(call: Call, why: str) -> Exception:
    return refused(f"the nodes of {call.where} do not form trees: {why}", "export the model again")
