#!/usr/bin/env python3
"""The same questions to this server and to its peers: what do both sides believe when something dies?

    sender     the uploading curl is killed: does the downloading one call what it has a whole file?
    receiver   the downloading curl is killed: does the uploading one call it a success?
    in-flight  a receiver whose kernel has not taken the last bytes resets: was the sender told that it is done?
    server     the server is killed: does the downloading curl call what it has a whole file?
    return     a receiver that waits leaves, and another comes: does that one get it all?

Each is asked `--times` times, with a length and chunked. What is printed is how often the answer was a lie, or for `return`
how often it failed; only a lie of this server fails the proof. Peers are found on the PATH and in node_modules/.bin:
piping-server (`npm install --no-save piping-server`). Linux, curl, a release build, no Python packages.
"""

import argparse
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import count, product
from pathlib import Path

from harness import MIB, Process, Tally, check, child, new_parser, output_of, run_all, serving, wait_until

CURL = ("curl", "-q", "-sS", "-f", "--noproxy", "*", "--max-time", "60")
SIZE = 16 * MIB
PASSED = 2 * MIB  # before anything dies
BRAKE = ("--limit-rate", "20M")
SMALL = 256 * 1024  # fits in the kernels' buffers between a sender and a receiver that takes nothing
NARROW = 4096  # a receive buffer


@dataclass(frozen=True)
class Relay:
    """A server that runs, as its clients see it."""

    port: int
    process: int
    new_path: Callable[[], str]
    is_ours: bool = False

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@contextmanager
def ours(options: argparse.Namespace) -> Iterator[Relay]:
    """Ends whether the server still runs or not: one experiment kills it."""
    with ExitStack() as stack:
        server = stack.enter_context(serving(options.server, may_end=True, stderr=subprocess.DEVNULL))
        yield Relay(server.port, server.pid, lambda: f"/stream/{server.new_stream()}", is_ours=True)


@contextmanager
def piping(options: argparse.Namespace) -> Iterator[Relay]:
    """piping-server takes no port 0, so it gets one that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    numbers = count()
    command = (options.piping, "--host", "127.0.0.1", "--http-port", str(port))
    with child(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: answers(port), bool, "piping-server listens")
        yield Relay(port, process.pid, lambda: f"/meet-{next(numbers)}")


def answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/help")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@contextmanager
def uploading(url: str, file: Path, chunked: bool, *options: str) -> Iterator[Process]:
    with ExitStack() as stack:
        source = subprocess.DEVNULL
        if chunked:
            cat = stack.enter_context(child("cat", file, stdout=subprocess.PIPE))
            source = output_of(cat)
        put = (*CURL, *options, "-T", "-" if chunked else str(file), url)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        yield stack.enter_context(child(*put, stdin=source, **quiet))


@contextmanager
def downloading(url: str, copy: Path, *options: str) -> Iterator[Process]:
    copy.unlink(missing_ok=True)
    with child(*CURL, *options, "-o", copy, url, stderr=subprocess.DEVNULL) as process:
        yield process


def has_passed(copy: Path) -> None:
    wait_until(lambda: copy.stat().st_size if copy.exists() else 0, lambda size: size >= PASSED, "bytes")


@dataclass(frozen=True)
class Bodies:
    large: Path
    small: Path
    copy: Path


def sender(relay: Relay, bodies: Bodies, chunked: bool) -> bool:
    url = relay.url(relay.new_path())
    with downloading(url, bodies.copy) as get, uploading(url, bodies.large, chunked, *BRAKE) as put:
        has_passed(bodies.copy)
        put.kill()
        return get.wait() == 0


def receiver(relay: Relay, bodies: Bodies, chunked: bool) -> bool:
    url = relay.url(relay.new_path())
    with downloading(url, bodies.copy, *BRAKE) as get, uploading(url, bodies.large, chunked) as put:
        has_passed(bodies.copy)
        get.kill()
        return put.wait() == 0


def in_flight(relay: Relay, bodies: Bodies, chunked: bool) -> bool:
    path = relay.new_path()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW)
        client.connect(("127.0.0.1", relay.port))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        with uploading(relay.url(path), bodies.small, chunked) as put:
            # It may believe whatever it likes after the reset; before that, nothing has arrived.
            time.sleep(1)
            believed = put.poll() == 0
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            return believed or put.wait() == 0


def server(relay: Relay, bodies: Bodies, chunked: bool) -> bool:
    url = relay.url(relay.new_path())
    # A download without a length over HTTP/1.0 is framed by nothing but the end of the connection.
    with downloading(url, bodies.copy, "--http1.0") as get, uploading(url, bodies.large, chunked, *BRAKE):
        has_passed(bodies.copy)
        os.kill(relay.process, 9)
        return get.wait() == 0


def return_(relay: Relay, bodies: Bodies, chunked: bool) -> bool:
    url = relay.url(relay.new_path())
    with downloading(url, bodies.copy) as gone:
        time.sleep(0.2)  # peers do not tell that somebody waits
        gone.kill()
        gone.wait()
    time.sleep(0.2)
    with downloading(url, bodies.copy) as get:
        time.sleep(0.2)
        with uploading(url, bodies.small, chunked) as put:
            failed = get.wait() != 0 or put.wait() != 0
    return failed or bodies.copy.read_bytes() != bodies.small.read_bytes()


EXPERIMENTS = {"sender": sender, "receiver": receiver, "in-flight": in_flight, "server": server, "return": return_}


def compare(options: argparse.Namespace, tally: Tally) -> None:
    relays = {"rendezvous": ours}
    if options.piping:
        relays["piping-server"] = piping
    else:
        print("LEFT OUT: piping-server is not installed (`npm install --no-save piping-server`)")
    with tempfile.TemporaryDirectory() as folder:
        bodies = Bodies(*(Path(folder) / name for name in ("large", "small", "copy")))
        bodies.large.write_bytes(os.urandom(SIZE))
        bodies.small.write_bytes(os.urandom(SMALL))
        for (experiment, ask), (name, start) in product(EXPERIMENTS.items(), relays.items()):
            lies = {chunked: ask_often(ask, start, options, bodies, chunked) for chunked in (False, True)}
            told = f"{experiment}: {name}: {lies[False]} of {options.times} with a length, {lies[True]} chunked"
            print(f"  {told}", flush=True)
            if name == "rendezvous":
                with tally.trial(told):
                    check(not any(lies.values()), "a lie")


def ask_often(
    ask: Callable[[Relay, Bodies, bool], bool],
    start: Callable[[argparse.Namespace], Iterator[Relay]],
    options: argparse.Namespace,
    bodies: Bodies,
    chunked: bool,
) -> int:
    lies = 0
    for _ in range(options.times):
        with start(options) as relay:
            lies += ask(relay, bodies, chunked)
    return lies


def main() -> int:
    proofs = {"compare": compare}
    parser = new_parser(__doc__, proofs)
    parser.add_argument("--times", type=int, default=10, metavar="N")
    local = shutil.which("piping-server", path="node_modules/.bin")
    parser.add_argument("--piping", default=shutil.which("piping-server") or local, metavar="PROGRAM")
    return run_all(parser, proofs, "curl")


if __name__ == "__main__":
    sys.exit(main())
