"""A load of small transfers, in a process of its own (Linux).

A lane does one transfer after another, each with a new stream: it creates the stream, and sends the PUT and the GET as soon as it has
the id. Each request has a connection of its own, like those of curl, or three connections are kept for all transfers of the lane. All
lanes of a load run at the same time in one thread.
"""

import multiprocessing
import os
import re
import select
import socket
import time
from collections.abc import Callable, Sequence
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


@dataclass(frozen=True)
class Traffic:
    """The transfers of a run."""

    transfers: int
    lanes: int  # transfers at once
    body: int  # bytes
    is_kept: bool  # the connections of a lane, instead of one for each request


def costs(comparison: Comparison, nodes: Sequence[Node], rounds: int, traffic: Traffic) -> list[Cost]:
    """Runs the load on all routes in turns, after a round that is not counted."""
    found = []
    sharing = [route.owner for route in comparison.spread]
    with (
        Load([comparison.single], traffic) as single,
        Load(comparison.spread, traffic) as spread,
        Load([comparison.hop], traffic) as hop,
    ):

        def run(load: Load, counted: Sequence[Node]) -> tuple[list[float], float]:
            before = [node.cpu() for node in counted]
            report = load.run()
            each = 1000 / traffic.transfers
            used = [(node.cpu() - start) * each for node, start in zip(counted, before, strict=True)]
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
    """What a run of the load has used."""

    seconds: float
    client_cpu: float


class Load:
    """A process with lanes on routes in turn. Connections that are kept stay open between the runs. It ends with this object."""

    def __init__(self, routes: Sequence[Route], traffic: Traffic) -> None:
        fork = multiprocessing.get_context("fork")
        self._pipe, far = fork.Pipe()
        self._process = fork.Process(target=play, args=(routes, traffic, far), daemon=True)

    def __enter__(self) -> "Load":
        self._process.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.join()

    def run(self) -> Report:
        """Does all transfers once."""
        self._pipe.send(None)
        check(self._pipe.poll(PATIENT), f"the transfers take longer than {PATIENT:.0f} s")
        report = self._pipe.recv()
        if isinstance(report, Report):
            return report
        raise Violation(f"a transfer failed: {report}")


def play(routes: Sequence[Route], traffic: Traffic, pipe: Connection) -> None:
    """The work of such a process: a report for each run that it is asked for."""
    try:
        running = Lanes(routes, traffic)
        while True:
            pipe.recv()
            pipe.send(running.run())
    except EOFError:
        pass
    except Exception as failure:  # the parent raises it
        pipe.send(f"{type(failure).__name__}: {failure}")


class Requests:
    """Requests to one node, one after another, and their responses, each with a Content-Length."""

    def __init__(
        self,
        lane: "Lane",
        connect: Callable[[], socket.socket],
        start: bytes,
        take: Callable[[bytes], None],
    ) -> None:
        self.lane = lane
        self._connect = connect
        self._start = start
        self._take = take
        self._connection: socket.socket | None = None
        self._buffer = b""

    def send(self, request: bytes) -> None:
        if self._connection is None:
            self._connection = self._connect()
            self.lane.watch.add(self._connection, self)
        self._connection.sendall(request)

    def acknowledge(self) -> None:
        """Acknowledges at once what was received. A connection that is closed does it by that."""
        if self._connection is not None:
            acknowledge(self._connection)

    def read(self) -> None:
        assert self._connection
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
        if not self.lane.is_kept:
            self.lane.watch.remove(self._connection)
            self._connection.close()
            self._connection = None
        self._take(buffer[begin:end])


class Watch:
    """The connections of all lanes."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._of: dict[int, Requests] = {}

    def add(self, connection: socket.socket, requests: Requests) -> None:
        self._poll.register(connection, select.EPOLLIN)
        self._of[connection.fileno()] = requests

    def remove(self, connection: socket.socket) -> None:
        self._poll.unregister(connection)
        del self._of[connection.fileno()]

    def readable(self) -> list[Requests]:
        """Waits for some."""
        events = self._poll.poll(PATIENCE)
        check(bool(events), f"nothing within {PATIENCE:.0f} s")
        return [self._of[descriptor] for descriptor, _ in events]


class Lane:
    """One transfer after another."""

    def __init__(self, route: Route, body: bytes, is_kept: bool, watch: Watch) -> None:
        self.watch = watch
        self.is_kept = is_kept
        self._posts = self._requests(route.owner, route.put_from, b"HTTP/1.1 201 ", self._created)
        self._puts = self._requests(route.put, route.put_from, b"HTTP/1.1 200 ", self._put)
        self._gets = self._requests(route.get, route.get_from, b"HTTP/1.1 200 ", self._got)
        self._body = body
        self._missing = 0

    def _requests(self, node: Node, client: Place, start: bytes, take: Callable[[bytes], None]) -> Requests:
        return Requests(self, lambda: node.connect(client), start, take)

    def begin(self) -> None:
        self._missing = 2
        self._posts.send(head("POST", "/stream", "Content-Length: 0"))

    def is_finished(self) -> bool:
        return self._missing == 0

    def _created(self, body: bytes) -> None:
        path = f"/stream/{created(body)}"
        self._gets.send(head("GET", path))
        self._puts.send(head("PUT", path, f"Content-Length: {len(self._body)}") + self._body)

    def _put(self, _: bytes) -> None:
        self._missing -= 1

    def _got(self, body: bytes) -> None:
        self._gets.acknowledge()
        check(body == self._body, f"{len(body)} of {len(self._body)} bytes arrived, or others")
        self._missing -= 1


class Lanes:
    """Some lanes in one thread."""

    def __init__(self, routes: Sequence[Route], traffic: Traffic) -> None:
        self._transfers = traffic.transfers
        self._watch = Watch()
        self._lanes = [
            Lane(routes[at % len(routes)], os.urandom(traffic.body), traffic.is_kept, self._watch)
            for at in range(traffic.lanes)
        ]

    def run(self) -> Report:
        began, cpu = time.monotonic(), time.process_time()
        running = begun = min(self._transfers, len(self._lanes))
        for lane in self._lanes[:running]:
            lane.begin()
        while running:
            for requests in self._watch.readable():
                requests.read()
                lane = requests.lane
                if lane.is_finished():
                    if begun < self._transfers:
                        lane.begin()
                        begun += 1
                    else:
                        running -= 1
        return Report(time.monotonic() - began, time.process_time() - cpu)
