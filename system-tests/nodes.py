"""Nodes of a cluster, for the tests that measure one: the engine, the nodes, where they stand, and their CPU time (Linux).

All stand on loopback, or the second and all further nodes in a network namespace that a veth pair joins to the first. There the
kernel does not use ports in TIME_WAIT again, as it does on loopback.
"""

import multiprocessing
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Generic, TypeVar, cast

from harness import LOOPBACK, PATIENCE, Command, accepts, check, child, free_port, listening_ports, serving, wait_until
from network import Namespace, ip

T = TypeVar("T")
ENGINES = ("valkey-server", "redis-server")
CLUSTER_NAME = "rendezvous"  # the default of --cluster-name
# Connections of clients are kept while others are measured, few descriptors are enough, and there is one client.
FLAGS = ("--open-list", "--keep-alive", "10m", "--max-connections", "2000", "--max-creations-per-minute", "10000000")
NEAR, FAR = "10.79.0.1", "10.79.0.2"
DISTURBED = ("panicked", "node is silent", "node is lost", "cannot connect", "cannot be reached")  # in the log
TIME_WAIT = "06"  # in /proc/net/tcp


def cpu_ns(pid: int) -> int:
    """User and system time of a process in nanoseconds, with its ended threads: the clock of clock_getcpuclockid(3) on Linux."""
    return time.clock_gettime_ns((~pid << 3) | 2)


@dataclass(frozen=True)
class Place:
    """A host: an address, and its network namespace unless it is that of this process."""

    address: str
    space: Namespace | None = None

    def inside(self) -> AbstractContextManager[None]:
        """Sockets and processes of the block belong to this host. The block must start no threads."""
        return self.space.inside() if self.space else nullcontext()


