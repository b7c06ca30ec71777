#!/usr/bin/env python3
"""Networks that fail between real hosts (Linux, iproute2, curl, openssl; no Python packages).

    cut      a link goes down in mid-transfer and stays down: the other side is notified in time
    outage   a link is down for a moment: the transfer is not affected
    flight   a route drops the last bytes: the server reports no delivery before they have arrived
    reborn   a host vanishes without closing its connections, and another gets its address: the other side is notified in time
    waiting  the host of a waiting side vanishes: its seat becomes free in time; an idle connection is closed
    paused   a receiver reads nothing for a long while and is kept, unless its host vanishes
    loss     packets are lost and late, and sides are killed: each cut is visible

Each host is a network namespace, a cable is a veth pair, and a router stands between. Namespaces have no names: each lives as
long as one process, which ends with this one. Lossy cables are pairs of TUN devices with this program between them, so that
they behave alike on every kernel, and lose packets by --seed. Needs root, or the right to make user namespaces. Without
either it prints SKIPPED, which --must-run makes a failure. --quick uses fewer variants.
"""

import argparse
import ctypes
import fcntl
import heapq
import os
import random
import select
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from io import BufferedWriter
from itertools import count, product
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any, Generic, Protocol, Self, TypeVar, cast

from harness import (
    CURL,
    KIB,
    LAST_CHUNK,
    MIB,
    PATIENCE,
    Server,
    Tally,
    Test,
    check,
    chunk,
    framing,
    head,
    new_pair,
    new_parser,
    output_of,
    run_all,
    serving,
    wait_until,
)

PEER_TIMEOUT = 3.0  # seconds: the minimum that the server accepts
# Keepalives have a resolution of a second, the server checks four times within the timeout, and a busy machine is late.
BOUND = PEER_TIMEOUT * 1.25 + 2.0
OUTAGE = 0.4 * PEER_TIMEOUT
PAUSE = 3 * PEER_TIMEOUT
FULL_FOR = 1.0
# The kernel probes a full receiver (zero window) at intervals that double. Three probes must go unanswered, and the last comes after eight
# times the time for which the receiver was full before.
FULL_BOUND = 8 * FULL_FOR + BOUND

AT_ONCE = 20  # trials, each with hosts of its own
RATE = 64 * KIB, 0.01  # bytes, and a pause in seconds: enough for a transfer that lasts, and little load
SMALL = 512 * KIB
LARGE = 4 * MIB
MORE_THAN_BUFFERS = 24 * MIB
NARROW = 64 * KIB  # buffers of clients that must fill up soon
WITHOUT_END = 1 << 40

LOSS, DELAY = 0.03, (0.01, 0.03)  # of a packet: the probability of its loss, and its seconds under way
LOSSY_SIZE = 384 * KIB
LOSSY_PAIRS, LOSSY_ROUNDS = 8, 3

BLOCK = random.Random(7).randbytes(1_000_003)  # an odd length, so that no shifted piece looks right

# ------------------------------------------------------------------------------------------------ hosts

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
HOME = ""  # the network namespace of the server's host, from become_a_host() on
HOME_HANDLE = -1


