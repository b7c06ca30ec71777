#!/usr/bin/env python3
"""Long proofs of the server against the real curl, to be run by hand (Linux, curl, no Python packages).

    big        one large file, byte for byte, for both framings and both orders of arrival
    kills      either side killed in mid-transfer: the other side always learns of it
    crowd      many streams at once
    leftovers  streams that never pair leave neither a list entry nor a descriptor behind

The test suite asks the same questions in small. Here they are asked with sizes, numbers and processes
that take minutes, and with the client that people use; RENDEZVOUS_DATA_PATH=portable asks them of the
portable data path. All chance but the bytes of the large file comes
from --seed, which is printed.
"""

import argparse
import hashlib
import json
import os
import random
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from io import BufferedReader
from itertools import cycle
from pathlib import Path
from signal import SIGKILL
from typing import Any, TypeVar, cast

MIB = 1 << 20
PATIENCE = 30.0  # seconds for anything that should happen at once
TRANSFER_PATIENCE = 900.0  # seconds for a large transfer
PAUSE = 0.002  # seconds between two looks at a state
LANE = "RENDEZVOUS_DATA_PATH"  # the one setting that is left to whoever runs this: auto or portable

# -q and --noproxy: neither a .curlrc nor a proxy variable of the person who runs this may interfere.
CURL = ("curl", "-q", "-sS", "-f", "--noproxy", "*")
CURL_HTTP_ERROR = 22  # the exit code by which curl -f tells of a status of 400 or more

KILLS_SIZE = 64 * MIB
KILLS_LATE_AT_MOST = 20
KILLS_RATE = "60M"  # a brake on the downloader, so that a transfer lasts long enough to be hit

CROWD_STREAMS = 200
CROWD_SIZE = 256 * 1024

LEFTOVERS_STREAMS = 1000
LEFTOVERS_BATCH = 100  # small enough that its clients have come and gone well within the ttl
LEFTOVERS_TTL = "2s"

Process = subprocess.Popen[bytes]
Answer = tuple[int, bytes]
Status = dict[str, Any]
T = TypeVar("T")


class Violation(Exception):
    """The server did what it must not do, or not what it must."""


FAILURES = (Violation, OSError, HTTPException, ValueError, subprocess.TimeoutExpired)


def check(holds: bool, seen: str) -> None:
    """Unlike `assert`, this also checks under `python -O`."""
    if not holds:
        raise Violation(seen)


def wait_until(look: Callable[[], T], enough: Callable[[T], bool], what: str) -> T:
    """Look until it is enough. What was seen last is the answer, or else part of the complaint."""
    deadline = time.monotonic() + PATIENCE
    while not enough(seen := look()):
        check(time.monotonic() < deadline, f"{what}: not within {PATIENCE:.0f} s, last seen: {seen}")
        time.sleep(PAUSE)
    return seen


@dataclass
class Tally:
    """What one proof has found so far. It outlives an exception, so that no finding is lost to one."""

    asked: int = 0
    right: int = 0
    notes: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    @contextmanager
    def noting(self, label: str) -> Iterator[None]:
        """Any failure in the block becomes one more violation."""
        try:
            yield
        except FAILURES as failure:
            self.violations.append(f"{label}: {type(failure).__name__}: {failure}")

    @contextmanager
    def trial(self, label: str) -> Iterator[None]:
        """One question of the proof. If it fails, the next ones are still asked."""
        self.asked += 1
        with self.noting(label):
            yield
            self.right += 1


# ---------------------------------------------------------------------------------------------- processes


@contextmanager
def child(*command: str | Path, **options: Any) -> Iterator[Process]:
    """A process that does not outlive the block."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


@dataclass(frozen=True)
class Server:
    """The running server, as the proofs ask it about streams."""

    pid: int
    port: int

    def request(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """A connection for each request, so that none is left open when descriptors are counted."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def ask(self, method: str, path: str, expected: int) -> Any:
        status, body = self.request(method, path)
        check(status == expected, f"{method} {path}: {status} {body!r}")
        return json.loads(body)

    def new_stream(self) -> str:
        return str(self.ask("POST", "/stream", 201)["stream"])

    def streams(self) -> list[Status]:
        return list(self.ask("GET", "/stream", 200))

    def status(self, stream: str) -> Status:
        return dict(self.ask("GET", f"/stream/{stream}/status", 200))

    def wait_for_state(self, stream: str, state: str) -> None:
        wait_until(lambda: self.status(stream), lambda status: status["state"] == state, state)

    def final_state(self, stream: str) -> str:
        status = wait_until(lambda: self.status(stream), lambda status: not status["active"], "an end")
        return str(status["state"])

    def url(self, stream: str) -> str:
        return f"http://127.0.0.1:{self.port}/stream/{stream}"

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


@contextmanager
def serving(program: Path, *options: str) -> Iterator[Server]:
    """A server of its own for each proof. It must still run when the proof is through."""
    mine = {name for name in os.environ if name.startswith("RENDEZVOUS_")} - {LANE}
    environment = {name: value for name, value in os.environ.items() if name not in mine}
    arguments = ("serve", "--port", "0", "--log-level", "warn", *options)
    with child(program, *arguments, stdout=subprocess.PIPE, env=environment) as process:
        yield Server(process.pid, listening_port(process))
        check(process.poll() is None, f"the server ended by itself with {process.returncode}")


def output_of(process: Process) -> BufferedReader:
    """The reading end of an output that was asked for as a pipe, which the type of a process leaves open."""
    return cast(BufferedReader, process.stdout)


