#!/usr/bin/env python3
"""What a hop costs: a cluster of three nodes beside a single server, in alternated pairs (Linux, Redis or Valkey, HAProxy).

    bulk        CPU of each node for each GiB over one hop: at most 1.15 of a single server's with a relay in the other node's place
    chunked     the same for bodies in chunks of 64 KiB
    first-byte  how much later the destination has the first byte of a pair of which one side waits: at most 1 ms
    small       transfers of 1 KiB per CPU second of all nodes over one hop: at least half of the single server's
    kept        the same by clients that keep their connections, without a bound
    crowd       the same with 300 at once over two hops, without a bound; how many connections between nodes are closed
    straight    CPU of all nodes for transfers whose clients use one of them alone: at most 1.15 of the single server's

Each figure is the median of `--rounds` pairs: the single server, and the cluster right before or after it. For first-byte it is the
median of `--pairs` pairs. A ratio survives other load on the machine, a figure alone does not. CPU is that of the processes, by the
kernel's clock of each, in nanoseconds. What loopback does for a receiving process counts for the sending one, in both alike.
A transfer of `small` is a POST, a PUT and a GET, each with a connection of its own, like those of curl. The other tests of small ones
keep the connections of clients. All run also through as many single servers as nodes, which share the load: on two cores each of
several busy processes uses more CPU than one alone, while nodes of a cluster have machines of their own.

The relay of bulk is HAProxy in TCP mode, which moves bytes by splice(2) as well, so that the single server has the neighbours of the
node. Loopback gives a receiver the very pages of its sender, and bytes of a process that splices cost any server up to a third more
there than those of a client that writes. The ratio to the single server alone is printed too, without a bound.

A bound that does not hold is printed, and fails the test with `--strict`. At most 10 connections between nodes for each 1000
transfers may stay in TIME_WAIT, because a pair of hosts has 28 232 ports and a port waits for a minute. With `--network` the
second and third node are in a network namespace, joined to that of the first by a veth pair. The clients of a node are on its
host, and stay there when they use a single server. It is on the host of the owner, except for bulk.
"""

import argparse
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median

from harness import (
    GIB,
    KIB,
    LAST_CHUNK,
    MIB,
    Tally,
    Test,
    check,
    child,
    chunk,
    framing,
    free_port,
    head,
    listening_ports,
    new_parser,
    run_all,
    wait_until,
)
from lanes import Comparison, Cost, Route, Traffic, compare, costs
from network import become_a_host
from nodes import Api, Cluster, Node, Place, Task, acknowledge, cluster_running, engine_program, places

BULK_BOUND = 1.15  # CPU of a node, by that of the single server
FIRST_BYTE_BOUND = 1.0  # milliseconds more
SMALL_BOUND = 0.5  # transfers per CPU second, by those of the single server
STRAIGHT_BOUND = 1.15
REUSE_BOUND = 10  # connections between nodes in TIME_WAIT, for each 1000 transfers
CROWD_ROUNDS = 3

HAPROXY = """global
    tune.pipesize 1048576
defaults
    mode tcp
    option splice-request
    option splice-response
    timeout connect 5s
    timeout client 120s
    timeout server 120s
listen relay
    bind {listen}
    server single {server}
"""

BLOCK = MIB
CHUNK = 64 * KIB
BULK_PATIENCE = 120.0
BODY = b"hello"


def comparisons(cluster: Cluster) -> list[Comparison]:
    """The first node owns the streams. One side, or both, use other nodes."""
    owner, edge, other = cluster.nodes
    return [
        compare("destination elsewhere", cluster, owner, put=owner, get=edge),
        compare("source elsewhere", cluster, owner, put=edge, get=owner),
        compare("both elsewhere", cluster, owner, put=edge, get=other),
    ]


@contextmanager
def running(options: argparse.Namespace) -> Iterator[Cluster]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hosts = stack.enter_context(places(options.network))
        yield stack.enter_context(cluster_running(options.server, directory, 3, hosts))


