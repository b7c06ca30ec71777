#!/usr/bin/env python3
"""The HTTP clients that people use, each as source and as destination (Debian and its derivatives: `TOOLS` lists the
requirements, and the rest is installed below `target`).

Each API of each client transfers whole bodies, meets peers that leave in mid-body, and gets error statuses: with a peer that
is connected before it and with one that connects two seconds later; with a length and in chunks; over HTTP/1.1, TLS and
HTTP/2. A whole body must arrive and be reported as whole, and the API must report everything else as a failure. `KNOWN`
lists the exceptions with their reasons. Any other failure fails the run, and so does a known one that no longer occurs.

    system-tests/clients.py                          # all clients
    system-tests/clients.py --write docs/clients.md  # writes the tables of that page
    system-tests/clients.py --check docs/clients.md  # fails where the page differs from the results
    system-tests/clients.py --only 'node 22' -v      # one client, with a line for each transfer
"""

import argparse
import http.client
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase
from functools import partial
from itertools import product
from pathlib import Path
from textwrap import dedent

from harness import (
    FAILURES,
    LAST_CHUNK,
    LOOPBACK,
    MIB,
    ROOT,
    Command,
    Process,
    Server,
    Tally,
    Test,
    Violation,
    check,
    chunk,
    framing,
    head,
    new_pair,
    new_parser,
    no_panics,
    output_of,
    run_all,
    serving,
    wait_until,
)
from packages import Packages, install_npm
from pages import MadePage, add_page_arguments, table

HERE = Path(__file__).resolve().parent / "clients"

# Debian packages: curl wget npm python3-venv default-jdk-headless golang-go ruby liblwp-protocol-https-perl openssl
TOOLS = ("curl", "wget", "npm", "javac", "go", "ruby", "perl", "openssl")
PYPI = ("requests==2.34.2", "httpx[http2]==0.28.1")
PHP_FILES = ("usr/bin/php[0-9]*", "usr/lib/php/*/curl.so")
NPM = {"node 20": "node@20.20.2", "node 22": "node@22.23.3", "node 24": "node@24.21.0"}

SMALL = 1024
LARGE = 5 * MIB
LATE = 2.0  # seconds
LIMIT = 40.0  # seconds for one transfer, after which the client counts as hanging
KEPT_OUTPUT = 300  # characters that are kept of the output of a client
AT_ONCE = 64  # transfers; most of them wait for a late peer
BUSY_AT_ONCE = 8  # transfers that do more than wait; with more, some would run into the limit
RECEIVE_BUFFER = 64 * 1024  # of a peer that leaves, so that a large body does not fit into the kernel's buffers


# ----------------------------------------------------------------------------------------------- clients


class Transport(Enum):
    PLAIN = "HTTP/1.1"
    TLS = "HTTP/1.1, TLS"
    H2 = "HTTP/2, TLS"
    H2C = "HTTP/2"

    @property
    def encrypted(self) -> bool:
        return self in (Transport.TLS, Transport.H2)


PLAIN, TLS, H2, H2C = Transport
HTTP_1 = (PLAIN, TLS)
FRAMINGS = ("length", "chunked")


@dataclass(frozen=True)
class Result:
    """What the API reported. A program that exits with 0 reports success."""

    success: bool
    output: str


@dataclass(frozen=True)
class Job:
    role: str
    api: str
    transport: Transport
    framing: str
    url: str
    file: Path

    def fields(self) -> tuple[str, ...]:
        return (self.role, self.api, self.url, str(self.file), self.framing)


