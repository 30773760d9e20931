"""The corners of trees and envelopes that no honest message reaches."""

from __future__ import annotations

import pytest

from tests.contract import wire_samples as samples
from workunits.errors import BadSignature
from workunits.trust import merkle, roles
from workunits.trust.envelope import check_signature, key_from_seed, public_bytes, seal


def test_a_seed_gives_the_same_key_each_time() -> None:
    assert public_bytes(key_from_seed(bytes(range(32)))) == public_bytes(samples.VEHICLE)


def test_a_key_that_is_no_key_is_passed_over() -> None:
    sealed = seal(samples.REQUEST, roles.WORK_REQUEST, samples.VEHICLE)
    with pytest.raises(BadSignature):
        check_signature(sealed, [b"short"])
    check_signature(sealed, [b"short", samples.REQUEST.key])


def test_a_tree_has_a_leaf_and_places_within() -> None:
    with pytest.raises(ValueError, match="needs a leaf"):
        merkle.build([])
    for index in (-1, 3):
        with pytest.raises(ValueError, match="leaf"):
            merkle.offsets(index, 3)