@dataclass
class Ratios:
    """Ratios of pairs, and what they are medians of."""

    name: str
    seen: list[float] = field(default_factory=list)

    def median(self) -> float:
        return median(self.seen)

    def __str__(self) -> str:
        return f"{self.name} {self.median():.2f} ({min(self.seen):.2f}–{max(self.seen):.2f})"


def require(options: argparse.Namespace, tally: Tally, what: str, holds: bool) -> None:
    """A bound: without `--strict` it is only printed that it does not hold."""
    if options.strict:
        with tally.trial(what):
            check(holds, "the bound does not hold")
    elif not holds:
        tally.notes.append(f"OVER THE BOUND: {what}")


def say(line: str) -> None:
    print(f"  {line} [load {os.getloadavg()[0]:.1f}]", flush=True)


def in_turns(number: int, *runs: Callable[[], None]) -> None:
    """Runs them in this order, or in the opposite one in every other round."""
    for run in runs if number % 2 else runs[::-1]:
        run()


# ------------------------------------------------------------------------------------------------- bulk


def test_bulk(options: argparse.Namespace, tally: Tally, chunked: bool = False) -> None:
    check(options.size % BLOCK == 0, f"--size must be a multiple of {BLOCK}")
    with running(options) as cluster:
        for comparison in comparisons(cluster)[:2]:
            with tally.trial(comparison.name):
                compare_bulk(options, tally, cluster, comparison, chunked)


def compare_bulk(
    options: argparse.Namespace, tally: Tally, cluster: Cluster, comparison: Comparison, chunked: bool
) -> None:
    """Compares each node with a single server on its host, which has HAProxy in place of the other node, or nothing."""
    hop = comparison.hop
    owner, edge = hop.owner, hop.put if hop.put is not hop.owner else hop.get
    with ExitStack() as stack:
        sides = {
            name: Compared(node, single, stack.enter_context(relaying(single, other.place)))
            for name, node, other in (("owner", owner, edge), ("edge", edge, owner))
            for single in [cluster.single(node.place)]
        }

        def alone() -> None:
            for side in sides.values():
                side.alone.extend(bulk(options, comparison.through(side.single), [side.single], chunked))

        def beside_relay() -> None:
            for side in sides.values():
                side.beside.extend(bulk(options, side.beside_relay(hop), [side.single], chunked))

        def over_hop() -> None:
            for side, used in zip(sides.values(), bulk(options, hop, [owner, edge], chunked), strict=True):
                side.over.append(used)

        for number in range(options.rounds + 1):
            in_turns(number, alone, beside_relay, over_hop)
    for name, side in sides.items():
        ratios, to_alone = side.ratios("with a relay", side.beside), side.ratios("alone", side.alone)
        costs = " → ".join(f"{median(used[1:]):.3f}" for used in (side.alone, side.beside, side.over))
        say(f"{comparison.name}, {name}: of a single server's CPU {ratios}, {to_alone}; alone → with a relay → node {costs} s/GiB")
        what = f"{'chunked' if chunked else 'bulk'}, {comparison.name}: {name} {ratios.median():.2f} of the single server's CPU"
        require(options, tally, f"{what}, at most {BULK_BOUND}", ratios.median() <= BULK_BOUND)


@dataclass(frozen=True)
class Compared:
    """A node, the single server on its host, and a relay to that in place of the other node. CPU seconds per GiB, the first to warm up."""

    node: Node
    single: Node
    relay: Node
    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    over: list[float] = field(default_factory=list)

    def beside_relay(self, hop: Route) -> Route:
        """The route of the clients of a hop, through the single server and the relay."""
        put, get = (self.single if side is self.node else self.relay for side in (hop.put, hop.get))
        return Route(self.single, put, get, hop.put_from, hop.get_from)

    def ratios(self, name: str, to: list[float]) -> Ratios:
        return Ratios(name, [used / other for used, other in zip(self.over[1:], to[1:], strict=True)])


