#!/usr/bin/env python3
"""Clients that attack, and their effect on other clients (Linux, curl, openssl, no Python packages).

    load         5000 heads and 5000 handshakes that never end and 2000 uploads of a byte a second, held together:
                 an honest transfer takes at most twice as long, memory is bounded, and all connections end
    descriptors  a server with 256 descriptors and 1000 connections: running streams are not affected, and it recovers
    http2        floods, overflows and frames out of place, made by hand: the server refuses each as RFC 9113 demands,
                 serves others within a second meanwhile, and its memory is bounded

All of it runs on loopback. load needs about 17000 descriptors: with fewer it does less, and reports that.
"""

import argparse
import hashlib
import random
import resource
import select
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

from harness import (
    CURL,
    FAILURES,
    LOOPBACK,
    MIB,
    PATIENCE,
    Command,
    Server,
    Tally,
    Test,
    check,
    child,
    framing,
    head,
    new_pair,
    new_parser,
    run_all,
    serving,
    wait_until,
    write_random,
)

HALF_HEADS = 5000
HALF_HANDSHAKES = 5000
SLOW_PUTS = 2000
SPARE_DESCRIPTORS = 500  # of either process, for everything except the hostile connections
HONEST_SIZE = 64 * MIB
HONEST_ROUNDS = 7  # whose median counts
SLOWER_AT_MOST = 2.0
MEMORY_AT_MOST = 400 * MIB
HELD_AT_LEAST = 0.99  # of the connections, while the honest transfers are measured
GONE_AFTER = 65.0  # seconds: the ttl of the streams of slow PUTs, and a lingering close

FEW_DESCRIPTORS = 256
MANY_ATTEMPTS = 1000

ABUSE_MEMORY = 64 * MIB  # that one abusive connection may use
SERVED_WITHIN = 1.0  # seconds, for all other clients meanwhile


# ------------------------------------------------------------------------------------------------- load


class Crowd:
    """Hostile connections. One thread sends a byte a second on some, and notices which ones the server closes."""

    def __init__(self) -> None:
        self.opened: Counter[str] = Counter()
        self.last_closed: dict[str, float] = {}  # seconds since the last of the kind was opened
        self._open: dict[int, tuple[socket.socket, str, bytes]] = {}
        self._began: dict[str, float] = {}
        self._poll = select.epoll()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> "Crowd":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        for held in self._open.values():
            held[0].close()
        self._poll.close()

    def add(self, kind: str, port: int, beginning: bytes, trickle: bytes = b"") -> None:
        connection = socket.create_connection((LOOPBACK, port), timeout=PATIENCE)
        connection.sendall(beginning)
        connection.setblocking(False)
        with self._lock:
            self._open[connection.fileno()] = (connection, kind, trickle)
            self._began[kind] = time.monotonic()
            self.opened[kind] += 1
        self._poll.register(connection, select.EPOLLIN)

    def still_open(self) -> Counter[str]:
        with self._lock:
            return Counter(kind for _, kind, _ in self._open.values())

    def _keep(self) -> None:
        next_trickle = time.monotonic()
        while not self._stop.is_set():
            for number, _ in self._poll.poll(0.05):
                self._read(number)
            if time.monotonic() >= next_trickle:
                next_trickle += 1.0
                self._trickle()

    def _read(self, number: int) -> None:
        connection = self._open[number][0]
        try:
            more = connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        if not more:
            self._lose(number)

    def _trickle(self) -> None:
        with self._lock:
            trickling = [(number, held[0], held[2]) for number, held in self._open.items() if held[2]]
        for _, connection, byte in trickling:
            with suppress(OSError):  # the poll notices it
                connection.send(byte)

    def _lose(self, number: int) -> None:
        with self._lock:
            connection, kind, _ = self._open.pop(number)
            self.last_closed[kind] = time.monotonic() - self._began[kind]
        self._poll.unregister(connection)
        connection.close()