def listening_port(process: Process) -> int:
    """The port the server picked, from its first line."""
    ready, _, _ = select.select([output_of(process)], [], [], PATIENCE)
    check(bool(ready), "the server does not say where it listens")
    line = output_of(process).readline().decode().strip()
    start, _, port = line.rpartition(":")
    check(start == "Listening on http://127.0.0.1", f"the first line of the server is {line!r}")
    return int(port)


@contextmanager
def uploading(url: str, file: Path, chunked: bool) -> Iterator[Process]:
    """curl -T: with a Content-Length where it can see the file's size, chunked where it reads a pipe.

    Its standard output is the status it was answered.
    """
    put = (*CURL, "-w", "%{http_code}", "-T", "-" if chunked else str(file), url)
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
    tally.notes.append(f"{options.size} bytes each")
    with tempfile.TemporaryDirectory() as directory, serving(options.server) as server:
        file = Path(directory, "random")
        digest = write_random(file, options.size)
        for chunked in (False, True):
            for put_first in (False, True):
                framing = "chunked" if chunked else "Content-Length"
                label = f"{framing} with {'PUT' if put_first else 'GET'} first"
                with tally.trial(label):
                    began = time.monotonic()
                    transfer(server, file, digest, chunked, put_first)
                    tally.notes.append(f"{label} in {time.monotonic() - began:.1f} s")


def write_random(file: Path, size: int) -> str:
    """Random, so that no lost, doubled or swapped piece can go unnoticed. The answer is the SHA-256."""
    sha256 = hashlib.sha256()
    with file.open("wb") as out:
        for start in range(0, size, MIB):
            block = os.urandom(min(MIB, size - start))
            sha256.update(block)
            out.write(block)
    return sha256.hexdigest()


def transfer(server: Server, file: Path, digest: str, chunked: bool, put_first: bool) -> None:
    """The file goes through one stream. The side that is first has its seat before the other starts."""
    stream = server.new_stream()
    url = server.url(stream)
    with ExitStack() as running:
        if put_first:
            upload = running.enter_context(uploading(url, file, chunked))
            server.wait_for_state(stream, "SRC_CONNECTED")
            download = running.enter_context(downloading(url))
        else:
            download = running.enter_context(downloading(url))
            server.wait_for_state(stream, "DST_CONNECTED")
            upload = running.enter_context(uploading(url, file, chunked))
        status, complaint = upload.communicate(timeout=TRANSFER_PATIENCE)
        code, received = download.finish()
    exits = f"uploader exit {upload.returncode}, {status!r}, {complaint!r}, downloader exit {code}"
    check((upload.returncode, status, code) == (0, b"200", 0), f"{exits} after {download.received} bytes")
    check(received == digest, f"{download.received} bytes came, their SHA-256 is {received}, not {digest}")
    state = server.final_state(stream)
    check(state == "FINISHED", f"state {state}")


# ------------------------------------------------------------------------------------------------- kills


@dataclass(frozen=True)
class Manner:
    """How the two sides of a transfer speak: each way has its own sign for a cut message."""

    name: str
    chunked: bool
    get_options: tuple[str, ...] = ()


MANNERS = (
    Manner("Content-Length", chunked=False),
    Manner("chunked", chunked=True),
    Manner("chunked to HTTP/1.0", chunked=True, get_options=("-0",)),
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
    check(ending.download_exit != 0, f"a cut download looks whole: {ending}")
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
    data = random.Random(options.seed).randbytes(KILLS_SIZE)
    with tempfile.TemporaryDirectory() as directory, serving(options.server) as server:
        file = Path(directory, "random")
        file.write_bytes(data)
        for victim in VICTIMS:
            seen = Counter({"late": 0})
            for number, manner in zip(range(options.count), cycle(MANNERS)):
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
    url = server.url(stream)
    with (
        downloading(url, "--limit-rate", KILLS_RATE, *manner.get_options) as download,
        uploading(url, file, manner.chunked) as upload,
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

PROOFS: dict[str, Callable[[argparse.Namespace, Tally], None]] = {
    "big": prove_big,
    "kills": prove_kills,
    "crowd": prove_crowd,
    "leftovers": prove_leftovers,
}


def run(name: str, options: argparse.Namespace) -> bool:
    """One proof, its line of figures, and a line for each violation."""
    tally = Tally()
    with tally.noting(f"seed {options.seed}"):
        PROOFS[name](options, tally)
    print(f"{name}: {tally.right} of {tally.asked} right", *tally.notes, sep=", ", flush=True)
    for violation in tally.violations:
        print(f"  violation: {violation}", flush=True)
    return not tally.violations


def parse_arguments() -> argparse.Namespace:
    server = Path(__file__).resolve().parent.parent / "target/release/rendezvous"
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("proof", nargs="?", default="all", choices=[*PROOFS, "all"])
    parser.add_argument("--server", type=Path, default=server, metavar="PATH", help="the program to prove")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="kills: how many of each side")
    parser.add_argument("--size", type=int, default=2048 * MIB, metavar="BYTES", help="big: size of the file")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), metavar="N")
    options = parser.parse_args()
    options.server = options.server.resolve()
    if not options.server.is_file():
        parser.error(f"there is no {options.server}: `cargo build --release` makes it, or say --server PATH")
    if not shutil.which("curl"):
        parser.error("curl is not installed")
    return options


def main() -> int:
    options = parse_arguments()
    print(f"seed {options.seed}", flush=True)
    names = list(PROOFS) if options.proof == "all" else [options.proof]
    results = [run(name, options) for name in names]
    failed = results.count(False)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
