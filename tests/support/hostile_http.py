"""A server on loopback that answers exactly as a test says, byte for byte, well or badly.

Speaks raw sockets, because no HTTP library lets a server lie about lengths or fall silent in the
middle of a header. One request per connection; every request is recorded.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

Answer = Callable[["Visit"], None]


@dataclass
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Visit:
    """One connection, for an answer to write to."""

    connection: socket.socket
    request: Seen
    released: threading.Event

    def send(self, raw: bytes) -> None:
        self.connection.sendall(raw)

    def wait_for_hang_up(self) -> bool:
        """Until the client closes (True), or the test ends."""
        self.connection.settimeout(0.05)
        while not self.released.is_set():
            with contextlib.suppress(TimeoutError):
                return not self.connection.recv(1)
        return False


@dataclass
class HostileServer:
    """Answers by path; a path with several answers gives one after the other, then the last again."""

    url: str
    tls: ssl.SSLContext | None = None
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def on(self, path: str, *answers: Answer) -> None:
        self.answers[path] = list(answers)

    def answer(self, connection: socket.socket) -> None:
        request = _read_request(connection)
        self.seen.append(request)
        queue = self.answers.get(request.path, [whole(404, b"nothing here", "text/plain")])
        give = queue.pop(0) if len(queue) > 1 else queue[0]
        self.reached.set()
        give(Visit(connection, request, self.released))


@contextlib.contextmanager
def hostile_server(tls: ssl.SSLContext | None = None) -> Iterator[HostileServer]:
    """A server on a free port, gone when the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        scheme = "http" if tls is None else "https"
        server = HostileServer(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", tls)
        threads: list[threading.Thread] = []
        accepting = threading.Thread(target=_accept, args=(listener, server, threads))
        accepting.start()
        try:
            yield server
        finally:
            server.released.set()
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


def self_signed(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS, and the certificate that a client must know to believe it."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, None)
    )
    certificate_path, key_path = folder / "certificate.pem", folder / "tls-key.pem"
    certificate_path.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_path, key_path)
    return context, certificate_path


def whole(
    status: int,
    body: bytes,
    content_type: str = "application/octet-stream",
    **headers: str,
) -> Answer:
    """An honest answer."""

    def give(visit: Visit) -> None:
        visit.send(head(status, content_type, len(body), **headers) + body)

    return give


def cut(
    body: bytes, after: int, content_type: str = "application/octet-stream", **headers: str
) -> Answer:
    """Announces the whole body and closes in the middle of it."""

    def give(visit: Visit) -> None:
        visit.send(head(200, content_type, len(body), **headers) + body[:after])

    return give


def ranged(body: bytes, etag: str, content_type: str = "application/octet-stream") -> Answer:
    """Honest about ranges, If-Range and ETag."""

    def give(visit: Visit) -> None:
        asked = visit.request.headers.get("range", "")
        if asked and visit.request.headers.get("if-range") == etag:
            first = int(asked.removeprefix("bytes=").rstrip("-"))
            part = {"Content-Range": f"bytes {first}-{len(body) - 1}/{len(body)}", "ETag": etag}
            visit.send(head(206, content_type, len(body) - first, **part) + body[first:])
        else:
            visit.send(head(200, content_type, len(body), ETag=etag) + body)

    return give


def endless(content_type: str, piece: bytes = b"x" * 65536) -> Answer:
    """A body without a length that never ends by itself."""

    def give(visit: Visit) -> None:
        visit.send(head(200, content_type, None))
        with contextlib.suppress(OSError):
            while not visit.released.is_set():
                visit.send(piece)

    return give


def silent(server: HostileServer, start: bytes = b"") -> Answer:
    """Sends `start`, then nothing; notes when the client hangs up."""

    def give(visit: Visit) -> None:
        visit.send(start)
        if visit.wait_for_hang_up():
            server.hung_up.set()

    return give


def dripping(content_type: str, every_s: float = 0.02) -> Answer:
    """One byte at a time: never silent, never done."""

    def give(visit: Visit) -> None:
        visit.send(head(200, content_type, 1_000_000))
        with contextlib.suppress(OSError):
            while not visit.released.wait(every_s):
                visit.send(b"x")

    return give


def reset(start: bytes) -> Answer:
    """Sends `start`, then the connection is reset and not closed, as by a box in between."""

    def give(visit: Visit) -> None:
        visit.send(start)
        visit.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        visit.connection.close()

    return give


def repeating(start: bytes, piece: bytes, every_s: float = 0.0) -> Answer:
    """Sends `start`, then `piece` again and again, for as long as the client takes it."""

    def give(visit: Visit) -> None:
        visit.send(start)
        with contextlib.suppress(OSError):
            while not visit.released.wait(every_s):
                visit.send(piece)

    return give


def raw(answer: bytes) -> Answer:
    """These bytes and no others."""
    return lambda visit: visit.send(answer)


def head(status: int, content_type: str, length: int | None, **headers: str) -> bytes:
    """A status line and headers; keyword underscores become dashes."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {content_type}"]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")


def _accept(
    listener: socket.socket, server: HostileServer, threads: list[threading.Thread]
) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        thread = threading.Thread(target=_serve, args=(connection, server))
        threads.append(thread)
        thread.start()


def _serve(connection: socket.socket, server: HostileServer) -> None:
    with connection, contextlib.suppress(OSError):
        if server.tls is None:
            server.answer(connection)
            return
        with server.tls.wrap_socket(connection, server_side=True) as secured:
            server.answer(secured)


def _read_request(connection: socket.socket) -> Seen:
    raw_head = b""
    while b"\r\n\r\n" not in raw_head:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("the client left")
        raw_head += piece
    text, _, body = raw_head.partition(b"\r\n\r\n")
    first, *lines = text.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("the client left")
        body += piece
    return Seen(method, path, headers, body)
