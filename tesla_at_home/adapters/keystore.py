"""The vehicle's Ed25519 key in `DIR/key.pem` (PKCS 8, readable by the owner alone)."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tesla_at_home.adapters.files import write_whole
from tesla_at_home.errors import ClientError
from workunits.trust import envelope
from workunits.wire.messages import Envelope

FILE_NAME: Final = "key.pem"
_MEND: Final = "restore it, or begin in another --dir (`recover URL` there keeps your credit and your owner code)"


class FileKeys:
    """The port `KeyStore` over one file."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = envelope.public_bytes(key)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """The key of a joined directory.

        Raises:
            ClientError: there is none, or the file holds something else. No other key is made in
            its place: only the one that was enrolled can speak for this vehicle.
        """
        path = directory / FILE_NAME
        try:
            key = load_pem_private_key(path.read_bytes(), None)
        except FileNotFoundError:
            raise ClientError(f"{path}: missing; {_MEND}") from None
        except OSError as error:
            raise ClientError(f"{path}: {error.strerror}") from None
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ClientError(f"{path}: not a private key; {_MEND}") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ClientError(f"{path}: not an Ed25519 key; {_MEND}")
        return cls(key)

    @classmethod
    def open_or_create(cls, directory: Path) -> Self:
        """The key in the directory; a new one where there is none yet."""
        if not (directory / FILE_NAME).exists():
            key = Ed25519PrivateKey.generate()
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(directory / FILE_NAME, pem)
        return cls.open(directory)

    @property
    def public(self) -> bytes:
        return self._public

    def seal(self, value: msgspec.Struct, payload_type: str) -> Envelope:
        """See `ports.KeyStore`."""
        return envelope.seal(value, payload_type, self._key)


def delete(directory: Path) -> None:
    """Take the key away, for good."""
    (directory / FILE_NAME).unlink(missing_ok=True)
