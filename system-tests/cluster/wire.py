"""HTTP/1 by hand over asyncio: a connection, heads of responses, and the three framings of a body.

asyncio's own streams drop what was received before a reset. Here it counts, so this works on sockets.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

from harness import KIB

CONNECT_LIMIT = 5.0  # seconds
PIECE = 256 * KIB
MOST_OF_A_HEAD = 64 * KIB


class Cut(Exception):
    """The connection ended within a message."""


class Unconnected(Exception):
    """No connection was made."""


@dataclass(frozen=True)
class Head:
    """The head of a response."""

    version: str
    status: int
    fields: dict[str, str] = field(default_factory=dict)

    def length(self) -> int | None:
        text = self.fields.get("content-length")
        return None if text is None else int(text)

    def is_chunked(self) -> bool:
        return self.fields.get("transfer-encoding", "").lower() == "chunked"

    def stays_open(self) -> bool:
        return self.version == "HTTP/1.1" and self.fields.get("connection", "").lower() != "close"


def parsed(lines: bytes) -> Head:
    first, *rest = lines.decode("latin-1").split("\r\n")
    version, status, *_ = first.split(" ", 2)
    fields = (line.partition(":") for line in rest if line)
    return Head(version, int(status), {name.lower(): value.strip() for name, _, value in fields})


class Wire:
    """A client's connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = connection
        self._read_ahead = b""
        self.is_used = False

    @classmethod
    async def open(cls, address: tuple[str, int]) -> "Wire":
        connection = socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                await asyncio.get_running_loop().sock_connect(connection, address)
        except (OSError, TimeoutError) as error:
            connection.close()
            raise Unconnected(f"{type(error).__name__}: {error}") from error
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    def is_idle(self) -> bool:
        """Whether the connection is open, with nothing to read."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return not self._read_ahead
        except OSError:
            pass
        return False

    def close(self) -> None:
        self._socket.close()

    async def send(self, data: bytes) -> None:
        try:
            await self._loop.sock_sendall(self._socket, data)
        except OSError as error:
            raise Cut(str(error)) from error

    async def receive(self) -> bytes:
        """What has come, or nothing after a FIN."""
        if self._read_ahead:
            data, self._read_ahead = self._read_ahead, b""
            return data
        try:
            return await self._loop.sock_recv(self._socket, PIECE)
        except OSError as error:
            raise Cut(str(error)) from error

    async def _until(self, mark: bytes) -> bytes:
        """What precedes the mark, which is taken too."""
        got = b""
        while mark not in got:
            piece = await self.receive()
            if not piece:
                raise Cut("a FIN within a head" if got else "a FIN instead of a head")
            got += piece
            if len(got) > MOST_OF_A_HEAD and mark not in got:
                raise Cut("a head without an end")
        before, _, self._read_ahead = got.partition(mark)
        return before

    async def head(self) -> Head:
        """The next head, which may be an interim one."""
        return parsed(await self._until(b"\r\n\r\n"))

    async def final_head(self) -> Head:
        while (head := await self.head()).status < 200:
            pass
        return head

    async def _exactly(self, length: int) -> AsyncIterator[bytes]:
        while length > 0:
            piece = await self.receive()
            if not piece:
                raise Cut("a FIN within the body")
            if len(piece) > length:
                piece, self._read_ahead = piece[:length], piece[length:]
            length -= len(piece)
            yield piece

    async def body(self, head: Head) -> AsyncIterator[bytes]:
        """The pieces of a body. Returns only behind a whole one."""
        length = head.length()
        if head.is_chunked():
            while (size := int((await self._until(b"\r\n")).partition(b";")[0], 16)) > 0:
                async for piece in self._exactly(size):
                    yield piece
                if await self._until(b"\r\n"):
                    raise Cut("a chunk without an end")
            if await self._until(b"\r\n"):
                raise Cut("a trailer")
        elif length is not None:
            async for piece in self._exactly(length):
                yield piece
        else:
            while piece := await self.receive():
                yield piece

    async def text(self, head: Head) -> bytes:
        return b"".join([piece async for piece in self.body(head)])


def error_name(body: bytes) -> str:
    """The name in an error of the relay. Empty if a proxy made the response."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["name"])
    return ""


async def ask(address: tuple[str, int], method: str, path: str, limit: float = 10.0) -> tuple[Head, bytes]:
    """A request on a connection of its own."""
    async with asyncio.timeout(limit):
        wire = await Wire.open(address)
        try:
            head = f"{method} {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            await wire.send(head.encode())
            answer = await wire.final_head()
            return answer, await wire.text(answer)
        finally:
            wire.close()