def test_load(options: argparse.Namespace, tally: Tally) -> None:
    part = raise_descriptor_limit(HALF_HEADS + HALF_HANDSHAKES + SLOW_PUTS, tally)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(serving(options.server, pair=new_pair(directory, "hostile")))
        file = directory / "random"
        write_random(file, HONEST_SIZE)
        rounds = range(HONEST_ROUNDS)
        before = median(honest_transfer(server, file) for _ in rounds)
        idle = server.memory()
        crowd = stack.enter_context(Crowd())
        began = time.monotonic()
        fill(crowd, server, part)
        tally.notes.append(f"{crowd.opened.total()} connections opened in {time.monotonic() - began:.1f} s")
        with tally.trial("an honest transfer under load"):
            times = [honest_transfer(server, file) for _ in rounds]
            held = crowd.still_open().total() / crowd.opened.total()
            figures = f"{median(times) * 1000:.0f} ms, {before * 1000:.0f} ms without load"
            tally.notes.append(f"honest {HONEST_SIZE // MIB} MiB in {figures}, {held:.1%} held")
            check(
                held >= HELD_AT_LEAST,
                f"only {held:.1%} were held while it was measured: {crowd.still_open()}",
            )
            check(median(times) <= SLOWER_AT_MOST * before, f"too slow: {figures}")
        with tally.trial("all hostile connections end"):
            deadline = time.monotonic() + GONE_AFTER
            while (left := crowd.still_open()) and time.monotonic() < deadline:
                time.sleep(0.2)
            check(not left, f"still open after {GONE_AFTER:.0f} s: {dict(left)}")
        tally.notes.extend(f"{kind} gone after {took:.1f} s" for kind, took in crowd.last_closed.items())
        with tally.trial("memory"):
            peak = server.memory("VmHWM")
            tally.notes.append(f"RSS {show(idle)} before, {show(peak)} at most, {show(server.memory())} after")
            check(peak <= MEMORY_AT_MOST, f"{show(peak)} is more than {show(MEMORY_AT_MOST)}")


def show(size: int) -> str:
    return f"{size / MIB:.1f} MiB"


def raise_descriptor_limit(wanted: int, tally: Tally) -> float:
    """Raises the limit, which the server inherits. Returns the share of the connections that it allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    part = min(1.0, (most - SPARE_DESCRIPTORS) / wanted) if most != resource.RLIM_INFINITY else 1.0
    if part < 1:
        note = f"SCALED DOWN TO {part:.0%}: only {most} descriptors are allowed"
        print(note, file=sys.stderr, flush=True)
        tally.notes.append(note)
    return part


def fill(crowd: Crowd, server: Server, part: float) -> None:
    """Opens all connections, those that may stay longest first. Every other one of a kind sends nothing more."""
    for _ in range(int(SLOW_PUTS * part)):
        upload = head("PUT", f"/stream/{server.new_stream()}", framing(1_000_000))
        crowd.add("slow PUTs", server.port, upload, b"x")
    hello = client_hello()
    for number in range(int(HALF_HANDSHAKES * part)):
        beginning = (b"", hello[: len(hello) // 2])[number % 2]
        crowd.add("half handshakes", server.tls_port, beginning)
    for number in range(int(HALF_HEADS * part)):
        crowd.add("half heads", server.port, b"GET /ping HTTP/1.1\r\nHost: loc", (b"", b"a")[number % 2])


def client_hello() -> bytes:
    """A ClientHello of OpenSSL."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def honest_transfer(server: Server, file: Path) -> float:
    """Runs a transfer through two curls. Returns its seconds."""
    url = server.url(server.new_stream())
    began = time.monotonic()
    with child(*CURL, "-f", "-o", "/dev/null", url) as get, child(*CURL, "-f", "-T", file, url) as put:
        codes = put.wait(PATIENCE), get.wait(PATIENCE)
        took = time.monotonic() - began
    check(codes == (0, 0), f"exits of an honest upload and download: {codes}")
    return took


# ------------------------------------------------------------------------------------------ descriptors


