#!/usr/bin/env python3
"""A cluster of up to 100 nodes on paper, from unit costs that are measured here (Linux, Redis or Valkey; no Python packages).

    engine  CPU and bytes of a poll of the directory, by a real engine with as many members as there would be nodes
    polls   CPU of a real node for its polls, beside records of another secret: it verifies all, and links to none
    links   CPU and bytes of a node for its links with one other node, from what real nodes use that do nothing
    hops    CPU of a transfer of 1 KiB with no, one and two hops, by the unit of one that a single server relays

Then a table for 3, 10, 30 and 100 nodes. Its CPU is in cores of this machine, and only as good as the load on it allows. What is on
paper alone: that a hundred nodes do what ten do, each for itself. Nodes keep the intervals of the sources, which this reads.

It needs a network namespace of its own, in which all bytes on loopback are the nodes': root, or the right to make user namespaces.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from directory import Members, Periods, PollCost, Redis, idle_connections, periods, poll_cost
from harness import KIB, LOOPBACK, Tally, Test, check, new_parser, run_all
from lanes import Traffic, compare, costs
from network import become_a_host
from nodes import Cluster, Node, Place, cluster_running, engine_running

SIZES = (3, 10, 30, 100)
HERE = [Place(LOOPBACK), Place(LOOPBACK)]
SETTLE = 1.5  # seconds until connections are made


@dataclass(frozen=True)
class HopCosts:
    """CPU of a transfer at all nodes, by that at a single server."""

    straight: float
    destination: float  # one hop
    source: float  # one hop
    both: float  # two hops

    def anywhere(self, nodes: int) -> float:
        """The mean if a balancer sends each request of a transfer to any node."""
        here = 1 / nodes
        away = 1 - here
        return here * here * self.straight + here * away * (self.destination + self.source) + away * away * self.both


@dataclass(frozen=True)
class Costs:
    periods: Periods
    polls: dict[int, PollCost]
    node_polls: dict[int, float]  # CPU seconds per second of a node beside so many members
    links: float  # CPU seconds per second of a node for each other node
    link_bytes: float  # on the wire per second between two nodes, with TCP/IP's own
    hops: HopCosts


def test_paper(options: argparse.Namespace, tally: Tally) -> None:
    times = periods()
    with tempfile.TemporaryDirectory() as directory:
        with small_cluster(options, Path(directory), 3) as cluster:
            hops = measured_hops(options, cluster)
        with small_cluster(options, Path(directory), options.nodes) as cluster:
            time.sleep(SETTLE)
            cpu, wire = rate(options, cluster)
        with engine_running(Path(directory)) as engine:
            polls = {size: poll_cost(engine, size, options.calls) for size in SIZES}
        node_polls = {}
        for size in SIZES:  # each with a new node, because nodes remember members that vanish
            with small_cluster(options, Path(directory), 1) as cluster:
                node_polls[size] = measured_node(options, cluster, size)
    own = node_polls[min(SIZES, key=lambda size: abs(size - options.nodes))]
    links = max(0.0, cpu / options.nodes - own) / (options.nodes - 1)
    pairs = options.nodes * (options.nodes - 1) / 2
    polled = polls[min(SIZES, key=lambda size: abs(size - options.nodes))]
    # The engine is on loopback too.
    link_bytes = max(0.0, wire - options.nodes / times.poll * (polled.request + polled.reply)) / pairs
    costs_of_all = Costs(times, polls, node_polls, links, link_bytes, hops)
    with tally.trial("a table"):
        print_units(costs_of_all)
        print_table(costs_of_all)


@contextmanager
def small_cluster(options: argparse.Namespace, directory: Path, count: int) -> Iterator[Cluster]:
    with cluster_running(options.server, directory, count, HERE) as cluster:
        yield cluster


# ----------------------------------------------------------------------------------------- unit costs


def measured_hops(options: argparse.Namespace, cluster: Cluster) -> HopCosts:
    owner, edge, other = cluster.nodes
    traffic = Traffic(options.transfers, lanes=32, body=KIB, is_kept=True)
    found = []
    for put, get in ((owner, owner), (owner, edge), (edge, owner), (edge, other)):
        pairs = costs(compare("", cluster, owner, put, get), cluster.nodes, options.rounds, traffic)
        found.append(median(pair.ratio() for pair in pairs))
    return HopCosts(*found)


def rate(options: argparse.Namespace, cluster: Cluster) -> tuple[float, float]:
    """CPU seconds of all nodes, and bytes on loopback, per second."""
    began, cpu, size = time.monotonic(), sum(node.cpu() for node in cluster.nodes), loopback_bytes()
    time.sleep(options.seconds)
    seconds = time.monotonic() - began
    return (sum(node.cpu() for node in cluster.nodes) - cpu) / seconds, (loopback_bytes() - size) / seconds


def loopback_bytes() -> int:
    """Bytes that this namespace has sent over loopback."""
    (line,) = (line for line in Path("/proc/self/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.partition(":")[2].split()[8])


def measured_node(options: argparse.Namespace, cluster: Cluster, size: int) -> float:
    """CPU seconds per second of an idle node in a directory of this size."""
    (node,) = cluster.nodes
    with closing(Redis(cluster.engine.port)) as redis:
        members = Members(redis, "y" * 32, size - 1)
        end = time.monotonic() + SETTLE + options.seconds
        before, began = None, 0.0
        while (now := time.monotonic()) < end:
            seen = list(members.renew())
            if before is None and now > end - options.seconds:
                check(seen[-1] == size, f"{seen[-1]} records instead of {size}")
                before, began = node.cpu(), time.monotonic()
            time.sleep(0.5)
        return (node.cpu() - (before or 0)) / (time.monotonic() - began)


# ---------------------------------------------------------------------------------------------- paper


def load() -> str:
    return f"[load {os.getloadavg()[0]:.1f}]"


def print_units(unit: Costs) -> None:
    print(f"  a poll, {load()}:")
    for size, cost in unit.polls.items():
        print(
            f"    {size:>3} members: engine {cost.cpu * 1e6:.0f} µs, {cost.request:.0f} bytes to it, {cost.reply:.0f} back;"
            f" an idle node uses {unit.node_polls[size] * 1e3:.2f} ms of CPU a second"
        )
    print(f"  the links of two nodes: {unit.links * 1e3:.3f} ms of CPU a second of each, {unit.link_bytes:.0f} bytes a second")
    hops = unit.hops
    print(
        f"  a transfer of 1 KiB by that of a single server: straight {hops.straight:.2f}, destination elsewhere"
        f" {hops.destination:.2f}, source elsewhere {hops.source:.2f}, both {hops.both:.2f}"
    )


def print_table(unit: Costs) -> None:
    """Prints what the costs are for each number of nodes."""
    most = 1 / unit.periods.poll + 1 / unit.periods.poll_at_most
    rows: list[tuple[str, list[str]]] = [("nodes", [str(size) for size in SIZES])]

    def row(name: str, cells: list[str]) -> None:
        rows.append((name, cells))

    calls = [size / unit.periods.poll for size in SIZES]
    row("engine: polls/s", [f"{each:.0f}" for each in calls])
    row("engine: cores", [f"{each * unit.polls[size].cpu:.4f}" for size, each in zip(SIZES, calls, strict=True)])
    row(
        "engine: KiB/s in",
        [f"{each * unit.polls[size].request / KIB:.0f}" for size, each in zip(SIZES, calls, strict=True)],
    )
    row(
        "engine: KiB/s out",
        [f"{each * unit.polls[size].reply / KIB:.0f}" for size, each in zip(SIZES, calls, strict=True)],
    )
    row("engine, each node asked for unknown ids: polls/s", [f"{size * most:.0f}" for size in SIZES])
    row("  cores", [f"{size * most * unit.polls[size].cpu:.3f}" for size in SIZES])
    row("  MiB/s out", [f"{size * most * unit.polls[size].reply / KIB / KIB:.2f}" for size in SIZES])
    row("a node: cores for its polls", [f"{unit.node_polls[size]:.4f}" for size in SIZES])
    row("a node: cores for its links", [f"{(size - 1) * unit.links:.4f}" for size in SIZES])
    row("  KiB/s of them", [f"{(size - 1) * unit.link_bytes / KIB:.1f}" for size in SIZES])
    row("links, one opened by each node to each other", [str(size * (size - 1)) for size in SIZES])
    row("a node: unused connections that it opened, at most", [str((size - 1) * idle_connections()) for size in SIZES])
    row("sides that take a hop behind a balancer", [f"{1 - 1 / size:.2f}" for size in SIZES])
    hops = unit.hops
    row("CPU of a 1 KiB transfer behind a balancer", [f"{hops.anywhere(size):.2f}" for size in SIZES])
    row("transfers/s by a single server's, behind a balancer", [f"{size / hops.anywhere(size):.1f}" for size in SIZES])
    # Whatever was measured, a node does no less than a single server.
    row("  by the URLs of the owners", [f"{size / max(hops.straight, 1):.1f}" for size in SIZES])
    width = max(len(name) for name, _ in rows)
    for name, cells in rows:
        print(f"  {name:<{width}}", *(f"{cell:>8}" for cell in cells))


TESTS: dict[str, Test] = {"paper": test_paper}


def main() -> int:
    parser = new_parser(__doc__, TESTS)
    parser.add_argument("--nodes", type=int, default=10, metavar="N", help="real nodes with links")
    parser.add_argument("--seconds", type=float, default=5, metavar="N", help="of each measurement of idle nodes")
    parser.add_argument("--calls", type=int, default=2000, metavar="N", help="polls of the engine for each size")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="hops: pairs of runs for each figure")
    parser.add_argument("--transfers", type=int, default=2000, metavar="N", help="hops: of each run")
    parser.parse_args()
    become_a_host()
    return run_all(parser, TESTS, "ip", "unshare")


if __name__ == "__main__":
    sys.exit(main())
