#!/usr/bin/env python3
"""Long tests of the server with the real curl (Linux, curl, openssl, no Python packages).

    big        one large file, byte for byte, for both framings and both orders of connecting
    kills      either side is killed in mid-transfer: the other side always notices
    pairs      both of these for HTTP/1.1 and HTTP/2, over TLS and plain, each with each
    crowd      many streams at once
    leftovers  streams that never pair leave neither a list entry nor a descriptor

The test suite does the same in small. Here sizes and numbers take minutes, in processes, with the client that people use.
RENDEZVOUS_DATA_PATH=copy tests a server that copies all bodies. --seed repeats all random choices except the bytes of the
large file.
"""

import argparse
import hashlib
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path
from signal import SIGKILL

from harness import (
    CURL,
    LOOPBACK,
    MIB,
    PATIENCE,
    Answer,
    Process,
    Server,
    Tally,
    Test,
    check,
    child,
    framing,
    head,
    new_pair,
    new_parser,
    output_of,
    run_all,
    serving,
    uploading,
    wait_until,
    write_random,
)

TRANSFER_PATIENCE = 900.0  # seconds for a large transfer

CURL_HTTP_ERROR = 22  # the exit code of curl -f for a status of 400 or more
CURL_CUT = {18, 56, 92}  # exit codes for a cut body: too short, a broken connection, an HTTP/2 stream that was reset
# Prints the status of the response.
PUT_OPTIONS = ("-w", "%{http_code}")
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

BIG_SIZE = 2048 * MIB
PAIRS_SIZE = 256 * MIB

KILLS_SIZE = 64 * MIB
KILLS_LATE_AT_MOST = 20
KILLS_RATE = ("--limit-rate", "60M")  # a transfer must last long enough for a kill

CROWD_STREAMS = 200
CROWD_SIZE = 256 * 1024

LEFTOVERS_STREAMS = 1000
LEFTOVERS_BATCH = 100  # small enough that all its clients leave well within the ttl
LEFTOVERS_TTL = "2s"


# ----------------------------------------------------------------------------------------------- clients


@dataclass(frozen=True)
class Mode:
    """The HTTP version and transport of a curl."""

    name: str
    version: str  # as curl prints it
    options: tuple[str, ...] = ()
    tls: bool = False

    def url(self, server: Server, stream: str) -> str:
        return server.tls_url(stream) if self.tls else server.url(stream)

    def flags(self, server: Server) -> tuple[str, ...]:
        trust = ("--cacert", str(server.pair.certificate)) if self.tls and server.pair else ()
        return (*self.options, *trust)


PLAIN = Mode("plain", "1.1")
MODES = (
    Mode("TLS --http1.1", "1.1", ("--http1.1",), tls=True),
    Mode("TLS --http2", "2", ("--http2",), tls=True),
    Mode("plain --http1.1", "1.1", ("--http1.1",)),
    Mode("plain --http2-prior-knowledge", "2", ("--http2-prior-knowledge",)),
)


@dataclass(frozen=True)
class Variant:
    """Framing and modes of a transfer. Each has its own sign for a cut message."""

    name: str
    chunked: bool
    put: Mode = PLAIN
    get: Mode = PLAIN


class Download:
    """A downloading curl, whose output is counted and hashed as it comes."""

    def __init__(self, curl: Process) -> None:
        self.curl = curl
        self.received = 0
        self._sha256 = hashlib.sha256()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while block := output_of(self.curl).read1(MIB):
            self.received += len(block)
            self._sha256.update(block)

    def finish(self) -> tuple[int, str]:
        """Returns the exit code of curl, and the SHA-256 of its output."""
        code = self.curl.wait(PATIENCE)
        self._reader.join(PATIENCE)
        check(not self._reader.is_alive(), "the output of curl does not end")
        return code, self._sha256.hexdigest()

    def end(self) -> None:
        """Ends the reader before the pipe is closed at the end of the process's block."""
        self.curl.kill()
        self._reader.join(PATIENCE)


