"""A load of small transfers on kept connections, in a process of its own (Linux).

A lane has three connections: one creates the streams, one PUTs and one GETs. It does one transfer after another, each with a new
stream, and sends both requests as soon as it has the id. All lanes of a load run at the same time in one thread.
"""

import multiprocessing
import os
import re
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from harness import PATIENCE, Violation, check, head
from nodes import Cluster, Node, Place, acknowledge, created

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
READ = 65536
PATIENT = 120.0  # seconds for a run


@dataclass(frozen=True)
class Route:
    """The node that creates the streams, the nodes that its sides use, and the hosts of the clients."""

    owner: Node
    put: Node
    get: Node
    put_from: Place
    get_from: Place


@dataclass(frozen=True)
class Comparison:
    """A route through a cluster, and the one of the same clients through the single server where the owner is."""

    name: str
    single: Route
    spread: list[Route]  # through as many single servers as the hop uses nodes
    hop: Route

    def through(self, single: Node) -> Route:
        """The route of the clients through another single server."""
        return Route(single, single, single, self.hop.put_from, self.hop.get_from)


def compare(name: str, cluster: Cluster, owner: Node, put: Node, get: Node) -> Comparison:
    hop = Route(owner, put, get, put.place, get.place)
    alone = cluster.singles_at(owner.place)[: len({owner.name, put.name, get.name})]
    single, *others = [Route(server, server, server, put.place, get.place) for server in alone]
    return Comparison(name, single, [single, *others], hop)


@dataclass(frozen=True)
class Cost:
    """CPU seconds for each 1000 transfers of three runs: of the single server, of all that share the load, and of each node of the cluster."""

    single: float
    spread: float
    nodes: list[float]
    client: float  # share of a core that the busiest load has used

    def ratio(self) -> float:
        return sum(self.nodes) / self.single

    def ratio_to_spread(self) -> float:
        return sum(self.nodes) / self.spread


def costs(
    comparison: Comparison, nodes: Sequence[Node], rounds: int, transfers: int, lanes: int, size: int
) -> list[Cost]:
    """Runs the load on all routes in turns, after a round that is not counted."""
    found = []
    sharing = [route.owner for route in comparison.spread]
    with (
        Load([comparison.single], lanes, size) as single,
        Load(comparison.spread, lanes, size) as spread,
        Load([comparison.hop], lanes, size) as hop,
    ):

        def run(load: Load, counted: Sequence[Node]) -> tuple[list[float], float]:
            before = [node.cpu() for node in counted]
            report = load.run(transfers)
            used = [(node.cpu() - start) * 1000 / transfers for node, start in zip(counted, before, strict=True)]
            return used, report.client_cpu / report.seconds

        for number in range(rounds + 1):
            runs = [(single, sharing[:1]), (spread, sharing), (hop, nodes)]
            used = [run(*each) for each in (runs if number % 2 else runs[::-1])]
            (one, *_), (shared, *_), (over, *_) = used if number % 2 else used[::-1]
            if number:
                found.append(Cost(sum(one), sum(shared), over, max(client for _, client in used)))
    return found


@dataclass(frozen=True)
class Report:
    """What a run of the load has done."""

    transfers: int
    seconds: float
    client_cpu: float


class Load:
    """A process with `lanes` lanes on routes in turn. Its connections stay open between the runs. It ends with this object."""

    def __init__(self, routes: Sequence[Route], lanes: int, size: int) -> None:
        fork = multiprocessing.get_context("fork")
        self._pipe, far = fork.Pipe()
        self._process = fork.Process(target=play, args=(routes, lanes, size, far), daemon=True)

    def __enter__(self) -> "Load":
        self._process.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.join()

    def run(self, transfers: int) -> Report:
        """Does so many transfers."""
        self._pipe.send(transfers)
        check(self._pipe.poll(PATIENT), f"the transfers take longer than {PATIENT:.0f} s")
        report = self._pipe.recv()
        if isinstance(report, Report):
            return report
        raise Violation(f"a transfer failed: {report}")


