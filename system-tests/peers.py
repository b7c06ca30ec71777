#!/usr/bin/env python3
"""The same experiments with this server and with its peers: what do both sides report when something dies?

    sender     the uploading curl is killed: does the downloading one report a whole file?
    receiver   the downloading curl is killed: does the uploading one report success?
    in-flight  a receiver resets while its kernel has not accepted the last bytes: did the sender get success before?
    server     the server is killed: does the downloading curl report a whole file?
    return     a waiting receiver leaves, and another connects: does that one get the whole body?

Each runs `--times` times, with a length and chunked. The output is how often the report was false, or for `return` how often it
failed. Only false reports of this server fail the test. Peers are on the PATH or in node_modules/.bin: piping-server
(`npm install --no-save piping-server`). Linux, curl, a release build, no Python packages.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import count, product
from pathlib import Path

from harness import (
    CURL,
    LOOPBACK,
    MIB,
    Process,
    Tally,
    check,
    child,
    free_port,
    head,
    new_parser,
    reset,
    run_all,
    serving,
    uploading,
    wait_until,
)

AT_MOST = ("--max-time", "60")
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
SIZE = 16 * MIB
PASSED = 2 * MIB  # before anything dies
BRAKE = ("--limit-rate", "20M")
SMALL = 256 * 1024  # fits in the kernels' buffers between a sender and a receiver that reads nothing
NARROW = 4096  # a receive buffer


@dataclass(frozen=True)
class Relay:
    """A running server, as its clients see it."""

    port: int
    process: int
    new_path: Callable[[], str]
    is_ours: bool = False

    def url(self, path: str) -> str:
        return f"http://{LOOPBACK}:{self.port}{path}"


@contextmanager
def ours(options: argparse.Namespace) -> Iterator[Relay]:
    """This server. One experiment kills it."""
    with ExitStack() as stack:
        server = stack.enter_context(serving(options.server, may_end=True, stderr=subprocess.DEVNULL))
        yield Relay(server.port, server.pid, lambda: f"/stream/{server.new_stream()}", is_ours=True)


@contextmanager
def piping(options: argparse.Namespace) -> Iterator[Relay]:
    port = free_port()
    numbers = count()
    command = (options.piping, "--host", LOOPBACK, "--http-port", str(port))
    with child(*command, **QUIET) as process:
        wait_until(lambda: answers(port), bool, "piping-server listens")
        yield Relay(port, process.pid, lambda: f"/meet-{next(numbers)}")


def answers(port: int) -> bool:
    connection = HTTPConnection(LOOPBACK, port, timeout=1)
    try:
        connection.request("GET", "/help")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def upload(url: str, file: Path, chunked: bool, *options: str) -> AbstractContextManager[Process]:
    return uploading(url, file, chunked, *AT_MOST, *options, **QUIET)


@contextmanager
def downloading(url: str, copy: Path, *options: str) -> Iterator[Process]:
    copy.unlink(missing_ok=True)
    with child(*CURL, "-f", *AT_MOST, *options, "-o", copy, url, stderr=subprocess.DEVNULL) as process:
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
    with downloading(url, bodies.copy) as get, upload(url, bodies.large, chunked, *BRAKE) as put:
        has_passed(bodies.copy)
        put.kill()
        return get.wait() == 0


def receiver(relay: Relay, bodies: Bodies, chunked: bool) -> bool:
    url = relay.url(relay.new_path())
    with downloading(url, bodies.copy, *BRAKE) as get, upload(url, bodies.large, chunked) as put:
        has_passed(bodies.copy)
        get.kill()
        return put.wait() == 0


def in_flight(relay: Relay, bodies: Bodies, chunked: bool) -> bool:
    path = relay.new_path()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW)
        client.connect((LOOPBACK, relay.port))
        client.sendall(head("GET", path))
        with upload(relay.url(path), bodies.small, chunked) as put:
            # Before the reset nothing has arrived, so success is false. After it any report may be.
            time.sleep(1)
            believed = put.poll() == 0
            reset(client)
            return believed or put.wait() == 0


def server(relay: Relay, bodies: Bodies, chunked: bool) -> bool:
    url = relay.url(relay.new_path())
    # A download without a length over HTTP/1.0 is framed by nothing but the end of the connection.
    with downloading(url, bodies.copy, "--http1.0") as get, upload(url, bodies.large, chunked, *BRAKE):
        has_passed(bodies.copy)
        os.kill(relay.process, 9)
        return get.wait() == 0


def return_(relay: Relay, bodies: Bodies, chunked: bool) -> bool:
    url = relay.url(relay.new_path())
    with downloading(url, bodies.copy) as gone:
        time.sleep(0.2)  # peers have no status that shows a waiting side
        gone.kill()
        gone.wait()
    time.sleep(0.2)
    with downloading(url, bodies.copy) as get:
        time.sleep(0.2)
        with upload(url, bodies.small, chunked) as put:
            failed = get.wait() != 0 or put.wait() != 0
    return failed or bodies.copy.read_bytes() != bodies.small.read_bytes()


EXPERIMENTS = {"sender": sender, "receiver": receiver, "in-flight": in_flight, "server": server, "return": return_}


def compare(options: argparse.Namespace, tally: Tally) -> None:
    relays: dict[str, Callable[[argparse.Namespace], AbstractContextManager[Relay]]] = {"rendezvous": ours}
    if options.piping:
        relays["piping-server"] = piping
    else:
        print("LEFT OUT: piping-server is not installed (`npm install --no-save piping-server`)")
    with tempfile.TemporaryDirectory() as folder:
        bodies = Bodies(*(Path(folder) / name for name in ("large", "small", "copy")))
        bodies.large.write_bytes(os.urandom(SIZE))
        bodies.small.write_bytes(os.urandom(SMALL))
        for (experiment, ask), (name, start) in product(EXPERIMENTS.items(), relays.items()):
            false = {chunked: ask_often(ask, start, options, bodies, chunked) for chunked in (False, True)}
            result = f"{experiment}: {name}: {false[False]} of {options.times} with a length, {false[True]} chunked"
            print(f"  {result}", flush=True)
            if name == "rendezvous":
                with tally.trial(result):
                    check(not any(false.values()), "a false report")


def ask_often(
    ask: Callable[[Relay, Bodies, bool], bool],
    start: Callable[[argparse.Namespace], AbstractContextManager[Relay]],
    options: argparse.Namespace,
    bodies: Bodies,
    chunked: bool,
) -> int:
    false = 0
    for _ in range(options.times):
        with start(options) as relay:
            false += ask(relay, bodies, chunked)
    return false


def main() -> int:
    tests = {"compare": compare}
    parser = new_parser(__doc__, tests)
    parser.add_argument("--times", type=int, default=10, metavar="N", help="runs of each experiment")
    local = shutil.which("piping-server", path="node_modules/.bin")
    parser.add_argument("--piping", default=shutil.which("piping-server") or local, metavar="PROGRAM")
    return run_all(parser, tests, "curl")


if __name__ == "__main__":
    sys.exit(main())