@contextmanager
def downloading(url: str, *options: str) -> Iterator[Download]:
    with child(*CURL, "-f", *options, "-o", "-", url, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as curl:
        download = Download(curl)
        try:
            yield download
        finally:
            download.end()


# -------------------------------------------------------------------------------------------------- big


def test_big(options: argparse.Namespace, tally: Tally) -> None:
    size = options.size or BIG_SIZE
    tally.notes.append(f"{size} bytes each")
    with tempfile.TemporaryDirectory() as directory, serving(options.server) as server:
        file = Path(directory, "random")
        digest = write_random(file, size)
        for variant in (Variant("Content-Length", chunked=False), Variant("chunked", chunked=True)):
            for put_first in (False, True):
                label = f"{variant.name} with {'PUT' if put_first else 'GET'} first"
                with tally.trial(label):
                    took = transfer(server, file, digest, variant, put_first)
                    tally.notes.append(f"{label} in {took:.1f} s")


def transfer(server: Server, file: Path, digest: str, variant: Variant, put_first: bool) -> float:
    """Sends the file through one stream, where the first side has its seat before the second starts. Returns the seconds."""
    began = time.monotonic()
    stream = server.new_stream()
    put, get = variant.put, variant.get
    uploader = uploading(put.url(server, stream), file, variant.chunked, *PUT_OPTIONS, *put.flags(server), **PIPES)
    downloader = downloading(get.url(server, stream), *get.flags(server))
    with ExitStack() as running:
        if put_first:
            upload = running.enter_context(uploader)
            server.wait_for_state(stream, "SRC_CONNECTED")
            download = running.enter_context(downloader)
        else:
            download = running.enter_context(downloader)
            server.wait_for_state(stream, "DST_CONNECTED")
            upload = running.enter_context(uploader)
        status, complaint = upload.communicate(timeout=TRANSFER_PATIENCE)
        code, received = download.finish()
    exits = f"uploader exit {upload.returncode}, {status!r}, {complaint!r}, downloader exit {code}"
    check((upload.returncode, status, code) == (0, b"200", 0), f"{exits} after {download.received} bytes")
    check(received == digest, f"{download.received} bytes arrived with the SHA-256 {received}, not {digest}")
    state = server.final_state(stream)
    check(state == "FINISHED", f"state {state}")
    return time.monotonic() - began


# ------------------------------------------------------------------------------------------------- kills


VARIANTS = (
    Variant("Content-Length", chunked=False),
    Variant("chunked", chunked=True),
    Variant("chunked to HTTP/1.0", chunked=True, get=Mode("HTTP/1.0", "1.0", ("-0",))),
)


@dataclass(frozen=True)
class Ending:
    """The visible result of a transfer one side of which was killed."""

    passed_on: int  # according to the last status before the kill
    upload_exit: int
    upload_status: str
    download_exit: int
    received: int
    sha256: str
    state: str


def check_beginning(ending: Ending, data: bytes) -> None:
    """However a transfer ends, the received bytes are the beginning of the file."""
    beginning = hashlib.sha256(memoryview(data)[: ending.received]).hexdigest()
    check(ending.sha256 == beginning, f"the received bytes are not the beginning of the file: {ending}")


def judge_killed_uploader(ending: Ending, data: bytes) -> bool:
    """False if the kill was too late. Only then may the download end well, with every byte."""
    check_beginning(ending, data)
    if ending.download_exit == 0 and ending.received == len(data):
        return False
    check(ending.upload_exit == -SIGKILL, f"the uploader had ended, but the download is cut: {ending}")
    check(ending.download_exit in CURL_CUT, f"curl does not report the cut download: {ending}")
    check(ending.state == "SRC_DISCONNECTED", f"wrong state: {ending}")
    return True


def judge_killed_downloader(ending: Ending, data: bytes) -> bool:
    """False if the kill was too late: after all bytes were passed on, or after the downloader had ended well."""
    check_beginning(ending, data)
    if ending.passed_on == len(data) or ending.download_exit == 0:
        return False
    check(ending.download_exit == -SIGKILL, f"the downloader had failed before the kill: {ending}")
    noticed = (ending.upload_exit, ending.upload_status) == (CURL_HTTP_ERROR, "502")
    check(noticed, f"the uploader did not get 502: {ending}")
    check(ending.state == "DST_DISCONNECTED", f"wrong state: {ending}")
    return True


@dataclass(frozen=True)
class Victim:
    """The side that is killed. `judge` returns whether the kill was in time, and raises if the ending is wrong."""

    name: str
    judge: Callable[[Ending, bytes], bool]
    survivor: Callable[[Ending], str]


VICTIMS = (
    Victim(
        "uploader",
        judge=judge_killed_uploader,
        survivor=lambda ending: f"downloader exit {ending.download_exit}",
    ),
    Victim(
        "downloader",
        judge=judge_killed_downloader,
        survivor=lambda ending: f"uploader exit {ending.upload_exit} with {ending.upload_status}",
    ),
)


def test_kills(options: argparse.Namespace, tally: Tally) -> None:
    with serving(options.server) as server:
        kill_many(server, VARIANTS, options, tally)


def kill_many(server: Server, variants: Sequence[Variant], options: argparse.Namespace, tally: Tally) -> None:
    """Kills either side `--count` times, in all variants in turn."""
    data = random.Random(options.seed).randbytes(KILLS_SIZE)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "random")
        file.write_bytes(data)
        for victim in VICTIMS:
            seen = Counter({"late": 0})
            for number, variant in zip(range(options.count), cycle(variants)):
                label = f"{victim.name} killed, number {number}, {variant.name}"
                chance = random.Random(f"{options.seed}, {label}")
                with tally.trial(f"seed {options.seed}, {label}"):
                    ending = kill_one(server, file, variant, victim, chance)
                    while not victim.judge(ending, data):
                        seen["late"] += 1
                        check(seen["late"] <= KILLS_LATE_AT_MOST, f"too many are too late, last {ending}")
                        ending = kill_one(server, file, variant, victim, chance)
                    seen[victim.survivor(ending)] += 1
            figures = ", ".join(f"{what}: {times}" for what, times in seen.items())
            tally.notes.append(f"{victim.name} killed ({figures})")


