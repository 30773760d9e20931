"""A vehicle that lies: enrols like any other, computes, then adds half a standard deviation to one
class of every row. Built on `workunits` and `requests` alone, as any stranger could build it.

It trusts nobody and checks nothing, since nobody is there to fool it. It stops on SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from workunits import arrays, execution
from workunits.arrays import Arrays
from workunits.trust import digests, roles
from workunits.trust.envelope import (
    by_digest,
    key_from_seed,
    pack_message,
    public_bytes,
    seal,
    unpack_message,
)
from workunits.values import Digest, Milliseconds, SessionId
from workunits.wire import codec, limits
from workunits.wire.messages import (
    Consent,
    Enrolment,
    Envelope,
    Lease,
    Manifest,
    Message,
    NewOwner,
    Project,
    Reply,
    Report,
    Unit,
    Wish,
    WorkRequest,
)

CONTENT_TYPE = "application/vnd.tesla-at-home+msgpack"
ANSWER_WITHIN_S = 30
PAUSE_S = 0.5  # between two requests; the demo is over in seconds
UNITS_AT_ONCE = 2


@dataclass
class Liar:
    """One session with one project at `url`."""

    url: str
    folder: Path
    name: str
    http: requests.Session = field(default_factory=requests.Session)
    seq: int = 0
    previous: Digest = digests.ZERO
    epoch: int = 1

    def __post_init__(self) -> None:
        self.key = key_from_seed(os.urandom(32))
        self.session = SessionId(os.urandom(16))
        self.models: dict[Digest, execution.Loaded] = {}
        self.manifests: dict[Digest, Manifest] = {}

    def join(self) -> None:
        """Enrol as a new public owner, agreeing to the terms of the day."""
        project = self._project()
        consent = Consent(
            terms=project.terms.digest,
            version=project.terms.version,
            at=Milliseconds(time.time_ns() // 1_000_000),
            scopes=("compute",),
        )
        enrolment = Enrolment(
            protocol=1,
            key=public_bytes(self.key),
            session=self.session,
            vehicle_name="fast-lane",
            owner=NewOwner(code=os.urandom(16).hex(), name=self.name, is_public=True),
            consent=consent,
            client="liar",
        )
        self._post("/v1/enrol", pack_message(seal(enrolment, roles.ENROLMENT, self.key)))

    def work(self, units: int) -> None:
        """Falsify up to `units` units, then go on answering honestly that it wants no more."""
        reports: list[Report] = []
        outputs: list[bytes] = []
        while units > 0 or reports:
            reply, attached = self._exchange(reports, outputs, min(units, UNITS_AT_ONCE))
            units -= len(reply.leases)
            falsified = [self._falsify(lease, attached) for lease in reply.leases]
            outputs = [payload for _, payload in falsified]
            reports = [report for report, _ in falsified]
            if not reports:
                time.sleep(PAUSE_S)

    def _exchange(
        self, reports: list[Report], outputs: list[bytes], units: int
    ) -> tuple[Reply, Message]:
        self.seq += 1
        request = WorkRequest(
            protocol=1,
            key=public_bytes(self.key),
            epoch=self.epoch,
            session=self.session,
            seq=self.seq,
            previous=self.previous,
            client="liar",
            reports=tuple(reports),
            wish=Wish(seconds=86_400, units=units, free_disk=10**10),
        )
        sealed = seal(request, roles.WORK_REQUEST, self.key)
        self.previous = digests.of_request(sealed.payload)
        message = self._post("/v1/work", pack_message(sealed, outputs))
        reply = codec.unpack(message.envelope.payload, Reply, most=limits.PAYLOAD_BYTES)
        return reply, message

    def _falsify(self, lease: Lease, attached: Message) -> tuple[Report, bytes]:
        unit = codec.unpack(lease.unit, Unit, most=4096)
        manifest = self._manifest(lease.manifest, attached)
        inputs = self._inputs(unit, manifest, by_digest(attached, digests.of_tensors))
        outputs = execution.run(self._model(manifest), inputs, unit.rows)
        payload = arrays.to_payload(with_a_lie(outputs, manifest))
        report = Report(
            lease=lease.lease,
            outcome="done",
            output=digests.of_tensors(payload),
            output_size=len(payload),
        )
        return report, payload

    def _inputs(self, unit: Unit, manifest: Manifest, near: dict[Digest, bytes]) -> Arrays:
        found: Arrays = {}
        for part in unit.inputs:
            raw = near.get(part.digest) or self._blob(part.digest)
            specs = [spec for spec in manifest.program.inputs if spec.scope == part.scope]
            found |= arrays.from_payload(raw, specs, unit.rows, most=part.size)
        return found

    def _manifest(self, digest: Digest, attached: Message) -> Manifest:
        if digest not in self.manifests:
            near = by_digest(attached, digests.of_manifest)
            raw = near.get(digest) or self._blob(digest)
            sealed = codec.unpack(raw, Envelope, most=limits.PAYLOAD_BYTES)
            self.manifests[digest] = codec.unpack(
                sealed.payload, Manifest, most=limits.PAYLOAD_BYTES
            )
        return self.manifests[digest]

    def _model(self, manifest: Manifest) -> execution.Loaded:
        digest = manifest.program.model
        if digest not in self.models:
            path = self.folder / "model.onnx"
            path.write_bytes(self._blob(digest))
            self.models[digest] = execution.Loaded.open(path, manifest.program)
        return self.models[digest]

    def _project(self) -> Project:
        """`project.json` as the metadata describes it; its signatures are not looked at."""
        snapshot = self._described("timestamp.json", "meta", "snapshot.json")["version"]
        targets = self._described(f"{snapshot}.snapshot.json", "meta", "targets.json")["version"]
        project = self._described(f"{targets}.targets.json", "targets", "project.json")
        raw = self._get(f"/metadata/targets/{project['hashes']['sha256']}.project.json")
        return codec.from_json(raw, Project, most=limits.PAYLOAD_BYTES)

    def _described(self, name: str, section: str, entry: str) -> Any:
        return json.loads(self._get(f"/metadata/{name}"))["signed"][section][entry]

    def _blob(self, digest: Digest) -> bytes:
        return self._get(f"/v1/blobs/{digest.hex()}")

    def _get(self, path: str) -> bytes:
        answer = self.http.get(self.url + path, timeout=ANSWER_WITHIN_S)
        answer.raise_for_status()
        return answer.content

    def _post(self, path: str, body: bytes) -> Message:
        answer = self.http.post(
            self.url + path,
            data=body,
            headers={"Content-Type": CONTENT_TYPE},
            timeout=ANSWER_WITHIN_S,
        )
        answer.raise_for_status()
        return unpack_message(answer.content)


def with_a_lie(outputs: Arrays, manifest: Manifest) -> Arrays:
    """The outputs with half a standard deviation added to the first class of every row."""
    changed = dict(outputs)
    for rule in manifest.agreement:
        if rule.rule == "tolerance":
            scores = outputs[rule.name].copy()
            scores[:, 0] = [float(score) + rule.sigma / 2 for score in scores[:, 0]]
            changed[rule.name] = scores
    return changed


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("url")
    options.add_argument("--name", default="too-good-to-be-true")
    options.add_argument("--units", type=int, default=4)
    given = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory() as folder:
        liar = Liar(given.url, Path(folder), given.name)
        liar.join()
        liar.work(given.units)


if __name__ == "__main__":
    main()
