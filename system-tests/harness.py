"""What the system tests share: the server under test, HTTP/1.1 by hand, the findings, the command line (Python 3.11)."""

import argparse
import hashlib
import json
import os
import random
import select
import shlex
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar, cast

ROOT = Path(__file__).resolve().parent.parent
KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
PATIENCE = 30.0  # seconds for anything that should happen at once
PAUSE = 0.002  # seconds between two polls of a state
LOOPBACK = "127.0.0.1"
DATA_PATH = "RENDEZVOUS_DATA_PATH"  # the only setting that the caller's environment may make: splice or copy
# -q and --noproxy: neither a .curlrc nor a proxy variable of the caller may interfere.
CURL = ("curl", "-q", "-sS", "--noproxy", "*")
LAST_CHUNK = b"0\r\n\r\n"

Process = subprocess.Popen[bytes]
Command = Sequence[str]
Answer = tuple[int, bytes]
Status = dict[str, Any]
T = TypeVar("T")


class Violation(Exception):
    """The server, or what else is tested, behaved differently from what the test requires."""


FAILURES = (Violation, OSError, HTTPException, ValueError, subprocess.TimeoutExpired)


def check(holds: bool, seen: str) -> None:
    """Raises a violation unless `holds`. Unlike `assert`, it also checks under `python -O`."""
    if not holds:
        raise Violation(seen)


def wait_until(look: Callable[[], T], enough: Callable[[T], bool], what: str) -> T:
    """Polls until `enough`, and returns what `look` returned last. Past the timeout that is part of the violation."""
    deadline = time.monotonic() + PATIENCE
    while not enough(seen := look()):
        check(time.monotonic() < deadline, f"{what}: not within {PATIENCE:.0f} s, last seen: {seen}")
        time.sleep(PAUSE)
    return seen


@dataclass
class Tally:
    """The findings of one test so far. An exception does not lose them."""

    trials: int = 0
    passed: int = 0
    notes: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    @contextmanager
    def recording(self, label: str) -> Iterator[None]:
        """Records a failure in the block as a violation."""
        try:
            yield
        except FAILURES as failure:
            self.violations.append(f"{label}: {type(failure).__name__}: {failure}")

    @contextmanager
    def trial(self, label: str) -> Iterator[None]:
        """One trial of the test. If it fails, the test goes on with the next."""
        self.trials += 1
        with self.recording(label):
            yield
            self.passed += 1


@contextmanager
def child(*command: str | Path, **options: Any) -> Iterator[Process]:
    """Runs a process and kills it at the end of the block."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


@dataclass(frozen=True)
class Pair:
    """A self-signed certificate and its key."""

    certificate: Path
    key: Path

    def flags(self) -> tuple[str, ...]:
        return ("--tls-cert", str(self.certificate), "--tls-key", str(self.key))


def new_pair(directory: Path, name: str) -> Pair:
    """Makes a certificate for 127.0.0.1 that is valid for a day."""
    directory.mkdir(exist_ok=True)
    pair = Pair(directory / f"{name}.crt", directory / f"{name}.key")
    kind = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1")
    names = ("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", str(pair.key), "-out", str(pair.certificate))
    subprocess.run(("openssl", "req", *kind, *names, *files), check=True, capture_output=True)
    return pair


@dataclass(frozen=True)
class Server:
    """A running server and its API."""

    pid: int
    port: int
    tls_port: int = 0
    pair: Pair | None = None

    def request(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """Sends a request on a connection of its own, so that none is open when descriptors are counted."""
        connection = HTTPConnection(LOOPBACK, self.port, timeout=PATIENCE)
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
        return f"http://{LOOPBACK}:{self.port}/stream/{stream}"

    def tls_url(self, stream: str) -> str:
        return f"https://{LOOPBACK}:{self.tls_port}/stream/{stream}"

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self, what: str = "VmRSS") -> int:
        """Resident bytes now, or with `VmHWM` their peak."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))

    def forget_peak(self) -> None:
        """Resets VmHWM to the memory that is resident now."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def cpu(self) -> float:
        return cpu_seconds(self.pid)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(
    program: Command,
    *options: str,
    pair: Pair | None = None,
    host: str = LOOPBACK,
    may_end: bool = False,
    **how: Any,
) -> Iterator[Server]:
    """Starts a server, with TLS too if it has a pair. Unless `may_end`, it must still run at the end of the block."""
    settings = {name for name in os.environ if name.startswith("RENDEZVOUS_")} - {DATA_PATH}
    environment = {name: value for name, value in os.environ.items() if name not in settings}
    path, *flags = program
    arguments = ["serve", "--host", host, "--port", "0", "--log-level", "warn", *flags, *options]
    if pair:
        arguments += [*pair.flags(), "--plain-port", "0"]
    with child(path, *arguments, stdout=subprocess.PIPE, env=environment, **how) as process:
        port = greeted_port(process, f"https://{host}" if pair else f"http://{host}")
        if pair:
            (plain,) = listening_ports(process.pid) - {port}
            yield Server(process.pid, plain, port, pair)
        else:
            yield Server(process.pid, port)
        check(may_end or process.poll() is None, f"the server ended by itself with {process.returncode}")


def output_of(process: Process) -> BufferedReader:
    """The standard output of a process that was started with a pipe for it."""
    return cast(BufferedReader, process.stdout)


def greeted_port(process: Process, base: str) -> int:
    """The port that the server bound, from its first line."""
    ready, _, _ = select.select([output_of(process)], [], [], PATIENCE)
    check(bool(ready), "the server prints no greeting")
    line = output_of(process).readline().decode().strip()
    start, _, port = line.rpartition(":")
    check(start == f"Listening on {base}", f"the first line of the server is {line!r}")
    return int(port)


def listening_ports(pid: int) -> set[int]:
    """All ports that a process listens on, by its descriptors: the greeting names only one of them."""
    listening = "0A"
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        # A descriptor may be closed meanwhile.
        with suppress(FileNotFoundError):
            links.append(os.readlink(link))
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {
        int(local.rpartition(":")[2], 16)
        for _, local, _, state, _, _, _, _, _, inode, *_ in lines
        if state == listening and f"socket:[{inode}]" in links
    }


def listed_in(file: Path) -> list[str]:
    """The lines of a list, without comments and empty lines."""
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


def not_over_tls() -> list[str]:
    """The tests over the wire that do not apply to TLS."""
    return listed_in(ROOT / "crates/server/tests/wire/not-over-tls.txt")


def no_panics(tally: Tally, log: Path) -> None:
    """Checks that the server has logged no panic."""
    with tally.trial("the server's log"):
        panics = [line for line in log.read_text(errors="replace").splitlines() if "panicked" in line]
        check(not panics, "\n".join(panics))


# ------------------------------------------------------------------------------------------- sockets, HTTP/1.1


def free_port() -> int:
    """A port that was free a moment ago, for programs that accept no port 0."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    """Whether a program listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def reset(connection: socket.socket) -> None:
    """Closes a connection by RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def head(method: str, path: str, *fields: str) -> bytes:
    """The head of an HTTP/1.1 request."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: localhost", *fields, "", "")).encode()


