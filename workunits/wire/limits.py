"""Every maximum of the contract, in one place (PROTOCOL 3).

Enforced while streaming and before parsing; a peer that goes past one is refused with
`LimitExceeded`. A limit that only one side needs is that side's setting, not here.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# One message: an envelope and what rides along. 50 leases or reports with 64 KiB each are 3.2 MiB.
MESSAGE_BYTES: Final = 8 * MIB
# The signed part. 64 reports with reasons, 50 leases with proofs of 64 hashes are under 300 KiB.
PAYLOAD_BYTES: Final = 1 * MIB
# A payload up to this rides along with the message; a larger one is a blob (DESIGN: one round trip).
ATTACHMENT_BYTES: Final = 64 * KIB
ATTACHMENTS: Final = 160
# Inputs and outputs of one unit as blobs; a lease of 10 minutes over a home link is far below it.
TENSOR_PAYLOAD_BYTES: Final = 256 * MIB
# 64 tensors of 256 characters each, every one of them escaped, are under 120 KiB.
TENSOR_HEADER_BYTES: Final = 128 * KIB
# Protobuf's own limit for one ONNX file.
MODEL_BYTES: Final = 2048 * MIB - 1
TERMS_BYTES: Final = 256 * KIB
SIGNATURES: Final = 4

LEASES_PER_REPLY: Final = 50
REPORTS_PER_REQUEST: Final = 64
HOLDING: Final = 256
VERDICTS_PER_REPLY: Final = 256
CACHED: Final = 64  # digests of models and manifests in a wish
PROOF_HASHES: Final = 48  # 2^48 units in one batch
TENSORS: Final = 64  # inputs or outputs of one model
DIMENSIONS: Final = 8
ROWS_PER_UNIT: Final = 1_000_000
ROWS_PER_STEP: Final = 65_536
# DECISIONS A.8: one step's tensors stay below this, so that a checkpoint is small and a stop quick.
STEP_BYTES: Final = 64 * MIB

# What a graph may be (`workunits.graphs`). A trajectory written out flat has 10,000 nodes.
GRAPH_NODES: Final = 20_000
# Names that nodes take and make, and weights: ten for each node. Each is looked at several times.
GRAPH_LINKS: Final = 200_000
GRAPH_DEPTH: Final = 3  # loops inside loops
GRAPH_RANK: Final = 16  # axes of an intermediate tensor
# Fields of the file, a message counting eight: half a million tree nodes, or 150 MiB of objects.
GRAPH_RECORDS: Final = 8_000_000
LOOP_TRIPS: Final = 1_000_000
EINSUM_CHARS: Final = 400  # its cost, and the time to tell it, grow with the indices
# One row must be done well within one night: 1e14 FLOP is an hour at 30 GFLOP/s.
KFLOP_PER_ROW: Final = 100_000_000_000
# Moves cost no FLOP but time: 1e13 bytes written is an hour at 3 GB/s.
TRAFFIC_BYTES_PER_ROW: Final = 10_000_000_000_000
# Any tensor one row makes: a vehicle lends a few GiB of memory and runs many rows in a step.
TENSOR_BYTES_PER_ROW: Final = 256 * MIB

NAME_CHARS: Final = 64  # owners, vehicles, models
TENSOR_NAME_CHARS: Final = 256
CODE_CHARS: Final = 48
TEXT_CHARS: Final = 400  # a reason for people, one line
VERSION_CHARS: Final = 32
SCOPES: Final = 8
KEYS_PER_ROLE: Final = 8

LEASE_SECONDS: Final = 30 * 86_400
WAIT_SECONDS: Final = 86_400
# A number no honest field reaches, and exact in a float.
INTEGER: Final = 2**53 - 1
FLOAT: Final = 1e300