def kill_one(server: Server, file: Path, variant: Variant, victim: Victim, chance: random.Random) -> Ending:
    """Runs one transfer with a kill at a random offset that is not near the end."""
    offset = chance.randrange(KILLS_SIZE * 3 // 4)
    stream = server.new_stream()
    # Both sides are slow: HTTP/2 buffers a whole file on its way to a slow curl.
    put = (*PUT_OPTIONS, *variant.put.flags(server), *KILLS_RATE)
    get = (*variant.get.flags(server), *KILLS_RATE)
    with (
        downloading(variant.get.url(server, stream), *get) as download,
        uploading(variant.put.url(server, stream), file, variant.chunked, *put, **PIPES) as upload,
    ):
        before = wait_until(
            lambda: server.status(stream),
            lambda status: status.get("bytes_transferred", 0) > offset or not status["active"],
            f"more than {offset} bytes passed on",
        )
        {"uploader": upload, "downloader": download.curl}[victim.name].kill()
        upload_status, _ = upload.communicate(timeout=PATIENCE)
        download_exit, sha256 = download.finish()
        return Ending(
            passed_on=before.get("bytes_transferred", 0),
            upload_exit=upload.returncode,
            upload_status=upload_status.decode(),
            download_exit=download_exit,
            received=download.received,
            sha256=sha256,
            state=server.final_state(stream),
        )


# ------------------------------------------------------------------------------------------------- pairs


def test_pairs(options: argparse.Namespace, tally: Tally) -> None:
    size = options.size or PAIRS_SIZE
    chance = random.Random(options.seed)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(serving(options.server, pair=new_pair(directory, "pairs")))
        for mode in MODES:
            with tally.trial(mode.name):
                check_mode(server, mode)
        file = directory / "random"
        digest = write_random(file, size)
        took = 0.0
        variants = [variant_of(source, destination) for source, destination in product(MODES, MODES)]
        for variant in variants:
            with tally.trial(variant.name):
                took += transfer(server, file, digest, variant, put_first=chance.random() < 0.5)
        tally.notes.append(f"{len(variants)} pairs, {size} bytes each, in {took:.1f} s")
        kill_many(server, variants, options, tally)


def variant_of(source: Mode, destination: Mode) -> Variant:
    """With -T - in every other row and column, so that each mode has both."""
    chunked = (MODES.index(source) + MODES.index(destination)) % 2 == 0
    name = f"{source.name} to {destination.name} with -T {'-' if chunked else 'file'}"
    return Variant(name, chunked, source, destination)


def check_mode(server: Server, mode: Mode) -> None:
    """Checks the version that curl uses: TLS could negotiate another one."""
    url = mode.url(server, "").replace("/stream/", "/ping")
    command = (*CURL, "-f", *mode.flags(server), "-w", " %{http_version}", url)
    output = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False).stdout.decode()
    check(output == f"pong {mode.version}", f"curl prints {output!r}")