def test_descriptors(options: argparse.Namespace, tally: Tally) -> None:
    data = random.Random(options.seed).randbytes(8 * MIB)

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_DESCRIPTORS, FEW_DESCRIPTORS))

    with tempfile.TemporaryFile() as log, serving(options.server, preexec_fn=few, stderr=log) as server:
        with ExitStack() as stack:
            # When no descriptor is left, one is in mid-transfer, and the other has paired and moved nothing.
            streams = {name: stack.enter_context(Stream(server, len(data))) for name in ("running", "silent")}
            streams["running"].send(data[:MIB])
            attempts = [stack.enter_context(attempt(server.port)) for _ in range(MANY_ATTEMPTS)]
            wait_until(lambda: not answers(server), bool, "a refusal")
            tally.notes.append(f"{server.descriptors()} descriptors with {len(attempts)} attempts")
            for name, stream in streams.items():
                with tally.trial(f"the stream that was {name}"):
                    stream.send(data[stream.sent :])
                    check(stream.finish() == hashlib.sha256(data).hexdigest(), "the received body is not the sent one")
        with tally.trial("it serves again"):
            began = time.monotonic()
            wait_until(lambda: answers(server), bool, "an answer")
            tally.notes.append(f"serves again after {time.monotonic() - began:.1f} s")
            with Stream(server, MIB) as stream:
                stream.send(data[:MIB])
                check(stream.finish() == hashlib.sha256(data[:MIB]).hexdigest(), "the next stream is not whole")
        log.seek(0)
        tally.notes.append(f"{len(log.read().splitlines())} lines of log")


@contextmanager
def attempt(port: int) -> Iterator[socket.socket]:
    """A connection that the kernel accepts, and the server perhaps not."""
    connection = socket.socket()
    connection.setblocking(False)
    connection.connect_ex((LOOPBACK, port))
    with connection:
        yield connection


def answers(server: Server) -> bool:
    try:
        return server.request("GET", "/ping") == (200, b"pong")
    except FAILURES:
        return False


class Stream:
    """A stream over two raw connections."""

    def __init__(self, server: Server, length: int) -> None:
        stream = server.new_stream()
        self.sent = 0
        self._put = socket.create_connection((LOOPBACK, server.port), timeout=PATIENCE)
        self._get = socket.create_connection((LOOPBACK, server.port), timeout=PATIENCE)
        self._received = b""
        self._put.sendall(head("PUT", f"/stream/{stream}", framing(length)))
        # The reader ends with the connection.
        self._get.sendall(head("GET", f"/stream/{stream}", "Connection: close"))
        server.wait_for_state(stream, "STREAMING")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._put.close()
        self._reader.join(PATIENCE)
        self._get.close()

    def _read(self) -> None:
        pieces = []
        try:
            while piece := self._get.recv(MIB):
                pieces.append(piece)
        except OSError:
            pass  # finish() checks what has arrived
        self._received = b"".join(pieces)

    def send(self, data: bytes) -> None:
        self._put.sendall(data)
        self.sent += len(data)

    def finish(self) -> str:
        """Returns the SHA-256 of the received body. The source must have got 200."""
        answer = self._put.recv(65536)
        check(answer.startswith(b"HTTP/1.1 200 "), f"the response to the PUT is {answer[:200]!r}")
        self._reader.join(PATIENCE)
        response, _, body = self._received.partition(b"\r\n\r\n")
        check(response.startswith(b"HTTP/1.1 200 "), f"the response to the GET is {response[:200]!r}")
        return hashlib.sha256(body).hexdigest()


# ------------------------------------------------------------------------------------------------ http2

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, _PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 0x3, 0x4
WINDOW = 65535  # the default, of the connection and of each HTTP/2 stream
MAX_WINDOW = 2**31 - 1
CODES = (
    "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR "
    "REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM INADEQUATE_SECURITY HTTP_1_1_REQUIRED"
).split()


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    def code(self) -> str:
        """The reason of a RST_STREAM or GOAWAY."""
        number = int.from_bytes(self.payload[0:4] if self.kind == RST_STREAM else self.payload[4:8], "big")
        return CODES[number] if number < len(CODES) else str(number)


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def setting(name: int, value: int) -> bytes:
    return struct.pack(">HI", name, value)


def literal(name: str, value: str, first: int = 0) -> bytes:
    """A literal field (RFC 7541, section 6.2). With a `first` byte of 0x40 it enters the dynamic table."""
    return bytes((first,)) + text(name) + text(value)


