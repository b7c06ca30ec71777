#!/usr/bin/env python3
"""What 10 000 subscribers of events cost: the time of a pairing, and memory (Linux; no Python packages).

    target/release/rendezvous is measured, or each --server in turns. In each round a new server runs pairings without subscribers and
    then with them, for each kind of subscribers: of all streams, of one other stream together, and each of another stream of its own.

A pairing is the time from the GET of a waiting sender's 5 bytes to their arrival. A subscriber's memory is what it adds to the server's
RssAnon, without its stream: idle, and after all were sent events. The test fails if that is over 4 KiB, or if the response to a
subscriber ends before the test does. Times are printed and fail nothing.

With the right to set realtime priority, the server runs at it on a CPU of its own, and the pairings on another. The subscribers read there
when nothing else runs, so that a pairing does not wait for their own work. Without the right nothing is separated, and the test says so.
It needs about 13000 descriptors for each process. With fewer it does less, and says so.
"""

import argparse
import json
import multiprocessing
import os
import resource
import select
import shlex
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from ctypes import c_int
from dataclasses import dataclass
from http.client import HTTPConnection
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

from harness import KIB, LOOPBACK, PATIENCE, ROOT, Command, Server, Tally, check, head, serving, wait_until

BODY = b"hello"
SENDER_AHEAD = 0.002  # seconds in which the sender takes its seat before the receiver connects
WARM_UP = 100  # pairings that are not counted
PROMISE = 4.0  # KiB a subscriber, without its stream
REALTIME = os.sched_param(5)
NORMAL = os.sched_param(0)
AT_ONCE = 200  # receivers that change the streams that are watched
SPARE_DESCRIPTORS = 500  # of either process, for everything except the subscribers
SERVER_SHARE = 0.8  # of the server's descriptors, for connections: the others are for refusals and pipes

ALL, OTHER, OWN = "all streams", "one other stream", "a stream of its own"


@dataclass(frozen=True)
class Cpus:
    """The CPU of the server, and the one that the pairings and the readers share."""

    server: int
    clients: int

    def for_server(self) -> None:
        run_at_realtime(self.server)


def run_at_realtime(cpu: int) -> None:
    """Moves the calling process to one CPU, at realtime priority."""
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_FIFO, REALTIME)


@contextmanager
def at_realtime(cpu: int) -> Iterator[None]:
    """Runs the block on one CPU, at realtime priority."""
    usual = os.sched_getaffinity(0)
    try:
        run_at_realtime(cpu)
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, NORMAL)
        os.sched_setaffinity(0, usual)


def separate_cpus() -> Cpus | None:
    """Returns CPUs for the server and for the clients, or says why there are none."""
    cpus = sorted(os.sched_getaffinity(0))
    missing = "a second CPU"
    if len(cpus) > 1:
        try:
            with at_realtime(cpus[1]):
                return Cpus(cpus[0], cpus[1])
        except PermissionError:
            missing = "the right to set realtime priority (CAP_SYS_NICE)"
    print(f"NOT SEPARATED: without {missing}, pairings also wait for the readers and for other programs", flush=True)
    return None


