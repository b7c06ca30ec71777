#!/usr/bin/env python3
"""Networks that fail between real hosts (Linux, iproute2, curl, openssl; no Python packages).

    cut      a link goes down in mid-transfer and stays down: the other side is told, in time
    outage   a link is down for a moment: the transfer does not notice
    flight   a route swallows the last bytes: nobody claims that they have arrived before they have
    reborn   a host vanishes without a word, and another has its address: the other side is told, in time
    waiting  the host of a side that waits vanishes: its seat is free again, in time; so is an idle connection
    paused   a receiver takes nothing for a long while and is not given up, unless its host vanishes
    loss     packets are lost and late, and sides are killed: what is cut is seen to be

Each host is a network namespace, a cable is a veth pair, and a router stands between. Namespaces have no names: each lives as
long as one process, which ends with this one. Lossy cables are pairs of TUN devices, with this program between them, so
that they are the same on every kernel, and lose by --seed. Needs to be root, or to be allowed to make user namespaces;
without either it says SKIPPED, which --must-run makes a failure. --quick asks in fewer manners.
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
    MIB,
    PATIENCE,
    Proof,
    Server,
    Tally,
    check,
    new_pair,
    new_parser,
    output_of,
    run_all,
    serving,
    wait_until,
)

PEER_TIMEOUT = 3.0  # seconds, of the server: the least it takes
# Keepalives go by whole seconds, the server looks four times in the time, and a busy machine is late.
BOUND = PEER_TIMEOUT * 1.25 + 2.0
OUTAGE = 0.4 * PEER_TIMEOUT
PAUSE = 3 * PEER_TIMEOUT
FULL_FOR = 1.0
# The kernel asks a receiver that is full ever more rarely, each time after twice as long. Three questions must go
# unanswered, the last of which comes when eight times as long has passed as it was full before.
FULL_BOUND = 8 * FULL_FOR + BOUND

AT_ONCE = 20  # trials, each with hosts of its own
KIB = 1024
RATE = 64 * KIB, 0.01  # bytes, and a pause in seconds: enough to be in mid-transfer, and easy on the machine
SMALL = 512 * KIB
LARGE = 4 * MIB
MORE_THAN_BUFFERS = 24 * MIB
NARROW = 64 * KIB  # the buffers of clients that are to be full soon
WITHOUT_END = 1 << 40

LOSS, DELAY = 0.03, (0.01, 0.03)  # of a packet: the chance to be lost, and the seconds that it takes
LOSSY_SIZE = 384 * KIB
LOSSY_PAIRS, LOSSY_ROUNDS = 8, 3

BLOCK = random.Random(7).randbytes(1_000_003)  # of no even length: no shifted piece looks right

# ------------------------------------------------------------------------------------------------ hosts

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
HOME = ""  # the namespace of the server's host, once it is one
HOME_HANDLE = -1


def call(function: str, *arguments: int) -> None:
    """A call of the C library that has no other name in this Python."""
    if getattr(LIBC, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def become_a_host() -> None:
    """This process leaves the network it was in: it is the server's host from here on."""
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        call("unshare", CLONE_NEWNET)
    else:
        call("unshare", CLONE_NEWUSER | CLONE_NEWNET)
        for file, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path("/proc/self", file).write_text(line)
    ip("link set lo up")
    # On some machines the server's kernel would hold all that is sent here.
    Path("/proc/sys/net/ipv4/tcp_rmem").write_text(f"4096 131072 {6 * MIB}")