def text(value: str) -> bytes:
    """A string literal: the length with a 7-bit prefix (RFC 7541, section 5.1), and the text."""
    length, most = len(value), 0x7F
    if length < most:
        return bytes((length,)) + value.encode()
    length -= most
    digits = [most]
    while length >= 0x80:
        digits.append(length % 0x80 | 0x80)
        length //= 0x80
    return bytes((*digits, length)) + value.encode()


def digits(spelled: bytes) -> str:
    """Decodes Huffman-coded digits (RFC 7541, appendix B): 0 to 2 take 5 bits, the others 6."""
    bits = "".join(f"{byte:08b}" for byte in spelled)
    codes = {f"{digit:05b}" if digit < 3 else f"{digit + 22:06b}": str(digit) for digit in range(10)}
    found = ""
    while code := next((code for code in codes if bits.startswith(code)), None):
        found += codes[code]
        bits = bits[len(code) :]
    return found


def block(method: str, path: str, *more: tuple[str, str]) -> bytes:
    """The header block of a request."""
    fields = ((":method", method), (":scheme", "http"), (":authority", "localhost"), (":path", path), *more)
    return b"".join(literal(name, value) for name, value in fields)


def request(stream: int, method: str, path: str, *more: tuple[str, str], ends: bool = True) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), stream, block(method, path, *more))


