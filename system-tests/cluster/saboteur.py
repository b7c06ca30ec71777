"""A proxy in front of a node that breaks a law on purpose: whoever checks the laws must notice."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from cluster.relay import Site

PORT = 7100
HONEST_SHARE = 0.7

# What each does, and what must be said of it.
KINDS = {
    "clean-end": "law 1",  # ends a cut chunked download as if it were whole
    "lie": "law 3",  # answers an upload that failed with 200
    "early": "law 3",  # answers an upload with 200 at once, and drops it
    "flip": "law 4",  # changes a byte of a download
    "swallow": "law 5",  # answers some requests never
    "unknown": "404 for an id whose owner lives",  # answers some requests with 404
    "late": "told after",  # answers a refused request 9 s later
    "strange": "not an answer for this",  # answers 421 instead of 503
    "refuse": "although its nodes were alive",  # answers some requests with 503
}


def answer(status: str, body: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


def error(status: str, name: str) -> bytes:
    return answer(status, f'{{"name":"{name}","message":""}}')


class Saboteur:
    """Passes connections on, and breaks one law."""

    def __init__(self, kind: str, target: tuple[str, int]) -> None:
        self._kind, self._target = kind, target
        self._chance = random.Random(kind)
        self._running: set[asyncio.Task[None]] = set()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def end(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks: list[asyncio.Task[None]] = []
        there: asyncio.StreamWriter | None = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            is_put, lazy = head.startswith(b"PUT"), self._chance.random() > HONEST_SHARE
            if self._kind == "early" and is_put and lazy:
                writer.write(answer("200 OK"))
                await writer.drain()
                return
            if lazy and (instead := self._instead()):
                writer.write(instead)
                await writer.drain()
                return
            if lazy and self._kind == "swallow":
                await asyncio.sleep(600)
            from_node, there = await asyncio.open_connection(*self._target)
            there.write(head)
            tasks.append(asyncio.create_task(self._up(reader, there)))
            if await self._down(from_node, writer, is_put, lazy):
                writer.write_eof()
            else:
                writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            for task in tasks:
                task.cancel()
            if there:
                there.transport.abort()
            writer.close()

    def _instead(self) -> bytes:
        if self._kind == "unknown":
            return error("404 Not Found", "SessionNotFoundError")
        return error("503 Service Unavailable", "OwnerUnreachableError") if self._kind == "refuse" else b""

    async def _up(self, reader: asyncio.StreamReader, there: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(65536):
                there.write(piece)
                await there.drain()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_put: bool, lazy: bool) -> bool:
        """Passes a response. Returns whether it ended cleanly."""
        first, tail, is_chunked = True, b"", False
        try:
            while piece := await reader.read(65536):
                if first:
                    first = False
                    is_chunked = b"transfer-encoding: chunked" in piece.lower()
                    piece = await self._changed(piece, is_put)
                elif lazy and self._kind == "flip" and len(piece) > 500:
                    piece = piece[:400] + bytes([piece[400] ^ 1]) + piece[401:]
                tail = (tail + piece)[-5:]
                writer.write(piece)
                await writer.drain()
        except OSError:
            if self._kind == "clean-end" and is_chunked and tail != b"0\r\n\r\n":
                writer.write(b"0\r\n\r\n" if tail.endswith(b"\r\n") else b"\r\n0\r\n\r\n")
                return True
            return False
        return True

    async def _changed(self, piece: bytes, is_put: bool) -> bytes:
        is_failure = piece.startswith((b"HTTP/1.1 502", b"HTTP/1.1 503"))
        if is_failure and self._kind == "lie" and is_put:
            return answer("200 OK")
        if is_failure and self._kind == "late":
            await asyncio.sleep(9)
        if is_failure and self._kind == "strange":
            return error("421 Misdirected Request", "MisdirectedError")
        return piece


@asynccontextmanager
async def sabotage(site: Site, kind: str) -> AsyncIterator[None]:
    """Puts a saboteur in front of node 0 for the clients that use sockets."""
    if not kind:
        yield
        return
    saboteur = Saboteur(kind, site.nodes[0].address)
    server = await asyncio.start_server(saboteur.connected, site.router.server, PORT, limit=1 << 20)
    site.hidden_ports[0] = (site.router.server, PORT)
    try:
        yield
    finally:
        del site.hidden_ports[0]
        server.close()
        await saboteur.end()