def framing(length: int | None) -> str:
    """The field that frames a body of this length. Without a length the body is chunked."""
    return "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# -------------------------------------------------------------------------------------------------------- curl


@contextmanager
def uploading(url: str, file: Path, chunked: bool, *options: str, **how: Any) -> Iterator[Process]:
    """Uploads a file by curl: with a Content-Length, or chunked, where curl reads a pipe."""
    put = (*CURL, "-f", *options, "-T", "-" if chunked else str(file), url)
    if not chunked:
        with child(*put, stdin=subprocess.DEVNULL, **how) as curl:
            yield curl
        return
    with child("cat", file, stdout=subprocess.PIPE) as cat, child(*put, stdin=cat.stdout, **how) as curl:
        output_of(cat).close()  # curl then has the only reading end, and cat ends with it
        yield curl


# ------------------------------------------------------------------------------------------------------- files


def write_random(file: Path, size: int) -> str:
    """Fills a file with random bytes, so that a lost, doubled or swapped piece shows. Returns their SHA-256."""
    sha256 = hashlib.sha256()
    with file.open("wb") as out:
        for start in range(0, size, MIB):
            block = os.urandom(min(MIB, size - start))
            sha256.update(block)
            out.write(block)
    return sha256.hexdigest()


# -------------------------------------------------------------------------------------------------------- main

Test = Callable[[argparse.Namespace, Tally], None]


def run(name: str, test: Test, options: argparse.Namespace) -> bool:
    """Runs one test. Prints a line of figures, and a line for each violation."""
    tally = Tally()
    with tally.recording(f"seed {options.seed}"):
        test(options, tally)
    print(f"{name}: {tally.passed} of {tally.trials} passed", *tally.notes, sep=", ", flush=True)
    for violation in tally.violations:
        print(f"  violation: {violation}", flush=True)
    return not tally.violations


def new_parser(doc: str | None, tests: Mapping[str, Test]) -> argparse.ArgumentParser:
    """A parser with the arguments that all system tests have."""
    server = ROOT / "target/release/rendezvous"
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=raw)
    parser.add_argument("test", nargs="?", default="all", choices=[*tests, "all"])
    parser.add_argument(
        "--server",
        default=shlex.quote(str(server)),
        metavar="PROGRAM",
        help="the server; flags may follow it",
    )
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), metavar="N", help="repeats the random choices of a run"
    )
    return parser


def run_all(parser: argparse.ArgumentParser, tests: Mapping[str, Test], *tools: str) -> int:
    """Runs the tests that the command line names. Returns the exit code."""
    options = parser.parse_args()
    path, *flags = shlex.split(options.server)
    program = Path(path).resolve()
    if not program.is_file():
        parser.error(f"there is no {program}: `cargo build --release` builds it, and --server names another")
    options.server = (str(program), *flags)
    for tool in tools:
        if not shutil.which(tool):
            parser.error(f"{tool} is not installed")
    print(f"seed {options.seed}", flush=True)
    names = list(tests) if options.test == "all" else [options.test]
    results = [run(name, tests[name], options) for name in names]
    failed = results.count(False)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0
