"""What the system tests have in common: their servers, their findings, their command line."""

import argparse
import hashlib
import json
import os
import random
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
PAUSE = 0.002  # seconds between two looks at a state
LOOPBACK = "127.0.0.1"
DATA_PATH = "RENDEZVOUS_DATA_PATH"  # the one setting that is left to whoever runs this: splice or copy

Process = subprocess.Popen[bytes]
Command = Sequence[str]
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


@contextmanager
def child(*command: str | Path, **options: Any) -> Iterator[Process]:
    """A process that does not outlive the block."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


@dataclass(frozen=True)
class Pair:
    """A certificate, which signs itself, and its key."""

    certificate: Path
    key: Path

    def flags(self) -> tuple[str, ...]:
        return ("--tls-cert", str(self.certificate), "--tls-key", str(self.key))


def new_pair(directory: Path, name: str) -> Pair:
    """For 127.0.0.1, good for a day."""
    directory.mkdir(exist_ok=True)
    pair = Pair(directory / f"{name}.crt", directory / f"{name}.key")
    kind = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1")
    names = ("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", str(pair.key), "-out", str(pair.certificate))
    subprocess.run(("openssl", "req", *kind, *names, *files), check=True, capture_output=True)
    return pair


@dataclass(frozen=True)
class Server:
    """The running server, as the system tests ask it about streams."""

    pid: int
    port: int
    tls_port: int = 0
    pair: Pair | None = None

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

    def tls_url(self, stream: str) -> str:
        return f"https://127.0.0.1:{self.tls_port}/stream/{stream}"

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self, what: str = "VmRSS") -> int:
        """Bytes that are resident now, or with `VmHWM` the most there have been."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))

    def forget_peak(self) -> None:
        """From here on VmHWM is counted anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def cpu(self) -> float:
        return cpu_seconds(self.pid)


def cpu_seconds(pid: int) -> float:
    """User and system time that the process has had."""
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
    """A server of its own for each proof, with TLS if it has a pair. It must still run when the proof is through, unless
    it may end."""
    mine = {name for name in os.environ if name.startswith("RENDEZVOUS_")} - {DATA_PATH}
    environment = {name: value for name, value in os.environ.items() if name not in mine}
    path, *flags = program
    arguments = ["serve", "--host", host, "--port", "0", "--log-level", "warn", *flags, *options]
    if pair:
        arguments += [*pair.flags(), "--plain-port", "0"]
    with child(path, *arguments, stdout=subprocess.PIPE, env=environment, **how) as process:
        port = told_port(process, f"https://{host}" if pair else f"http://{host}")
        if pair:
            (plain,) = listening_ports(process.pid) - {port}
            yield Server(process.pid, plain, port, pair)
        else:
            yield Server(process.pid, port)
        check(may_end or process.poll() is None, f"the server ended by itself with {process.returncode}")


def output_of(process: Process) -> BufferedReader:
    """The reading end of an output that was asked for as a pipe, which the type of a process leaves open."""
    return cast(BufferedReader, process.stdout)


def told_port(process: Process, base: str) -> int:
    """The port the server picked, from its first line."""
    ready, _, _ = select.select([output_of(process)], [], [], PATIENCE)
    check(bool(ready), "the server does not say where it listens")
    line = output_of(process).readline().decode().strip()
    start, _, port = line.rpartition(":")
    check(start == f"Listening on {base}", f"the first line of the server is {line!r}")
    return int(port)


def listening_ports(pid: int) -> set[int]:
    """All that a process listens on, by its descriptors: a further port that it picked is not told."""
    listening = "0A"
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
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


def write_random(file: Path, size: int) -> str:
    """Random, so that no lost, doubled or swapped piece can go unnoticed. The answer is the SHA-256."""
    sha256 = hashlib.sha256()
    with file.open("wb") as out:
        for start in range(0, size, MIB):
            block = os.urandom(min(MIB, size - start))
            sha256.update(block)
            out.write(block)
    return sha256.hexdigest()


# -------------------------------------------------------------------------------------------------- main

Proof = Callable[[argparse.Namespace, Tally], None]


def run(name: str, proof: Proof, options: argparse.Namespace) -> bool:
    """One proof, its line of figures, and a line for each violation."""
    tally = Tally()
    with tally.noting(f"seed {options.seed}"):
        proof(options, tally)
    print(f"{name}: {tally.right} of {tally.asked} right", *tally.notes, sep=", ", flush=True)
    for violation in tally.violations:
        print(f"  violation: {violation}", flush=True)
    return not tally.violations


def new_parser(doc: str | None, proofs: Mapping[str, Proof]) -> argparse.ArgumentParser:
    """The arguments that all have. A proof may add its own."""
    server = ROOT / "target/release/rendezvous"
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=raw)
    parser.add_argument("proof", nargs="?", default="all", choices=[*proofs, "all"])
    parser.add_argument(
        "--server",
        default=shlex.quote(str(server)),
        metavar="PROGRAM",
        help="what to prove; flags may follow it",
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), metavar="N")
    return parser


def run_all(parser: argparse.ArgumentParser, proofs: Mapping[str, Proof], *tools: str) -> int:
    """What the command line asks for. The answer is the exit code."""
    options = parser.parse_args()
    path, *flags = shlex.split(options.server)
    program = Path(path).resolve()
    if not program.is_file():
        parser.error(f"there is no {program}: `cargo build --release` makes it, or say --server PATH")
    options.server = (str(program), *flags)
    for tool in tools:
        if not shutil.which(tool):
            parser.error(f"{tool} is not installed")
    print(f"seed {options.seed}", flush=True)
    names = list(proofs) if options.proof == "all" else [options.proof]
    results = [run(name, proofs[name], options) for name in names]
    failed = results.count(False)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0
