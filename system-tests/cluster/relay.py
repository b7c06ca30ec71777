"""Three nodes on hosts of their own, HAProxy in front of them, and what troubles them."""

import asyncio
import hashlib
import math
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.engine import Engine, end_with_this, launch, until
from cluster.plan import BALANCER
from cluster.wire import Cut, Unconnected, Wire, ask
from harness import ROOT, Pair, Violation, check, child
from network import Host, Router, ip

TLS_PORT, PLAIN_PORT, HOP_PORT, BALANCER_PORT = 7000, 7001, 7780, 7002
TTL, DRAIN = 10.0, 12.0  # seconds
START_LIMIT = 15.0
CLUSTER = b"rendezvous"  # the default name
JOINED = 5.0  # seconds after which all nodes have a new one in their list
FORGOTTEN = 27.0  # seconds after which no node has a dead one in its list
NODES = range(3)


@dataclass
class Trouble:
    """Something that may harm the transfers of some nodes, from `begin` to `end`."""

    # dead, stopped, vanished, draining, gone (between a clean end and the next process), apart, engine, or list: the list of
    # nodes changes, which concerns paths only.
    kind: str
    nodes: frozenset[int]
    begin: float
    end: float = math.inf

    def overlaps(self, begin: float, end: float) -> bool:
        return begin <= self.end and self.begin <= end