@contextmanager
def relaying(server: Node, place: Place) -> Iterator[Node]:
    """HAProxy on a host, which passes connections on to a server."""
    check(shutil.which("haproxy") is not None, "HAProxy is not installed: sudo apt install haproxy")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        relay = Node("relay", 0, free_port(), place)
        (folder / "haproxy.cfg").write_text(
            HAPROXY.format(listen=f"{place.address}:{relay.port}", server=f"{server.place.address}:{server.port}")
        )
        with place.inside():
            process = stack.enter_context(child("haproxy", "-db", "-f", str(folder / "haproxy.cfg")))
        wait_until(lambda: listening_ports(process.pid), {relay.port}.issubset, "HAProxy listens")
        yield replace(relay, pid=process.pid)


def bulk(options: argparse.Namespace, route: Route, counted: Sequence[Node], chunked: bool) -> list[float]:
    """Sends streams at the same time, each by processes of its own. Returns the CPU seconds per GiB of each server."""
    with ExitStack() as stack:
        api = stack.enter_context(closing(route.owner.api()))
        paths = [api.new_path() for _ in range(options.streams)]
        received = [stack.enter_context(Task(partial(fetch, route, path, chunked))) for path in paths]
        for path in paths:
            api.wait_for_state(path, "DST_CONNECTED")
        before = [node.cpu() for node in counted]
        sent = [stack.enter_context(Task(partial(send, route, path, options.size, chunked))) for path in paths]
        for task in (*sent, *received):
            size = task.result(BULK_PATIENCE)
            check(size >= options.size if chunked else size == options.size, f"{size} of {options.size} bytes")
        gib = options.streams * options.size / GIB
        return [(node.cpu() - start) / gib for node, start in zip(counted, before, strict=True)]