class Runner:
    """Runs the transfers of a client."""

    def run(self, job: Job) -> Result:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Program(Runner):
    """Runs a process for each transfer, which exits with 0 if its API reports success."""

    def __init__(self, environment: dict[str, str], *command: str | Path) -> None:
        self.environment = environment
        self.command = tuple(str(part) for part in command)

    def arguments(self, job: Job) -> Command:
        return (*self.command, *job.fields())

    def run(self, job: Job) -> Result:
        try:
            done = subprocess.run(
                self.arguments(job),
                env=self.environment,
                stdin=job.file.open("rb") if job.role == "send" else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Result(False, "hangs")
        lines = [line.strip() for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
        output = " ".join([line for line in lines if "Error" in line] or lines)
        return Result(done.returncode == 0, f"exit {done.returncode}{output and ': '}{output[:KEPT_OUTPUT]}")


CURL_VERSIONS = {PLAIN: "--http1.1", TLS: "--http1.1", H2: "--http2", H2C: "--http2-prior-knowledge"}


class Curl(Program):
    def arguments(self, job: Job) -> Command:
        trust = ("--cacert", self.environment["CLIENTS_CA"])
        common = ("curl", "-q", "-sS", CURL_VERSIONS[job.transport], *trust)
        options = job.api.split()[1:]
        if job.role == "receive":
            return (*common, *options, "-o", str(job.file), job.url)
        body = "-" if job.framing == "chunked" else str(job.file)
        return (*common, *options[:-1], body, job.url)


class Wget(Program):
    def arguments(self, job: Job) -> Command:
        common = ("wget", "--no-config", "-nv", f"--ca-certificate={self.environment['CLIENTS_CA']}")
        if job.role == "receive":
            return (*common, "-O", str(job.file), job.url)
        return (*common, "-O", "/dev/null", "--method=PUT", f"--body-file={job.file}", job.url)


class Interpreter(Runner):
    """One process for all transfers of a client that is slow to start. A job and its result are a line each."""

    def __init__(self, environment: dict[str, str], *command: str | Path) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process: Process = subprocess.Popen(command, env=environment, **pipes)  # type: ignore[call-overload]
        self.asking = threading.Lock()
        self.asked: dict[int, Future[Result]] = {}
        line = output_of(self.process).readline()
        check(line == b"ready\n", f"{command} begins with {line!r}")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in output_of(self.process):
            number, verdict, output = line.decode(errors="replace").rstrip("\n").split("\t")
            self.asked[int(number)].set_result(Result(verdict == "done", output))
        for future in self.asked.values():
            if not future.done():
                future.set_result(Result(False, "the interpreter ended"))

    def run(self, job: Job) -> Result:
        future: Future[Result] = Future()
        with self.asking:
            number = len(self.asked)
            self.asked[number] = future
            assert self.process.stdin
            self.process.stdin.write(("\t".join((str(number), *job.fields())) + "\n").encode())
            self.process.stdin.flush()
        try:
            return future.result(LIMIT)
        except TooLate:
            return Result(False, "hangs")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Api:
    client: str
    name: str
    role: str
    transports: tuple[Transport, ...] = HTTP_1
    framings: tuple[str, ...] = FRAMINGS

    @property
    def label(self) -> str:
        return self.name if self.name.startswith(self.client) else f"{self.client}: {self.name}"


CURL_TRANSPORTS = tuple(CURL_VERSIONS)


def receiving(client: str, names: dict[str, tuple[Transport, ...]]) -> list[Api]:
    return [Api(client, name, "receive", transports) for name, transports in names.items()]


def sending(client: str, names: dict[str, tuple[Transport, ...]], framings: tuple[str, ...] = FRAMINGS) -> list[Api]:
    return [Api(client, name, "send", transports, framings) for name, transports in names.items()]


NODE_APIS = [
    api
    for node in NPM
    for api in (
        *receiving(
            node,
            {
                "fetch": HTTP_1,
                "http.get().pipe()": HTTP_1,
                "http.get, pipeline()": HTTP_1,
                "http2": (H2, H2C),
            },
        ),
        *sending(node, {"fetch": HTTP_1, "http.request().pipe()": HTTP_1, "http2": (H2, H2C)}),
    )
]

APIS = [
    *receiving("curl", dict.fromkeys(("curl -f", "curl"), CURL_TRANSPORTS)),
    # curl before 8.0 cannot reuse a connection that began with HTTP/2 by prior knowledge.
    *receiving("curl", {"curl --retry 2": (PLAIN, TLS, H2)}),
    *sending("curl", {"curl -f -T file": CURL_TRANSPORTS}, ("length",)),
    *sending("curl", {"curl -f -T -": CURL_TRANSPORTS}, ("chunked",)),
    *receiving("wget", {"wget": HTTP_1}),
    *sending("wget", {"wget --method=PUT --body-file": HTTP_1}, ("length",)),
    *NODE_APIS,
    *receiving(
        "python",
        {
            "http.client": HTTP_1,
            "urlopen, copyfileobj()": HTTP_1,
            "urlopen, read()": HTTP_1,
            "requests": HTTP_1,
            "httpx": HTTP_1,
            "httpx, http2=True": (H2, H2C),
        },
    ),
    *sending(
        "python",
        {
            "http.client": HTTP_1,
            "urlopen": HTTP_1,
            "requests": HTTP_1,
            "httpx": HTTP_1,
            "httpx, http2=True": (H2, H2C),
        },
    ),
    # The client for HTTP/2 is the default, and requests an upgrade to h2c without TLS.
    *receiving("java", {"HttpClient": (TLS,), "HttpClient, HTTP/2": (PLAIN, H2), "URL.openStream()": HTTP_1}),
    *sending("java", {"HttpClient": (TLS,), "HttpClient, HTTP/2": (PLAIN, H2), "HttpURLConnection": HTTP_1}),
    *receiving("go", {"net/http": HTTP_1, "net/http, HTTP/2": (H2,)}),
    *sending("go", {"net/http": HTTP_1, "net/http, HTTP/2": (H2,)}),
    *receiving("ruby", dict.fromkeys(("Net::HTTP", "Net::HTTP, length compared", "URI.open, IO.copy_stream"), HTTP_1)),
    *sending("ruby", {"Net::HTTP": HTTP_1}),
    *receiving("perl", dict.fromkeys(("is_success", "is_success, and what it leaves out"), HTTP_1)),
    *sending("perl", {"is_success": HTTP_1}),
    *receiving("php", dict.fromkeys(("copy()", "the curl extension"), HTTP_1)),
    *sending("php", {"file_get_contents()": HTTP_1}, ("length",)),
    *sending("php", {"the curl extension": HTTP_1}),
]


def clean_environment(directory: Path, certificate: Path) -> dict[str, str]:
    """An environment without HTTP proxies and with one CA for all clients."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    trust = dict.fromkeys(("CLIENTS_CA", "NODE_EXTRA_CA_CERTS", "PERL_LWP_SSL_CA_FILE"), str(certificate))
    return {**kept, **trust, "GOCACHE": str(directory / "go-cache")}


def install(directory: Path, packages: Packages) -> None:
    """Installs the clients that are not Debian's, and unpacks PHP. A second call does nothing."""
    if not all(map(packages.find, PHP_FILES)):
        # Installed, Debian's PHP would enable a timer of systemd.
        packages.unpack(("php-cli", "php-curl"))
    install_npm(directory / "node", [f"{alias_of(node)}@npm:{package}" for node, package in NPM.items()])
    wanted, stamp = "\n".join(PYPI), directory / "installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return

    def run(*command: str | Path) -> None:
        done = subprocess.run(command, capture_output=True, check=False)
        check(done.returncode == 0, f"{command[0]}: exit {done.returncode}: {done.stderr.decode()[-500:]}")

    run(sys.executable, "-m", "venv", directory / "venv")
    run(directory / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", *PYPI)
    stamp.write_text(wanted)


def alias_of(node: str) -> str:
    return node.replace(" ", "")


def node_of(directory: Path, node: str) -> Path:
    return directory / "node/node_modules" / alias_of(node) / "bin/node"


def php_of(packages: Packages) -> Command:
    program, curl = (packages.find(pattern) for pattern in PHP_FILES)
    assert program and curl
    return (str(packages.program(program.name)), "-n", "-d", f"extension={curl}", "-d", "display_errors=stderr")


def versions(directory: Path, packages: Packages) -> dict[str, str]:
    """The versions of all clients."""
    commands: dict[str, Command] = {
        "curl": ("curl", "--version"),
        "wget": ("wget", "--version"),
        **{node: (str(node_of(directory, node)), "--version") for node in NPM},
        "Python": (str(directory / "venv/bin/python"), "--version"),
        "Java": ("java", "--version"),
        "Go": ("go", "version"),
        "Ruby": ("ruby", "--version"),
        "LWP": ("perl", "-MLWP", "-e", "print LWP->VERSION, '.0'"),
        "PHP": (*php_of(packages), "--version"),
    }
    outputs = {
        name: subprocess.run(command, capture_output=True, check=True).stdout for name, command in commands.items()
    }
    found = {name: re.search(r"\d+\.\d+(\.\d+)?", out.decode()) for name, out in outputs.items()}
    return {name: match[0] for name, match in found.items() if match} | dict(name.split("==") for name in PYPI)


def new_runners(
    directory: Path, packages: Packages, environment: dict[str, str], wanted: Iterable[str]
) -> dict[str, Runner]:
    program, interpreter = partial(Program, environment), partial(Interpreter, environment)

    def go() -> Runner:
        built = directory / "go-transfer"
        subprocess.run(("go", "build", "-o", built, HERE / "transfer.go"), check=True, env=environment)
        return program(built)

    def java() -> Runner:
        subprocess.run(("javac", "-d", directory / "java", HERE / "Transfers.java"), check=True)
        return interpreter("java", "-cp", directory / "java", "Transfers")

    ways: dict[str, Callable[[], Runner]] = {
        "curl": lambda: Curl(environment),
        "wget": lambda: Wget(environment),
        **{node: partial(program, node_of(directory, node), HERE / "node.mjs") for node in NPM},
        "python": partial(interpreter, directory / "venv/bin/python", HERE / "python.py"),
        "java": java,
        "go": go,
        "ruby": partial(interpreter, "ruby", HERE / "transfers.rb"),
        "perl": partial(program, "perl", HERE / "transfer.pl"),
        "php": lambda: program(*php_of(packages), HERE / "transfer.php"),
    }
    return {client: ways[client]() for client in wanted}


# ------------------------------------------------------------------------------------------------- cases


class Ending(Enum):
    WHOLE = "whole"
    CUT = "cut"  # the peer leaves in the middle of the body
    EARLY = "502"  # the peer leaves before the first byte of the body: 502 for a destination
    UNKNOWN = "404"  # there is no such stream


class Verdict(Enum):
    RIGHT = "right"
    UNSEEN = "does not notice"  # the API reports success for a failed transfer
    BROKEN = "fails"  # the API reports a failure for a whole transfer
    LIE = "LIE"  # the server reported or sent something false


@dataclass(frozen=True)
class Case:
    api: Api
    transport: Transport
    framing: str
    size: int
    late: bool
    ending: Ending

    def __str__(self) -> str:
        when = "late" if self.late else "prompt"
        how = f"{self.transport.value}, {self.framing}, {self.size} bytes, {when}"
        return f"{self.api.label} {self.api.role}s {self.ending.value}: {how}"


@dataclass(frozen=True)
class Seen:
    verdict: Verdict
    output: str
    seconds: float = 0.0


def cases_of(api: Api) -> Iterator[Case]:
    case = partial(Case, api)
    for transport in api.transports:
        for how, size, late in product(api.framings, (SMALL, LARGE), (False, True)):
            yield case(transport, how, size, late, Ending.WHOLE)
            # A small body is in the peer's kernel before the peer can leave, so it is delivered.
            if api.role == "receive" or size == LARGE:
                yield case(transport, how, size, late, Ending.CUT)
        yield case(transport, api.framings[0], LARGE, False, Ending.UNKNOWN)
        if api.role == "receive":
            for late in (False, True):
                yield case(transport, "length", LARGE, late, Ending.EARLY)


FINAL = {
    ("receive", Ending.WHOLE): "FINISHED",
    ("receive", Ending.CUT): "SRC_DISCONNECTED",
    ("receive", Ending.EARLY): "SRC_DISCONNECTED",
    ("send", Ending.WHOLE): "FINISHED",
    ("send", Ending.CUT): "DST_DISCONNECTED",
}


class Peer:
    """The other side, over plain HTTP/1.1, which leaves where the case demands it."""

    def __init__(self, server: Server, stream: str, case: Case, data: bytes) -> None:
        self.server, self.stream, self.case, self.data = server, stream, case, data
        self.socket = socket.socket()
        self.began = False
        self.received = b""

    def run(self) -> None:
        self.began = True
        with self.socket:
            self.socket.settimeout(LIMIT)
            if self.case.api.role == "receive":
                self.put()
            else:
                self.get()

    def hang_up(self) -> None:
        """Ends whatever it waits for."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed

    def put(self) -> None:
        """A large body stops half-way until the client has connected, so that the client receives a part of it."""
        chunked = self.case.framing == "chunked"
        field = framing(None if chunked else len(self.data))
        self.socket.connect((LOOPBACK, self.server.port))
        self.socket.sendall(head("PUT", f"/stream/{self.stream}", field))
        if self.case.ending is Ending.EARLY:
            self.server.wait_for_state(self.stream, "STREAMING")
            return
        cut = self.case.ending is Ending.CUT
        body = self.data[: len(self.data) // 2] if cut else self.data
        self.socket.sendall(chunk(body) if chunked else body)
        if cut:
            self.server.wait_for_state(self.stream, "STREAMING")
            return
        if chunked:
            self.socket.sendall(LAST_CHUNK)
        while block := self.socket.recv(MIB):
            self.received += block
            if b"\r\n\r\n" in self.received and b" 100 " not in self.received.split(b"\r\n")[0]:
                return

    def get(self) -> None:
        if self.case.ending is Ending.CUT:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self.socket.connect((LOOPBACK, self.server.port))
        connection = http.client.HTTPConnection(LOOPBACK, self.server.port)
        connection.sock = self.socket
        connection.request("GET", f"/stream/{self.stream}")
        response = connection.getresponse()
        self.received = response.read(len(self.data) // 2 if self.case.ending is Ending.CUT else None)


@dataclass(frozen=True)
class Bench:
    """What all cases use."""

    server: Server
    runners: dict[str, Runner]
    bodies: dict[int, bytes]
    directory: Path
    busy: threading.Semaphore

    def run(self, number: int, case: Case) -> Seen:
        body = self.bodies[case.size]
        file = self.directory / f"{number}"
        if case.api.role == "send":
            file.write_bytes(body)
        began = time.monotonic()
        try:
            return replace(self.judge(case, body, file), seconds=time.monotonic() - began)
        except FAILURES as failure:
            return Seen(Verdict.LIE, f"{type(failure).__name__}: {failure}")
        finally:
            file.unlink(missing_ok=True)

    def judge(self, case: Case, body: bytes, file: Path) -> Seen:
        if case.ending is Ending.UNKNOWN:
            with self.busy:
                result = self.client(case, "0" * len(self.server.new_stream()), file)
            return Seen(Verdict.UNSEEN if result.success else Verdict.RIGHT, result.output)
        stream = self.server.new_stream()
        peer = Peer(self.server, stream, case, body)
        result = self.meet(case, stream, peer, file)
        if not peer.began:
            return Seen(Verdict.BROKEN, f"{result.output}, before its peer connected")
        got = self.arrived(case, peer, file)
        if case.ending is Ending.WHOLE and not result.success:
            state = self.server.status(stream)["state"]
            return Seen(Verdict.BROKEN, f"{result.output}; {len(got)} of {len(body)} bytes, {state}")
        state, expected = self.server.final_state(stream), FINAL[case.api.role, case.ending]
        seen = f"{result.output}; {len(got)} of {len(body)} bytes, {state}"
        if case.ending is Ending.WHOLE:
            return Seen(Verdict.RIGHT if got == body and state == expected else Verdict.LIE, seen)
        if state != expected:
            left_by_itself = not result.success and state != "FINISHED"
            return Seen(Verdict.BROKEN if left_by_itself else Verdict.LIE, seen)
        if result.success:
            return Seen(Verdict.UNSEEN, seen)
        if case.ending is Ending.CUT and not body.startswith(got):
            return Seen(Verdict.LIE, f"not the beginning of the body: {seen}")
        return Seen(Verdict.RIGHT, seen)

    def arrived(self, case: Case, peer: Peer, file: Path) -> bytes:
        if case.api.role == "send":
            return peer.received
        return file.read_bytes() if file.exists() else b""

    def client(self, case: Case, stream: str, file: Path) -> Result:
        url = self.server.tls_url(stream) if case.transport.encrypted else self.server.url(stream)
        job = Job(case.api.role, case.api.name, case.transport, case.framing, url, file)
        return self.runners[case.api.client].run(job)

    def meet(self, case: Case, stream: str, peer: Peer, file: Path) -> Result:
        """Runs the client and its peer. The first of them has its seat before the second connects."""
        first_is_source = case.late == (case.api.role == "send")
        waits = "SRC_CONNECTED" if first_is_source else "DST_CONNECTED"
        with ThreadPoolExecutor(2) as sides, ExitStack() as turn:
            turn.enter_context(self.busy)
            if case.late:
                mine = sides.submit(self.client, case, stream, file)
                wait_until(
                    lambda: mine.done() or self.server.status(stream)["state"],
                    lambda seen: seen in (True, waits),
                    waits,
                )
                if mine.done():
                    return mine.result()
                turn.close()
                time.sleep(LATE)
                turn.enter_context(self.busy)
                other = sides.submit(peer.run)
            else:
                other = sides.submit(peer.run)
                self.server.wait_for_state(stream, waits)
                mine = sides.submit(self.client, case, stream, file)
            result = mine.result()
            try:
                other.result(LIMIT if result.success else 1.0)
            except FAILURES:
                # The failure of the client is one of the peer too.
                check(not result.success, "the peer failed, and the client did not")
            finally:
                peer.hang_up()
        return result


# ------------------------------------------------------------------------------------------------- known


@dataclass(frozen=True)
class Known:
    """A requirement that an API is known not to meet, and why. The patterns are those of file names."""

    api: str
    verdict: Verdict
    endings: tuple[Ending, ...]
    why: str
    instead: str  # what to use instead
    transports: tuple[Transport, ...] = tuple(Transport)
    framing: str = "*"
    always: bool = True  # otherwise it happens only sometimes

    def covers(self, case: Case) -> bool:
        fits = fnmatchcase(case.api.label, self.api) and fnmatchcase(case.framing, self.framing)
        return fits and case.api.role == "receive" and case.ending in self.endings and case.transport in self.transports

    def explains(self, case: Case, seen: Seen) -> bool:
        return self.covers(case) and seen.verdict is self.verdict


ERROR_STATUS = (Ending.EARLY, Ending.UNKNOWN)

KNOWN = (
    Known(
        "curl",
        Verdict.UNSEEN,
        ERROR_STATUS,
        "an error's JSON becomes the file, and the exit code is 0: without `-f` any status is a success",
        "`curl -f`",
    ),
    Known(
        "curl --retry 2",
        Verdict.UNSEEN,
        ERROR_STATUS,
        "after a 502 it tries again, gets 404 because the stream is used up, and exits with 0",
        "`curl -f`",
    ),
    Known(
        "node ??: http.get().pipe()",
        Verdict.UNSEEN,
        ERROR_STATUS,
        "the program ends with 0, and the file has an error's JSON: `pipe()` asks for no status",
        "`pipeline()`, and the status",
    ),
    Known(
        "node ??: http.get().pipe()",
        Verdict.UNSEEN,
        (Ending.CUT,),
        "now and then the program ends with 0, and the file has half of the body: `pipe()` passes no failure on",
        "`pipeline()`",
        transports=(PLAIN,),
        always=False,
    ),
    Known(
        "perl: is_success",
        Verdict.UNSEEN,
        (Ending.CUT,),
        "it looks at the status only; what fails after that is in the header `X-Died`, or nowhere",
        "`X-Died` and the length too",
    ),
    Known(
        "php: copy()",
        Verdict.UNSEEN,
        (Ending.CUT,),
        "it returns true: PHP's streams do not tell a failure from an end",
        "the curl extension",
        always=False,
    ),
)


# -------------------------------------------------------------------------------------------------- page

NAMES = {
    "curl": "curl",
    "wget": "wget",
    "node": "Node",
    "python": "Python",
    "java": "Java",
    "go": "Go",
    "ruby": "Ruby",
    "perl": "Perl, LWP",
    "php": "PHP",
}
LANGUAGES = {
    ".mjs": "js",
    ".py": "python",
    ".java": "java",
    ".go": "go",
    ".rb": "ruby",
    ".pl": "perl",
    ".php": "php",
}
DIMENSIONS: tuple[tuple[dict[object, str], Callable[[Case], object]], ...] = (
    ({"length": "with a length", "chunked": "in chunks"}, lambda case: case.framing),
    ({False: "with a prompt peer", True: "with a late peer"}, lambda case: case.late),
    ({False: "without TLS", True: "over TLS"}, lambda case: case.transport.encrypted),
)
COLUMNS: dict[str, tuple[Transport, ...]] = {"HTTP/1.1": (PLAIN,), "TLS": (TLS,), "HTTP/2": (H2, H2C)}


# Parts of the output of clients that change: times, sizes, ports, ids and paths.
CHANGING = re.compile(r"\d{4}-\d\d-\d\d [\d:]+ |\d+ bytes|:\d{4,}|[0-9a-f-]{36}|/tmp/\S+")


def listed(family: str, versions: Iterable[str]) -> str:
    """For example "Node 20, 22"."""
    return f"{NAMES[family]} {', '.join(versions)}".strip()


@dataclass(frozen=True)
class Page(MadePage):
    """The page for users of clients."""

    of_this_machine = ("cuts", "versions")

    apis: Sequence[Api]
    seen: dict[Case, Seen]
    versions: dict[str, str]

    def holds(self, case: Case) -> bool:
        """False also for a known failure that did not happen this time."""
        return self.seen[case].verdict is Verdict.RIGHT and not any(known.covers(case) for known in KNOWN)

    def results(self, role: str, failing: Sequence[str]) -> str:
        """A row for each API. Versions of a client that behave alike share it."""
        rows: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for api in self.apis:
            if api.role == role:
                family, _, version = api.client.partition(" ")
                cases = [case for case in self.seen if case.api == api]
                cells = [self.cell(cases, (Ending.WHOLE,), over, "works") for over in COLUMNS.values()]
                cells += [self.cell(cases, (Ending.CUT,), tuple(Transport), "noticed")]
                cells += [self.cell(cases, ERROR_STATUS, tuple(Transport), "noticed")]
                rows[family, f"`{api.name}`", *cells].append(version)
        body = [(listed(family, versions), *rest) for (family, *rest), versions in rows.items()]
        return table(("client", "API", *COLUMNS, *failing), *body)

    def cell(self, cases: Sequence[Case], endings: tuple[Ending, ...], over: tuple[Transport, ...], right: str) -> str:
        asked = [case for case in cases if case.ending in endings and case.transport in over]
        failed = [case for case in asked if not self.holds(case)]
        if not asked:
            return "–"
        if not failed:
            return right
        verdicts = {known.verdict for known in KNOWN for case in failed if known.covers(case)}
        verdicts |= {self.seen[case].verdict for case in failed} - {Verdict.RIGHT}
        wrong = "**not noticed**" if Verdict.UNSEEN in verdicts else "**may fail**"
        where = [
            words[values.pop()]
            for words, of in DIMENSIONS
            if len(values := {of(case) for case in failed}) < len({of(case) for case in asked})
        ]
        return " ".join((wrong, *where))

    def exceptions(self) -> str:
        rows = [(self.known_as(known), known.why, known.instead) for known in KNOWN]
        return table(("client, API", "what happens, and why", "use instead"), *rows)

    def known_as(self, known: Known) -> str:
        """For example "Node 20, 22: `fetch`"."""
        apis = [api for api in self.apis if any(known.covers(case) for case in self.seen if case.api == api)]
        clients = [api.client.partition(" ") for api in apis]
        return f"{listed(clients[0][0], [version for *_, version in clients])}: `{apis[0].name}`"

    def cuts(self) -> str:
        """An example of what each API reports for a cut: of a large body, without TLS where possible."""
        rows = []
        for api in self.apis:
            cases = [
                case
                for case in self.seen
                if (case.api, case.ending, case.late, case.size) == (api, Ending.CUT, True, LARGE)
                and self.seen[case].verdict is Verdict.RIGHT
            ]
            plain = [case for case in cases if not case.transport.encrypted]
            outputs = [self.seen[case].output.split(";")[0] for case in plain or cases]
            if api.role == "receive" and outputs:
                text = CHANGING.sub("…", min(outputs)).replace("|", "\\|")[:120]
                family, _, version = api.client.partition(" ")
                rows.append((listed(family, [version]), f"`{api.name}`", text))
        return table(("client", "API", "an example of what it reports for a cut"), *rows)

    def block(self, kind: str, name: str, _: str) -> str:
        if kind == "snippet":
            return snippet(name)
        made: dict[str, Callable[[], str]] = {
            "receiving": partial(self.results, "receive", ("a cut body", "an error status")),
            "sending": partial(self.results, "send", ("a receiver that leaves", "an error status")),
            "exceptions": self.exceptions,
            "cuts": self.cuts,
            "versions": lambda: ", ".join(f"{name} {version}" for name, version in self.versions.items()) + ".\n",
        }
        return made[name]()


def snippet(name: str) -> str:
    """The lines between `snippet: NAME` and `snippet end` in the program of a client."""
    for program in sorted(HERE.iterdir()):
        lines = program.read_text().splitlines() if program.suffix in LANGUAGES else []
        starts = [number for number, line in enumerate(lines) if line.strip(" /#") == f"snippet: {name}"]
        if starts:
            rest = lines[starts[0] + 1 :]
            code = rest[: next(number for number, line in enumerate(rest) if line.strip(" /#") == "snippet end")]
            return f"```{LANGUAGES[program.suffix]}\n{dedent(chr(10).join(code)).strip()}\n```\n"
    raise Violation(f"no snippet is called {name}")


# -------------------------------------------------------------------------------------------------- test


def test_clients(options: argparse.Namespace, tally: Tally) -> None:
    began = time.monotonic()
    directory = options.directory.resolve()
    packages = Packages(options.packages)
    install(directory, packages)
    apis = [api for api in APIS if not options.only or fnmatchcase(api.label, f"*{options.only}*")]
    cases = [case for api in apis for case in cases_of(api)]
    random.Random(options.seed).shuffle(cases)
    seen = run_cases(options, tally, directory, packages, cases)
    for case in sorted(cases, key=str):
        saw = seen[case]
        if options.verbose:
            print(f"{case}: {saw.verdict.value} ({saw.output}) in {saw.seconds:.1f} s")
        with tally.trial(str(case)):
            check(
                saw.verdict is Verdict.RIGHT or any(known.explains(case, saw) for known in KNOWN),
                f"{saw.verdict.value} ({saw.output})",
            )
    for known in KNOWN:
        covered = [case for case in cases if known.covers(case)]
        held = [case for case in covered if seen[case].verdict is Verdict.RIGHT]
        if covered:
            tally.notes.append(f"{len(covered) - len(held)} of {len(covered)} known of {known.api}")
        if covered and known.always:
            with tally.trial(f"known of {known.api}"):
                check(not held, f"no longer fails: {', '.join(map(str, held))}")
    if not options.only:
        Page(apis, seen, versions(directory, packages)).use(options, tally)
    slowest = max(seen.values(), key=lambda saw: saw.seconds)
    tally.notes.append(f"the slowest took {slowest.seconds:.1f} s")
    tally.notes.append(f"in {time.monotonic() - began:.0f} s")


def run_cases(
    options: argparse.Namespace, tally: Tally, directory: Path, packages: Packages, cases: Sequence[Case]
) -> dict[Case, Seen]:
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pair = new_pair(scratch, "clients")
        log = stack.enter_context((scratch / "log").open("w+b"))
        server = stack.enter_context(serving(options.server, pair=pair, stderr=log))
        environment = clean_environment(directory, pair.certificate)
        runners = new_runners(directory, packages, environment, {case.api.client for case in cases})
        for runner in runners.values():
            stack.callback(runner.close)
        bench = Bench(
            server,
            runners,
            {size: os.urandom(size) for size in (SMALL, LARGE)},
            scratch,
            threading.Semaphore(BUSY_AT_ONCE),
        )
        pool = stack.enter_context(ThreadPoolExecutor(AT_ONCE))
        seen = dict(zip(cases, pool.map(bench.run, range(len(cases)), cases)))
        no_panics(tally, scratch / "log")
        tally.notes.append(f"{server.cpu():.0f} s of CPU for the server")
        return seen


TESTS: dict[str, Test] = {"clients": test_clients}


def main() -> int:
    parser = new_parser(__doc__, TESTS)
    parser.add_argument("--only", metavar="PATTERN", help="only clients whose name matches")
    parser.add_argument("--directory", type=Path, default=ROOT / "target/clients", help="where clients are installed")
    add_page_arguments(parser, "transfer")
    return run_all(parser, TESTS, *TOOLS)


if __name__ == "__main__":
    sys.exit(main())