@dataclass(frozen=True)
class Node:
    """A running server: a node of the cluster, or one alone."""

    name: str
    pid: int
    port: int
    place: Place
    hop_port: int | None = None

    def connect(self, client: Place) -> socket.socket:
        """Opens a connection of a client at this place."""
        with client.inside():
            connection = socket.create_connection((self.place.address, self.port), timeout=PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def api(self) -> "Api":
        return Api(self)

    def cpu(self) -> float:
        """CPU seconds that the process has used."""
        return cpu_ns(self.pid) / 1e9


class Task(Generic[T]):
    """A function in a process of its own, so that no client waits for the interpreter of another. It ends with this object."""

    def __init__(self, work: Callable[[], T]) -> None:
        fork = multiprocessing.get_context("fork")
        self._pipe, far = fork.Pipe()
        self._process = fork.Process(target=lambda: far.send(outcome_of(work)), daemon=True)

    def __enter__(self) -> "Task[T]":
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def result(self, patience: float) -> T:
        check(self._pipe.poll(patience), f"a client does not end within {patience:.0f} s")
        value, failure = self._pipe.recv()
        check(failure is None, f"a client failed: {failure}")
        return cast(T, value)


def outcome_of(work: Callable[[], T]) -> tuple[T | None, str | None]:
    try:
        return work(), None
    except Exception as failure:  # the parent raises it
        return None, f"{type(failure).__name__}: {failure}"


class Api:
    """Requests to a node on one kept connection from its own host."""

    def __init__(self, node: Node) -> None:
        self._connection = HTTPConnection(node.place.address, node.port)
        self._connection.auto_open = 0
        self._connection.sock = node.connect(node.place)

    def ask(self, method: str, path: str, expected: int) -> tuple[bytes, str]:
        """Returns the body, and the field `Rendezvous-Nodes`."""
        self._connection.request(method, path)
        response = self._connection.getresponse()
        body = response.read()
        check(response.status == expected, f"{method} {path}: {response.status} {body!r}")
        return body, response.headers.get("Rendezvous-Nodes", "")

    def new_path(self) -> str:
        """Creates a stream, and returns its path."""
        return f"/stream/{created(self.ask('POST', '/stream', 201)[0])}"

    def wait_for_state(self, path: str, state: str) -> None:
        expected = f'"{state}"'.encode()
        wait_until(lambda: self.ask("GET", f"{path}/status", 200)[0], lambda body: expected in body, state)

    def close(self) -> None:
        self._connection.close()


def acknowledge(connection: socket.socket) -> None:
    """Acknowledges what was received at once. On a kept connection the kernel waits 40 ms, and the source's 200 waits for it."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def created(body: bytes) -> str:
    """The id in the response to `POST /stream`."""
    return body.partition(b'"stream":"')[2].partition(b'"')[0].decode()


@dataclass(frozen=True)
class Cluster:
    """Nodes of a cluster, and servers of the same program that belong to none: as many on the host of the first node, one on another."""

    nodes: list[Node]
    singles: list[Node]
    engine: "Engine"

    def single(self, place: Place) -> Node:
        return self.singles_at(place)[0]

    def singles_at(self, place: Place) -> list[Node]:
        return [node for node in self.singles if node.place == place]

    def hops_in_time_wait(self) -> int:
        """Closed connections between nodes whose ports cannot be used again yet, on all hosts."""
        ports = {f"{node.hop_port:04X}" for node in self.nodes}
        hosts = {Path(f"/proc/{node.pid}/ns/net").readlink(): node.pid for node in self.nodes}
        count = 0
        for pid in hosts.values():
            for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
                _, local, remote, state, *_ = line.split()
                ends = {local.rpartition(":")[2], remote.rpartition(":")[2]}
                count += state == TIME_WAIT and not ports.isdisjoint(ends)
        return count


@dataclass(frozen=True)
class Engine:
    """A running Redis or Valkey without persistence, on loopback of this process's host."""

    pid: int
    port: int

    def cpu(self) -> float:
        return cpu_ns(self.pid) / 1e9


def engine_program() -> str | None:
    return next(filter(None, map(shutil.which, ENGINES)), None)


@contextmanager
def engine_running(directory: Path, address: str = LOOPBACK) -> Iterator[Engine]:
    program = engine_program()
    check(program is not None, f"none of {', '.join(ENGINES)} is installed: sudo apt install redis-server")
    port = free_port()
    command = (str(program), "--bind", address, "--port", str(port), "--save", "", "--dir", str(directory))
    with child(*command, "--protected-mode", "no", stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: accepts(port), bool, "the engine listens")
        yield Engine(process.pid, port)


@contextmanager
def places(is_network: bool) -> Iterator[list[Place]]:
    """Yields the hosts of the first node and of all others. For a network, this process must be a host: `become_a_host`."""
    if not is_network:
        yield [Place(LOOPBACK)] * 2
        return
    space = Namespace()
    try:
        ip(f"link add near type veth peer name far netns {space.pid}")
        ip(f"addr add {NEAR}/24 dev near", "link set near up")
        with space.inside():
            ip("link set lo up", f"addr add {FAR}/24 dev far", "link set far up")
        yield [Place(NEAR), Place(FAR, space)]
        ip("link del near")  # the end of a namespace takes a while
    finally:
        space.end()


@contextmanager
def node_running(program: Command, name: str, directory: Path, place: Place, *cluster_flags: str) -> Iterator[Node]:
    """Starts a server, with its log in the directory."""
    with ExitStack() as stack:
        log = stack.enter_context((directory / f"{name}.log").open("wb"))
        with place.inside():
            flags = (*cluster_flags, "--cluster-listen", f"{place.address}:0") if cluster_flags else ()
            server = stack.enter_context(serving(program, *FLAGS, *flags, host=place.address, stderr=log))
        others = listening_ports(server.pid) - {server.port}
        yield Node(name, server.pid, server.port, place, others.pop() if others else None)


def check_undisturbed(directory: Path, servers: list[Node]) -> None:
    """None of these servers may have had a panic, or another node that it cannot reach."""
    logs = (directory / f"{server.name}.log" for server in servers)
    lines = (line for log in logs for line in log.read_text(errors="replace").splitlines())
    disturbed = [line for line in lines if any(map(line.__contains__, DISTURBED))]
    check(not disturbed, "\n".join(disturbed))


@contextmanager
def cluster_running(program: Command, directory: Path, count: int, hosts: list[Place]) -> Iterator[Cluster]:
    """Starts an engine, single servers and the nodes. Yields once each node knows all."""
    secret = directory / "secret"
    secret.write_text(os.urandom(32).hex())
    with ExitStack() as stack:
        first, others = hosts
        engine_at = "0.0.0.0" if others.space else LOOPBACK
        engine = stack.enter_context(engine_running(directory, engine_at))
        singles = [
            stack.enter_context(node_running(program, f"single-{at}", directory, place))
            for at, place in enumerate([first] * count + [others] * (others is not first))
        ]
        flags = ("--cluster", f"redis://{first.address}:{engine.port}", "--cluster-secret-file", str(secret))
        nodes = [
            stack.enter_context(node_running(program, name_of(at), directory, others if at else first, *flags))
            for at in range(count)
        ]
        for node in nodes:
            with closing(node.api()) as api:
                all_nodes = f"{count}/{count}"
                wait_until(lambda: api.ask("GET", "/stream", 200)[1], all_nodes.__eq__, f"{node.name} knows all")
        yield Cluster(nodes, singles, engine)
        # Then they end one after the other, which those that remain notice.
        check_undisturbed(directory, [*nodes, *singles])


def name_of(at: int) -> str:
    """A, B, C and so on. From the 27th node on by numbers."""
    return chr(ord("A") + at) if at < 26 else str(at + 1)
