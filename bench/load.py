"""The load generator, a process of its own: `python -m bench.load rpc|loop URL VEHICLES ...`.

Keep-alive connections that each have one request under way, so the server is always saturated and
never flooded. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, cast
from urllib.parse import urlsplit

import uvloop

from bench.fleet import Vehicle
from server.http.bodies import MESSAGE_TYPE

CONNECTIONS: Final = 64


class Connection(asyncio.Protocol):
    """The least that speaks HTTP/1.1 to our own server: one request, one answer with a length."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are Transports by shape, not by class.
        self._transport = cast("asyncio.Transport", transport)

    async def post(self, body: bytes) -> bytes:
        """The body of the answer, which must be a 200."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        head = (
            f"POST /v1/work HTTP/1.1\r\nhost: bench\r\ncontent-type: {MESSAGE_TYPE}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        at = head.index(b"content-length:") + 15
        length = int(head[at:].split(b"\r\n", 1)[0])
        if len(self._buffer) < end + 4 + length or self._answer is None:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + length])
        self._buffer.clear()
        answer, self._answer = self._answer, None
        if b" 200 " in head[:16]:
            answer.set_result(body)
        else:
            answer.set_exception(RuntimeError(f"{head[:40]!r} {body!r:.300}"))


async def connected(url: str, count: int) -> list[Connection]:
    """`count` open connections."""
    where = urlsplit(url)
    assert where.hostname is not None
    assert where.port is not None
    loop = asyncio.get_running_loop()
    host, port = where.hostname, where.port
    made = [loop.create_connection(Connection, host, port) for _ in range(count)]
    return [protocol for _, protocol in await asyncio.gather(*made)]


async def fire(
    connections: Iterable[Connection], jobs: Iterable[Callable[[Connection], Awaitable[None]]]
) -> float:
    """Every job on whichever connection is free; the seconds it took."""
    queue = deque(jobs)

    async def drain(connection: Connection) -> None:
        while queue:
            await queue.popleft()(connection)

    began = time.perf_counter()
    await asyncio.gather(*(drain(connection) for connection in connections))
    return time.perf_counter() - began


async def rpc(url: str, vehicles: int, connections: int) -> dict[str, float]:
    """Requests a second, each a signed report in and a signed lease out, signed beforehand."""
    fleet = [Vehicle(number) for number in range(vehicles)]
    opened = await connected(url, connections)
    await fire(opened, (_exchange(vehicle, vehicle.request(1)) for vehicle in fleet))
    latencies: list[float] = []
    answers: list[bytes] = []
    jobs = [_timed(vehicle.request(1), latencies, answers) for vehicle in fleet if vehicle.leases]
    took_s = await fire(opened, jobs)
    latencies.sort()
    return {
        "per_s": len(jobs) / took_s,
        "requests": len(jobs),
        "leased": sum(1 for answer in answers if fleet[0].take(answer).leases),
        "p50_ms": latencies[len(jobs) // 2] * 1000,
        "p99_ms": latencies[len(jobs) * 99 // 100] * 1000,
    }


async def loop(url: str, vehicles: int, connections: int, units: int) -> dict[str, float]:
    """Vehicles that go on, `units` at a time, until there is no work; the seconds that took."""
    fleet = deque(Vehicle(number) for number in range(vehicles))
    opened = await connected(url, connections)
    reported = 0

    async def drive(connection: Connection) -> None:
        nonlocal reported
        while fleet:
            vehicle = fleet.popleft()
            had = len(vehicle.leases)
            reply = vehicle.take(await connection.post(vehicle.request(units)))
            reported += had
            if reply.has_work:
                fleet.append(vehicle)

    began = time.time()
    await asyncio.gather(*(drive(connection) for connection in opened))
    return {"began": began, "ended": time.time(), "reported": reported}


def _exchange(vehicle: Vehicle, body: bytes) -> Callable[[Connection], Awaitable[None]]:
    async def job(connection: Connection) -> None:
        vehicle.take(await connection.post(body))

    return job


def _timed(
    body: bytes, latencies: list[float], answers: list[bytes]
) -> Callable[[Connection], Awaitable[None]]:
    async def job(connection: Connection) -> None:
        began = time.perf_counter()
        answers.append(await connection.post(body))
        latencies.append(time.perf_counter() - began)

    return job


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["rpc", "loop"])
    parser.add_argument("url")
    parser.add_argument("vehicles", type=int)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--units", type=int, default=1)
    given = parser.parse_args()
    if given.what == "rpc":
        work = rpc(given.url, given.vehicles, given.connections)
    else:
        work = loop(given.url, given.vehicles, given.connections, given.units)
    json.dump(uvloop.run(work), sys.stdout)


if __name__ == "__main__":
    main()