class Client:
    """An HTTP/2 client that sends any bytes, valid or not, and keeps all frames that it receives."""

    def __init__(self, server: Server, settings: bytes = b"") -> None:
        self.frames: list[Frame] = []
        self.closed = False
        self._rest = bytearray()
        self._socket = socket.create_connection((LOOPBACK, server.port), timeout=PATIENCE)
        self._socket.setblocking(False)
        self.send(PREFACE + frame(SETTINGS, 0, 0, settings))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> bool:
        """Sends and reads at the same time, so that neither end blocks the other. False if the server closed before it took all."""
        left = memoryview(data)
        deadline = time.monotonic() + PATIENCE
        while left and not self.closed:
            check(time.monotonic() < deadline, "the server neither takes what is sent nor closes")
            _, writable, _ = select.select([], [self._socket], [], 0.05)
            if writable:
                try:
                    left = left[self._socket.send(left) :]
                except BlockingIOError:
                    pass
                except OSError:
                    self._drain()
            self.read()
        return not left

    def _drain(self) -> None:
        """Reads the last frames of a server that has closed."""
        deadline = time.monotonic() + PATIENCE
        while not self.closed and time.monotonic() < deadline:
            self.read(0.05)

    def read(self, wait: float = 0.0) -> None:
        """Reads what has arrived."""
        readable, _, _ = select.select([self._socket], [], [], wait)
        if not readable or self.closed:
            return
        try:
            more = self._socket.recv(MIB)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        self.closed = not more
        self._rest += more
        while len(self._rest) >= 9 and len(self._rest) >= (end := 9 + int.from_bytes(self._rest[:3], "big")):
            kind, flags = self._rest[3], self._rest[4]
            stream = int.from_bytes(self._rest[5:9], "big") & MAX_WINDOW
            self.frames.append(Frame(kind, flags, stream, bytes(self._rest[9:end])))
            del self._rest[:end]

    def until(self, enough: Callable[[list[Frame]], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not enough(self.frames):
            seen = [self._short(frame) for frame in self.frames[-5:]]
            check(not self.closed, f"closed, and not {what}; last came {seen}")
            check(time.monotonic() < deadline, f"not {what} within {PATIENCE:.0f} s; last came {seen}")
            self.read(0.05)

    @staticmethod
    def _short(frame: Frame) -> str:
        code = f" {frame.code()}" if frame.kind in (RST_STREAM, GOAWAY) else ""
        return f"type {frame.kind} on {frame.stream}{code}"

    def first(self, kind: int, stream: int) -> Frame:
        def found() -> list[Frame]:
            return [frame for frame in self.frames if (frame.kind, frame.stream) == (kind, stream)]

        self.until(lambda _: bool(found()), f"a frame of type {kind} on stream {stream}")
        return found()[0]

    def any(self, *kinds: int) -> Frame:
        """The first frame of one of these types."""
        self.until(lambda frames: any(frame.kind in kinds for frame in frames), f"a frame of a type in {kinds}")
        return next(frame for frame in self.frames if frame.kind in kinds)

    def reset(self, stream: int, *codes: str) -> str:
        """Checks that the server resets the HTTP/2 stream and keeps the connection."""
        code = self.first(RST_STREAM, stream).code()
        check(code in codes, f"reset by {code}, not {codes}")
        self.pong()
        return f"RST_STREAM {code}"

    def ended(self, *codes: str) -> str:
        """Checks that the server closes the connection, either without GOAWAY or by one with one of these codes."""
        began = time.monotonic()
        while not self.closed:
            check(time.monotonic() - began < PATIENCE, f"not closed within {PATIENCE:.0f} s")
            self.read(0.05)
        last = [frame for frame in self.frames if frame.kind == GOAWAY]
        if not last:
            return "closed without GOAWAY"
        check(last[-1].code() in codes, f"GOAWAY {last[-1].code()}, not {codes}")
        return f"GOAWAY {last[-1].code()}, closed"

    def pong(self) -> None:
        """Checks that the connection still works."""
        mark = random.randbytes(8)
        self.send(frame(PING, 0, 0, mark))
        self.until(lambda frames: any(frame.kind == PING and frame.payload == mark for frame in frames), "a PONG")

    def status(self, stream: int) -> str:
        """The status of a response, which begins its block: by an index, or as a string after an indexed name (RFC 7541)."""
        fields = self.first(HEADERS, stream).payload
        if fields[0] & 0x80:
            return {8: "200", 9: "204", 12: "400", 13: "404", 14: "500"}.get(fields[0] & 0x7F, fields.hex())
        length, spelled = fields[1] & 0x7F, fields[2 : 2 + (fields[1] & 0x7F)]
        return digits(spelled) if fields[1] & 0x80 else fields[2 : 2 + length].decode()

    def is_whole(self, stream: int) -> bool:
        """Whether the response on the HTTP/2 stream has ended well."""
        ends = (frame for frame in self.frames if frame.kind in (DATA, HEADERS) and frame.flags & END_STREAM)
        return any(frame.stream == stream for frame in ends)

    def body(self, stream: int) -> bytes:
        return b"".join(frame.payload for frame in self.frames if (frame.kind, frame.stream) == (DATA, stream))


class Bystander:
    """Another client, which sends requests all the time."""

    def __init__(self, server: Server) -> None:
        self.longest = 0.0
        self.asked = 0
        self.failures: list[str] = []
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> "Bystander":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)

    def _ask(self) -> None:
        while not self._stop.wait(0.005):
            began = time.monotonic()
            try:
                answer = self._server.request("GET", "/ping")
                check(answer == (200, b"pong"), f"answered {answer}")
            except FAILURES as failure:
                self.failures.append(f"{type(failure).__name__}: {failure}")
            self.longest = max(self.longest, time.monotonic() - began)
            self.asked += 1


CALM = ("ENHANCE_YOUR_CALM",)
Abuse = Callable[[Server], str]


def rapid_reset(server: Server) -> str:
    """10 000 requests, each cancelled at once."""
    with Client(server) as client:
        cancel = CODES.index("CANCEL").to_bytes(4, "big")
        streams = range(1, 20_001, 2)
        client.send(b"".join(request(at, "GET", "/ping") + frame(RST_STREAM, 0, at, cancel) for at in streams))
        return client.ended(*CALM)


def made_resets(server: Server) -> str:
    """10 000 requests whose window then overflows, so that the server resets each."""
    with Client(server) as client:
        path = f"/stream/{server.new_stream()}"
        streams = range(1, 20_001, 2)
        client.send(b"".join(request(at, "GET", path) + window_update(at, MAX_WINDOW) for at in streams))
        return client.ended(*CALM)


def ping_flood(server: Server) -> str:
    with Client(server) as client:
        client.send(frame(PING, 0, 0, bytes(8)) * 100_000)
        return client.ended(*CALM)


def settings_flood(server: Server) -> str:
    with Client(server) as client:
        client.send(frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, WINDOW)) * 100_000)
        return client.ended(*CALM)


