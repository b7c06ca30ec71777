#!/usr/bin/env python3
"""Long proofs of the server against the real curl, to be run by hand (Linux, curl, openssl, no Python packages).

    big        one large file, byte for byte, for both framings and both orders of arrival
    kills      either side killed in mid-transfer: the other side always learns of it
    pairs      both of these for HTTP/1.1 and HTTP/2, over TLS and plain, each with each
    crowd      many streams at once
    leftovers  streams that never pair leave neither a list entry nor a descriptor behind

The test suite asks the same questions in small. Here they are asked with sizes, numbers and processes
that take minutes, and with the client that people use; RENDEZVOUS_DATA_PATH=copy asks them of a
server that copies all bodies. All chance but the bytes of the large file comes from --seed, which is printed.
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
    MIB,
    PATIENCE,
    Answer,
    Process,
    Proof,
    Server,
    Tally,
    check,
    child,
    new_pair,
    new_parser,
    output_of,
    run_all,
    serving,
    wait_until,
    write_random,
)

TRANSFER_PATIENCE = 900.0  # seconds for a large transfer

# -q and --noproxy: neither a .curlrc nor a proxy variable of the person who runs this may interfere.
CURL = ("curl", "-q", "-sS", "-f", "--noproxy", "*")
CURL_HTTP_ERROR = 22  # the exit code by which curl -f tells of a status of 400 or more
CURL_CUT = {18, 56, 92}  # of a body that is not whole: short, a broken connection, a stream that was reset

BIG_SIZE = 2048 * MIB
PAIRS_SIZE = 256 * MIB

KILLS_SIZE = 64 * MIB
KILLS_LATE_AT_MOST = 20
KILLS_RATE = ("--limit-rate", "60M")  # a brake, so that a transfer lasts long enough to be hit

CROWD_STREAMS = 200
CROWD_SIZE = 256 * 1024

LEFTOVERS_STREAMS = 1000
LEFTOVERS_BATCH = 100  # small enough that its clients have come and gone well within the ttl
LEFTOVERS_TTL = "2s"


# ----------------------------------------------------------------------------------------------- clients


@dataclass(frozen=True)
class Tongue:
    """What a curl speaks with the server."""

    name: str
    version: str  # as curl tells it
    options: tuple[str, ...] = ()
    tls: bool = False

    def url(self, server: Server, stream: str) -> str:
        return server.tls_url(stream) if self.tls else server.url(stream)

    def flags(self, server: Server) -> tuple[str, ...]:
        trust = ("--cacert", str(server.pair.certificate)) if self.tls and server.pair else ()
        return (*self.options, *trust)


PLAIN = Tongue("plain", "1.1")
TONGUES = (
    Tongue("TLS --http1.1", "1.1", ("--http1.1",), tls=True),
    Tongue("TLS --http2", "2", ("--http2",), tls=True),
    Tongue("plain --http1.1", "1.1", ("--http1.1",)),
    Tongue("plain --http2-prior-knowledge", "2", ("--http2-prior-knowledge",)),
)


@dataclass(frozen=True)
class Manner:
    """How the two sides of a transfer speak: each way has its own sign for a cut message."""

    name: str
    chunked: bool
    put: Tongue = PLAIN
    get: Tongue = PLAIN


@contextmanager
def uploading(url: str, file: Path, chunked: bool, *options: str) -> Iterator[Process]:
    """curl -T: with a Content-Length where it can see the file's size, chunked where it reads a pipe.

    Its standard output is the status it was answered.
    """
    put = (*CURL, *options, "-w", "%{http_code}", "-T", "-" if chunked else str(file), url)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if not chunked:
        with child(*put, **pipes) as curl:
            yield curl
        return
    with child("cat", file, stdout=subprocess.PIPE) as cat, child(*put, stdin=cat.stdout, **pipes) as curl:
        output_of(cat).close()  # so that curl holds the only reading end, and cat ends with it
        yield curl


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
        """The exit code of curl, and the SHA-256 of all that it put out."""
        code = self.curl.wait(PATIENCE)
        self._reader.join(PATIENCE)
        check(not self._reader.is_alive(), "the output of curl does not end")
        return code, self._sha256.hexdigest()

    def end(self) -> None:
        """The pipe is closed when the process is left, and by then nobody may read it."""
        self.curl.kill()
        self._reader.join(PATIENCE)


@contextmanager
def downloading(url: str, *options: str) -> Iterator[Download]:
    with child(*CURL, *options, "-o", "-", url, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as curl:
        download = Download(curl)
        try:
            yield download
        finally:
            download.end()


# -------------------------------------------------------------------------------------------------- big


def prove_big(options: argparse.Namespace, tally: Tally) -> None:
    size = options.size or BIG_SIZE
    tally.notes.append(f"{size} bytes each")
    with tempfile.TemporaryDirectory() as directory, serving(options.server) as server:
        file = Path(directory, "random")
        digest = write_random(file, size)
        for manner in (Manner("Content-Length", chunked=False), Manner("chunked", chunked=True)):
            for put_first in (False, True):
                label = f"{manner.name} with {'PUT' if put_first else 'GET'} first"
                with tally.trial(label):
                    took = transfer(server, file, digest, manner, put_first)
                    tally.notes.append(f"{label} in {took:.1f} s")


def transfer(server: Server, file: Path, digest: str, manner: Manner, put_first: bool) -> float:
    """The file goes through one stream. The side that is first has its seat before the other starts.

    The answer is how many seconds it took.
    """
    began = time.monotonic()
    stream = server.new_stream()
    put, get = manner.put, manner.get
    uploader = uploading(put.url(server, stream), file, manner.chunked, *put.flags(server))
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
    check(received == digest, f"{download.received} bytes came, their SHA-256 is {received}, not {digest}")
    state = server.final_state(stream)
    check(state == "FINISHED", f"state {state}")
    return time.monotonic() - began


# ------------------------------------------------------------------------------------------------- kills


MANNERS = (
    Manner("Content-Length", chunked=False),
    Manner("chunked", chunked=True),
    Manner("chunked to HTTP/1.0", chunked=True, get=Tongue("HTTP/1.0", "1.0", ("-0",))),
)


@dataclass(frozen=True)
class Ending:
    """All that can be seen of a transfer after one side was killed."""

    passed_on: int  # by the last status before the kill
    upload_exit: int
    upload_status: str
    download_exit: int
    received: int
    sha256: str
    state: str


def check_beginning(ending: Ending, data: bytes) -> None:
    """However a transfer ends: what came of it is how the file begins."""
    beginning = hashlib.sha256(memoryview(data)[: ending.received]).hexdigest()
    check(ending.sha256 == beginning, f"what came is not how the file begins: {ending}")


def judge_killed_uploader(ending: Ending, data: bytes) -> bool:
    """False if the kill came too late: then, and only then, may the download end well, with every byte."""
    check_beginning(ending, data)
    if ending.download_exit == 0 and ending.received == len(data):
        return False
    check(ending.upload_exit == -SIGKILL, f"the uploader had ended, but the download is cut: {ending}")
    check(ending.download_exit in CURL_CUT, f"a cut download is not told as one: {ending}")
    check(ending.state == "SRC_DISCONNECTED", f"wrong state: {ending}")
    return True


def judge_killed_downloader(ending: Ending, data: bytes) -> bool:
    """False if the kill came too late: all was passed on before it, or the downloader had ended well."""
    check_beginning(ending, data)
    if ending.passed_on == len(data) or ending.download_exit == 0:
        return False
    check(ending.download_exit == -SIGKILL, f"the downloader had failed before the kill: {ending}")
    told = (ending.upload_exit, ending.upload_status) == (CURL_HTTP_ERROR, "502")
    check(told, f"the uploader did not learn of it: {ending}")
    check(ending.state == "DST_DISCONNECTED", f"wrong state: {ending}")
    return True


@dataclass(frozen=True)
class Victim:
    """The side that is killed. The judge says whether it was in time, and raises if the ending is wrong."""

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


def prove_kills(options: argparse.Namespace, tally: Tally) -> None:
    with serving(options.server) as server:
        kill_many(server, MANNERS, options, tally)


def kill_many(server: Server, manners: Sequence[Manner], options: argparse.Namespace, tally: Tally) -> None:
    """So many kills of either side, in all manners in turn."""
    data = random.Random(options.seed).randbytes(KILLS_SIZE)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "random")
        file.write_bytes(data)
        for victim in VICTIMS:
            seen = Counter({"late": 0})
            for number, manner in zip(range(options.count), cycle(manners)):
                label = f"{victim.name} killed, number {number}, {manner.name}"
                chance = random.Random(f"{options.seed}, {label}")
                with tally.trial(f"seed {options.seed}, {label}"):
                    ending = kill_one(server, file, manner, victim, chance)
                    while not victim.judge(ending, data):
                        seen["late"] += 1
                        check(seen["late"] <= KILLS_LATE_AT_MOST, f"too many are too late, last {ending}")
                        ending = kill_one(server, file, manner, victim, chance)
                    seen[victim.survivor(ending)] += 1
            figures = ", ".join(f"{what}: {times}" for what, times in seen.items())
            tally.notes.append(f"{victim.name} killed ({figures})")


def kill_one(server: Server, file: Path, manner: Manner, victim: Victim, chance: random.Random) -> Ending:
    """One transfer with a kill, when more is passed on than an offset by chance, not near the end."""
    offset = chance.randrange(KILLS_SIZE * 3 // 4)
    stream = server.new_stream()
    # HTTP/2 has room for a whole file on its way to a slow curl: so both sides are slow.
    put = (*manner.put.flags(server), *KILLS_RATE)
    get = (*manner.get.flags(server), *KILLS_RATE)
    with (
        downloading(manner.get.url(server, stream), *get) as download,
        uploading(manner.put.url(server, stream), file, manner.chunked, *put) as upload,
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


def prove_pairs(options: argparse.Namespace, tally: Tally) -> None:
    size = options.size or PAIRS_SIZE
    chance = random.Random(options.seed)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(serving(options.server, pair=new_pair(directory, "pairs")))
        for tongue in TONGUES:
            with tally.trial(tongue.name):
                check_tongue(server, tongue)
        file = directory / "random"
        digest = write_random(file, size)
        took = 0.0
        manners = [manner_of(source, destination) for source, destination in product(TONGUES, TONGUES)]
        for manner in manners:
            with tally.trial(manner.name):
                took += transfer(server, file, digest, manner, put_first=chance.random() < 0.5)
        tally.notes.append(f"{len(manners)} pairs, {size} bytes each, in {took:.1f} s")
        kill_many(server, manners, options, tally)


def manner_of(source: Tongue, destination: Tongue) -> Manner:
    """With -T - in every other row and column, so that each speaker has both."""
    chunked = (TONGUES.index(source) + TONGUES.index(destination)) % 2 == 0
    name = f"{source.name} to {destination.name} with -T {'-' if chunked else 'file'}"
    return Manner(name, chunked, source, destination)


def check_tongue(server: Server, tongue: Tongue) -> None:
    """Both sides would agree to speak something else."""
    url = tongue.url(server, "").replace("/stream/", "/ping")
    command = (*CURL, *tongue.flags(server), "-w", " %{http_version}", url)
    said = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False).stdout.decode()
    check(said == f"pong {tongue.version}", f"curl says {said!r}")


# ------------------------------------------------------------------------------------------------- crowd


def prove_crowd(options: argparse.Namespace, tally: Tally) -> None:
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
    check(put == (200, b""), f"the PUT was answered {put}")
    status, received = get
    check(status == 200, f"the GET was answered {status} {received[:200]!r}")
    check(received == body, f"the GET brought {len(received)} bytes, which are not those of the PUT")


# --------------------------------------------------------------------------------------------- leftovers


@dataclass(frozen=True)
class Visit:
    """A client that comes to a stream, waits there and leaves, and the state that shows that it waits."""

    request: str
    state: str


VISITS = (
    None,
    Visit("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", "DST_CONNECTED"),
    Visit("PUT {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\nunfinished", "SRC_CONNECTED"),
)


def prove_leftovers(options: argparse.Namespace, tally: Tally) -> None:
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
    """A batch of streams with their visits. The answer is how many descriptors were open meanwhile."""
    with ExitStack() as visitors:
        for _, visit in zip(range(LEFTOVERS_BATCH), cycle(VISITS)):
            stream = server.new_stream()
            if visit:
                visitor = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
                visitors.enter_context(visitor)
                visitor.sendall(visit.request.format(f"/stream/{stream}").encode())
                server.wait_for_state(stream, visit.state)
        return server.descriptors()


# -------------------------------------------------------------------------------------------------- main

PROOFS: dict[str, Proof] = {
    "big": prove_big,
    "kills": prove_kills,
    "pairs": prove_pairs,
    "crowd": prove_crowd,
    "leftovers": prove_leftovers,
}


def main() -> int:
    parser = new_parser(__doc__, PROOFS)
    parser.add_argument(
        "--count", type=int, default=200, metavar="N", help="kills, pairs: how many of each side"
    )
    parser.add_argument("--size", type=int, metavar="BYTES", help="big, pairs: size of the file")
    return run_all(parser, PROOFS, "curl", "openssl")


if __name__ == "__main__":
    sys.exit(main())