def play(routes: Sequence[Route], lanes: int, size: int, pipe: Connection) -> None:
    """The work of such a process: a report for each number of transfers that it is sent."""
    try:
        running = Lanes(routes, lanes, size)
        while True:
            pipe.send(running.run(pipe.recv()))
    except EOFError:
        pass
    except Exception as failure:  # the parent raises it
        pipe.send(f"{type(failure).__name__}: {failure}")


class Lane:
    """One transfer after another."""

    def __init__(self, route: Route, body: bytes) -> None:
        self._creator = route.owner.connect(route.put_from)
        self._putting = route.put.connect(route.put_from)
        self._getting = route.get.connect(route.get_from)
        self._body = body
        self._missing = 0
        self.handlers = {
            self._creator: Incoming(self._creator, b"HTTP/1.1 201 ", self._created),
            self._putting: Incoming(self._putting, b"HTTP/1.1 200 ", self._put),
            self._getting: Incoming(self._getting, b"HTTP/1.1 200 ", self._got),
        }

    def begin(self) -> None:
        self._missing = 2
        self._creator.sendall(head("POST", "/stream", "Content-Length: 0"))

    def is_finished(self) -> bool:
        return self._missing == 0

    def _created(self, body: bytes) -> None:
        path = f"/stream/{created(body)}"
        self._getting.sendall(head("GET", path))
        self._putting.sendall(head("PUT", path, f"Content-Length: {len(self._body)}") + self._body)

    def _put(self, _: bytes) -> None:
        self._missing -= 1

    def _got(self, body: bytes) -> None:
        acknowledge(self._getting)
        check(body == self._body, f"{len(body)} of {len(self._body)} bytes arrived, or others")
        self._missing -= 1


class Incoming:
    """Responses on a connection, each with a Content-Length."""

    def __init__(self, connection: socket.socket, start: bytes, take: Any) -> None:
        self._connection = connection
        self._start = start
        self._take = take
        self._buffer = b""

    def read(self) -> None:
        more = self._connection.recv(READ)
        check(bool(more), f"a connection ended after {self._buffer[:200]!r}")
        buffer = self._buffer = self._buffer + more
        begin = buffer.find(b"\r\n\r\n") + 4
        if begin < 4:
            return
        check(buffer.startswith(self._start), f"the response is {buffer[:300]!r}")
        length = LENGTH.search(buffer, 0, begin)
        check(length is not None, f"no length: {buffer[:300]!r}")
        end = begin + int(length[1]) if length else 0
        if len(buffer) < end:
            return
        self._buffer = buffer[end:]
        self._take(buffer[begin:end])


class Lanes:
    """Some lanes in one thread."""

    def __init__(self, routes: Sequence[Route], lanes: int, size: int) -> None:
        self._lanes = [Lane(routes[at % len(routes)], os.urandom(size)) for at in range(lanes)]
        self._poll = select.epoll()
        self._of = {}
        for lane in self._lanes:
            for connection, incoming in lane.handlers.items():
                self._poll.register(connection, select.EPOLLIN)
                self._of[connection.fileno()] = lane, incoming

    def run(self, transfers: int) -> Report:
        began, cpu = time.monotonic(), time.process_time()
        running, begun = min(transfers, len(self._lanes)), 0
        for lane in self._lanes[:running]:
            lane.begin()
            begun += 1
        while running:
            events = self._poll.poll(PATIENCE)
            check(bool(events), f"nothing within {PATIENCE:.0f} s")
            for descriptor, _ in events:
                lane, incoming = self._of[descriptor]
                incoming.read()
                if lane.is_finished():
                    if begun < transfers:
                        lane.begin()
                        begun += 1
                    else:
                        running -= 1
        return Report(transfers, time.monotonic() - began, time.process_time() - cpu)
