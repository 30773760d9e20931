"""The project's private keys: `DIR/keys/<role>.pem`, Ed25519, PKCS 8, readable by their user only.

A key may be absent on purpose: README says which ones to move to another machine. Who may use which
key is decided by who is handed it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from server.adapters import durable_files
from server.errors import NotFound, Refused
from workunits.trust import envelope
from workunits.wire.messages import Envelope

# The four roles of TUF, and the two that the target `project.json` names.
TUF_ROLES: Final = ("root", "targets", "snapshot", "timestamp")
ROLES: Final = (*TUF_ROLES, "batch", "scheduler")
_OTHERS: Final = 0o077


class KeyFolder:
    """The keys that are in one project's directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, role: str) -> bool:
        """Whether the key of `role` is here."""
        return self._path(role).exists()

    def make(self, role: str) -> Ed25519PrivateKey:
        """A new key for `role`, written down."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        durable_files.replace(self._path(role), pem, durable_files.PRIVATE)
        return key

    def load(self, role: str) -> Ed25519PrivateKey:
        """The key of `role`.

        Raises:
            NotFound: it is not here.
            Refused: the file is no Ed25519 key, or others may read it.
        """
        path = self._path(role)
        try:
            raw = path.read_bytes()
            mode = path.stat().st_mode
        except FileNotFoundError:
            raise NotFound(f"the {role} key is not here: keys/{path.name} is missing") from None
        except OSError as error:
            raise Refused(
                f"keys/{path.name} cannot be read: {os.strerror(error.errno or 0)}"
            ) from None
        if mode & _OTHERS:
            raise Refused(
                f"keys/{path.name} can be read by others; mend with: chmod 600 {path.name}"
            )
        return _parse(raw, path.name)

    def _path(self, role: str) -> Path:
        return self._folder / f"{role}.pem"


class KeySealer:
    """Seals with one key; what it may sign is its owner's business."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    def seal(self, value: msgspec.Struct, payload_type: str) -> Envelope:
        """`value` as a signed envelope."""
        return envelope.seal(value, payload_type, self._key)


def _parse(raw: bytes, name: str) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(raw, password=None)
    except (ValueError, TypeError):
        raise Refused(f"keys/{name} is not a private key in PEM form") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Refused(f"keys/{name} is not an Ed25519 key")
    return key