def allowed_subscribers(wanted: int) -> int:
    """Raises the limit of descriptors. Returns the number of subscribers that it allows, and says so if they are fewer."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    needed = int(wanted / SERVER_SHARE) + SPARE_DESCRIPTORS
    if most == resource.RLIM_INFINITY or most >= needed:
        return wanted
    allowed = max(1, int((most - SPARE_DESCRIPTORS) * SERVER_SHARE))
    print(f"SCALED DOWN to {allowed} subscribers: {wanted} need {needed} descriptors, and {most} are allowed", flush=True)
    return allowed


# --------------------------------------------------------------------------------------------------- subscribers


class Subscribers:
    """Subscribers of events in a process of their own, one for each path. It ends with this object, or with this process."""

    def __init__(self, server: Server, paths: list[str]) -> None:
        fork = multiprocessing.get_context("fork")
        self._port = server.port
        self._paths = paths
        self._parent = os.getpid()
        self._subscribed = fork.Event()
        self._notified = RawValue(c_int, 0)
        self._ended = RawValue(c_int, 0)
        self._process = fork.Process(target=self._run)

    def __enter__(self) -> "Subscribers":
        self._process.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.join()

    def wait_until_subscribed(self) -> None:
        while not self._subscribed.wait(0.1):
            check(self._process.is_alive(), "not all could subscribe")

    def wait_until_notified(self, count: int | None = None) -> None:
        """Waits until so many, or all, were sent a change since they subscribed. The server takes its time, so only a standstill fails."""
        wanted = len(self._paths) if count is None else count
        while (seen := self._notified.value) < wanted:
            wait_until(lambda: self._notified.value, seen.__ne__, f"{wanted} subscribers have events")

    def ended(self) -> int:
        """How many responses have ended."""
        return int(self._ended.value)

    @contextmanager
    def yielding(self, cpus: Cpus | None) -> Iterator[None]:
        """If there are separate CPUs, they run only when nothing else does until the end of the block."""
        if not cpus:
            yield
            return
        # Not before they are connected, which would take long on a busy machine.
        self._schedule(os.SCHED_IDLE, {cpus.clients})
        yield
        self._schedule(os.SCHED_OTHER, os.sched_getaffinity(0))

    def _schedule(self, policy: int, cpus: set[int]) -> None:
        pid = self._process.pid or 0
        check(pid > 0 and self._process.is_alive(), "the readers failed")
        os.sched_setscheduler(pid, policy, NORMAL)
        os.sched_setaffinity(pid, cpus)

    def _run(self) -> None:
        connections = [self._subscribe(path) for path in self._paths]
        for connection in connections:
            read_beginning(connection)
        self._subscribed.set()
        self._read({connection.fileno(): connection for connection in connections})

    def _subscribe(self, path: str) -> socket.socket:
        connection = socket.create_connection((LOOPBACK, self._port), timeout=PATIENCE)
        connection.sendall(head("GET", path))
        return connection

    def _read(self, connections: dict[int, socket.socket]) -> None:
        notified = set()
        poll = select.epoll()
        for descriptor, connection in connections.items():
            connection.setblocking(False)
            poll.register(descriptor, select.EPOLLIN)
        while os.getppid() == self._parent:
            for descriptor, _ in poll.poll(1):
                try:
                    piece = connections[descriptor].recv(64 * KIB)
                except ConnectionError:
                    piece = b""
                if not piece:
                    poll.unregister(descriptor)
                    self._ended.value += 1
                elif b"data: " in piece:  # and not only a comment
                    notified.add(descriptor)
                    self._notified.value = len(notified)


def read_beginning(connection: socket.socket) -> None:
    """Reads the head of the response and what it begins with: a comment, or the status of the stream."""
    expected = b"HTTP/1.1 200 "
    received = b""
    while b"\n\n" not in received:
        piece = connection.recv(64 * KIB)
        received += piece
        check(bool(piece) and expected.startswith(received[: len(expected)]), f"no events but {received!r}")


# ------------------------------------------------------------------------------------------------------ pairings


def pairings(server: Server, count: int, cpus: Cpus | None) -> list[float]:
    """Returns the milliseconds that each pairing took."""
    with ExitStack() as stack:
        source = stack.enter_context(closing(HTTPConnection(LOOPBACK, server.port, timeout=PATIENCE)))
        destination = stack.enter_context(socket.create_connection((LOOPBACK, server.port), timeout=PATIENCE))
        if cpus:
            stack.enter_context(at_realtime(cpus.clients))
        return [pairing(source, destination) for _ in range(WARM_UP + count)][WARM_UP:]


def pairing(source: HTTPConnection, destination: socket.socket) -> float:
    source.request("POST", "/stream")
    path = f"/stream/{json.loads(read_answer(source, 201))['stream']}"
    source.request("PUT", path, BODY)
    time.sleep(SENDER_AHEAD)
    request = head("GET", path)
    begin = time.perf_counter()
    destination.sendall(request)
    received = b""
    while not received.endswith(BODY):
        piece = destination.recv(64 * KIB)
        received += piece
        check(bool(piece), f"the download ended after {received!r}")
    end = time.perf_counter()
    # The sender's 200 waits for the acknowledgement, which Linux may delay by 40 ms.
    destination.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    read_answer(source, 200)
    return (end - begin) * 1000


def read_answer(connection: HTTPConnection, expected: int) -> bytes:
    answer = connection.getresponse()
    body = answer.read()
    check(answer.status == expected, f"{answer.status} {body!r}, not {expected}")
    return body


def visit(server: Server, streams: list[str], subscribers: Subscribers) -> None:
    """Changes each stream: a receiver connects, and leaves when the change was sent to a subscriber."""
    for start in range(0, len(streams), AT_ONCE):
        batch = streams[start : start + AT_ONCE]
        with ExitStack() as stack:
            for stream in batch:
                receiver = stack.enter_context(socket.create_connection((LOOPBACK, server.port), timeout=PATIENCE))
                receiver.sendall(head("GET", f"/stream/{stream}"))
            subscribers.wait_until_notified(start + len(batch))


# ------------------------------------------------------------------------------------------------------- figures


@dataclass(frozen=True)
class Figures:
    """What one round measured of one kind of subscribers. Memory is in KiB a subscriber."""

    without: list[float]
    among: list[float]
    streams: float
    idle: float
    notified: float


def measure(program: Command, kind: str, count: int, options: argparse.Namespace, cpus: Cpus | None) -> Figures:
    # preexec_fn is safe because this process has one thread. The server counts its CPUs when it starts, so it must be moved before.
    prepare = cpus.for_server if cpus else None
    with serving(program, "--ttl", "30m", stderr=subprocess.DEVNULL, preexec_fn=prepare) as server:

        def memory() -> float:
            return server.memory("RssAnon") / KIB / count

        without = pairings(server, options.pairings, cpus)
        empty = memory()
        streams = [server.new_stream() for _ in range({ALL: 0, OTHER: 1, OWN: count}[kind])]
        made = memory()
        paths = [f"/stream/{stream}/events" for stream in streams] or ["/events"]
        with Subscribers(server, paths * (count // len(paths))) as subscribers:
            subscribers.wait_until_subscribed()
            idle = memory()
            with subscribers.yielding(cpus):
                among = pairings(server, options.pairings, cpus)
            visit(server, streams, subscribers)
            subscribers.wait_until_notified()
            notified = memory()
            check(subscribers.ended() == 0, f"the responses to {subscribers.ended()} subscribers have ended")
    return Figures(without, among, made - empty, idle - made, notified - made)


def at(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def report(name: str, rounds: list[Figures]) -> None:
    print(name)
    for title, percent in ("median", 50), ("p90", 90), ("p99", 99):
        without = [at(figures.without, percent) for figures in rounds]
        among = [at(figures.among, percent) for figures in rounds]
        ratio = statistics.median(b / a for a, b in zip(without, among, strict=True))
        print(
            f"  {title:6} {statistics.median(without):6.3f} ms without, {statistics.median(among):6.3f} ms with: "
            f"ratio {ratio:.2f}, of the best rounds {min(among) / min(without):.2f}"
        )
    idle, notified, streams = (
        statistics.median(getattr(figures, part) for figures in rounds) for part in ("idle", "notified", "streams")
    )
    print(f"  memory {idle:.2f} KiB idle, {notified:.2f} KiB after events, without {streams:.2f} KiB for its stream")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    server = shlex.quote(str(ROOT / "target/release/rendezvous"))
    parser.add_argument(
        "--server", action="append", metavar="PROGRAM", help="a program to measure; flags may follow it; may be repeated"
    )
    parser.add_argument("--subscribers", type=int, default=10_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--pairings", type=int, default=1500, metavar="N", help="of a round, without and with subscribers")
    options = parser.parse_args()
    servers = options.server or [server]
    for server in servers:
        if not Path(shlex.split(server)[0]).is_file():
            parser.error(f"there is no {server}: `cargo build --release` builds it, and --server names another")
    cpus = separate_cpus()
    count = allowed_subscribers(options.subscribers)
    tally = Tally()
    seen: dict[str, list[Figures]] = defaultdict(list)
    for number in range(1, options.rounds + 1):
        for kind in (ALL, OTHER, OWN):
            for server in servers:
                name = f"{server}, {count} subscribers of {kind}"
                with tally.trial(f"{name}, round {number}"):
                    figures = measure(shlex.split(server), kind, count, options, cpus)
                    seen[name].append(figures)
                    most = max(figures.idle, figures.notified)
                    check(most <= PROMISE, f"{most:.2f} KiB a subscriber, and {PROMISE:.0f} are promised")
    for name, rounds in seen.items():
        report(name, rounds)
    for violation in tally.violations:
        print(f"violation: {violation}")
    print(f"{tally.passed} of {tally.trials} passed")
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