def unread_pings(server: Server) -> str:
    """PINGs whose answers the client does not read, while a request waits. The server closes the connection all the same."""
    before = min(server.descriptors() for _ in range(100))  # the bystander opens and closes some
    with socket.create_connection((LOOPBACK, server.port), timeout=PATIENCE) as connection:
        connection.sendall(PREFACE + frame(SETTINGS) + request(1, "GET", f"/stream/{server.new_stream()}"))
        connection.settimeout(0.5)
        flood = frame(PING, 0, 0, bytes(8)) * 100_000
        with suppress(OSError):  # the server may refuse it
            connection.sendall(flood)
        began = time.monotonic()
        wait_until(server.descriptors, lambda now: now <= before, "the connection is closed")
        return f"closed after {time.monotonic() - began:.1f} s"


def continuation_flood(server: Server) -> str:
    """A header block that never ends."""
    with Client(server) as client:
        more = literal("x-more", "x" * 100)
        client.send(frame(HEADERS, END_STREAM, 1, block("GET", "/ping")))
        client.send(frame(CONTINUATION, 0, 1, more) * 100_000)
        return client.ended(*CALM, "COMPRESSION_ERROR", "PROTOCOL_ERROR")


def empty_continuations(server: Server) -> str:
    with Client(server) as client:
        client.send(frame(HEADERS, END_STREAM, 1, block("GET", "/ping")))
        client.send(frame(CONTINUATION, 0, 1) * 1_000_000)
        return client.ended(*CALM, "PROTOCOL_ERROR")


def too_many_streams(server: Server) -> str:
    """50 more than the limit. The earlier ones are not affected."""
    with Client(server) as client:
        settings = dict(struct.iter_unpack(">HI", client.first(SETTINGS, 0).payload))
        check(MAX_CONCURRENT_STREAMS in settings, f"there is no limit: {settings}")
        client.send(frame(SETTINGS, ACK))
        most = settings[MAX_CONCURRENT_STREAMS]
        numbers = [1 + 2 * number for number in range(most + 50)]
        streams = {number: server.new_stream() for number in numbers}
        client.send(b"".join(request(number, "GET", f"/stream/{streams[number]}") for number in numbers))
        for number in numbers[most:]:
            client.reset(number, "REFUSED_STREAM", "PROTOCOL_ERROR")
        first = numbers[0]
        server.wait_for_state(streams[first], "DST_CONNECTED")
        answer = server.request("PUT", f"/stream/{streams[first]}", b"whole")
        check(answer[0] == 200, f"the response to a PUT within the limit is {answer}")
        client.until(lambda _: client.is_whole(first), "the end of the first stream")
        check(client.body(first) == b"whole", f"the body of the first stream is {client.body(first)!r}")
        return f"{most} waited, 50 were reset by {client.first(RST_STREAM, numbers[-1]).code()}"


def long_head(server: Server) -> str:
    """A head over the limit of 16 KiB, in frames below it."""
    with Client(server) as client:
        long = block("GET", "/ping", *((f"x-{number}", "x" * 1000) for number in range(30)))
        client.send(frame(HEADERS, END_STREAM, 1, long[:16000]) + frame(CONTINUATION, END_HEADERS, 1, long[16000:]))
        return refused_head(client)


def many_fields(server: Server) -> str:
    """More than the 100 fields that a head may have, in few bytes."""
    with Client(server) as client:
        fields = ((f"x-{number}", "x") for number in range(150))
        client.send(request(1, "GET", "/ping", *fields))
        return refused_head(client)


def remembered_head(server: Server) -> str:
    """A field of 4000 bytes in the dynamic table, and 10 000 references of one byte to it."""
    remembered, again = literal("x", "y" * 4000, 0x40), b"\xbe" * 10_000
    with Client(server) as client:
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block("GET", "/ping") + remembered + again))
        return refused_head(client)


def refused_head(client: Client) -> str:
    """Checks for a refusal by 431, by RST_STREAM, or by the end of the connection."""
    answer = client.any(HEADERS, RST_STREAM, GOAWAY)
    if answer.kind == GOAWAY:
        return client.ended(*CALM)
    if answer.kind == RST_STREAM:
        return client.reset(1, *CALM, "PROTOCOL_ERROR")
    check(client.status(1) == "431", f"the status is {client.status(1)}")
    client.pong()
    return "431"


