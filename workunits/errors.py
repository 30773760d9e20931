"""What can be wrong with what the two parties exchange.

Three families, never mixed: `ContractError` is input that breaks the contract (hostile, damaged or
from another version), `ExecutionError` is a run that could not give an answer on this machine, and
everything else that is raised is a bug. Each class is one cause; `code` is its stable name on the
wire and in problem documents. An outage is the business of the side that met it.
"""

from __future__ import annotations

from typing import ClassVar


class WorkunitsError(Exception):
    """Root of what this package raises on purpose."""

    code: ClassVar[str] = "workunits_error"


class ContractError(WorkunitsError):
    """What was received does not keep to the contract; the message says where and how to mend it."""

    code: ClassVar[str] = "contract_error"


class MalformedMessage(ContractError):
    """Not decodable, a field unknown, missing or of another type, or a number that is not finite."""

    code: ClassVar[str] = "malformed_message"


class LimitExceeded(ContractError):
    """Larger, longer or more than `workunits.wire.limits` allows."""

    code: ClassVar[str] = "limit_exceeded"


class WrongPayloadType(ContractError):
    """An envelope that carries something other than what was asked for."""

    code: ClassVar[str] = "wrong_payload_type"


class BadSignature(ContractError):
    """No signature by a key that may sign this object."""

    code: ClassVar[str] = "bad_signature"


class BadDigest(ContractError):
    """Bytes whose digest is not the one that was signed for."""

    code: ClassVar[str] = "bad_digest"


class BadProof(ContractError):
    """A unit that does not prove into its manifest."""

    code: ClassVar[str] = "bad_proof"


class NotAuthorised(ContractError):
    """Signed, but by a key or at a time for which the signer has no right."""

    code: ClassVar[str] = "not_authorised"


class TensorsRefused(ContractError):
    """Tensors of a wrong name, dtype or shape for the program that they are meant for."""

    code: ClassVar[str] = "tensors_refused"


class GraphRefused(ContractError):
    """A model that vehicles do not run: what is not allowed, where, and what to do instead."""

    code: ClassVar[str] = "graph_refused"


class DataRefused(ContractError):
    """A data set or a class list that does not fit the model or cannot be read."""

    code: ClassVar[str] = "data_refused"


class ExecutionError(WorkunitsError):
    """A program that could not be run here."""

    code: ClassVar[str] = "execution_failed"


class ProviderUnavailable(ExecutionError):
    """ONNX Runtime did not give the execution provider that was asked for."""

    code: ClassVar[str] = "provider_unavailable"


class RuntimeOutOfRange(ExecutionError):
    """The ONNX Runtime installed here is not one that the program allows."""

    code: ClassVar[str] = "runtime_out_of_range"


class SpoolDamaged(ExecutionError):
    """A spool file whose steps do not fit together; it is set aside and computed again."""

    code: ClassVar[str] = "spool_damaged"