def ip(*commands: str) -> None:
    asked = "\n".join(commands)
    done = subprocess.run(("ip", "-batch", "-"), input=asked, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{asked!r}: {done.stderr}")


class Namespace:
    """A network of its own, which ends with this object, or with the program."""

    def __init__(self) -> None:
        # `cat` ends when the other end of its input does, however that comes about.
        self._life = subprocess.Popen(("unshare", "--net", "cat"), stdin=subprocess.PIPE)
        self.pid = self._life.pid
        wait_until(lambda: os.readlink(f"/proc/{self.pid}/ns/net"), lambda net: net != HOME, "a namespace")
        self._handle = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The block's sockets and processes are of this namespace. Threads are not to be started in it."""
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
    """Between the server's host and all others."""

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
        ip("link del eth0")  # a namespace that ends takes its time
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
        self.mend()

    def cut(self) -> None:
        with self.space.inside():
            ip("link set eth0 down")

    def mend(self) -> None:
        with self.space.inside():
            ip("link set eth0 up", f"route add default via {self.prefix}.1")

    def swallow(self) -> None:
        """What is sent here disappears; what comes from here does not."""
        with self.router.space.inside():
            ip(f"route add blackhole {self.address}/32")

    def swallow_no_more(self) -> None:
        with self.router.space.inside():
            ip(f"route del blackhole {self.address}/32")

    def is_reborn(self) -> None:
        """It is gone with all that it knew, and another is there, at its address."""
        with self.router.space.inside():
            ip(f"link del {self.name}")
        self.space.end()
        self._plug()

    def end(self) -> None:
        self.space.end()


# ----------------------------------------------------------------------------------------------- losses

IFF_TUN, IFF_NO_PI, TUNSETIFF = 0x0001, 0x1000, 0x400454CA


def open_tun(name: str) -> int:
    """A device of the namespace at hand, of which this program is the cable: a packet at a time."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return device


class LossyHost:
    """A machine at the end of a bad cable, whose other end is in the server's host."""

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
    """Carries the packets of all its hosts, in order, late, and not all of them."""

    def __init__(self, hosts: Sequence[LossyHost], chance: random.Random) -> None:
        self.carried = 0
        self.lost = 0
        self._chance = chance
        self._other = {host.near: host.far for host in hosts} | {host.far: host.near for host in hosts}
        self._last = dict.fromkeys(self._other, 0.0)  # when the last packet from there is due
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
                    with suppress(OSError):  # a full queue, which is a loss too
                        os.write(end, packet)

    def _take(self, end: int, packet: bytes) -> None:
        if self._chance.random() < LOSS:
            self.lost += 1
            return
        self.carried += 1
        due = max(self._last[end], time.monotonic() + self._chance.uniform(*DELAY))
        self._last[end] = due
        heapq.heappush(self._late, (due, self.carried, self._other[end], packet))


# ---------------------------------------------------------------------------------------------- clients


@dataclass(frozen=True)
class Manner:
    """How both sides of a transfer speak."""

    chunked: bool
    tls: bool
    http2: bool
    data_path: str

    def __str__(self) -> str:
        framing = "chunked" if self.chunked else "Content-Length"
        spoken = "HTTP/2" if self.http2 else f"HTTP/1.1 {framing}"
        return f"{spoken}{' TLS' if self.tls else ''} {self.data_path}"


QUICK = (
    Manner(chunked=False, tls=False, http2=False, data_path="splice"),
    Manner(chunked=True, tls=True, http2=False, data_path="copy"),
    Manner(chunked=True, tls=True, http2=True, data_path="splice"),
)
FULL = (
    *(
        Manner(chunked, tls, False, data_path)
        for chunked, tls, data_path in product((False, True), (False, True), ("splice", "copy"))
    ),
    Manner(chunked=True, tls=True, http2=True, data_path="splice"),
    Manner(chunked=True, tls=False, http2=True, data_path="copy"),
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


TRUSTING = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it is not the certificate that is proved here
TRUSTING.check_hostname = False
TRUSTING.verify_mode = ssl.CERT_NONE


def curl(
    host: "AnyHost", server: Server, manner: Manner, stream: str, *options: str | Path
) -> tuple[str, ...]:
    scheme, port = ("https", server.tls_port) if manner.tls else ("http", server.port)
    version = "--http2" if manner.tls else "--http2-prior-knowledge"
    url = f"{scheme}://{host.server}:{port}/stream/{stream}"
    return ("curl", "-q", "-sS", "-k", "--noproxy", "*", version, *map(str, options), url)


def piece_at(offset: int, size: int) -> bytes:
    """Of the endless body that all sources send."""
    start = offset % len(BLOCK)
    return BLOCK[start : start + size]


AnyHost = Host | LossyHost
H = TypeVar("H", Host, LossyHost)


class Ends(Protocol):
    """What has an end of its own."""

    def end(self) -> None: ...


E = TypeVar("E", bound=Ends)


@contextmanager
def closing(thing: E) -> Iterator[E]:
    try:
        yield thing
    finally:
        thing.end()


class Source:
    """A PUT that sends as many bytes as it is allowed, in a thread of its own."""

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
        self._chunked = trial.manner.chunked
        framing = "Transfer-Encoding: chunked" if self._chunked else f"Content-Length: {length}"
        self._pending = f"PUT /stream/{trial.stream} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode()
        self._input = b""
        self._connection = connect(trial.putting, trial.server, trial.manner.tls, trial.narrow)
        self._connection.setblocking(False)

    def _run(self) -> None:
        with suppress(OSError), self._connection:
            finished = False
            while not self._stopped:
                if not self._pending and (size := self._may_send()) > 0:
                    self._pending = self._framed(piece_at(self.sent, size))
                elif not self._pending and self.sent == self.length and not finished:
                    finished = True
                    self._pending = b"0\r\n\r\n" if self._chunked else b""
                self._send()
                if self._receive() == b"":
                    return
                select.select([self._connection], [], [], RATE[1])

    def _framed(self, piece: bytes) -> bytes:
        self.sent += len(piece)
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece

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
            head, _, self._input = self._input.partition(b"\r\n\r\n")
            status = int(head.split()[1])
            if status != 100:
                self.status = status
        return data


class CurlSource(Source):
    """Over HTTP/2, by curl."""

    def __init__(self, trial: "Trial[Any]", length: int) -> None:
        super().__init__(length)
        # `.`: also while there is nothing to send, it reads its answer; and it shows that at once.
        command = curl(trial.putting, trial.server, trial.manner, trial.stream, "-i", "-N", "-T", ".")
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
                # A broken pipe: curl has ended, and its answer tells why.
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
    """A GET that checks all that comes, in a thread of its own."""

    def __init__(self) -> None:
        self.received = 0
        self.whole: bool | None = None  # not known before its end
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
                self.wrong = self.wrong or f"what came after {self.received} bytes is not what was sent"
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
        self._connection = connect(trial.getting, trial.server, trial.manner.tls, trial.narrow)
        self._connection.settimeout(None)
        self._connection.sendall(f"GET /stream/{trial.stream} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def pause(self) -> None:
        self._reads.clear()

    def go_on(self) -> None:
        self._reads.set()

    def end(self) -> None:
        # Past TLS, whose own way makes what is still read look like what was sent.
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
            # Python tells of a missing last chunk, and of a missing last byte only so.
            self.whole = response.status == 200 and response.length in (0, None)
        except (OSError, HTTPException, ValueError):
            self.whole = False
        finally:
            self._connection.close()


class CurlDestination(Destination):
    """Over HTTP/2, by curl."""

    def __init__(self, trial: "Trial[Any]") -> None:
        super().__init__()
        command = curl(trial.getting, trial.server, trial.manner, trial.stream, "-f", "-N")
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

    def __init__(self, server: Server, manner: Manner, putting: H, getting: H, narrow: bool) -> None:
        self.server = server
        self.manner = manner
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
        self.source = self.has((CurlSource if self.manner.http2 else SocketSource)(self, length))
        self.source.start()
        return self.source

    def get(self) -> Destination:
        self.destination = self.has((CurlDestination if self.manner.http2 else SocketDestination)(self))
        self.destination.start()
        return self.destination

    def stream_to(self, received: int, length: int) -> None:
        """Both sides come, and so many bytes of so many have come."""
        self.get()
        self.put(length).allow(received)
        wait_until(lambda: self.destination.received, lambda now: now >= received, "the first bytes")

    def until_told(self, status: int, bound: float) -> float:
        """How long the source waits for its answer."""
        seen, took = self.within(bound, lambda: self.source.status)
        check(seen == status, f"the source was answered {seen}, not {status}, after {took:.1f} s")
        return took

    def until_cut(self, bound: float) -> float:
        """How long the destination waits for its end, which has to look like none."""
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
        """All has come, and the source is told so, but not before."""
        took = self.until_told(200, patience)
        whole, _ = self.within(patience, lambda: self.destination.whole)
        check(whole is True and self.destination.received == self.source.length, "the source was told a lie")
        check(self.server.final_state(self.stream) == "FINISHED", "another state than FINISHED")
        return took

    def no_lies(self) -> None:
        """Whatever has happened."""
        source, destination = getattr(self, "source", None), getattr(self, "destination", None)
        if destination:
            check(destination.wrong is None, str(destination.wrong))
        if source and destination and source.status == 200:
            check(destination.received == source.length, "200 for what has not come")
        if source and destination and destination.whole:
            check(destination.received == source.length, "what is cut looks whole")

    def ended_as(self, state: str) -> None:
        seen = self.server.final_state(self.stream)
        check(seen == state, f"state {seen}, not {state}")


@dataclass(frozen=True)
class Network:
    """The router, and a server for each data path."""

    router: Router
    servers: dict[str, Server]
    manners: Sequence[Manner]
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
class Question:
    """Asked in every manner. The answer is a number of seconds, or a violation."""

    name: str
    ask: Callable[[Trial[Host]], float]
    narrow: bool = False  # with small buffers
    by_hand: bool = False  # on a connection that only HTTP/1.1 has

    def answer(self, between: Network, manner: Manner) -> float:
        putting, getting = between.router.host(), between.router.host()
        with closing(putting), closing(getting):
            with Trial(between.servers[manner.data_path], manner, putting, getting, self.narrow) as trial:
                took = self.ask(trial)
            trial.no_lies()
        return took


def proof(*questions: Question) -> Proof:
    """All of them in one network, many at once."""

    def prove(options: argparse.Namespace, tally: Tally) -> None:
        with network(options) as between, ThreadPoolExecutor(AT_ONCE) as pool:
            asked = [
                (question, manner, pool.submit(question.answer, between, manner))
                for question, manner in product(questions, between.manners)
                if not (question.by_hand and manner.http2)
            ]
            seconds: dict[str, list[float]] = {question.name: [] for question in questions}
            for question, manner, answer in asked:
                with tally.trial(f"{question.name}, {manner}"):
                    seconds[question.name].append(answer.result())
        for name, took in seconds.items():
            if took:
                tally.notes.append(f"{name} {min(took):.1f}–{max(took):.1f} s")

    return prove


# -------------------------------------------------------------------------------------------- questions


def destination_cut(trial: Trial[Host]) -> float:
    trial.stream_to(SMALL, WITHOUT_END)
    trial.source.allow(WITHOUT_END)
    trial.getting.cut()
    took = trial.until_told(502, BOUND)
    trial.ended_as("DST_DISCONNECTED")
    return took


def quiet_destination_cut(trial: Trial[Host]) -> float:
    """Nothing is in flight to it."""
    trial.stream_to(SMALL, WITHOUT_END)
    time.sleep(0.2)  # its acknowledgements may take as long
    trial.getting.cut()
    took = trial.until_told(502, BOUND)
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
    host.mend()
    return trial.ends_well()


def swallow_the_last(trial: Trial[Host]) -> None:
    trial.stream_to(SMALL, SMALL + 64 * KIB)
    trial.getting.swallow()
    trial.source.allow(WITHOUT_END)
    wait_until(lambda: trial.source.sent, lambda sent: sent == trial.source.length, "the last bytes")


def flight_held_up(trial: Trial[Host]) -> float:
    swallow_the_last(trial)
    time.sleep(OUTAGE)
    check(trial.source.status is None, f"answered {trial.source.status} for what is in flight")
    trial.getting.swallow_no_more()
    return trial.ends_well()


def flight_lost(trial: Trial[Host]) -> float:
    swallow_the_last(trial)
    took = trial.until_told(502, BOUND)
    trial.ended_as("DST_DISCONNECTED")
    return took


def destination_reborn(trial: Trial[Host]) -> float:
    trial.stream_to(SMALL, WITHOUT_END)
    trial.source.allow(WITHOUT_END)
    trial.getting.is_reborn()
    took = trial.until_told(502, BOUND)
    trial.ended_as("DST_DISCONNECTED")
    return took


def source_reborn(trial: Trial[Host]) -> float:
    trial.stream_to(SMALL, WITHOUT_END)
    trial.putting.is_reborn()
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
    trial.getting.is_reborn()
    trial.stream_to(SMALL, SMALL)
    trial.ends_well()
    return took


def waiting_source(trial: Trial[Host]) -> float:
    trial.put(SMALL).allow(1)
    return another_source(trial)


def waiting_full_source(trial: Trial[Host]) -> float:
    """What it sends fills the buffers before it."""
    trial.put(WITHOUT_END).allow(WITHOUT_END)
    time.sleep(1.5)  # until they are full
    return another_source(trial)


def another_source(trial: Trial[Host]) -> float:
    trial.server.wait_for_state(trial.stream, "SRC_CONNECTED")
    took = free_again(trial, trial.putting.cut)
    trial.putting.is_reborn()
    trial.stream_to(SMALL, SMALL)
    trial.ends_well()
    return took


def reborn_waiting_destination(trial: Trial[Host]) -> float:
    trial.get()
    trial.server.wait_for_state(trial.stream, "DST_CONNECTED")
    took = free_again(trial, trial.getting.is_reborn)
    trial.stream_to(SMALL, SMALL)
    trial.ends_well()
    return took


def idle(trial: Trial[Host]) -> float:
    """A connection that is kept between requests."""
    connection = trial.has(Closing(connect(trial.getting, trial.server, trial.manner.tls))).connection
    connection.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
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
    """A socket that ends as all else does."""

    connection: socket.socket

    def end(self) -> None:
        self.connection.close()


def established() -> set[str]:
    """The addresses that the server's host has connections to."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    remote = (fields[2].partition(":")[0] for fields in lines if fields[3] == "01")
    return {socket.inet_ntoa(struct.pack("=I", int(address, 16))) for address in remote}


def paused(trial: Trial[Host]) -> float:
    trial.stream_to(1, MORE_THAN_BUFFERS)
    trial.destination.pause()
    trial.source.allow(WITHOUT_END)
    time.sleep(PAUSE)
    check(trial.source.sent < MORE_THAN_BUFFERS, "nothing holds the source up")
    check(trial.source.status is None, f"answered {trial.source.status} while the receiver pauses")
    trial.destination.go_on()
    return trial.ends_well()


def paused_and_cut(trial: Trial[Host]) -> float:
    trial.stream_to(1, WITHOUT_END)
    trial.destination.pause()
    trial.source.allow(WITHOUT_END)
    time.sleep(FULL_FOR)
    trial.getting.cut()
    took = trial.until_told(502, FULL_BOUND)
    trial.ended_as("DST_DISCONNECTED")
    return took


def prove_loss(options: argparse.Namespace, tally: Tally) -> None:
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
                (number, pool.submit(lossy, between, *pair, options.seed + number))
                for number, pair in enumerate(pairs)
            ]
            ends: Counter[str] = Counter()
            for number, answer in asked:
                with tally.trial(f"pair {number}"):
                    ends += answer.result()
        share = cables.lost / (cables.lost + cables.carried)
        tally.notes += [f"{count} {end}" for end, count in sorted(ends.items())]
        tally.notes.append(f"{cables.lost} packets lost of {cables.lost + cables.carried} ({share:.1%})")


def lossy(between: Network, putting: LossyHost, getting: LossyHost, seed: int) -> Counter[str]:
    """Some transfers, one after another. A third is left alone."""
    chance = random.Random(seed)
    ends: Counter[str] = Counter()
    for _ in range(LOSSY_ROUNDS):
        manner = chance.choice([manner for manner in FULL if not manner.http2])
        victim = chance.choice(("nobody", "source", "destination"))
        with Trial(between.servers[manner.data_path], manner, putting, getting, narrow=True) as trial:
            # What is left when somebody is killed is more than the buffers between hold.
            trial.stream_to(chance.randrange(1, LOSSY_SIZE // 3), LOSSY_SIZE)
            if victim == "nobody":
                trial.source.allow(LOSSY_SIZE)
                trial.ends_well()
            elif victim == "source":
                trial.source.end()
                trial.until_cut(PATIENCE)
            else:
                trial.destination.end()
                trial.until_told(502, PATIENCE)
        trial.no_lies()
        ends["whole" if victim == "nobody" else f"{victim} killed"] += 1
    return ends


# -------------------------------------------------------------------------------------------------- main

PROOFS: dict[str, Proof] = {
    "cut": proof(
        Question("destination, the source is told after", destination_cut),
        Question("quiet destination, the source is told after", quiet_destination_cut),
        Question("source, the destination is told after", source_cut),
    ),
    "outage": proof(
        Question("of the destination, whole after", destination_outage),
        Question("of the source, whole after", source_outage),
    ),
    "flight": proof(
        Question("held up, 200 after", flight_held_up),
        Question("lost, 502 after", flight_lost),
    ),
    "reborn": proof(
        Question("destination, the source is told after", destination_reborn),
        Question("source, the destination is told after", source_reborn),
        Question("waiting destination, free after", reborn_waiting_destination),
    ),
    "waiting": proof(
        Question("destination, free after", waiting_destination),
        Question("source, free after", waiting_source),
        Question("source with full buffers, free after", waiting_full_source),
        Question("idle connection, closed after", idle, by_hand=True),
    ),
    "paused": proof(
        Question(f"for {PAUSE:.0f} s, whole after", paused, narrow=True),
        Question("and cut, the source is told after", paused_and_cut, narrow=True),
    ),
    "loss": prove_loss,
}


def skip(options: argparse.Namespace, reason: str, tally: Tally | None = None) -> None:
    """Loudly; and not at all where it must run."""
    print(f"SKIPPED: {reason}", flush=True)
    if tally is None:
        sys.exit(1 if options.must_run else 0)
    if options.must_run:
        tally.violations.append(f"skipped: {reason}")


def main() -> int:
    global HOME, HOME_HANDLE
    parser = new_parser(__doc__, PROOFS)
    parser.add_argument("--quick", action="store_true", help="in fewer manners")
    parser.add_argument("--must-run", action="store_true", help="what is skipped is a failure")
    options = parser.parse_args()
    try:
        become_a_host()
    except OSError as error:
        skip(options, f"all of it: this machine allows no network namespaces here ({error})")
    HOME, HOME_HANDLE = os.readlink("/proc/self/ns/net"), os.open("/proc/self/ns/net", os.O_RDONLY)
    print(f"found within {BOUND:.1f} s is in time, with --peer-timeout {PEER_TIMEOUT:.0f}s", flush=True)
    return run_all(parser, PROOFS, "ip", "curl", "openssl", "unshare")


if __name__ == "__main__":
    sys.exit(main())