def overflown_stream(server: Server) -> str:
    with Client(server) as client:
        client.send(request(1, "GET", f"/stream/{server.new_stream()}") + window_update(1, MAX_WINDOW))
        return client.reset(1, "FLOW_CONTROL_ERROR")


def overflown_connection(server: Server) -> str:
    with Client(server) as client:
        client.send(window_update(0, MAX_WINDOW))
        return client.ended("FLOW_CONTROL_ERROR")


def overflown_by_settings(server: Server) -> str:
    """A window of 2^31, which is over the maximum. h2 gives the more general of the two reasons."""
    with Client(server) as client:
        client.send(frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 2**31)))
        return client.ended("FLOW_CONTROL_ERROR", "PROTOCOL_ERROR")


def empty_window_update(server: Server) -> str:
    with Client(server) as client:
        client.send(window_update(0, 0))
        return client.ended("PROTOCOL_ERROR")


def idle_data(server: Server) -> str:
    with Client(server) as client:
        client.send(frame(DATA, 0, 1, b"too early"))
        return client.ended("PROTOCOL_ERROR")


def even_stream(server: Server) -> str:
    with Client(server) as client:
        client.send(request(2, "GET", "/ping"))
        return client.ended("PROTOCOL_ERROR")


def huge_frame(server: Server) -> str:
    """A frame of which only the length is huge."""
    with Client(server) as client:
        client.send(b"\xff\xff\xff" + frame(DATA, 0, 1)[3:] + bytes(1000))
        return client.ended("FRAME_SIZE_ERROR", "PROTOCOL_ERROR")


def over_the_window(server: Server) -> str:
    """More of a body than the window allows, to a stream without a destination."""
    with Client(server) as client:
        client.send(request(1, "PUT", f"/stream/{server.new_stream()}", ends=False))
        client.send(frame(DATA, 0, 1, bytes(16384)) * 5)
        answer = client.any(RST_STREAM, GOAWAY)
        check(answer.code() == "FLOW_CONTROL_ERROR", f"the answer is {answer}")
        return f"{'GOAWAY' if answer.kind == GOAWAY else 'RST_STREAM'} {answer.code()}"


def empty_data_flood(server: Server) -> str:
    """2 000 000 empty frames, to a stream without a destination: they use none of its window."""
    return flood_waiting_put(server, 1, frame(DATA, 0, 1), 2_000_000)


def padded_data_flood(server: Server) -> str:
    """The same with padding."""
    return flood_waiting_put(server, 1, frame(DATA, 0x8, 1, bytes((1, 0))), 2_000_000)


