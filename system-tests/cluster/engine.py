"""Redis on hosts of its own: one, or three with replicas and sentinels."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from harness import Violation
from network import LIBC, Host

PORT, SENTINEL_PORT = 6379, 26379
SERVICE = "rendezvous"
LIMIT = 30.0  # seconds for an engine to start or to change its role


PR_SET_PDEATHSIG = 1


def end_with_this() -> None:
    """In a new process: it is killed when this program ends, in whatever way."""
    LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def launch(host: Host, command: list[str], log: Path, **how: Any) -> subprocess.Popen[bytes]:
    """Starts a program on a host, with the usual priority: this program's is lower."""
    with log.open("ab") as out, host.space.inside():
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=end_with_this, **how)
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, 0)
    return process


async def until(look: Callable[[], Any], what: str, limit: float = LIMIT, pause: float = 0.02) -> Any:
    """Polls an async function until it returns something true. Errors of connections count as not yet."""
    loop = asyncio.get_running_loop()
    deadline, seen = loop.time() + limit, None
    while loop.time() < deadline:
        try:
            if seen := await look():
                return seen
        except (OSError, TimeoutError, asyncio.IncompleteReadError, Violation) as error:
            seen = error
        await asyncio.sleep(pause)
    raise Violation(f"{what}: not within {limit:.0f} s, last seen: {seen!r}")


async def read_reply(reader: asyncio.StreamReader) -> Any:
    """One reply of the protocol RESP 2."""
    line = (await reader.readuntil(b"\r\n"))[:-2]
    kind, rest = line[:1], line[1:]
    if kind == b"-":
        raise Violation(f"the engine: {rest.decode()}")
    if kind == b"$":
        return None if rest == b"-1" else (await reader.readexactly(int(rest) + 2))[:-2].decode("latin-1")
    if kind == b"*":
        return [await read_reply(reader) for _ in range(max(int(rest), 0))]
    return int(rest) if kind == b":" else rest.decode()


class Redis:
    """One process of the engine, or a sentinel."""

    def __init__(self, host: Host, port: int, folder: Path) -> None:
        self.host, self.port = host, port
        self._folder = folder
        self._command: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self, *command: str) -> None:
        """Starts it, the second time with the same command."""
        self._command = list(command) or self._command
        self.process = launch(self.host, self._command, self._folder / "engine.log", cwd=self._folder)
        await until(lambda: self.run("PING"), "the engine answers")

    def signal(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()
            self.process = None

    def end(self) -> None:
        if self.process:
            self.signal(signal.SIGKILL)

    async def run(self, *words: str | int) -> Any:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(self.host.address, self.port)
            try:
                texts = [str(word).encode("latin-1") for word in words]
                parts = b"".join(b"$%d\r\n%b\r\n" % (len(text), text) for text in texts)
                writer.write(b"*%d\r\n" % len(texts) + parts)
                return await read_reply(reader)
            finally:
                writer.close()

    async def info(self, section: str) -> dict[str, str]:
        lines = str(await self.run("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)


class Engine(Protocol):
    """What the nodes have as their directory."""

    url: str

    async def start(self) -> None: ...
    async def primary(self) -> Redis: ...
    def all(self) -> list[Redis]: ...
    def end(self) -> None: ...


def redis_command(*options: str) -> list[str]:
    here = ("--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--appendonly", "no")
    return ["redis-server", "--port", str(PORT), *here, *options]


class Single:
    """One engine."""

    def __init__(self, host: Host, folder: Path, *options: str) -> None:
        self.redis = Redis(host, PORT, folder)
        self.url = f"redis://{host.address}"
        self._options = options

    async def start(self) -> None:
        await self.redis.start(*redis_command(*self._options))

    async def primary(self) -> Redis:
        return self.redis

    def all(self) -> list[Redis]:
        return [self.redis]

    def end(self) -> None:
        self.redis.end()


class Sentinels:
    """An engine with two replicas, and three sentinels on the same hosts."""

    def __init__(self, hosts: list[Host], folder: Path) -> None:
        self.servers, self.sentinels = [], []
        for number, host in enumerate(hosts):
            own = folder / f"engine-{number}"
            own.mkdir()
            self.servers.append(Redis(host, PORT, own))
            self.sentinels.append(Redis(host, SENTINEL_PORT, own))
        self._folder = folder
        self.url = f"redis+sentinel://{','.join(host.address for host in hosts)}/{SERVICE}"

    async def start(self) -> None:
        first = self.servers[0].host.address
        for number, server in enumerate(self.servers):
            more = () if number == 0 else ("--replicaof", f"{first} {PORT}")
            await server.start(*redis_command("--repl-diskless-sync-delay", "0", *more))
        for number, sentinel in enumerate(self.sentinels):
            config = self._folder / f"engine-{number}" / "sentinel.conf"
            config.write_text(
                f"port {SENTINEL_PORT}\nbind 0.0.0.0\nprotected-mode no\n"
                f"sentinel monitor {SERVICE} {first} {PORT} 2\n"
                f"sentinel down-after-milliseconds {SERVICE} 1000\n"
                f"sentinel failover-timeout {SERVICE} 6000\n"
            )
            await sentinel.start("redis-server", str(config), "--sentinel")
        for sentinel in self.sentinels:
            await until(partial(self._is_ready, sentinel), "the sentinels know each other")

    async def _is_ready(self, sentinel: Redis) -> bool:
        pairs = await sentinel.run("SENTINEL", "MASTER", SERVICE)
        known = dict(zip(pairs[::2], pairs[1::2], strict=True))
        return bool(known["num-slaves"] == "2" and known["num-other-sentinels"] == "2" and known["flags"] == "master")

    async def primary(self) -> Redis:
        """The one that a majority of the sentinels calls the primary, once it agrees."""

        async def look() -> Redis | None:
            votes: list[str] = []
            for sentinel in self.sentinels:
                with suppress(OSError, TimeoutError, Violation):
                    votes.append((await sentinel.run("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE))[0])
            for server in self.servers:
                if votes.count(server.host.address) >= 2 and (await server.info("replication"))["role"] == "master":
                    return server
            return None

        found: Redis = await until(look, "the sentinels agree")
        return found

    async def moved_from(self, old: Redis) -> bool:
        """Whether a majority of the sentinels names another primary, which need not be one yet."""
        votes = 0
        for sentinel in self.sentinels:
            with suppress(OSError, TimeoutError, Violation):
                votes += (await sentinel.run("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE))[0] != old.host.address
        return votes >= 2

    async def is_whole(self) -> bool:
        """Whether the primary has two replicas that are connected."""
        found = await (await self.primary()).info("replication")
        return found["connected_slaves"] == "2"

    def all(self) -> list[Redis]:
        return self.servers

    def end(self) -> None:
        for one in self.sentinels + self.servers:
            one.end()
