"""Callers of benchmarks/soak.py, good and bad ones, in one event loop of their own thread."""

import asyncio
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

from served import HTTP_PORT, PORT, SEEDS, WHERE, Answers

from msd_ray.serving.client import AsyncClient, Connection, GeneratedImage, RefusedError

DEADLINE, GRACE = 30.0, 2.0
"""Seconds of a call with all its tries; and by how much it may end later."""
STREAMED = 200
SILENT = 32
"""Connections that are held open at a time."""
SMALL_WINDOW = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SAID = {PORT: (b"", PREFACE, PREFACE + b"\0\0\x20"), HTTP_PORT: (b"", b"POST /v1/generate HTTP/1.1\r\nHost:")}
"""What callers of a port say before they fall silent."""
Kind = Callable[[AsyncClient, random.Random], Awaitable[None]]


class Callers:
    """right: what each version makes. It runs from `start` to `stop`, or to the end of its block.

    calls: that ended, by kind. failed: of these, by kind and gRPC code. images: that were compared; wrong: of these.
    stuck: calls that did not end within their deadline. longest: seconds of the longest one of each kind.
    """

    def __init__(self, right: Answers, callers: int) -> None:
        self._right, self._callers, self._stopping = right, callers, threading.Event()
        self.calls, self.failed = Counter[str](), Counter[str]()
        self.images = self.wrong = self.stuck = 0
        self.longest, self.error = dict[str, float](), ""
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Callers":
        self._thread.start()
        return self

    def __exit__(self, *of_an_error: Any) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as error:  # which would otherwise look like a service that nobody asks
            self.error = repr(error)

    async def _all(self) -> None:
        kinds: list[Kind] = [self._exact] * self._callers + [self._cancelled, self._broken_off, self._slow]
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            client = await stack.enter_async_context(AsyncClient(WHERE, DEADLINE))
            slow = await stack.enter_async_context(AsyncClient(Connection(WHERE, options=SMALL_WINDOW), DEADLINE))
            for number, kind in enumerate(kinds):
                group.create_task(self._repeat(kind, slow if kind == self._slow else client, random.Random(number)))
            group.create_task(self._silent(random.Random(-1)))

    async def _repeat(self, kind: Kind, client: AsyncClient, rng: random.Random) -> None:
        name = kind.__name__.strip("_")
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                async with asyncio.timeout(DEADLINE + GRACE):
                    await kind(client, rng)
            except TimeoutError:
                self.stuck += 1
            except RefusedError as error:
                self.failed[f"{name}: {error.code}"] += 1
            self.calls[name] += 1
            self.longest[name] = max(self.longest.get(name, 0.0), time.monotonic() - began)

    async def _exact(self, client: AsyncClient, rng: random.Random) -> None:
        for image in await client.generate(*_pairs(rng, rng.randint(1, 8)), "float32"):
            self._compare(image)

    async def _cancelled(self, client: AsyncClient, rng: random.Random) -> None:
        """A call whose caller goes away at some time, before its answer or after."""
        call = asyncio.create_task(client.generate(*_pairs(rng, 32), "png"))
        await asyncio.wait([call], timeout=rng.uniform(0.0, 0.1))
        call.cancel()
        await asyncio.wait([call])
        if not call.cancelled():
            call.result()

    async def _broken_off(self, client: AsyncClient, rng: random.Random) -> None:
        """A stream that is left after some images."""
        left = rng.randint(1, 32)
        async with aclosing(client.stream(*_pairs(rng, 64), "float32")) as images:  # type: ignore[type-var]
            async for image in images:
                self._compare(image)
                if not (left := left - 1):
                    return

    async def _slow(self, client: AsyncClient, rng: random.Random) -> None:
        """A stream that is read slowly, over a connection that takes hardly more than what is read."""
        async for image in client.stream(*_pairs(rng, STREAMED), "float32"):
            self._compare(image)
            await asyncio.sleep(5.0 / STREAMED)

    async def _silent(self, rng: random.Random) -> None:
        """Connections whose callers say half of something and no more; then they vanish, and others come."""
        held = list[socket.socket]()
        while not self._stopping.is_set():
            self.calls["half-open"] += await _hold_another(held, rng)
            await asyncio.sleep(0.1)
        for connection in held:
            connection.close()

    def _compare(self, image: GeneratedImage) -> None:
        self.images += 1
        self.wrong += image.data != self._right[image.version, image.class_id, image.seed]


async def _hold_another(held: list[socket.socket], rng: random.Random) -> bool:
    """Opens one more connection, if anybody listens. If there are too many, the oldest ends by a reset."""
    connection, port = socket.socket(), rng.choice(list(SAID))
    connection.settimeout(1.0)
    try:
        await asyncio.to_thread(connection.connect, ("127.0.0.1", port))
        connection.sendall(rng.choice(SAID[port]))
    except OSError:
        connection.close()
        return False
    held.append(connection)
    if len(held) > SILENT:
        held[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        held.pop(0).close()
    return True


def _pairs(rng: random.Random, n: int) -> tuple[list[int], list[int]]:
    """Classes and seeds."""
    return [rng.randrange(10) for _ in range(n)], [rng.randrange(SEEDS) for _ in range(n)]