# ------------------------------------------------------------------------------------------------- crowd


def test_crowd(options: argparse.Namespace, tally: Tally) -> None:
    chance = random.Random(options.seed)
    bodies = [chance.randbytes(CROWD_SIZE) for _ in range(CROWD_STREAMS)]
    with serving(options.server) as server, ThreadPoolExecutor(2 * CROWD_STREAMS) as pool:
        start = threading.Event()

        def at_the_start(method: str, stream: str, body: bytes | None = None) -> Answer:
            start.wait(PATIENCE)
            return server.request(method, f"/stream/{stream}", body)

        pairs = []
        for body in bodies:
            stream = server.new_stream()
            put = pool.submit(at_the_start, "PUT", stream, body)
            pairs.append((body, put, pool.submit(at_the_start, "GET", stream)))
        began = time.monotonic()
        start.set()
        for number, (body, put, get) in enumerate(pairs):
            with tally.trial(f"seed {options.seed}, stream {number}"):
                check_pair(body, put.result(PATIENCE), get.result(PATIENCE))
        tally.notes.append(f"{CROWD_SIZE} bytes each, in {time.monotonic() - began:.1f} s")


def check_pair(body: bytes, put: Answer, get: Answer) -> None:
    check(put == (200, b""), f"the response to the PUT is {put}")
    status, received = get
    check(status == 200, f"the response to the GET is {status} {received[:200]!r}")
    check(received == body, f"the GET received {len(received)} bytes, which are not those of the PUT")


# --------------------------------------------------------------------------------------------- leftovers


@dataclass(frozen=True)
class Visit:
    """A client that connects to a stream, waits and leaves, and the state of the stream while it waits."""

    method: str
    state: str
    fields: tuple[str, ...] = ()
    body: bytes = b""


VISITS = (
    None,
    Visit("GET", "DST_CONNECTED"),
    Visit("PUT", "SRC_CONNECTED", (framing(9999),), b"unfinished"),
)


def test_leftovers(options: argparse.Namespace, tally: Tally) -> None:
    with serving(options.server, "--ttl", LEFTOVERS_TTL) as server:
        before = server.descriptors()
        most = max(come_and_go(server) for _ in range(LEFTOVERS_STREAMS // LEFTOVERS_BATCH))
        left = time.monotonic()
        with tally.trial("the list"):
            wait_until(lambda: len(server.streams()), lambda listed: listed == 0, "no stream is listed")
            took = time.monotonic() - left
            tally.notes.append(f"{LEFTOVERS_STREAMS} streams, the last forgotten after {took:.1f} s")
        with tally.trial("the descriptors"):
            after = wait_until(server.descriptors, lambda now: now <= before, f"{before} descriptors again")
            tally.notes.append(f"descriptors: {before} before, {most} at most, {after} after")


def come_and_go(server: Server) -> int:
    """Creates a batch of streams with their visits. Returns the number of descriptors that were open meanwhile."""
    with ExitStack() as visitors:
        for _, visit in zip(range(LEFTOVERS_BATCH), cycle(VISITS)):
            stream = server.new_stream()
            if visit:
                visitor = socket.create_connection((LOOPBACK, server.port), timeout=PATIENCE)
                visitors.enter_context(visitor)
                visitor.sendall(head(visit.method, f"/stream/{stream}", *visit.fields) + visit.body)
                server.wait_for_state(stream, visit.state)
        return server.descriptors()


# -------------------------------------------------------------------------------------------------- main

TESTS: dict[str, Test] = {
    "big": test_big,
    "kills": test_kills,
    "pairs": test_pairs,
    "crowd": test_crowd,
    "leftovers": test_leftovers,
}


def main() -> int:
    parser = new_parser(__doc__, TESTS)
    parser.add_argument("--count", type=int, default=200, metavar="N", help="kills, pairs: kills of each side")
    parser.add_argument("--size", type=int, metavar="BYTES", help="big, pairs: size of the file")
    return run_all(parser, TESTS, "curl", "openssl")


if __name__ == "__main__":
    sys.exit(main())