def send(route: Route, path: str, size: int, chunked: bool) -> int:
    with closing(route.put.connect(route.put_from)) as connection:
        connection.settimeout(BULK_PATIENCE)
        connection.sendall(head("PUT", path, framing(None if chunked else size)))
        data = os.urandom(BLOCK)
        block = memoryview(b"".join(chunk(data[at : at + CHUNK]) for at in range(0, BLOCK, CHUNK)) if chunked else data)
        for _ in range(size // BLOCK):
            connection.sendall(block)
        connection.sendall(LAST_CHUNK if chunked else b"")
        answer = connection.recv(65536)
        check(answer.startswith(b"HTTP/1.1 200 "), f"the response to the PUT is {answer[:200]!r}")
    return size


def fetch(route: Route, path: str, chunked: bool) -> int:
    """Returns the bytes of the body. Those of a chunked one are counted with their framing, whatever the chunks are."""
    with closing(route.get.connect(route.get_from)) as connection:
        connection.settimeout(BULK_PATIENCE)
        connection.sendall(head("GET", path, "Connection: close"))
        begun = connection.recv(65536)
        buffer, received = bytearray(BLOCK), -(begun.find(b"\r\n\r\n") + 4) + len(begun)
        check(begun.startswith(b"HTTP/1.1 200 "), f"the response to the GET is {begun[:200]!r}")
        check((b"chunked" in begun.lower()) == chunked, f"another framing: {begun[:500]!r}")
        last = begun
        while count := connection.recv_into(buffer):
            received += count
            last = (last + bytes(buffer[max(0, count - len(LAST_CHUNK)) : count]))[-len(LAST_CHUNK) :]
        check(not chunked or last.endswith(LAST_CHUNK), f"the download ends with {last!r}")
    return received


# ------------------------------------------------------------------------------------------- first byte


@dataclass(frozen=True)
class Waiting:
    """Kept connections of both sides of a route. Pairs use them one after another."""

    api: Api
    putting: socket.socket
    getting: socket.socket

    def pair(self, is_source_waiting: bool) -> tuple[float, float]:
        """Milliseconds from the second request to the first byte at the destination, and to the 200 of the source."""
        path = self.api.new_path()
        put, get = head("PUT", path, f"Content-Length: {len(BODY)}") + BODY, head("GET", path)
        if is_source_waiting:
            self.putting.sendall(put)
            self.api.wait_for_state(path, "SRC_CONNECTED")
            began = time.perf_counter()
            self.getting.sendall(get)
        else:
            self.getting.sendall(get)
            self.api.wait_for_state(path, "DST_CONNECTED")
            began = time.perf_counter()
            self.putting.sendall(put)
        received = b""
        while BODY not in received:
            more = self.getting.recv(65536)
            check(bool(more), f"the download ended after {received!r}")
            received += more
        first = time.perf_counter()
        acknowledge(self.getting)
        answer = self.putting.recv(65536)
        settled = time.perf_counter()
        check(answer.startswith(b"HTTP/1.1 200 "), f"the response to the PUT is {answer[:200]!r}")
        return (first - began) * 1e3, (settled - began) * 1e3


@contextmanager
def waiting(route: Route) -> Iterator[Waiting]:
    with (
        closing(route.owner.api()) as api,
        closing(route.put.connect(route.put_from)) as putting,
        closing(route.get.connect(route.get_from)) as getting,
    ):
        yield Waiting(api, putting, getting)


def test_first_byte(options: argparse.Namespace, tally: Tally) -> None:
    with running(options) as cluster:
        for comparison in comparisons(cluster):
            for is_source_waiting in (False, True):
                side = "source" if is_source_waiting else "destination"
                with tally.trial(f"{comparison.name}, {side} waits"):
                    compare_first_byte(options, tally, comparison, is_source_waiting)


def compare_first_byte(
    options: argparse.Namespace, tally: Tally, comparison: Comparison, is_source_waiting: bool
) -> None:
    alone, hop = [], []
    with waiting(comparison.single) as through_single, waiting(comparison.hop) as through_hop:
        for number in range(options.warm_up + options.pairs):
            in_turns(
                number,
                lambda: alone.append(through_single.pair(is_source_waiting)),
                lambda: hop.append(through_hop.pair(is_source_waiting)),
            )
    pairs = list(zip(alone, hop, strict=True))[options.warm_up :]
    first = [over[0] - one[0] for one, over in pairs]
    settled = median(over[1] - one[1] for one, over in pairs)
    later = median(first)
    what = f"first byte, {comparison.name}, {'source' if is_source_waiting else 'destination'} waits"
    single, over = (median(one[0] for one in each) for each in zip(*pairs, strict=True))
    say(
        f"{what}: {single:.3f} → {over:.3f} ms, {later:+.3f} ms later, p90 {sorted(first)[len(first) * 9 // 10]:+.3f} ms;"
        f" the 200 {settled:+.3f} ms"
    )
    require(options, tally, f"{what}: {later:.2f} ms later, at most {FIRST_BYTE_BOUND} ms", later <= FIRST_BYTE_BOUND)


# --------------------------------------------------------------------------------------- small transfers


def test_small(options: argparse.Namespace, tally: Tally, is_kept: bool = False) -> None:
    with running(options) as cluster:
        before = cluster.hops_in_time_wait()
        done = 0
        for comparison in comparisons(cluster):
            with tally.trial(comparison.name):
                found = compare_small(options, cluster, comparison, is_kept)
                done += (options.rounds + 1) * options.transfers
                share = 1 / median(cost.ratio() for cost in found)
                # With two hops there is no bound: that is for clients that could use the URL of the owner.
                if not is_kept and comparison.name != "both elsewhere":
                    what = f"small, {comparison.name}: {share:.2f} of the transfers per CPU second"
                    require(options, tally, f"{what}, at least {SMALL_BOUND}", share >= SMALL_BOUND)
        require_reuse(options, tally, cluster.hops_in_time_wait() - before, done)


def require_reuse(options: argparse.Namespace, tally: Tally, closed: int, transfers: int, allowed: int = 0) -> None:
    """`allowed` connections may have been closed however many transfers there were."""
    say(f"{closed} connections between nodes are in TIME_WAIT after {transfers} transfers")
    what = f"{closed} connections in TIME_WAIT after {transfers} transfers, at most {REUSE_BOUND} for each 1000"
    require(options, tally, what, closed <= allowed + transfers * REUSE_BOUND / 1000)


def test_crowd(options: argparse.Namespace, tally: Tally) -> None:
    with running(options) as cluster:
        before = cluster.hops_in_time_wait()
        comparison = comparisons(cluster)[-1]
        with tally.trial(comparison.name):
            compare_small(options, cluster, comparison, rounds=CROWD_ROUNDS, lanes=options.crowd)
        runs = CROWD_ROUNDS + 1
        # At the end of each run all connections become unused at once: the nodes may close them.
        closed = cluster.hops_in_time_wait() - before
        require_reuse(options, tally, closed, runs * options.transfers, allowed=2 * runs * options.crowd)


def compare_small(
    options: argparse.Namespace,
    cluster: Cluster,
    comparison: Comparison,
    is_kept: bool = True,
    rounds: int | None = None,
    lanes: int | None = None,
) -> list[Cost]:
    traffic = Traffic(options.transfers, lanes or options.lanes, options.body, is_kept)
    found = costs(comparison, cluster.nodes, rounds or options.rounds, traffic)
    nodes = zip(cluster.nodes, *(cost.nodes for cost in found), strict=True)
    by_node = ", ".join(f"{node.name} {median(used):.3f}" for node, *used in nodes)
    ratios = Ratios("CPU", [cost.ratio() for cost in found])
    to_spread = Ratios("CPU", [cost.ratio_to_spread() for cost in found])
    say(
        f"{comparison.name}: CPU s/1000 one server {median(cost.single for cost in found):.3f}, {len(comparison.spread)} that share it"
        f" {median(cost.spread for cost in found):.3f}, {by_node}; all by the one server's: {ratios}, so {1 / ratios.median():.2f} of its"
        f" transfers; by theirs: {to_spread}, so {1 / to_spread.median():.2f}; a client uses {median(cost.client for cost in found):.2f} cores"
    )
    return found


# ---------------------------------------------------------------------------------------------- straight


def test_straight(options: argparse.Namespace, tally: Tally) -> None:
    """Each node of three in its turn. What the others use meanwhile counts as its own."""
    with running(options) as cluster:
        for node in cluster.nodes:
            with tally.trial(node.name):
                straight = compare(f"all at node {node.name}", cluster, node, put=node, get=node)
                ratio = median(cost.ratio() for cost in compare_small(options, cluster, straight))
                what = f"straight, {straight.name}: {ratio:.2f} of the single server's CPU"
                require(options, tally, f"{what}, at most {STRAIGHT_BOUND}", ratio <= STRAIGHT_BOUND)


# -------------------------------------------------------------------------------------------------- main

TESTS: dict[str, Test] = {
    "bulk": test_bulk,
    "chunked": partial(test_bulk, chunked=True),
    "first-byte": test_first_byte,
    "small": test_small,
    "kept": partial(test_small, is_kept=True),
    "crowd": test_crowd,
    "straight": test_straight,
}


def main() -> int:
    parser = new_parser(__doc__, TESTS)
    parser.add_argument("--strict", action="store_true", help="fail where a bound does not hold")
    parser.add_argument("--network", action="store_true", help="nodes in two namespaces, joined by veth")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="pairs of runs for each figure")
    parser.add_argument("--streams", type=int, default=2, metavar="N", help="bulk, chunked: streams at the same time")
    parser.add_argument(
        "--size", type=int, default=512 * MIB, metavar="BYTES", help="bulk, chunked: size of each stream"
    )
    parser.add_argument("--pairs", type=int, default=200, metavar="N", help="first-byte: pairs for each figure")
    parser.add_argument("--warm-up", type=int, default=20, metavar="N", help="first-byte: pairs that are not counted")
    parser.add_argument("--transfers", type=int, default=3000, metavar="N", help="small, kept, crowd, straight: of each run")
    parser.add_argument("--lanes", type=int, default=32, metavar="N", help="small, kept, straight: transfers at once")
    parser.add_argument("--crowd", type=int, default=300, metavar="N", help="crowd: transfers at once")
    parser.add_argument("--body", type=int, default=KIB, metavar="BYTES", help="small, kept, crowd, straight: size of each body")
    if parser.parse_args().network:
        become_a_host()
    if not engine_program():
        parser.error("neither valkey-server nor redis-server is installed: sudo apt install redis-server")
    return run_all(parser, TESTS, *(("ip", "unshare") if "--network" in sys.argv else ()))


if __name__ == "__main__":
    sys.exit(main())
