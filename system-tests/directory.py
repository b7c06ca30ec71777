"""Members of a cluster that exist in its directory only, and the engine's work for them (Redis or Valkey).

The script, the limits and the periods are read from the sources, so that what is measured is what the nodes do.
"""

import hashlib
import hmac
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness import LOOPBACK, PATIENCE, ROOT, check
from nodes import Engine

CLUSTER = ROOT / "crates/cluster/src"
RENEW = (CLUSTER / "directory/renew.lua").read_text()
LABEL = b"rendezvous cluster record"
KEY = "rv:{rendezvous}:nodes"  # with the default of --cluster-name
NAME = b"rendezvous"
PORT = 7780  # of a member that nobody connects to

Reply = int | bytes | list[Any] | None


def constant(file: str, pattern: str) -> float:
    """A number in a source file of crates/, by the text before it."""
    text = (ROOT / "crates" / file).read_text()
    found = re.search(pattern + r"([0-9_.]+)", text)
    check(found is not None, f"crates/{file} has no {pattern!r} any more: this program must follow it")
    return float(found[1]) if found else 0.0


@dataclass(frozen=True)
class Periods:
    """Seconds between what each node does."""

    poll: float  # of the directory
    poll_at_most: float  # that requests for unknown nodes ask for
    life: float
    gap: float


def periods() -> Periods:
    timing = "cluster/src/timing.rs"
    return Periods(
        poll=constant(timing, r"interval: Duration::from_secs\("),
        poll_at_most=constant(timing, r"spacing: Duration::from_millis\(") / 1000,
        life=constant(timing, r"life: Duration::from_secs\("),
        gap=constant(timing, r"gap: Duration::from_secs\("),
    )


def idle_connections() -> int:
    """Unused connections that a node keeps for each other node."""
    return int(constant("server/src/cluster/peers.rs", r"MAX_IDLE: usize = "))


class Redis:
    """A connection to the engine that counts its bytes (RESP2)."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((LOOPBACK, port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")
        self.sent = 0
        self.received = 0

    def call(self, *words: str) -> Reply:
        parts = [word.encode() for word in words]
        request = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        self._socket.sendall(request)
        self.sent += len(request)
        return self._reply()

    def _reply(self) -> Reply:
        line = self._file.readline()
        self.received += len(line)
        kind, text = line[:1], line[1:-2]
        check(kind in (b"*", b"$", b":", b"+"), f"the engine says {line!r}")
        if kind == b"*":
            return [self._reply() for _ in range(int(text))]
        if kind == b"$":
            length = int(text)
            if length < 0:
                return None
            self.received += length + 2
            return self._file.read(length + 2)[:-2]
        return int(text) if kind == b":" else text

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class Members:
    """Members of a cluster with this secret. Each renews its record as a node does."""

    def __init__(self, redis: Redis, secret: str, count: int) -> None:
        self._redis = redis
        self._limits = limits()
        self._records = [sealed_record(at, secret) for at in range(count)]

    def renew(self) -> Iterator[int]:
        """Renews the records one after another. Yields how many nodes each reply has."""
        for tag, instance, record in self._records:
            reply = self._redis.call("EVAL", RENEW, "1", KEY, tag, instance, record, *self._limits, "0")
            check(isinstance(reply, list) and reply[3] == b"0", f"the script returns {reply!r}")
            yield (len(reply) - 4) // 2 if isinstance(reply, list) else 0


def limits() -> tuple[str, ...]:
    """The arguments of the script from the life of a record to the bytes of a value."""
    directory, record = "cluster/src/directory.rs", "cluster/src/record.rs"
    fields = constant(directory, r"MAX_NODES: usize = ") + constant(directory, r"META_FIELDS: usize = ")
    size = constant(record, r"MAX_BYTES: usize = ") + constant(directory, r"EXPIRY_BYTES: usize = ")
    times = periods()
    numbers = (times.life * 1000, times.gap * 1000, 0, fields, size)
    return tuple(str(int(number)) for number in numbers)


def sealed_record(at: int, secret: str) -> tuple[str, str, str]:
    """Returns the tag, the instance and the record of a member, as a node with this secret would write it."""
    tag, instance = os.urandom(4).hex(), os.urandom(16).hex()
    address = f"10.20.{at // 250}.{at % 250 + 1}:{PORT}"
    fields = f"rv1 tag={tag} id={instance} at={address} versions=1-1 settings={'0' * 16} draining=0"
    message = b"".join(len(part).to_bytes(8, "big") + part for part in (LABEL, NAME, fields.encode()))
    code = hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
    return tag, instance, f"{fields} mac={code}"


@dataclass(frozen=True)
class PollCost:
    """What one poll costs the engine."""

    cpu: float  # seconds
    request: float  # bytes
    reply: float


def poll_cost(engine: Engine, members: int, calls: int) -> PollCost:
    """Measures polls of a directory with so many members, one after another."""
    redis = Redis(engine.port)
    try:
        redis.call("DEL", KEY)
        fake = Members(redis, "x" * 32, members)
        for _ in range(2):  # until all are in it
            seen = list(fake.renew())
        check(seen[-1] == members, f"{seen[-1]} of {members} members")
        rounds = max(1, calls // members)
        sent, received, before = redis.sent, redis.received, engine.cpu()
        for _ in range(rounds):
            for _ in fake.renew():
                pass
        done = rounds * members
        return PollCost((engine.cpu() - before) / done, (redis.sent - sent) / done, (redis.received - received) / done)
    finally:
        redis.call("DEL", KEY)
        redis.close()