@dataclass
class Node:
    """A host with a process of the relay, and others that follow it."""

    number: int
    host: Host
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    tags: list[str] = field(default_factory=list)
    idle: list[Wire] = field(default_factory=list)  # kept connections of clients
    launched: float = 0.0
    may_end: bool = False
    stopped: bool = False

    @property
    def address(self) -> tuple[str, int]:
        return self.host.address, PLAIN_PORT

    def url(self) -> str:
        return f"https://{self.host.address}:{TLS_PORT}"

    def kept(self) -> Wire | None:
        """A kept connection that is still open."""
        while self.idle:
            wire = self.idle.pop()
            if wire.is_idle():
                wire.is_used = True
                return wire
            wire.close()
        return None

    def keep(self, wire: Wire) -> None:
        self.idle.append(wire)

    def drop_kept(self) -> None:
        while self.idle:
            self.idle.pop().close()

    def launch(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RENDEZVOUS_")}
        self.may_end, self.stopped, self.launched = False, False, time.monotonic()
        self.process = launch(self.host, self.command, self.log, env=kept)

    def signal(self, number: signal.Signals) -> None:
        if self.process:
            self.stopped = number == signal.SIGSTOP or (self.stopped and number != signal.SIGCONT)
            self.process.send_signal(number)

    def kill(self) -> None:
        if self.process:
            self.may_end = True
            self.process.kill()
            self.process.wait()

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def links(self) -> list[str]:
        assert self.process
        found = []
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            # A descriptor may be closed meanwhile.
            with suppress(FileNotFoundError):
                found.append(os.readlink(link))
        return found

    def descriptors(self) -> int:
        """Those that are no connection with another node: a pool keeps some of these."""
        links = self.links()
        assert self.process
        lines = [line.split() for line in Path(f"/proc/{self.process.pid}/net/tcp").read_text().splitlines()[1:]]
        hops = {
            f"socket:[{inode}]"
            for _, local, remote, state, _, _, _, _, _, inode, *_ in lines
            if state != "0A" and HOP_PORT in (int(local[9:], 16), int(remote[9:], 16))
        }
        return sum(link not in hops for link in links)


def balancer_config(folder: Path, nodes: list[Node]) -> Path:
    """Our sample for HAProxy, with the addresses of these nodes instead of a name, looked at more often."""
    text = (ROOT / "packaging/cluster/haproxy.cfg").read_text().replace("bind :8080", f"bind :{BALANCER_PORT}")
    text = text.replace("port 9998 inter 2s", "inter 300ms fall 2 rise 1")
    lines = []
    for line in text.splitlines():
        if line.startswith("    server-template"):
            options = line.partition("init-addr none")[2]
            lines += [f"    server node{node.number} {':'.join(map(str, node.address))}{options}" for node in nodes]
        else:
            lines.append(line)
    check(len(lines) > len(text.splitlines()), "packaging/cluster/haproxy.cfg has another form now")
    file = folder / "haproxy.cfg"
    file.write_text("\n".join(lines) + "\n")
    return file


class Site:
    """The nodes, their engine, HAProxy, and the troubles so far."""

    def __init__(self, program: list[str], router: Router, hosts: list[Host], engine: Engine, folder: Path,
                 pair: Pair, options: tuple[str, ...] = ()) -> None:
        self.router, self.engine, self.folder = router, engine, folder
        secret = folder / "secret"
        secret.write_text("a secret of this experiment, 32 characters or more\n")
        flags = [
            *("serve", "--host", "0.0.0.0", "--port", str(TLS_PORT), "--plain-port", str(PLAIN_PORT), *pair.flags()),
            *("--cluster", engine.url, "--cluster-listen", f"0.0.0.0:{HOP_PORT}", "--cluster-secret-file", str(secret)),
            *("--ttl", f"{TTL:.0f}s", "--drain-timeout", f"{DRAIN:.0f}s", "--open-list"),
            *("--trusted-proxy", router.server, "--max-streams-per-client", "100000"),
            *("--max-creations-per-minute", "100000"),
        ]
        path, *more = program
        self.command = [path, *flags, *more, *options]
        self.nodes = [Node(at, hosts[at], self.command, folder / f"node-{at}.log") for at in NODES]
        self.troubles: list[Trouble] = []
        self.owners: dict[str, int] = {}  # by tag
        self.born_tags: dict[str, float] = {}  # when the process was started
        self.dead_tags: dict[str, float] = {}  # when the process ended
        self.has_guests = False  # of this cluster, whose tags are not known
        self.notes: list[str] = []
        self.hidden_ports: dict[int, tuple[str, int]] = {}  # instead of a node's own address: a self check's proxy
        self.balancer: Any = None

    def address(self, edge: int) -> tuple[str, int]:
        if edge == BALANCER:
            return self.router.server, BALANCER_PORT
        return self.hidden_ports.get(edge, self.nodes[edge].address)

    def path_owner(self, path: str, begin: float, end: float) -> int | None:
        """The node that has the path in every list that some node may have had meanwhile, or `None` if that depends on the list."""
        if self.has_guests:
            return None

        def weight(tag: str) -> bytes:
            return hashlib.sha256(CLUSTER + bytes.fromhex(tag) + path.encode()).digest()

        known = [
            tag for tag, born in self.born_tags.items()
            if born <= end and begin <= self.dead_tags.get(tag, math.inf) + FORGOTTEN
        ]
        first = max(known, key=weight)
        # An earlier process of the node is another member, which the node does not answer for.
        is_listed = self.born_tags[first] + JOINED < begin and end < self.dead_tags.get(first, math.inf)
        return self.owners[first] if is_listed else None

    # ------------------------------------------------------------------------------------------ its life

    async def start(self, haproxy: str) -> None:
        await self.engine.start()
        for node in self.nodes:
            node.launch()
        await asyncio.gather(*(self.is_up(node) for node in self.nodes))
        await self.until_nodes("3/3")
        config = balancer_config(self.folder, self.nodes)
        log = (self.folder / "haproxy.log").open("wb")
        self.balancer = child(haproxy, "-db", "-f", config, stdout=log, stderr=log, preexec_fn=end_with_this)
        self.balancer.__enter__()
        # Each request goes to the next node.
        await until(lambda: self.answers(BALANCER), "HAProxy answers")

    def end(self) -> None:
        for node in self.nodes:
            node.drop_kept()
            node.signal(signal.SIGCONT)
            node.kill()
        self.engine.end()
        if self.balancer:
            self.balancer.__exit__(None, None, None)

    async def answers(self, edge: int) -> bool:
        try:
            head, _ = await ask(self.address(edge), "GET", "/ping", 2)
        except (Cut, Unconnected, TimeoutError):
            return False
        return head.status == 200

    async def is_up(self, node: Node) -> None:
        """Waits until a node creates streams, and learns its tag."""

        async def created() -> str:
            check(node.runs(), f"node {node.number} ended: {node.log.read_text()[-300:]}")
            try:
                head, body = await ask(node.address, "POST", "/stream", 3)
            except (Cut, Unconnected):
                return ""
            return body.decode().split('"')[3][:8] if head.status == 201 else ""

        tag = await until(created, f"node {node.number} creates streams", START_LIMIT)
        check(tag not in self.owners, f"node {node.number} has the tag {tag} of an earlier process")
        self.owners[tag], self.born_tags[tag] = node.number, node.launched
        node.tags.append(tag)

    async def nodes_seen(self, node: Node) -> str:
        try:
            head, _ = await ask(node.address, "GET", "/stream", 3)
        except (Cut, Unconnected, TimeoutError) as error:
            return repr(error)
        return head.fields.get("rendezvous-nodes", f"status {head.status}")

    async def until_nodes(self, wanted: str, limit: float = 30.0) -> float:
        """Waits until all nodes see each other. Returns the seconds."""
        begun = time.monotonic()

        async def agree() -> bool:
            seen = [await self.nodes_seen(node) for node in self.nodes]
            if set(seen) != {wanted}:
                raise Violation(f"Rendezvous-Nodes is {seen}")
            return True

        await until(agree, f"Rendezvous-Nodes is {wanted} everywhere", limit, pause=0.25)
        return time.monotonic() - begun

    # ---------------------------------------------------------------------------------------- its troubles

    @contextmanager
    def trouble(self, kind: str, *nodes: int, after: float = 0.0) -> Iterator[Trouble]:
        """Nodes may fail transfers during the block, and for so many seconds after it."""
        one = Trouble(kind, frozenset(nodes), time.monotonic())
        self.troubles.append(one)
        try:
            yield one
        finally:
            one.end = time.monotonic() + after

    def usable(self) -> list[int]:
        now = time.monotonic()
        kinds = ("dead", "stopped", "draining", "gone", "vanished")
        bad = {one for trouble in self.troubles if trouble.kind in kinds and trouble.overlaps(now, now)
               for one in trouble.nodes}
        return [at for at in NODES if at not in bad]

    def list_changes(self, seconds: float) -> None:
        """The list of nodes changes now: until all have read it, paths may be refused."""
        now = time.monotonic()
        self.troubles.append(Trouble("list", frozenset(NODES), now, now + seconds))

    async def kill(self, number: int, down: float, forgotten: float = 14.0) -> None:
        """Kills a node by SIGKILL, and starts it again after so many seconds. The others have forgotten it after `forgotten` ones."""
        node = self.nodes[number]
        with self.trouble("dead", number):
            # Until its record has expired, its paths cannot be used.
            self.list_changes(forgotten)
            self.dead_tags[node.tags[-1]] = time.monotonic()
            node.kill()
            await asyncio.sleep(down)
            await self.restart(node)

    async def restart(self, node: Node) -> None:
        begun = time.monotonic()
        node.launch()
        self.list_changes(START_LIMIT)
        changes = self.troubles[-1]
        await self.is_up(node)
        changes.end = time.monotonic() + 3
        self.notes.append(f"a node was ready after {time.monotonic() - begun:.1f} s")

    @contextmanager
    def apart(self, first: Host, second: Host) -> Iterator[None]:
        """No packet passes between two hosts."""
        pairs = ((first, second), (second, first))
        self._rules("add", pairs)
        try:
            yield
        finally:
            self._rules("del", pairs)

    def _rules(self, what: str, pairs: tuple[tuple[Host, Host], ...]) -> None:
        with self.router.space.inside():
            ip(*(f"rule {what} from {a.address} to {b.address} blackhole" for a, b in pairs))