def flood_waiting_put(server: Server, stream: int, piece: bytes, times: int) -> str:
    with Client(server) as client:
        client.send(request(stream, "PUT", f"/stream/{server.new_stream()}", ends=False))
        block = piece * 10_000
        taken = sum(client.send(block) for _ in range(times // 10_000))
        if client.closed or any(frame.kind in (GOAWAY, RST_STREAM) for frame in client.frames):
            return client.ended(*CALM)
        client.pong()
        return f"all {taken * 10_000} frames taken"


def crumbs(server: Server) -> str:
    """Fills the windows of 100 waiting uploads with frames of one byte."""
    with Client(server) as client:
        streams = range(1, 200, 2)
        for at in streams:
            client.send(request(at, "PUT", f"/stream/{server.new_stream()}", ends=False))
        client.first(WINDOW_UPDATE, 0)
        for at in streams:
            if not client.send(frame(DATA, 0, at, b"x") * (WINDOW - 1)):
                return client.ended(*CALM)
        client.pong()
        return f"all {len(streams) * (WINDOW - 1)} frames taken"


def stalled_destination(server: Server) -> str:
    """A download whose window never opens. Another on the same connection goes on."""
    data = random.Random(0).randbytes(8 * MIB)
    with Client(server) as client, tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        stalled, moving = server.new_stream(), server.new_stream()
        client.send(request(1, "GET", f"/stream/{stalled}") + request(3, "GET", f"/stream/{moving}"))
        client.send(window_update(0, MAX_WINDOW - WINDOW) + window_update(3, MAX_WINDOW - WINDOW))
        with child(*CURL, "-f", "-T", file.name, server.url(stalled)) as waits:
            client.until(lambda _: len(client.body(1)) == WINDOW, "a full window")
            with child(*CURL, "-f", "-T", file.name, server.url(moving)) as goes:
                client.until(lambda _: client.is_whole(3), "the end of the stream that moves")
                check(client.body(3) == data, "the body of the moving stream is not what was sent")
                check(goes.wait(PATIENCE) == 0, "its source did not succeed")
            check(waits.poll() is None, "the stalled stream has ended")
            check(server.status(stalled)["state"] == "STREAMING", "the stalled stream has ended")
            passed = server.status(stalled)["bytes_transferred"]
        return f"the other was whole, {passed} bytes of the stalled one taken"


def stalled_source(server: Server) -> str:
    """An upload that fills its window and has no destination. Another on the same connection goes on."""
    with Client(server) as client:
        waiting, moving = server.new_stream(), server.new_stream()
        client.first(WINDOW_UPDATE, 0)
        client.send(request(1, "PUT", f"/stream/{waiting}", ends=False))
        client.send(frame(DATA, 0, 1, bytes(16383)) * 4)
        client.send(request(3, "PUT", f"/stream/{moving}", ends=False))
        with child(*CURL, "-f", "-o", "/dev/null", server.url(moving)) as get:
            client.send(frame(DATA, 0, 3, bytes(16383)) * 4)
            client.until(lambda frames: any((f.kind, f.stream) == (WINDOW_UPDATE, 3) for f in frames), "more room")
            client.send(frame(DATA, END_STREAM, 3, bytes(16383)))
            check(get.wait(PATIENCE) == 0, "the destination is not served")
            status = client.status(3)
            check(status == "200", f"the source got {status}")
        return "the other went through"


ABUSES: tuple[Abuse, ...] = (
    rapid_reset,
    made_resets,
    ping_flood,
    unread_pings,
    settings_flood,
    continuation_flood,
    empty_continuations,
    too_many_streams,
    long_head,
    many_fields,
    remembered_head,
    overflown_stream,
    overflown_connection,
    overflown_by_settings,
    empty_window_update,
    idle_data,
    even_stream,
    huge_frame,
    over_the_window,
    empty_data_flood,
    padded_data_flood,
    crumbs,
    stalled_destination,
    stalled_source,
)


def test_http2(options: argparse.Namespace, tally: Tally) -> None:
    """Uses a server for each abuse, so that none affects another."""
    for abuse in ABUSES:
        name = abuse.__name__.replace("_", " ")
        with tally.trial(name):
            print(f"  {name}: {suffer(options.server, abuse)}", flush=True)


def suffer(program: Command, abuse: Abuse) -> str:
    """Runs one abuse. Returns the reaction of the server, and the cost."""
    with serving(program) as server:
        check(answers(server), "it does not even start")
        before, descriptors = server.memory(), server.descriptors()
        with Bystander(server) as bystander:
            try:
                answer = abuse(server)
            finally:
                peak = server.memory("VmHWM")
                wait_until(lambda: bystander.asked, lambda asked: asked > 0, "a request of the bystander")
        others = f"{bystander.asked} others within {bystander.longest * 1000:.0f} ms"
        figures = f"RSS {show(before)} to {show(peak)}, {others}"
        check(not bystander.failures, f"others were not served: {bystander.failures[:3]}")
        check(bystander.longest <= SERVED_WITHIN, f"others were not served in time: {figures}")
        check(peak - before <= ABUSE_MEMORY, f"too much memory: {figures}")
        check(answers(server), "it no longer serves")
        wait_until(server.descriptors, lambda now: now <= descriptors, f"{descriptors} descriptors again")
        return f"{answer}; {figures}"


# -------------------------------------------------------------------------------------------------- main

TESTS: dict[str, Test] = {
    "load": test_load,
    "descriptors": test_descriptors,
    "http2": test_http2,
}


if __name__ == "__main__":
    sys.exit(run_all(new_parser(__doc__, TESTS), TESTS, "curl", "openssl"))