def call(function: str, *arguments: int) -> None:
    """Calls a function of the C library that Python 3.11 does not have."""
    if getattr(LIBC, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def become_a_host() -> None:
    """Moves this process into a new network namespace, which is the server's host."""
    global HOME, HOME_HANDLE
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        call("unshare", CLONE_NEWNET)
    else:
        call("unshare", CLONE_NEWUSER | CLONE_NEWNET)
        for file, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path("/proc/self", file).write_text(line)
    HOME, HOME_HANDLE = os.readlink("/proc/self/ns/net"), os.open("/proc/self/ns/net", os.O_RDONLY)
    ip("link set lo up")
    # With the defaults of some machines the server's kernel would buffer everything that is sent here.
    Path("/proc/sys/net/ipv4/tcp_rmem").write_text(f"4096 131072 {6 * MIB}")


def ip(*commands: str) -> None:
    batch = "\n".join(commands)
    done = subprocess.run(("ip", "-batch", "-"), input=batch, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{batch!r}: {done.stderr}")


class Namespace:
    """A network namespace, which ends with this object or with the program."""

    def __init__(self) -> None:
        # `cat` ends when this program closes its input or ends.
        self._life = subprocess.Popen(("unshare", "--net", "cat"), stdin=subprocess.PIPE)
        self.pid = self._life.pid
        wait_until(lambda: os.readlink(f"/proc/{self.pid}/ns/net"), lambda net: net != HOME, "a namespace")
        self._handle = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets and processes of the block belong to this namespace. The block must start no threads."""
        call("setns", self._handle, CLONE_NEWNET)
        try:
            yield
        finally:
            call("setns", HOME_HANDLE, CLONE_NEWNET)

    def end(self) -> None:
        os.close(self._handle)
        self._life.kill()
        self._life.communicate()


class Router:
    """The router between the server's host and all others."""

    def __init__(self) -> None:
        self.space = Namespace()
        self.server = "10.77.0.2"
        ip(f"link add eth0 type veth peer name server netns {self.space.pid}")
        with self.space.inside():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            ip("addr add 10.77.0.1/24 dev server", "link set server up")
        ip(f"addr add {self.server}/24 dev eth0", "link set eth0 up", "route add default via 10.77.0.1")
        self._numbers = count(1)

    def host(self) -> "Host":
        number = next(self._numbers)
        return Host(self, f"host{number}", f"10.{80 + number // 250}.{number % 250}")

    def end(self) -> None:
        ip("link del eth0")  # the end of a namespace takes a while
        self.space.end()


class Host:
    """A machine behind the router, with one cable."""

    def __init__(self, router: Router, name: str, prefix: str) -> None:
        self.router = router
        self.server = router.server
        self.name = name
        self.prefix = prefix
        self.address = f"{prefix}.2"
        self._plug()

    def _plug(self) -> None:
        self.space = Namespace()
        with self.router.space.inside():
            ip(
                f"link add {self.name} type veth peer name eth0 netns {self.space.pid}",
                f"addr add {self.prefix}.1/24 dev {self.name}",
                f"link set {self.name} up",
            )
        with self.space.inside():
            ip("link set lo up", f"addr add {self.address}/24 dev eth0")
        self.repair()

    def cut(self) -> None:
        with self.space.inside():
            ip("link set eth0 down")

    def repair(self) -> None:
        with self.space.inside():
            ip("link set eth0 up", f"route add default via {self.prefix}.1")

    def blackhole(self) -> None:
        """Drops packets to this host, but not those from it."""
        with self.router.space.inside():
            ip(f"route add blackhole {self.address}/32")

    def end_blackhole(self) -> None:
        with self.router.space.inside():
            ip(f"route del blackhole {self.address}/32")

    def replace(self) -> None:
        """Replaces the host by another with its address and none of its connections."""
        with self.router.space.inside():
            ip(f"link del {self.name}")
        self.space.end()
        self._plug()

    def end(self) -> None:
        self.space.end()


# ----------------------------------------------------------------------------------------------- losses

IFF_TUN, IFF_NO_PI, TUNSETIFF = 0x0001, 0x1000, 0x400454CA


def open_tun(name: str) -> int:
    """Opens a TUN device in the current namespace. This program reads and writes its packets."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return device


class LossyHost:
    """A machine with a bad cable to the server's host."""

    def __init__(self, number: int) -> None:
        self.space = Namespace()
        name, prefix = f"lossy{number}", f"10.78.{number}"
        self.server = f"{prefix}.1"
        self.near = open_tun(name)
        ip(f"addr add {self.server}/24 dev {name}", f"link set {name} up")
        with self.space.inside():
            self.far = open_tun("eth0")
            ip(f"addr add {prefix}.2/24 dev eth0", "link set eth0 up")

    def end(self) -> None:
        os.close(self.near)
        os.close(self.far)
        self.space.end()


class LossyCables:
    """Carries the packets of all its hosts in order, with a delay and with losses."""

    def __init__(self, hosts: Sequence[LossyHost], chance: random.Random) -> None:
        self.carried = 0
        self.lost = 0
        self._chance = chance
        self._other = {host.near: host.far for host in hosts} | {host.far: host.near for host in hosts}
        self._last = dict.fromkeys(self._other, 0.0)  # when the last packet from each end is due
        self._late: list[tuple[float, int, int, bytes]] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        poll = select.epoll()
        for end in self._other:
            poll.register(end, select.EPOLLIN)
        with poll:
            while not self._stopped:
                next_due = self._late[0][0] - time.monotonic() if self._late else 0.1
                for end, _ in poll.poll(max(next_due, 0.0)):
                    with suppress(BlockingIOError):
                        self._take(end, os.read(end, 65536))
                while self._late and self._late[0][0] <= time.monotonic():
                    _, _, end, packet = heapq.heappop(self._late)
                    with suppress(OSError):  # a full queue is a loss too
                        os.write(end, packet)

    def _take(self, end: int, packet: bytes) -> None:
        if self._chance.random() < LOSS:
            self.lost += 1
            return
        self._carry(end, packet, self._chance.uniform(*DELAY))

    def _carry(self, end: int, packet: bytes, delay: float) -> float:
        """Carries a packet that came from `end`. Returns when it arrives."""
        self.carried += 1
        due = max(self._last[end], time.monotonic() + delay)
        self._last[end] = due
        heapq.heappush(self._late, (due, self.carried, self._other[end], packet))
        return due


# ---------------------------------------------------------------------------------------------- clients


@dataclass(frozen=True)
class Variant:
    """Framing, protocols and data path of a transfer."""

    chunked: bool
    tls: bool
    http2: bool
    data_path: str

    def __str__(self) -> str:
        how = "chunked" if self.chunked else "Content-Length"
        version = "HTTP/2" if self.http2 else f"HTTP/1.1 {how}"
        return f"{version}{' TLS' if self.tls else ''} {self.data_path}"


QUICK = (
    Variant(chunked=False, tls=False, http2=False, data_path="splice"),
    Variant(chunked=True, tls=True, http2=False, data_path="copy"),
    Variant(chunked=True, tls=True, http2=True, data_path="splice"),
)
FULL = (
    *(
        Variant(chunked, tls, False, data_path)
        for chunked, tls, data_path in product((False, True), (False, True), ("splice", "copy"))
    ),
    Variant(chunked=True, tls=True, http2=True, data_path="splice"),
    Variant(chunked=True, tls=False, http2=True, data_path="copy"),
)


def connect(host: "AnyHost", server: Server, tls: bool, narrow: bool = False) -> socket.socket:
    with host.space.inside():
        connection = socket.socket()
    connection.settimeout(PATIENCE)
    if narrow:
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            connection.setsockopt(socket.SOL_SOCKET, buffer, NARROW)
    connection.connect((host.server, server.tls_port if tls else server.port))
    return TRUSTING.wrap_socket(connection) if tls else connection


TRUSTING = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the certificate is not under test here
TRUSTING.check_hostname = False
TRUSTING.verify_mode = ssl.CERT_NONE


def curl(host: "AnyHost", server: Server, variant: Variant, stream: str, *options: str | Path) -> tuple[str, ...]:
    scheme, port = ("https", server.tls_port) if variant.tls else ("http", server.port)
    version = "--http2" if variant.tls else "--http2-prior-knowledge"
    url = f"{scheme}://{host.server}:{port}/stream/{stream}"
    return (*CURL, "-k", version, *map(str, options), url)


def piece_at(offset: int, size: int) -> bytes:
    """A piece of the endless body that all sources send."""
    start = offset % len(BLOCK)
    return BLOCK[start : start + size]


AnyHost = Host | LossyHost
H = TypeVar("H", Host, LossyHost)


class Ends(Protocol):
    """Anything with an `end` method."""

    def end(self) -> None: ...


E = TypeVar("E", bound=Ends)


@contextmanager
def closing(thing: E) -> Iterator[E]:
    try:
        yield thing
    finally:
        thing.end()


class Source:
    """A PUT that sends the allowed number of bytes, in a thread of its own."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.sent = 0
        self.status: int | None = None
        self._allowed = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def allow(self, total: int) -> None:
        self._allowed = total

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._stopped = True
        self._thread.join(PATIENCE)

    def _may_send(self) -> int:
        return min(RATE[0], min(self._allowed, self.length) - self.sent)

    def _run(self) -> None:
        raise NotImplementedError


class SocketSource(Source):
    """Over HTTP/1.1, on a socket of its own."""

    def __init__(self, trial: "Trial[Any]", length: int) -> None:
        super().__init__(length)
        self._chunked = trial.variant.chunked
        self._pending = head("PUT", f"/stream/{trial.stream}", framing(None if self._chunked else length))
        self._input = b""
        self._connection = connect(trial.putting, trial.server, trial.variant.tls, trial.narrow)
        self._connection.setblocking(False)

    def _run(self) -> None:
        with suppress(OSError), self._connection:
            finished = False
            while not self._stopped:
                if not self._pending and (size := self._may_send()) > 0:
                    self._pending = self._framed(piece_at(self.sent, size))
                elif not self._pending and self.sent == self.length and not finished:
                    finished = True
                    self._pending = LAST_CHUNK if self._chunked else b""
                self._send()
                if self._receive() == b"":
                    return
                select.select([self._connection], [], [], RATE[1])

    def _framed(self, piece: bytes) -> bytes:
        self.sent += len(piece)
        return chunk(piece) if self._chunked else piece

    def _send(self) -> None:
        with suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while self._pending:
                self._pending = self._pending[self._connection.send(self._pending) :]

    def _receive(self) -> bytes | None:
        try:
            data = self._connection.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        self._input += data
        while self.status is None and b"\r\n\r\n" in self._input:
            response, _, self._input = self._input.partition(b"\r\n\r\n")
            status = int(response.split()[1])
            if status != 100:
                self.status = status
        return data


class CurlSource(Source):
    """Over HTTP/2, by curl."""

    def __init__(self, trial: "Trial[Any]", length: int) -> None:
        super().__init__(length)
        # With `-T .` curl reads the response also while it has nothing to send, and `-N` prints it at once.
        command = curl(trial.putting, trial.server, trial.variant, trial.stream, "-i", "-N", "-T", ".")
        pipe = subprocess.PIPE
        with trial.putting.space.inside():
            self._curl = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        self._input = cast(BufferedWriter, self._curl.stdin)
        self._output = output_of(self._curl)
        os.set_blocking(self._input.fileno(), False)
        os.set_blocking(self._output.fileno(), False)

    def _run(self) -> None:
        while not self._stopped and self._curl.poll() is None:
            size = self._may_send()
            if size > 0:
                # A broken pipe means that curl has ended; its output says why.
                with suppress(BlockingIOError, BrokenPipeError):
                    self.sent += os.write(self._input.fileno(), piece_at(self.sent, size))
            elif self.sent == self.length and not self._input.closed:
                self._input.close()
            self._receive()
            time.sleep(RATE[1])
        self._receive()
        self._curl.kill()
        self._curl.wait()
        for pipe in (self._input, self._output):
            with suppress(BrokenPipeError):
                pipe.close()

    def _receive(self) -> None:
        for line in (self._output.read() or b"").splitlines():
            if line.startswith(b"HTTP/2 ") and not line.startswith(b"HTTP/2 100"):
                self.status = int(line.split()[1])


class Destination:
    """A GET that checks all bytes that arrive, in a thread of its own."""

    def __init__(self) -> None:
        self.received = 0
        self.whole: bool | None = None  # None before the end
        self.wrong: str | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._thread.join(PATIENCE)

    def pause(self) -> None:
        raise NotImplementedError

    def go_on(self) -> None:
        raise NotImplementedError

    def _take(self, piece: bytes) -> None:
        while piece:
            expected = piece_at(self.received, len(piece))
            if not piece.startswith(expected):
                self.wrong = self.wrong or f"a wrong byte after {self.received} bytes"
            self.received += len(expected)
            piece = piece[len(expected) :]

    def _run(self) -> None:
        raise NotImplementedError


class SocketDestination(Destination):
    """Over HTTP/1.1, on a socket of its own."""

    def __init__(self, trial: "Trial[Any]") -> None:
        super().__init__()
        self._reads = threading.Event()
        self._reads.set()
        self._connection = connect(trial.getting, trial.server, trial.variant.tls, trial.narrow)
        self._connection.settimeout(None)
        self._connection.sendall(head("GET", f"/stream/{trial.stream}"))

    def pause(self) -> None:
        self._reads.clear()

    def go_on(self) -> None:
        self._reads.set()

    def end(self) -> None:
        # Not by TLS: SSLSocket.shutdown would let the reader take ciphertext for the body.
        with suppress(OSError):
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)
        self._reads.set()
        super().end()

    def _run(self) -> None:
        response = HTTPResponse(self._connection)
        try:
            response.begin()
            while piece := response.read1(64 * KIB):
                self._take(piece)
                self._reads.wait()
            # Python raises for a missing last chunk, but not for missing bytes of a Content-Length.
            self.whole = response.status == 200 and response.length in (0, None)
        except (OSError, HTTPException, ValueError):
            self.whole = False
        finally:
            self._connection.close()


class CurlDestination(Destination):
    """Over HTTP/2, by curl."""

    def __init__(self, trial: "Trial[Any]") -> None:
        super().__init__()
        command = curl(trial.getting, trial.server, trial.variant, trial.stream, "-f", "-N")
        with trial.getting.space.inside():
            self._curl = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def pause(self) -> None:
        self._curl.send_signal(SIGSTOP)

    def go_on(self) -> None:
        self._curl.send_signal(SIGCONT)

    def end(self) -> None:
        self._curl.kill()
        super().end()

    def _run(self) -> None:
        while piece := output_of(self._curl).read1(64 * KIB):
            self._take(piece)
        self.whole = self._curl.wait() == 0


# ----------------------------------------------------------------------------------------------- trials


class Trial(Generic[H]):
    """One stream, between two hosts."""

    def __init__(self, server: Server, variant: Variant, putting: H, getting: H, narrow: bool) -> None:
        self.server = server
        self.variant = variant
        self.putting: H = putting
        self.getting: H = getting
        self.narrow = narrow
        self.stream = server.new_stream()
        self._stack = ExitStack()

    def has(self, thing: E) -> E:
        return self._stack.enter_context(closing(thing))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def put(self, length: int) -> Source:
        self.source = self.has((CurlSource if self.variant.http2 else SocketSource)(self, length))
        self.source.start()
        return self.source

    def get(self) -> Destination:
        self.destination = self.has((CurlDestination if self.variant.http2 else SocketDestination)(self))
        self.destination.start()
        return self.destination

    def stream_to(self, received: int, length: int) -> None:
        """Connects both sides, and waits until the first `received` of `length` bytes have arrived."""
        self.get()
        self.put(length).allow(received)
        wait_until(lambda: self.destination.received, lambda now: now >= received, "the first bytes")

    def until_status(self, status: int, bound: float) -> float:
        """Waits for the status of the source. Returns the seconds."""
        seen, took = self.within(bound, lambda: self.source.status)
        check(seen == status, f"the source got {seen}, not {status}, after {took:.1f} s")
        return took

    def until_cut(self, bound: float) -> float:
        """Waits for the end of the destination, which must be a visible cut. Returns the seconds."""
        whole, took = self.within(bound, lambda: self.destination.whole)
        check(whole is False, f"the cut looks whole, after {took:.1f} s")
        return took

    def within(self, bound: float, look: Callable[[], int | bool | None]) -> tuple[int | bool, float]:
        began = time.monotonic()
        while (seen := look()) is None:
            took = time.monotonic() - began
            check(took <= bound, f"nothing within {bound:.1f} s: {self.server.status(self.stream)}")
            time.sleep(0.01)
        return seen, time.monotonic() - began

    def ends_well(self, patience: float = PATIENCE) -> float:
        """Checks that the source gets 200, and only after all bytes have arrived."""
        took = self.until_status(200, patience)
        whole, _ = self.within(patience, lambda: self.destination.whole)
        check(whole is True and self.destination.received == self.source.length, "the source got 200 too early")
        check(self.server.final_state(self.stream) == "FINISHED", "another state than FINISHED")
        return took

    def is_consistent(self) -> None:
        """Checks what holds for every transfer, whatever its outcome."""
        source, destination = getattr(self, "source", None), getattr(self, "destination", None)
        if destination:
            check(destination.wrong is None, str(destination.wrong))
        if source and destination and source.status == 200:
            check(destination.received == source.length, "200 for bytes that have not arrived")
        if source and destination and destination.whole:
            check(destination.received == source.length, "a cut transfer looks whole")

    def ended_as(self, state: str) -> None:
        seen = self.server.final_state(self.stream)
        check(seen == state, f"state {seen}, not {state}")


@dataclass(frozen=True)
class Network:
    """The router, and a server for each data path."""

    router: Router
    servers: dict[str, Server]
    variants: Sequence[Variant]
    seed: int


@contextmanager
def network(options: argparse.Namespace) -> Iterator[Network]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pair = new_pair(directory, "network")
        router = stack.enter_context(closing(Router()))
        flags = ("--peer-timeout", f"{PEER_TIMEOUT}s", "--max-connections", "1000")
        servers = {
            data_path: stack.enter_context(
                serving(options.server, *flags, "--data-path", data_path, pair=pair, host="0.0.0.0")
            )
            for data_path in ("splice", "copy")
        }
        yield Network(router, servers, QUICK if options.quick else FULL, options.seed)


@dataclass(frozen=True)
class Case:
    """A case that runs in every variant. Its result is a number of seconds, or a violation."""

    name: str
    run: Callable[[Trial[Host]], float]
    narrow: bool = False  # with small buffers
    by_hand: bool = False  # on a connection of its own, by HTTP/1.1 only

    def result(self, between: Network, variant: Variant) -> float:
        putting, getting = between.router.host(), between.router.host()
        with closing(putting), closing(getting):
            with Trial(between.servers[variant.data_path], variant, putting, getting, self.narrow) as trial:
                took = self.run(trial)
            trial.is_consistent()
        return took


def test_of(*cases: Case) -> Test:
    """A test that runs these cases in one network, many at once."""

    def test(options: argparse.Namespace, tally: Tally) -> None:
        with network(options) as between, ThreadPoolExecutor(AT_ONCE) as pool:
            asked = [
                (case, variant, pool.submit(case.result, between, variant))
                for case, variant in product(cases, between.variants)
                if not (case.by_hand and variant.http2)
            ]
            seconds: dict[str, list[float]] = {case.name: [] for case in cases}
            for case, variant, answer in asked:
                with tally.trial(f"{case.name}, {variant}"):
                    seconds[case.name].append(answer.result())
        for name, took in seconds.items():
            if took:
                tally.notes.append(f"{name} {min(took):.1f}–{max(took):.1f} s")

    return test


# -------------------------------------------------------------------------------------------- cases


def destination_cut(trial: Trial[Host]) -> float:
    trial.stream_to(SMALL, WITHOUT_END)
    trial.source.allow(WITHOUT_END)
    trial.getting.cut()
    took = trial.until_status(502, BOUND)
    trial.ended_as("DST_DISCONNECTED")
    return took


def quiet_destination_cut(trial: Trial[Host]) -> float:
    """The same while no byte is in flight to the destination."""
    trial.stream_to(SMALL, WITHOUT_END)
    time.sleep(0.2)  # delayed acknowledgements may take that long
    trial.getting.cut()
    took = trial.until_status(502, BOUND)
    trial.ended_as("DST_DISCONNECTED")
    return took


def source_cut(trial: Trial[Host]) -> float:
    trial.stream_to(SMALL, WITHOUT_END)
    trial.source.allow(WITHOUT_END)
    trial.putting.cut()
    took = trial.until_cut(BOUND)
    trial.ended_as("SRC_DISCONNECTED")
    return took


def destination_outage(trial: Trial[Host]) -> float:
    return outage(trial, trial.getting)


def source_outage(trial: Trial[Host]) -> float:
    return outage(trial, trial.putting)


def outage(trial: Trial[Host], host: Host) -> float:
    trial.stream_to(SMALL, LARGE)
    trial.source.allow(LARGE)
    host.cut()
    time.sleep(OUTAGE)
    host.repair()
    return trial.ends_well()


def drop_the_last(trial: Trial[Host]) -> None:
    trial.stream_to(SMALL, SMALL + 64 * KIB)
    trial.getting.blackhole()
    trial.source.allow(WITHOUT_END)
    wait_until(lambda: trial.source.sent, lambda sent: sent == trial.source.length, "the last bytes")


def flight_held_up(trial: Trial[Host]) -> float:
    drop_the_last(trial)
    time.sleep(OUTAGE)
    check(trial.source.status is None, f"the source got {trial.source.status} for bytes in flight")
    trial.getting.end_blackhole()
    return trial.ends_well()


def flight_lost(trial: Trial[Host]) -> float:
    drop_the_last(trial)
    took = trial.until_status(502, BOUND)
    trial.ended_as("DST_DISCONNECTED")
    return took


def destination_reborn(trial: Trial[Host]) -> float:
    trial.stream_to(SMALL, WITHOUT_END)
    trial.source.allow(WITHOUT_END)
    trial.getting.replace()
    took = trial.until_status(502, BOUND)
    trial.ended_as("DST_DISCONNECTED")
    return took


def source_reborn(trial: Trial[Host]) -> float:
    trial.stream_to(SMALL, WITHOUT_END)
    trial.putting.replace()
    took = trial.until_cut(BOUND)
    trial.ended_as("SRC_DISCONNECTED")
    return took


def free_again(trial: Trial[Host], leave: Callable[[], None]) -> float:
    began = time.monotonic()
    leave()
    while (state := trial.server.status(trial.stream)["state"]) != "CREATED":
        took = time.monotonic() - began
        check(took <= BOUND, f"still {state} after {took:.1f} s")
        time.sleep(0.05)
    return time.monotonic() - began


def waiting_destination(trial: Trial[Host]) -> float:
    trial.get()
    trial.server.wait_for_state(trial.stream, "DST_CONNECTED")
    took = free_again(trial, trial.getting.cut)
    trial.getting.replace()
    trial.stream_to(SMALL, SMALL)
    trial.ends_well()
    return took


def waiting_source(trial: Trial[Host]) -> float:
    trial.put(SMALL).allow(1)
    return another_source(trial)


def waiting_full_source(trial: Trial[Host]) -> float:
    """The source fills all buffers."""
    trial.put(WITHOUT_END).allow(WITHOUT_END)
    time.sleep(1.5)  # until they are full
    return another_source(trial)


def another_source(trial: Trial[Host]) -> float:
    trial.server.wait_for_state(trial.stream, "SRC_CONNECTED")
    took = free_again(trial, trial.putting.cut)
    trial.putting.replace()
    trial.stream_to(SMALL, SMALL)
    trial.ends_well()
    return took


def reborn_waiting_destination(trial: Trial[Host]) -> float:
    trial.get()
    trial.server.wait_for_state(trial.stream, "DST_CONNECTED")
    took = free_again(trial, trial.getting.replace)
    trial.stream_to(SMALL, SMALL)
    trial.ends_well()
    return took


def idle(trial: Trial[Host]) -> float:
    """A kept-alive connection between two requests."""
    connection = trial.has(Closing(connect(trial.getting, trial.server, trial.variant.tls))).connection
    connection.sendall(head("GET", "/ping"))
    check(connection.recv(9) == b"HTTP/1.1 ", "no pong")
    check(trial.getting.address in established(), "the server's kernel does not know the connection")
    trial.getting.cut()
    began = time.monotonic()
    while trial.getting.address in established():
        took = time.monotonic() - began
        check(took <= BOUND, f"still connected after {took:.1f} s")
        time.sleep(0.05)
    return time.monotonic() - began


@dataclass
class Closing:
    """A socket with an `end` method."""

    connection: socket.socket

    def end(self) -> None:
        self.connection.close()


def established() -> set[str]:
    """The remote addresses of the established connections of the server's host."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    remote = (fields[2].partition(":")[0] for fields in lines if fields[3] == "01")
    return {socket.inet_ntoa(struct.pack("=I", int(address, 16))) for address in remote}


def paused(trial: Trial[Host]) -> float:
    trial.stream_to(1, MORE_THAN_BUFFERS)
    trial.destination.pause()
    trial.source.allow(WITHOUT_END)
    time.sleep(PAUSE)
    check(trial.source.sent < MORE_THAN_BUFFERS, "the source is not blocked")
    check(trial.source.status is None, f"the source got {trial.source.status} while the receiver pauses")
    trial.destination.go_on()
    return trial.ends_well()


def paused_and_cut(trial: Trial[Host]) -> float:
    trial.stream_to(1, WITHOUT_END)
    trial.destination.pause()
    trial.source.allow(WITHOUT_END)
    time.sleep(FULL_FOR)
    trial.getting.cut()
    took = trial.until_status(502, FULL_BOUND)
    trial.ended_as("DST_DISCONNECTED")
    return took


def test_loss(options: argparse.Namespace, tally: Tally) -> None:
    try:
        os.close(open_tun("probe"))
    except OSError as error:
        skip(options, f"loss: /dev/net/tun: {error}", tally)
        return
    with ExitStack() as stack:
        between = stack.enter_context(network(options))
        hosts = [stack.enter_context(closing(LossyHost(number))) for number in range(2 * LOSSY_PAIRS)]
        cables = stack.enter_context(LossyCables(hosts, random.Random(options.seed)))
        pairs = list(zip(hosts[::2], hosts[1::2], strict=True))
        with ThreadPoolExecutor(LOSSY_PAIRS) as pool:
            asked = [
                (number, pool.submit(lossy, between, *pair, options.seed + number)) for number, pair in enumerate(pairs)
            ]
            ends: Counter[str] = Counter()
            for number, answer in asked:
                with tally.trial(f"pair {number}"):
                    ends += answer.result()
        share = cables.lost / (cables.lost + cables.carried)
        tally.notes += [f"{count} {end}" for end, count in sorted(ends.items())]
        tally.notes.append(f"{cables.lost} packets lost of {cables.lost + cables.carried} ({share:.1%})")


def lossy(between: Network, putting: LossyHost, getting: LossyHost, seed: int) -> Counter[str]:
    """Runs some transfers, one after another. A third of them is left alone."""
    chance = random.Random(seed)
    ends: Counter[str] = Counter()
    for _ in range(LOSSY_ROUNDS):
        variant = chance.choice([variant for variant in FULL if not variant.http2])
        victim = chance.choice(("none", "source", "destination"))
        with Trial(between.servers[variant.data_path], variant, putting, getting, narrow=True) as trial:
            # At the kill, more is left than the buffers between hold.
            trial.stream_to(chance.randrange(1, LOSSY_SIZE // 3), LOSSY_SIZE)
            if victim == "none":
                trial.source.allow(LOSSY_SIZE)
                trial.ends_well()
            elif victim == "source":
                trial.source.end()
                trial.until_cut(PATIENCE)
            else:
                trial.destination.end()
                trial.until_status(502, PATIENCE)
        trial.is_consistent()
        ends["whole" if victim == "none" else f"{victim} killed"] += 1
    return ends


# -------------------------------------------------------------------------------------------------- main

TESTS: dict[str, Test] = {
    "cut": test_of(
        Case("destination, 502 after", destination_cut),
        Case("quiet destination, 502 after", quiet_destination_cut),
        Case("source, cut after", source_cut),
    ),
    "outage": test_of(
        Case("of the destination, whole after", destination_outage),
        Case("of the source, whole after", source_outage),
    ),
    "flight": test_of(
        Case("held up, 200 after", flight_held_up),
        Case("lost, 502 after", flight_lost),
    ),
    "reborn": test_of(
        Case("destination, 502 after", destination_reborn),
        Case("source, cut after", source_reborn),
        Case("waiting destination, free after", reborn_waiting_destination),
    ),
    "waiting": test_of(
        Case("destination, free after", waiting_destination),
        Case("source, free after", waiting_source),
        Case("source with full buffers, free after", waiting_full_source),
        Case("idle connection, closed after", idle, by_hand=True),
    ),
    "paused": test_of(
        Case(f"for {PAUSE:.0f} s, whole after", paused, narrow=True),
        Case("and cut, 502 after", paused_and_cut, narrow=True),
    ),
    "loss": test_loss,
}


def skip(options: argparse.Namespace, reason: str, tally: Tally | None = None) -> None:
    """Reports that a test cannot run here, which `--must-run` makes a failure."""
    print(f"SKIPPED: {reason}", flush=True)
    if tally is None:
        sys.exit(1 if options.must_run else 0)
    if options.must_run:
        tally.violations.append(f"skipped: {reason}")


def main() -> int:
    parser = new_parser(__doc__, TESTS)
    parser.add_argument("--quick", action="store_true", help="use fewer variants")
    parser.add_argument("--must-run", action="store_true", help="a skipped test is a failure")
    options = parser.parse_args()
    try:
        become_a_host()
    except OSError as error:
        skip(options, f"all of it: this machine allows no network namespaces here ({error})")
    print(f"in time means within {BOUND:.1f} s, with --peer-timeout {PEER_TIMEOUT:.0f}s", flush=True)
    return run_all(parser, TESTS, "ip", "curl", "openssl", "unshare")


if __name__ == "__main__":
    sys.exit(main())
